//! Unpacked layers seen as the one tree they make, without mounting them.
//!
//! The rules are those of the overlay that a run gets: the top layer comes first; a whiteout, an opaque directory or
//! anything that is no directory hides what lies below it. Links are followed within the image: an absolute target
//! starts at its root, `..` ends there. The kernel never follows one: it would do so on this machine.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{openat, openat2, readlinkat, Dir, FileType, Mode, OFlags, ResolveFlags, CWD};
use rustix::io::Errno;

use super::opaque::is_opaque;
use crate::policy::Trail;

/// Layers, top first.
#[derive(Debug)]
pub struct LayerStack {
    trees: Vec<OwnedFd>,
}

/// What is at a path, and where that is once the links on the way are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A regular file.
    File(String),
    /// A directory.
    Directory(String),
    /// A link that was not to be followed.
    Link(String),
    /// A device, a pipe, a socket.
    Other(String),
    /// Nothing; it could be made at this path.
    Nothing(String),
    /// Nothing can be there: a file is on the way, or links lead nowhere or in a circle.
    Impossible,
}

/// What to do with a link at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastLink {
    /// Go where it leads.
    Follow,
    /// Say that it is one.
    Keep,
}

/// What a walk meets.
pub(crate) enum Visited<'a> {
    /// A directory, open: that of the topmost layer, whose attributes count.
    Directory(&'a File),
    /// A regular file, open.
    File(&'a mut File),
    /// A link, and where it leads.
    Link(&'a str),
    /// A device, a pipe, a socket.
    Other,
}

/// A directory of the whole: its path, and the layers it is made of, top first.
struct Level {
    path: String,
    layers: Vec<usize>,
}

enum Entry {
    Nothing,
    Directory(Vec<usize>),
    Link(String),
    File,
    Other,
}

impl LayerStack {
    /// Opens the trees of layers, top first.
    pub fn open(trees: impl IntoIterator<Item = PathBuf>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |tree: PathBuf| Ok(openat(CWD, tree, flags, Mode::empty())?);
        Ok(Self {
            trees: trees.into_iter().map(open).collect::<io::Result<_>>()?,
        })
    }

    /// What is at `path`, with or without a leading slash.
    pub fn find(&self, path: &str, last: LastLink) -> io::Result<Found> {
        Ok(self.locate(path, last)?.0)
    }

    /// The names in the directory at `path`, sorted; none when there is no directory.
    pub fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let (Found::Directory(at), layers) = self.locate(path, LastLink::Follow)? else {
            return Ok(Vec::new());
        };
        let level = Level { path: at, layers };
        let names = self.names_in(&level)?.into_iter();
        // One that is no text leads nowhere we would go.
        let names = names.filter_map(|name| name.into_string().ok());
        // An upper layer may hide what a lower one has.
        let there = names.filter_map(|name| {
            let found = self
                .find(&join(&level.path, &name), LastLink::Keep)
                .map(|found| (name, found));
            found.map_or_else(
                |error| Some(Err(error)),
                |(name, found)| (!matches!(found, Found::Nothing(_) | Found::Impossible)).then_some(Ok(name)),
            )
        });
        there.collect()
    }

    /// Where the link at `path`, a path of [`Found::Link`], leads.
    pub fn target(&self, path: &str) -> io::Result<Option<String>> {
        for tree in &self.trees {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let link = match openat2(tree, path, flags, Mode::empty(), beneath()) {
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                other => other?,
            };
            return Ok(readlinkat(&link, "", Vec::new())?.into_string().ok());
        }
        Ok(None)
    }

    /// Calls `visit` with everything there is, a directory before what is in it, in the order of the names.
    ///
    /// # Errors
    ///
    /// The kernel's, a name that is no text, and what `visit` returns.
    pub(crate) fn walk(&self, visit: &mut dyn FnMut(&str, Visited) -> io::Result<()>) -> io::Result<()> {
        let mut pending = vec![self.root()];
        while let Some(level) = pending.pop() {
            let mut below = Vec::new();
            for name in self.names_in(&level)? {
                let name = name.into_string();
                let name = name.map_err(|_| io::Error::other("a name in an image is no text"))?;
                let path = join(&level.path, &name);
                match self.entry(&level, &path)? {
                    Entry::Directory(layers) => {
                        let top = layers.first().and_then(|number| self.trees.get(*number));
                        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                        let top = top.ok_or(Errno::NOENT)?;
                        let opened = File::from(openat2(top, path.as_str(), flags, Mode::empty(), beneath())?);
                        visit(&path, Visited::Directory(&opened))?;
                        below.push(Level { path, layers });
                    }
                    Entry::Link(target) => visit(&path, Visited::Link(&target))?,
                    Entry::File => visit(&path, Visited::File(&mut self.open_file(&level.layers, &path)?))?,
                    Entry::Other => visit(&path, Visited::Other)?,
                    Entry::Nothing => {}
                }
            }
            pending.extend(below.into_iter().rev());
        }
        Ok(())
    }

    fn root(&self) -> Level {
        Level {
            path: String::new(),
            layers: (0..self.trees.len()).collect(),
        }
    }

    /// Every name that a layer of `level` has in it, hidden ones too.
    fn names_in(&self, level: &Level) -> io::Result<BTreeSet<OsString>> {
        let mut all = BTreeSet::new();
        for tree in level.layers.iter().filter_map(|number| self.trees.get(*number)) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let here = if level.path.is_empty() { "." } else { &level.path };
            let directory = openat2(tree, here, flags, Mode::empty(), beneath())?;
            for entry in Dir::read_from(&directory)? {
                all.insert(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned());
            }
        }
        all.retain(|name| name != "." && name != "..");
        Ok(all)
    }

    /// The regular file at `path` in the first of `layers` that has it.
    fn open_file(&self, layers: &[usize], path: &str) -> io::Result<File> {
        for tree in layers.iter().filter_map(|number| self.trees.get(*number)) {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat2(tree, path, flags, Mode::empty(), beneath()) {
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                other => return Ok(File::from(other?)),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// What is at `path`, and the layers of a directory.
    fn locate(&self, path: &str, last: LastLink) -> io::Result<(Found, Vec<usize>)> {
        let none = |found| Ok((found, Vec::new()));
        let root = || self.root();
        let mut way = vec![root()];
        let mut trail = Trail::of(path.trim_end_matches('/'));
        while let Some(name) = trail.step() {
            if name == "." {
                continue;
            }
            if name == ".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let Some(here) = way.last() else { break };
            let path = join(&here.path, &name);
            match self.entry(here, &path)? {
                Entry::Directory(layers) => way.push(Level { path, layers }),
                Entry::Link(_) if trail.is_at_end() && last == LastLink::Keep => return none(Found::Link(path)),
                Entry::Link(target) => {
                    if trail.follow(&target).is_none() {
                        return none(Found::Impossible);
                    }
                    if target.starts_with('/') {
                        way = vec![root()];
                    }
                }
                Entry::Nothing if trail.rest().any(|name| name == "..") => return none(Found::Impossible),
                Entry::Nothing => {
                    let names = trail.rest().filter(|name| *name != ".");
                    return none(Found::Nothing(names.fold(path, |path, name| join(&path, name))));
                }
                _ if !trail.is_at_end() => return none(Found::Impossible),
                Entry::File => return none(Found::File(path)),
                Entry::Other => return none(Found::Other(path)),
            }
        }
        let here = way.pop().unwrap_or_else(root);
        Ok((Found::Directory(here.path), here.layers))
    }

    /// The regular file at `path`, a path of [`Found::File`]: its first `limit` bytes.
    pub fn read(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        for tree in &self.trees {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = match openat2(tree, path, flags, Mode::empty(), beneath()) {
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                other => File::from(other?),
            };
            if !file.metadata()?.is_file() {
                break;
            }
            let mut contents = Vec::new();
            file.take(limit).read_to_end(&mut contents)?;
            return Ok(contents);
        }
        Err(io::Error::from(io::ErrorKind::NotFound))
    }

    /// What the layers of `level` make of `path`, a name in it.
    fn entry(&self, level: &Level, path: &str) -> io::Result<Entry> {
        let mut directory = Vec::new();
        for (number, tree) in level
            .layers
            .iter()
            .filter_map(|number| Some((*number, self.trees.get(*number)?)))
        {
            // With these two flags a link at the end is opened itself (openat2(2), RESOLVE_NO_SYMLINKS).
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = match openat2(tree, path, flags, Mode::empty(), beneath()) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            let stat = rustix::fs::fstat(&found)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    directory.push(number);
                    if directory_is_opaque(tree, path)? {
                        break;
                    }
                }
                _ if !directory.is_empty() => break,
                FileType::CharacterDevice if stat.st_rdev == 0 => return Ok(Entry::Nothing),
                FileType::RegularFile => return Ok(Entry::File),
                FileType::Symlink => {
                    let target = readlinkat(&found, "", Vec::new())?.into_string();
                    // One that is no text leads nowhere we would go.
                    return Ok(target.map_or(Entry::Other, Entry::Link));
                }
                _ => return Ok(Entry::Other),
            }
        }
        Ok(match directory.is_empty() {
            true => Entry::Nothing,
            false => Entry::Directory(directory),
        })
    }
}

/// The path of a name in a directory.
pub(super) fn join(parent: &str, name: &str) -> String {
    match parent {
        "" => name.to_owned(),
        _ => format!("{parent}/{name}"),
    }
}

/// The kernel follows no link, and leaves no tree.
pub(super) fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

fn directory_is_opaque(tree: &OwnedFd, path: &str) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    is_opaque(openat2(tree, path, flags, Mode::empty(), beneath())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    /// Writes `what`: `path` a file, `path/` a directory, `path -> target` a link, `!path` a whiteout, `path/!` an
    /// opaque directory.
    fn layer(parent: &Path, name: &str, what: &[&str]) -> PathBuf {
        let tree = parent.join(name);
        for entry in what {
            let (path, target) = entry.split_once(" -> ").unwrap_or((entry, ""));
            let at = tree.join(path.trim_matches('!'));
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            if !target.is_empty() {
                symlink(target, at).unwrap();
            } else if path.starts_with('!') {
                rustix::fs::mknodat(CWD, at, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
            } else if path.ends_with('/') || path.ends_with('!') {
                fs::create_dir_all(&at).unwrap();
                if path.ends_with('!') {
                    let directory = File::open(at).unwrap();
                    rustix::fs::fsetxattr(directory, "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())
                        .unwrap();
                }
            } else {
                fs::write(at, name).unwrap();
            }
        }
        tree
    }

    #[test]
    fn upper_layers_hide_what_the_overlay_hides() {
        let scratch = tempfile::tempdir().unwrap();
        let top = layer(
            scratch.path(),
            "top",
            &["!etc/gone", "opaque/!", "opaque/new", "!dir", "file", "mixed/a"],
        );
        let middle = layer(scratch.path(), "middle", &["mixed", "etc/gone"]);
        let bottom = layer(
            scratch.path(),
            "bottom",
            &["etc/gone", "etc/kept", "opaque/old", "dir/x", "file/x", "mixed/b"],
        );
        let stack = LayerStack::open([top, middle, bottom]).unwrap();
        let find = |path: &str| stack.find(path, LastLink::Follow).unwrap();
        let (nothing, file) = (
            |path: &str| Found::Nothing(path.to_owned()),
            |path: &str| Found::File(path.to_owned()),
        );
        assert_eq!(find("etc/gone"), nothing("etc/gone"));
        assert_eq!(find("/etc//./kept"), file("etc/kept"));
        assert_eq!(find("opaque/old"), nothing("opaque/old"));
        assert_eq!(find("opaque/new"), file("opaque/new"));
        assert_eq!(find("dir/x/y"), nothing("dir/x/y"));
        assert_eq!(find("file/x"), Found::Impossible);
        assert_eq!(find("mixed/a"), file("mixed/a"));
        assert_eq!(
            find("mixed/b"),
            nothing("mixed/b"),
            "a file between hides the directory below it"
        );
        assert_eq!(find("/"), Found::Directory(String::new()));
        assert_eq!(stack.read("etc/kept", 3).unwrap(), b"bot");
        assert!(stack.read("etc/gone", 3).is_err());
    }

    #[test]
    fn links_are_followed_in_the_image_and_nowhere_else() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("secret"), "host").unwrap();
        let outside = format!("secret -> {}", scratch.path().join("secret").display());
        let top = layer(
            scratch.path(),
            "top",
            &[
                "bin -> usr/bin",
                "usr/bin/python -> ../../usr/bin/python3",
                "up -> ../../../../../usr/bin/python3",
                "circle -> other",
                "other -> circle",
                "nowhere -> new/place",
                "sideways -> new/../etc",
                &outside,
                "etc -> /",
            ],
        );
        let bottom = layer(scratch.path(), "bottom", &["usr/bin/python3", "usr/bin/python"]);
        let stack = LayerStack::open([top, bottom]).unwrap();
        let find = |path: &str| stack.find(path, LastLink::Follow).unwrap();
        let python = Found::File("usr/bin/python3".to_owned());
        for path in ["bin/python", "/bin/../bin/python3", "up", "etc/bin/python"] {
            assert_eq!(find(path), python, "{path}");
        }
        for path in ["circle", "circle/x", "up/x", "sideways"] {
            assert_eq!(find(path), Found::Impossible, "{path}");
        }
        assert_eq!(find("nowhere/x"), Found::Nothing("new/place/x".to_owned()));
        assert!(matches!(find("secret"), Found::Nothing(_)), "it is none of the image");
        assert_eq!(
            stack.find("bin/python", LastLink::Keep).unwrap(),
            Found::Link("usr/bin/python".to_owned())
        );
        assert!(stack.read("secret", 9).is_err() && stack.read("bin/python3", 9).is_err());
    }
    #[test]
    fn a_directory_has_the_names_of_all_layers_that_are_not_hidden() {
        let scratch = tempfile::tempdir().unwrap();
        let top = layer(
            scratch.path(),
            "top",
            &["d/b", "d/c -> ../b", "!d/hidden", "e/!", "e/own", "link -> d"],
        );
        let bottom = layer(scratch.path(), "bottom", &["d/a", "d/b", "d/hidden", "e/lower", "file"]);
        let stack = LayerStack::open([top, bottom]).unwrap();
        for (path, names) in [
            ("d", &["a", "b", "c"][..]),
            ("link", &["a", "b", "c"]),
            ("e", &["own"]),
            ("file", &[]),
            ("none", &[]),
        ] {
            assert_eq!(stack.names(path).unwrap(), names, "{path}");
        }
        assert_eq!(stack.target("d/c").unwrap().as_deref(), Some("../b"));
        assert_eq!(stack.target("none").unwrap(), None);
    }
}
