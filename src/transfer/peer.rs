//! What a place must be able to do for images to come from it and go to it.
//!
//! A layout and the store are both ends of a copy, a registry will be; an archive is a stream and only ever one of the two.
//! What a name means is each place's own question, so finding an image is no part of these traits: a copy begins with a
//! descriptor. All methods take `&self`: blobs of one image may be asked for and written by several threads.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::TransferError;
use crate::oci::{Descriptor, Digest, Hashed, ImageConfig, Manifest};
use crate::store::{check_descriptor, copy, CopyError};

/// A place that images are copied from.
pub trait Source: Send + Sync {
    /// Opens a blob. Its bytes are not verified yet: whoever reads them does, through [`Incoming`].
    ///
    /// # Errors
    ///
    /// When the blob is not there or cannot be opened.
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, TransferError>;

    /// What a blob is called in messages.
    fn place(&self, digest: &Digest) -> PathBuf;

    /// Shows that the place has a blob which the destination has already. A manifest is anybody's to write: who names the
    /// layer of somebody else's image must not get it for that.
    ///
    /// # Errors
    ///
    /// When the blob is not there, or not what it is called.
    fn prove(&self, blob: &Descriptor) -> Result<(), TransferError> {
        let mut incoming = Incoming::new(blob, self.open(blob)?, self.place(&blob.digest));
        incoming.verify_into(&mut io::sink(), &|source| TransferError::Io {
            action: "copy",
            path: self.place(&blob.digest),
            source,
        })
    }
}

/// A place that images are copied to.
pub trait Destination: Send + Sync {
    /// Makes ready for an image. Called once, before anything of it is written.
    ///
    /// # Errors
    ///
    /// When the place would refuse the image in the end: better now than after gigabytes.
    fn begin(&self, image: &Documents) -> Result<(), TransferError>;

    /// Whether a layer is there already.
    ///
    /// # Errors
    ///
    /// When that cannot be known.
    fn has(&self, layer: &Descriptor) -> Result<bool, TransferError>;

    /// Writes a layer. Nothing is kept of it unless all of it came and is what its descriptor says.
    ///
    /// # Errors
    ///
    /// Either side's, each with its own place.
    fn put(&self, layer: &Descriptor, incoming: &mut Incoming<'_>) -> Result<(), TransferError>;

    /// Writes configuration and manifest, in this order: once the manifest is there, everything it names is. Then the
    /// image is called `name` there, if that is given and the place keeps names.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    fn finish(&self, image: &Documents, name: Option<&str>) -> Result<(), TransferError>;
}

/// A place that is both.
pub trait Peer: Source + Destination {}

impl<T: Source + Destination> Peer for T {}

/// The verified documents of an image that is being copied.
#[derive(Debug, Clone)]
pub struct Documents {
    /// Of the manifest.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// Its raw bytes.
    pub manifest_raw: Vec<u8>,
    /// The configuration.
    pub config: ImageConfig,
    /// Its raw bytes.
    pub config_raw: Vec<u8>,
}

impl Documents {
    /// The distinct layers in the order of their digests.
    pub fn layers(&self) -> Vec<&Descriptor> {
        let mut layers: Vec<_> = self.manifest.layers.iter().collect();
        layers.sort_by_key(|layer| layer.digest);
        layers.dedup_by_key(|layer| layer.digest);
        layers
    }
}

/// A blob on its way from a source: never more of it than one byte over what its descriptor says.
pub struct Incoming<'a> {
    blob: Descriptor,
    reader: io::Take<Box<dyn Read + 'a>>,
    place: PathBuf,
}

impl<'a> Incoming<'a> {
    /// The blob that `reader` gives, called `place` in messages.
    pub fn new(blob: &Descriptor, reader: Box<dyn Read + 'a>, place: PathBuf) -> Self {
        Self {
            // One byte more than promised is enough to know that there are too many.
            reader: reader.take(blob.size.saturating_add(1)),
            blob: blob.clone(),
            place,
        }
    }

    /// Reads at most `most` bytes of the beginning, which are given again by what is read next.
    pub(super) fn peek(&mut self, most: usize) -> Result<Vec<u8>, TransferError> {
        let mut start = Vec::new();
        let read = (&mut self.reader).take(most as u64).read_to_end(&mut start);
        read.map_err(|source| self.unreadable(source))?;
        let rest = std::mem::replace(&mut self.reader, (Box::new(io::empty()) as Box<dyn Read>).take(0));
        let left = rest.limit().saturating_add(start.len() as u64);
        let again: Box<dyn Read + 'a> = Box::new(io::Cursor::new(start.clone()).chain(rest.into_inner()));
        self.reader = again.take(left);
        Ok(start)
    }

    /// Copies all of it into `out`, which verifies it; `unwritable` says what it means that `out` failed.
    ///
    /// # Errors
    ///
    /// That of the source, with its place, or that of `out`.
    pub fn copy_into(
        &mut self,
        out: &mut dyn Write,
        unwritable: &dyn Fn(io::Error) -> TransferError,
    ) -> Result<(), TransferError> {
        copy(&mut self.reader, out).map(drop).map_err(|error| match error {
            CopyError::Read(source) => self.unreadable(source),
            CopyError::Write(source) => unwritable(source),
        })
    }

    /// Copies all of it into `out` and verifies it meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Incoming::copy_into`], and when size or digest are not those of the descriptor: then `out` must be dropped.
    pub fn verify_into(
        &mut self,
        out: &mut dyn Write,
        unwritable: &dyn Fn(io::Error) -> TransferError,
    ) -> Result<(), TransferError> {
        let mut hashed = Hashed::new(out);
        self.copy_into(&mut hashed, unwritable)?;
        let hasher = hashed.hasher;
        Ok(check_descriptor(&self.blob, hasher.clone().digest(), hasher.bytes())?)
    }

    fn unreadable(&self, source: io::Error) -> TransferError {
        TransferError::Io {
            action: "copy",
            path: self.place.clone(),
            source,
        }
    }
}

impl std::fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Incoming({} from {})", self.blob.digest, self.place.display())
    }
}
