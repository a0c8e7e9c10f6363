//! What the images of an archive take, told from its headers and documents before a byte of it is copied. Only of a file that can
//! be read twice; whether it is an archive at all says whoever reads it whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::error::MAX_IMAGES;
use super::image_copy::{find_manifest, read_documents};
use super::named::is_companion;
use super::peer::{Documents, Source};
use super::small::read_document;
use super::TransferError;
use crate::oci::{parse_index, Compression, Descriptor, Digest};
use crate::store::{RoomNeeded, Store, StoreError};

/// Entries that are looked at: as many as an archive may have.
const MAX_ENTRIES: usize = 20_000;

/// Where something is in the file.
#[derive(Debug, Clone, Copy)]
struct At {
    from: u64,
    size: u64,
}

/// The blobs of an image layout in a tar. What its headers say that is not in the file counts for nothing.
pub(super) struct Outline<'a> {
    file: &'a File,
    blobs: BTreeMap<Digest, At>,
    index: Option<At>,
}

impl<'a> Outline<'a> {
    /// Reads the headers of `file`, up to the first that is none.
    ///
    /// # Errors
    /// [`io::Error`] when the file cannot be read.
    pub(super) fn of(file: &'a File) -> io::Result<Self> {
        let mut all = Self {
            file,
            blobs: BTreeMap::new(),
            index: None,
        };
        let length = file.metadata()?.len();
        let mut reader = BufReader::new(file);
        reader.rewind()?;
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries_with_seek()?.raw(true).take(MAX_ENTRIES) {
            let Ok(entry) = entry else { break };
            let at = At {
                from: entry.raw_file_position(),
                size: entry.size(),
            };
            if at.from.checked_add(at.size).is_none_or(|end| end > length) {
                break;
            }
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = path.strip_prefix("./").unwrap_or(&path);
            let digest = name.strip_prefix("blobs/sha256/");
            let digest = digest.and_then(|hex| format!("sha256:{hex}").parse().ok());
            match digest {
                Some(digest) => drop(all.blobs.insert(digest, at)),
                None if name == "index.json" => all.index = Some(at),
                None => {}
            }
        }
        let mut file = file;
        file.rewind()?;
        Ok(all)
    }

    /// The room for a copy of the archive, of which `bytes` are on the disk, and beside it for what `store` has not got of its
    /// images; none where it has none, so that nothing is known.
    pub(super) fn room(&self, store: &Store, bytes: u64) -> Option<RoomNeeded> {
        let images = self.images();
        let layers = images.iter().flat_map(|image| &image.manifest.layers);
        let is_missing = |layer: &&Descriptor| store.blobs().size(&layer.digest).is_none();
        let missing: BTreeMap<Digest, &Descriptor> =
            layers.filter(is_missing).map(|layer| (layer.digest, layer)).collect();
        // Holes of the file are no bytes of a layer.
        let size = |layer: &Descriptor| self.blobs.get(&layer.digest).map_or(0, |at| at.size);
        let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0, u64::saturating_add).min(bytes);
        let is_packed =
            |layer: &&&Descriptor| matches!(Compression::of_layer(layer), Ok(packed) if packed != Compression::Plain);
        let blobs = sum(&mut missing.values().map(|layer| size(layer)));
        let unpacked = sum(&mut missing.values().filter(is_packed).map(|layer| size(layer)));
        let certain = bytes.saturating_add(blobs);
        let all = certain.saturating_add(unpacked);
        (!images.is_empty()).then_some(RoomNeeded {
            certain,
            least: all,
            likely: all,
            ..RoomNeeded::default()
        })
    }

    /// The documents of its images, as far as they are sound.
    fn images(&self) -> Vec<Documents> {
        let read = |at: At| read_document(&mut self.reader(at), "index.json".as_ref()).ok();
        let index = self.index.and_then(read).and_then(|raw| parse_index(&raw).ok());
        let listed = index.map(|index| index.manifests).unwrap_or_default();
        let images = listed.iter().filter(|entry| !is_companion(entry)).take(MAX_IMAGES);
        let documents = |entry| find_manifest(self, entry, 0).and_then(|found| read_documents(self, &found));
        images.filter_map(|entry| documents(entry).ok()).collect()
    }

    fn reader(&self, at: At) -> impl Read + '_ {
        let reader = Reader {
            file: self.file,
            at: at.from,
        };
        reader.take(at.size)
    }
}

impl Source for Outline<'_> {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, TransferError> {
        let found = self.blobs.get(&blob.digest);
        let at = found.ok_or(StoreError::NoBlob { digest: blob.digest })?;
        Ok(Box::new(self.reader(*at)))
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        PathBuf::from("blobs/sha256").join(digest.hex())
    }
}

/// A file from a byte on. Several read it at once, and none moves it.
struct Reader<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
