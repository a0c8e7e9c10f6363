//! What a layer hides of the layers below it (OCI image specification, "Whiteouts").
//!
//! A whiteout speaks of lower layers alone, wherever it stands among the entries: what its own layer has under that name
//! stays and hides the rest by itself. So whiteouts are gathered while the layer is read and become nodes when all its
//! entries are in place: a character device 0:0 where the layer has nothing of that name, `user.overlay.opaque` on
//! a directory it has. One that lies below a file, a link or another whiteout of its layer says nothing new. `umoci`
//! comes to the same trees.

use std::collections::BTreeSet;
use std::io;

use rustix::fs::{makedev, mknodat, statat, AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::budget::Budget;
use super::opaque::set_opaque;
use super::writer::{split, TreeWriter};

/// What a name takes in memory beside its bytes.
const OVERHEAD: u64 = 64;

/// The whiteouts of one layer.
#[derive(Debug, Default)]
pub(super) struct Whiteouts {
    hidden: BTreeSet<String>,
    /// Directories of which nothing below is seen; the empty path is the root.
    opaque: BTreeSet<String>,
    bytes: u64,
}

impl Whiteouts {
    pub(super) fn hide(&mut self, path: &str, budget: &Budget) -> io::Result<()> {
        self.add(path, budget)?;
        self.hidden.insert(path.to_owned());
        Ok(())
    }

    pub(super) fn make_opaque(&mut self, directory: &str, budget: &Budget) -> io::Result<()> {
        self.add(directory, budget)?;
        self.opaque.insert(directory.to_owned());
        Ok(())
    }

    fn add(&mut self, path: &str, budget: &Budget) -> io::Result<()> {
        let bytes = path.len() as u64 + OVERHEAD;
        self.bytes += bytes;
        budget.take_names(bytes)
    }

    /// What was taken from a budget for the names.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts them into the finished tree; an error comes with its path. Sorted, so that a whiteout comes before those
    /// below it.
    pub(super) fn write(&self, tree: &mut TreeWriter, budget: &Budget) -> Result<(), (String, io::Error)> {
        let hidden = self.hidden.iter().map(|path| (path, false));
        for (path, is_opaque) in hidden.chain(self.opaque.iter().map(|path| (path, true))) {
            let before = tree.entries;
            let written = match is_opaque {
                true => make_opaque(tree, path),
                false => hide(tree, path),
            };
            written
                .and_then(|()| budget.take_entries(tree.entries - before))
                .map_err(|error| (path.clone(), error))?;
        }
        Ok(())
    }
}

fn hide(tree: &mut TreeWriter, path: &str) -> io::Result<()> {
    let (parent, name) = split(path);
    if !has_directory(tree, parent)? {
        return Ok(());
    }
    let directory = tree.open_directory(parent)?;
    match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => {
            let device = FileType::CharacterDevice;
            mknodat(&directory, name, device, Mode::empty(), makedev(0, 0))?;
            tree.entries += 1;
            Ok(())
        }
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            set_opaque(tree.open_directory(path)?)
        }
        Ok(_) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn make_opaque(tree: &mut TreeWriter, path: &str) -> io::Result<()> {
    match has_directory(tree, path)? {
        true => set_opaque(tree.open_directory(path)?),
        false => Ok(()),
    }
}

/// Makes the directory unless it is there; whether that is possible: a component may be a file, a link or a whiteout.
fn has_directory(tree: &mut TreeWriter, path: &str) -> io::Result<bool> {
    let blocked = |error: &io::Error| {
        let errno = Errno::from_io_error(error);
        matches!(errno, Some(Errno::NOTDIR | Errno::LOOP))
    };
    let made = match tree.open_directory(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => tree.make_implied_directory(path),
        other => other.map(|_| ()),
    };
    match made {
        Err(error) if blocked(&error) => Ok(false),
        other => other.map(|()| true),
    }
}

#[cfg(test)]
mod tests;
