//! The import profile of an image: the files, and parts of files, that a run of it read while they were not in memory.
//!
//! ```text
//! profiles/<hex of manifest digest>
//!   {"version":1,"bytes":48123904,"files":612,"probes":[["<hex of diff id>","opt/py/lib/libx.so",0,1048576], ...]}
//!   ["<hex of diff id>","usr/bin/python3.11",[[0,6881280]]]
//!   ...
//! ```
//!
//! It is measured once per image, from outside, and says only which pages of the image's own layers were in memory; a function can make it no worse
//! than a list of its own files. The first line is all that a run reads whose pages are in memory: it names the parts that tell
//! whether they are. A profile that cannot be read, of another version, or longer than it may be counts as absent. It goes with its
//! image.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::oci::{DiffId, Digest};
use crate::store::disk::Disk;
use crate::store::trees::resident::{Part, Tree};
use crate::store::trees::Trees;
use crate::store::StoreError;

pub(super) const FOLDER: &str = "profiles";
/// Raised when what is recorded changes: then every image is measured again.
const VERSION: u32 = 1;
/// Files of a profile. numpy, scipy and pandas with the standard library read 1,500.
const MAX_FILES: usize = 8192;
/// Bytes of a profile: more would push out of memory what other images need.
const MAX_BYTES: u64 = 256 << 20;
/// Entries of an image that are looked at for it.
const MAX_LOOKED: u64 = 100_000;
/// The first line, which every run reads.
const MAX_HEAD: u64 = 4096;
/// All of it.
const MAX_TEXT: u64 = 4 << 20;
/// Parts that a run looks at: one could be in memory by chance, and each costs five system calls.
const PROBES: usize = 2;
/// What of a part is looked at.
const MAX_PROBE: u64 = 1 << 20;
/// A longer path would not fit into the first line.
const MAX_PROBE_PATH: usize = 512;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    bytes: u64,
    files: usize,
    probes: Vec<(String, String, u64, u64)>,
}

/// A file of an image, by its layer, and the parts of it.
type Entry = (String, String, Vec<Part>);

/// The import profile of an image, of which the first line is read.
#[derive(Debug)]
pub struct StartFiles<'a> {
    disk: &'a Disk,
    head: Head,
    rest: BufReader<std::io::Take<File>>,
}

impl<'a> StartFiles<'a> {
    /// The profile of an image, if there is one.
    pub(super) fn find(disk: &'a Disk, image: &Digest) -> Option<Self> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(disk.path(name(image)))
            .ok()?;
        let mut rest = BufReader::with_capacity(MAX_HEAD as usize, file.take(MAX_TEXT));
        let mut line = Vec::new();
        (&mut rest).take(MAX_HEAD).read_until(b'\n', &mut line).ok()?;
        let head: Head = serde_json::from_slice(&line).ok()?;
        (head.version == VERSION).then_some(Self { disk, head, rest })
    }

    /// Measures which files of the `layers` of an image are in memory, and writes its profile; returns how many bytes that are. None when there is
    /// nothing, or more than a profile may have or than `most` bytes: then something else read them.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be written.
    pub(super) fn measure(
        disk: &Disk,
        image: &Digest,
        layers: &[DiffId],
        most: u64,
    ) -> Result<Option<u64>, StoreError> {
        let most = most.min(MAX_BYTES);
        let (mut left, mut bytes, mut files) = (MAX_LOOKED, 0u64, Vec::<Entry>::new());
        for layer in layers {
            let Ok(tree) = Tree::open(&Trees::of(disk).path(layer)) else {
                continue;
            };
            tree.resident_files(&mut left, &mut |file| {
                bytes = bytes.saturating_add(length(&file.parts));
                files.push((layer.hex(), file.path, file.parts));
                bytes <= most && files.len() <= MAX_FILES
            });
        }
        if files.is_empty() || bytes > most || files.len() > MAX_FILES {
            return Ok(None);
        }
        let head = Head {
            version: VERSION,
            bytes,
            files: files.len(),
            probes: probes(&files),
        };
        let mut text = Vec::new();
        let mut add = |line: serde_json::Result<Vec<u8>>| {
            text.extend(line.unwrap_or_default());
            text.push(b'\n');
        };
        add(serde_json::to_vec(&head));
        files.iter().for_each(|file| add(serde_json::to_vec(file)));
        if text.len() as u64 > MAX_TEXT {
            return Ok(None);
        }
        disk.make_folder(FOLDER)?;
        disk.write_atomically(&name(image), &text)?;
        Ok(Some(bytes))
    }

    /// Whether most of what tells it is not in memory.
    pub fn are_cold(&self) -> bool {
        let (mut there, mut all) = (0, 0);
        for (layer, path, offset, length) in self.head.probes.iter().take(PROBES) {
            let part = (*offset, (*length).min(MAX_PROBE));
            let counted = self.tree(layer).and_then(|tree| tree.count_resident(path, part).ok());
            // What is gone can be read by nobody.
            let (resident, looked) = counted.unwrap_or_default();
            (there, all) = (there + resident, all + looked);
        }
        there * 2 < all
    }

    /// Has the kernel begin to read all of it, in the order of the layers.
    pub fn ask_for(self) {
        self.each(&mut |tree, path, parts| {
            let _ = tree.ask_for(path, parts);
        });
    }

    /// Reads all of it, so that it is in memory; returns how many bytes those are.
    pub fn read_through(self) -> u64 {
        let mut bytes = 0;
        self.each(&mut |tree, path, parts| bytes += tree.read_through(path, parts).unwrap_or_default());
        bytes
    }

    /// Calls `each` with every file that is there, up to the first line that is broken.
    fn each(mut self, each: &mut dyn FnMut(&Tree, &str, &[Part])) {
        let mut open: Option<(String, Option<Tree>)> = None;
        let (mut line, mut bytes) = (Vec::new(), 0u64);
        for _ in 0..MAX_FILES {
            line.clear();
            if self.rest.read_until(b'\n', &mut line).is_err() {
                return;
            }
            let Ok((layer, path, parts)) = serde_json::from_slice::<Entry>(&line) else {
                return;
            };
            bytes = bytes.saturating_add(length(&parts));
            if bytes > MAX_BYTES {
                return;
            }
            let tree = match open.take_if(|(of, _)| *of == layer) {
                Some((_, tree)) => tree,
                None => self.tree(&layer),
            };
            if let Some(tree) = &tree {
                each(tree, &path, &parts);
            }
            open = Some((layer, tree));
        }
    }

    fn tree(&self, layer: &str) -> Option<Tree> {
        let diff_id: DiffId = format!("sha256:{layer}").parse().ok()?;
        Tree::open(&Trees::of(self.disk).path(&diff_id)).ok()
    }
}

/// The largest part of each of the layers that have most: what most images have in common is in memory when theirs is not.
fn probes(files: &[Entry]) -> Vec<(String, String, u64, u64)> {
    let mut best: Vec<(u64, &Entry)> = Vec::new();
    for file in files.iter().filter(|(_, path, _)| path.len() <= MAX_PROBE_PATH) {
        let bytes = length(&file.2);
        match best.iter_mut().find(|(_, known)| known.0 == file.0) {
            Some(known) if known.0 < bytes => *known = (bytes, file),
            Some(_) => {}
            None => best.push((bytes, file)),
        }
    }
    best.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let probe = |(_, (layer, path, parts)): &(u64, &Entry)| {
        let (offset, length) = parts.iter().max_by_key(|part| part.1)?;
        Some((layer.clone(), path.clone(), *offset, (*length).min(MAX_PROBE)))
    };
    best.iter().filter_map(probe).take(PROBES).collect()
}

fn length(parts: &[Part]) -> u64 {
    parts.iter().fold(0, |all, (_, length)| all.saturating_add(*length))
}

fn name(image: &Digest) -> PathBuf {
    PathBuf::from(FOLDER).join(image.hex())
}

#[cfg(test)]
mod tests;
