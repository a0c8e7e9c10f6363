//! `/etc/ld.so.cache`: which file the dynamic loader opens for the name of a library, as ldconfig(8) would write it.
//!
//! ctypes.util.find_library knows libraries from here alone, and the loader finds those of directories that it does not
//! search by itself. The layer of system packages has its own cache over the base's: [`LoaderCache::parse`] the one
//! below, [`LoaderCache::scan`] the files of the layer, [`LoaderCache::add_below`].
//!
//! ```text
//! "glibc-ld.so.cache1.1" entries(4) bytes of strings(4) 2 0 0 0 extensions(4) 0(12)       glibc's dl-cache.h, all
//! entry: flags(4) name(4) path(4) 0(4) hardware(8)                                        little-endian; name and
//! strings, each with a NUL                                                                path are offsets in the file
//! ```
//!
//! Until glibc 2.31 an older list comes first: "ld.so-1.7.0" 0 entries(4), 12 bytes each, to a multiple of 8. It is skipped;
//! offsets count from the magic of the second one.
//!
//! Entries are sorted, so the bytes depend on the libraries alone. There are none for variants of a library for newer
//! processors (`glibc-hwcaps`): the plain one is found.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io;

use super::usrmerge::merged;
use crate::archive::deb::DebEntry;
use crate::archive::elf;
use crate::store::{Found, LastLink, LayerStack};

/// Where the file lies.
pub(super) const PLACE: &str = "etc/ld.so.cache";
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// Of the older list.
const OLD_MAGIC: &[u8] = b"ld.so-1.7.0\0";
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// A library of glibc for x86-64 (`FLAG_ELF_LIBC6 | FLAG_X8664_LIB64`).
const FLAGS: u32 = 0x303;
/// A machine with everything has some thousand libraries.
const MOST: usize = 1 << 16;
/// Such a machine's file has 300 KB.
const MOST_BYTES: u64 = 16 << 20;
/// Debian's, in the order of its files below `/etc/ld.so.conf.d`, then what the loader searches anyhow.
const DIRECTORIES: [&str; 5] = [
    "usr/local/lib",
    "usr/local/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "lib",
    "lib64",
];
/// Longer chains of links are a circle, for the kernel too.
const MOST_LINKS: usize = 40;

/// Files of packages, by their paths after usrmerge, wherever they are kept.
pub(super) trait PackageTree {
    /// The names of what stands right in the directory `place`, which ends with `/`, in order.
    fn names<'a>(&'a self, place: &'a str) -> Vec<&'a str>;
    /// What stands at `path`; a file without its contents.
    fn at(&self, path: &str) -> Option<Stands<'_>>;
    /// The contents of the file at `path`, which is one.
    fn contents(&self, path: &str) -> io::Result<Cow<'_, [u8]>>;
}

/// What stands at a path of a [`PackageTree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands<'a> {
    Directory,
    File,
    /// A link to what it leads to.
    Link(&'a str),
}

impl PackageTree for BTreeMap<String, DebEntry> {
    fn names<'a>(&'a self, place: &'a str) -> Vec<&'a str> {
        names_in(self.range(place.to_owned()..).map(|(path, _)| path.as_str()), place)
    }

    fn at(&self, path: &str) -> Option<Stands<'_>> {
        Some(match self.get(path)? {
            DebEntry::Directory { .. } => Stands::Directory,
            DebEntry::File { .. } => Stands::File,
            DebEntry::Symlink { target } => Stands::Link(target),
        })
    }

    fn contents(&self, path: &str) -> io::Result<Cow<'_, [u8]>> {
        match self.get(path) {
            Some(DebEntry::File { contents, .. }) => Ok(Cow::Borrowed(contents)),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// The names right in `place` of `paths`, which are in order and begin at `place`.
pub(super) fn names_in<'a>(paths: impl Iterator<Item = &'a str>, place: &str) -> Vec<&'a str> {
    let below = paths.map_while(|path| path.strip_prefix(place));
    below.filter(|name| !name.contains('/')).collect()
}

/// Libraries by the name that programs ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LoaderCache(BTreeMap<String, String>);

impl LoaderCache {
    /// The libraries of a tree of packages: those in Debian's directories, and in those that a file of its
    /// `/etc/ld.so.conf.d` names.
    ///
    /// # Errors
    /// A file of the tree that cannot be read.
    pub(super) fn scan(tree: &impl PackageTree) -> io::Result<Self> {
        let mut found = Self::default();
        let named = configured(tree)?;
        for directory in named.iter().map(String::as_str).chain(DIRECTORIES) {
            for (name, path) in libraries(tree, directory)? {
                // The first directory that has it counts.
                found.0.entry(name).or_insert(path);
            }
        }
        Ok(found)
    }

    /// `libraries`: absolute path by name.
    pub(super) fn of(libraries: BTreeMap<String, String>) -> Self {
        Self(libraries)
    }

    /// What the list of the layers `stack` has; nothing when they have none. The inner error says why it is none.
    pub(super) fn read(stack: &LayerStack) -> io::Result<Result<Self, &'static str>> {
        match stack.find(PLACE, LastLink::Follow)? {
            Found::File(at) => Ok(Self::parse(&stack.read(&at, MOST_BYTES)?)),
            _ => Ok(Ok(Self::default())),
        }
    }

    /// Whether it lists no library.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The libraries that the cache `bytes` lists for this machine's kind of program.
    fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        const CUT: &str = "it is cut off or its offsets lead nowhere";
        let bytes = match bytes.strip_prefix(OLD_MAGIC) {
            Some(rest) => {
                let count = rest.first_chunk().map(|count| u32::from_le_bytes(*count)).ok_or(CUT)?;
                let count = usize::try_from(count).ok().filter(|count| *count <= MOST).ok_or(CUT)?;
                let end = (OLD_HEADER + count * OLD_ENTRY).next_multiple_of(8);
                bytes.get(end..).ok_or(CUT)?
            }
            None => bytes,
        };
        if !bytes.starts_with(MAGIC) {
            return Err("it is no cache of glibc's loader");
        }
        let number = |at: usize| -> Result<u32, &'static str> {
            let found = bytes.get(at..at.saturating_add(4)).ok_or(CUT)?;
            found.try_into().map(u32::from_le_bytes).map_err(|_| CUT)
        };
        let text = |at: u32| {
            let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).ok_or(CUT)?;
            let end = rest.iter().take(4096).position(|byte| *byte == 0).ok_or(CUT)?;
            let text = std::str::from_utf8(rest.get(..end).unwrap_or_default());
            text.map(str::to_owned).map_err(|_| "a name in it is not UTF-8")
        };
        let count = usize::try_from(number(MAGIC.len())?).map_err(|_| CUT)?;
        if count > MOST {
            return Err("it lists too many libraries");
        }
        let mut found = Self::default();
        for at in (0..count).map(|index| HEADER + index * ENTRY) {
            let plain = number(at + 16)? == 0 && number(at + 20)? == 0;
            if number(at)? == FLAGS && plain {
                let (name, path) = (text(number(at + 4)?)?, text(number(at + 8)?)?);
                found.0.entry(name).or_insert(path);
            }
        }
        Ok(found)
    }

    /// Adds the libraries of `below` whose names are not here.
    pub(super) fn add_below(&mut self, below: Self) {
        for (name, path) in below.0 {
            self.0.entry(name).or_insert(path);
        }
    }

    /// The file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Searched by halves: the greatest comes first.
        let mut libraries: Vec<_> = self.0.iter().collect();
        libraries.sort_by(|(one, _), (other, _)| compare(other, one));
        let base = HEADER + libraries.len() * ENTRY;
        let (mut entries, mut strings) = (Vec::new(), Vec::new());
        for (name, path) in &libraries {
            let at = |strings: &Vec<u8>| number(base + strings.len());
            entries.extend(FLAGS.to_le_bytes());
            for text in [name, path] {
                entries.extend(at(&strings));
                strings.extend(text.as_bytes());
                strings.push(0);
            }
            entries.extend([0; 12]);
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(number(libraries.len()));
        bytes.extend(number(strings.len()));
        // Little-endian; then no extensions, and what is unused.
        bytes.extend([2, 0, 0, 0]);
        bytes.resize(HEADER, 0);
        bytes.extend(entries);
        bytes.extend(strings);
        bytes
    }
}

/// Lengths are those of a few thousand names, far below 4 GiB.
fn number(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

/// The directories that files of `etc/ld.so.conf.d` name, without the leading `/`.
fn configured(tree: &impl PackageTree) -> io::Result<Vec<String>> {
    const FOLDER: &str = "etc/ld.so.conf.d/";
    let mut found = Vec::new();
    for name in tree.names(FOLDER) {
        let path = format!("{FOLDER}{name}");
        if !name.ends_with(".conf") || tree.at(&path) != Some(Stands::File) {
            continue;
        }
        let contents = tree.contents(&path)?;
        let text = String::from_utf8_lossy(&contents);
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim());
        found.extend(lines.filter_map(|line| Some(line.strip_prefix('/')?.trim_end_matches('/').to_owned())));
    }
    Ok(found)
}

/// Name and path of the libraries right in `directory`.
fn libraries(tree: &impl PackageTree, directory: &str) -> io::Result<Vec<(String, String)>> {
    let Some(place) = merged(&format!("{directory}/")).map(|place| place.into_owned()) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for file in tree.names(&place) {
        if !(file.starts_with("lib") || file.starts_with("ld-")) || !file.contains(".so") {
            continue;
        }
        let path = format!("{place}{file}");
        let Some(last) = resolve(tree, &path) else { continue };
        let Ok(Some(read)) = elf::read(&tree.contents(&last)?) else {
            continue;
        };
        let own = read.name.unwrap_or_else(|| file.to_owned());
        // A link for the linker, `libz.so`, is a name of its own; any other file has that of the library in it.
        let is_link = matches!(tree.at(&path), Some(Stands::Link(_)));
        let name = match is_link && file.ends_with(".so") && own.starts_with(file) {
            true => file.to_owned(),
            false => own,
        };
        let last = match tree.at(&format!("{place}{name}")) {
            Some(_) => name.clone(),
            None => file.to_owned(),
        };
        found.push((name, format!("/{directory}/{last}")));
    }
    Ok(found)
}

/// The path of the file that `path` leads to within the tree.
fn resolve(tree: &impl PackageTree, path: &str) -> Option<String> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match tree.at(&path)? {
            Stands::File => return Some(path),
            Stands::Directory => return None,
            Stands::Link(target) => {
                let mut parts: Vec<&str> = match target.starts_with('/') {
                    true => Vec::new(),
                    false => path.rsplit_once('/').map(|(parent, _)| parent.split('/').collect())?,
                };
                for part in target.split('/') {
                    match part {
                        "" | "." => {}
                        ".." => {
                            parts.pop();
                        }
                        _ => parts.push(part),
                    }
                }
                path = merged(&parts.join("/"))?.into_owned();
            }
        }
    }
    None
}

/// glibc's order of names (`_dl_cache_libcmp`): runs of digits are numbers, and come after everything else.
fn compare(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    loop {
        match (one.split_first(), other.split_first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some((first, _)), _) if first.is_ascii_digit() => {
                let (mine, rest) = leading_number(one);
                let (its, its_rest) = leading_number(other);
                match its {
                    None => return Ordering::Greater,
                    Some(_) if mine != its => return mine.cmp(&its),
                    Some(_) => (one, other) = (rest, its_rest),
                }
            }
            (Some(_), None) => return Ordering::Greater,
            (Some((first, rest)), Some((second, its_rest))) => {
                if second.is_ascii_digit() {
                    return Ordering::Less;
                }
                if first != second {
                    return first.cmp(second);
                }
                (one, other) = (rest, its_rest);
            }
        }
    }
}

/// The number that `text` starts with, as glibc reads it, and what follows.
fn leading_number(text: &[u8]) -> (Option<i32>, &[u8]) {
    let end = text
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let add = |sum: i32, digit: &u8| sum.wrapping_mul(10).wrapping_add(i32::from(digit - b'0'));
    ((end > 0).then(|| digits.iter().fold(0, add)), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(contents: &[u8]) -> DebEntry {
        DebEntry::File {
            mode: 0o644,
            contents: contents.to_vec(),
        }
    }

    fn link(target: &str) -> DebEntry {
        DebEntry::Symlink {
            target: target.to_owned(),
        }
    }

    /// `libm.so.6` of the machine of the test: its name is known.
    fn tree(more: Vec<(&str, DebEntry)>) -> BTreeMap<String, DebEntry> {
        let libm = file(&std::fs::read("/usr/lib/x86_64-linux-gnu/libm.so.6").unwrap());
        let mut all = vec![("usr/lib/x86_64-linux-gnu/libm-2.99.so", libm)];
        all.extend(more);
        all.into_iter().map(|(path, entry)| (path.to_owned(), entry)).collect()
    }

    fn listed(entries: &BTreeMap<String, DebEntry>) -> Vec<String> {
        let cache = LoaderCache::scan(entries).unwrap();
        cache.0.iter().map(|(name, path)| format!("{name} {path}")).collect()
    }

    #[test]
    fn a_library_is_listed_under_its_own_name_and_that_of_its_links() {
        let entries = tree(vec![
            ("usr/lib/x86_64-linux-gnu/libm.so.6", link("libm-2.99.so")),
            ("usr/lib/x86_64-linux-gnu/libm.so", link("libm.so.6")),
            ("usr/lib/x86_64-linux-gnu/libtext.so", file(b"INPUT(libm.so.6)")),
            ("usr/lib/x86_64-linux-gnu/libgone.so.1", link("/nowhere")),
            ("usr/lib/x86_64-linux-gnu/libloop.so.1", link("libloop.so.1")),
            ("usr/lib/x86_64-linux-gnu/sub/libm.so.6", link("../libm-2.99.so")),
        ]);
        let place = "/lib/x86_64-linux-gnu";
        assert_eq!(
            listed(&entries),
            [
                format!("libm.so {place}/libm.so"),
                format!("libm.so.6 {place}/libm.so.6")
            ]
        );
        assert_eq!(listed(&tree(vec![])), [format!("libm.so.6 {place}/libm-2.99.so")]);
    }

    #[test]
    fn directories_of_packages_and_alternatives_count_and_the_first_wins() {
        let entries = tree(vec![
            ("etc/alternatives/libx", link("/lib/x86_64-linux-gnu/libm-2.99.so")),
            (
                "etc/ld.so.conf.d/own.conf",
                file(b"# why\n/opt/own/lib/  # here\nrelative\n"),
            ),
            ("opt/own/lib/libm.so.6", link("/etc/alternatives/libx")),
        ]);
        assert_eq!(listed(&entries), ["libm.so.6 /opt/own/lib/libm.so.6"]);
    }

    #[test]
    fn what_is_written_is_read_again_and_goes_over_what_was_below() {
        let of = |pairs: &[(&str, &str)]| {
            LoaderCache(
                pairs
                    .iter()
                    .map(|(name, path)| ((*name).to_owned(), (*path).to_owned()))
                    .collect(),
            )
        };
        let below = of(&[("liba.so.1", "/lib/liba.so.1"), ("libb.so.1", "/lib/libb.so.1")]);
        assert_eq!(LoaderCache::parse(&below.to_bytes()), Ok(below.clone()));
        assert_eq!(LoaderCache::parse(&of(&[]).to_bytes()), Ok(of(&[])));
        let mut both = b"ld.so-1.7.0\0\x01\0\0\0an old entryfour".to_vec();
        both.extend(below.to_bytes());
        assert_eq!(LoaderCache::parse(&both), Ok(below.clone()));
        both[12] = 0xff;
        assert!(LoaderCache::parse(&both).is_err() && LoaderCache::parse(&both[..20]).is_err());
        let mut above = of(&[("liba.so.1", "/opt/liba.so.1")]);
        above.add_below(below);
        assert_eq!(
            above,
            of(&[("liba.so.1", "/opt/liba.so.1"), ("libb.so.1", "/lib/libb.so.1")])
        );
    }

    #[test]
    fn reads_the_cache_that_ldconfig_wrote_for_this_machine() {
        let cache = LoaderCache::parse(&std::fs::read("/etc/ld.so.cache").unwrap()).unwrap();
        assert!(cache.0["libc.so.6"].ends_with("/libc.so.6"), "{cache:?}");
    }

    #[test]
    fn a_damaged_cache_is_refused_and_nothing_panics() {
        let good = tree(vec![]);
        let good = LoaderCache::scan(&good).unwrap().to_bytes();
        for length in 0..good.len() {
            assert!(LoaderCache::parse(&good[..length]).is_err(), "{length} bytes");
        }
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = good.clone();
                damaged[at] = value;
                let _ = LoaderCache::parse(&damaged);
            }
        }
    }

    #[test]
    fn names_have_the_order_of_the_loader() {
        let mut names = [
            "libz.so.1",
            "libz3.so.4",
            "libz.so",
            "libz.so.10",
            "liba.so.2",
            "libz.so.9",
        ];
        names.sort_by(|one, other| compare(one, other));
        assert_eq!(
            names,
            [
                "liba.so.2",
                "libz.so",
                "libz.so.1",
                "libz.so.9",
                "libz.so.10",
                "libz3.so.4"
            ]
        );
    }
}
