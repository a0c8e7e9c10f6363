//! Layers as tools make them, and as nobody would: one seed gives one sequence of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::hostile::draft::{archive_of, entry, pax, spoiled};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Link,
    /// With its permissions.
    Directory(u32),
}

/// Names that are legal and that a tool may trip over.
const ODD: &[&str] = &[
    "with space",
    " lead",
    "trail ",
    "-rf",
    "--help",
    "line\nbreak",
    "tab\tstop",
    "back\\slash",
    "quote'\"s",
    "$(HOME)",
    "*",
    "~",
    "..dots",
    "dots...",
    ".hidden",
    "wh.x",
    ".whx",
    "é",
    "e\u{301}",
    "日本語",
    "\u{202e}txt",
    "CON",
    "a;b",
    "%2e%2e",
    "\u{7f}",
];
const FILE_MODES: &[u32] = &[0o644, 0o755, 0o600, 0o444, 0o640, 0o777, 0o400, 0o666];
/// Those that their owner may enter and fill: others are where gantry and umoci differ.
const DIRECTORY_MODES: &[u32] = &[0o755, 0o700, 0o750, 0o777, 0o1777, 0o711];

pub struct Generator {
    state: u64,
    /// What the layers made so far come to.
    nodes: BTreeMap<String, Kind>,
    entries: Vec<Vec<u8>>,
    /// Directories that this layer lists.
    listed: BTreeSet<String>,
    /// Files that this layer has, for hard links.
    files: Vec<String>,
    count: usize,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            nodes: BTreeMap::new(),
            entries: Vec::new(),
            listed: BTreeSet::new(),
            files: Vec::new(),
            count: 0,
        }
    }

    /// xorshift64*.
    fn below(&mut self, end: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// The next layer, as a tar.
    pub fn layer(&mut self) -> Vec<u8> {
        self.listed.clear();
        self.files.clear();
        for _ in 0..25 {
            match self.below(20) {
                0..=5 => self.new_file(),
                6 => self.deep(),
                7 | 8 => self.new_link(),
                9 => self.new_directory(),
                10 | 11 => self.hard_link(),
                12 => self.change(),
                13 => self.other_kind(),
                14 => self.twice(),
                15 | 16 => self.delete(),
                17 => self.delete_and_make(),
                18 => self.opaque(),
                _ => self.change_mode(),
            }
        }
        archive_of(&std::mem::take(&mut self.entries))
    }

    fn name(&mut self) -> String {
        self.count += 1;
        let (count, odd, length) = (self.count, self.one_of(ODD), 255 - self.below(40));
        match self.below(24) {
            0..=3 => format!("{odd}{count}"),
            4..=7 => format!("{count}{odd}"),
            8 => format!("{count:n<length$}"),
            _ => format!("name{count}"),
        }
    }

    /// A path of nothing yet, in a directory that is there or at the top.
    fn new_path(&mut self) -> String {
        let directories: Vec<&String> = self
            .nodes
            .iter()
            .filter(|(path, kind)| matches!(kind, Kind::Directory(_)) && path.len() < 1500)
            .map(|(path, _)| path)
            .collect();
        let count = directories.len();
        let all: Vec<String> = directories.into_iter().cloned().collect();
        let name = self.name();
        match self.below(count + 3) {
            at if at < count => format!("{}/{name}", all[at]),
            // In a directory that no layer lists.
            at if at == count => {
                let implied = self.name();
                format!("{implied}/{name}")
            }
            _ => name,
        }
    }

    fn existing(&mut self, is_meant: impl Fn(&Kind) -> bool) -> Option<String> {
        let all: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, kind)| is_meant(kind))
            .map(|(path, _)| path.clone())
            .collect();
        (!all.is_empty()).then(|| all[self.below(all.len())].clone())
    }

    fn parents(path: &str) -> Vec<String> {
        path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect()
    }

    /// Lists the directories above `path`: those whose permissions are not the usual ones always, as tools do.
    fn enter(&mut self, path: &str) {
        for parent in Self::parents(path) {
            let mode = match self.nodes.get(&parent) {
                Some(Kind::Directory(mode)) => *mode,
                _ => 0o755,
            };
            if !self.listed.contains(&parent) && (mode != 0o755 || self.below(2) == 0) {
                self.list(&parent, mode);
            }
            self.nodes.insert(parent, Kind::Directory(mode));
        }
    }

    fn list(&mut self, path: &str, mode: u32) {
        self.put(&format!("{path}/"), b'5', b"", b"", mode);
        self.listed.insert(path.to_owned());
        self.nodes.insert(path.to_owned(), Kind::Directory(mode));
    }

    /// Writes an entry, in one of the ways in which long names are written.
    fn put(&mut self, path: &str, kind: u8, contents: &[u8], link: &[u8], mode: u32) {
        let fits = path.len() <= 100 && link.len() <= 100;
        let (path, way) = (path.as_bytes(), self.below(2));
        if !fits {
            let (key, long) = ("path", "linkpath");
            match way {
                0 => {
                    self.entries.push(pax(key, path));
                    if !link.is_empty() {
                        self.entries.push(pax(long, link));
                    }
                    let merged = self.merge_pax();
                    self.entries.push(merged);
                }
                _ => {
                    self.entries
                        .push(entry(b"././@LongLink", b'L', &[path, b"\0"].concat(), b""));
                    if !link.is_empty() {
                        self.entries
                            .push(entry(b"././@LongLink", b'K', &[link, b"\0"].concat(), b""));
                    }
                }
            }
        }
        let (short, target) = (&path[..path.len().min(100)], link[..link.len().min(100)].to_vec());
        self.entries.push(spoiled(short, kind, contents, move |header| {
            header[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
            header[157..157 + target.len()].copy_from_slice(&target);
        }));
    }

    /// One extended header of the records of those written last: an entry has at most one.
    fn merge_pax(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        while let Some(last) = self.entries.pop_if(|last| last[156] == b'x') {
            let size = std::str::from_utf8(&last[124..135]).unwrap();
            let size = usize::from_str_radix(size.trim_matches(['\0', ' ']), 8).unwrap();
            records.splice(0..0, last[512..512 + size].iter().copied());
        }
        entry(b"pax", b'x', &records, b"")
    }

    fn contents(&mut self) -> Vec<u8> {
        let size = match self.below(12) {
            0 | 1 => 0,
            2 => 512,
            3 => 300_000,
            4 => 70_000,
            _ => self.below(3000),
        };
        let word = format!("{:x} ", self.below(usize::MAX)).into_bytes();
        word.iter().cycle().take(size).copied().collect()
    }

    fn file_at(&mut self, path: &str) {
        self.enter(path);
        let (contents, mode) = (self.contents(), self.one_of(FILE_MODES));
        self.put(path, b'0', &contents, b"", mode);
        self.replace(path, Kind::File);
        self.files.push(path.to_owned());
    }

    /// What is at `path` goes with all below it, except that a directory in the place of another keeps that.
    fn replace(&mut self, path: &str, kind: Kind) {
        self.forget(path);
        self.nodes.insert(path.to_owned(), kind);
    }

    fn forget(&mut self, path: &str) {
        let below = format!("{path}/");
        self.nodes
            .retain(|other, _| other != path && !other.starts_with(&below));
        self.files.retain(|other| other != path && !other.starts_with(&below));
        self.listed.retain(|other| other != path && !other.starts_with(&below));
    }

    fn new_file(&mut self) {
        let path = self.new_path();
        self.file_at(&path);
    }

    fn deep(&mut self) {
        let mut path = self.new_path();
        for _ in 0..self.below(25) {
            path = format!("{path}/d{}", self.below(3));
        }
        let path = format!("{path}/{}", self.name());
        self.file_at(&path);
    }

    fn new_directory(&mut self) {
        let (path, mode) = (self.new_path(), self.one_of(DIRECTORY_MODES));
        self.enter(&path);
        self.list(&path, mode);
    }

    fn link_at(&mut self, path: &str) {
        self.enter(path);
        let known = self.existing(|_| true).unwrap_or_default();
        let target = match self.below(6) {
            0 => format!("/{known}"),
            1 => format!("../../../{known}"),
            2 => "/etc/passwd".to_owned(),
            3 => "nowhere/at all".to_owned(),
            4 => format!("./{}", "long/".repeat(30)),
            _ => ".".to_owned(),
        };
        self.put(path, b'2', b"", target.as_bytes(), 0o777);
        self.replace(path, Kind::Link);
    }

    fn new_link(&mut self) {
        let path = self.new_path();
        self.link_at(&path);
    }

    /// A further name for a file of this layer, often in another directory.
    fn hard_link(&mut self) {
        if self.files.is_empty() {
            return self.new_file();
        }
        let at = self.below(self.files.len());
        let target = self.files[at].clone();
        let path = self.new_path();
        self.enter(&path);
        self.put(&path, b'1', b"", target.as_bytes(), 0o644);
        self.replace(&path, Kind::File);
        self.files.push(path);
    }

    fn change(&mut self) {
        match self.existing(|kind| *kind == Kind::File) {
            Some(path) => self.file_at(&path),
            None => self.new_file(),
        }
    }

    /// Something of another kind in the place of what is there.
    fn other_kind(&mut self) {
        let Some(path) = self.existing(|_| true) else {
            return self.new_file();
        };
        match (self.nodes[&path], self.below(2)) {
            (Kind::File, 0) | (Kind::Directory(_), 0) => self.link_at(&path),
            (Kind::Link, 0) | (Kind::Directory(_), _) => self.file_at(&path),
            _ => {
                self.forget(&path);
                let mode = self.one_of(DIRECTORY_MODES);
                self.enter(&path);
                self.list(&path, mode);
                let below = format!("{path}/{}", self.name());
                self.file_at(&below);
            }
        }
    }

    /// An entry more than once in one layer: the last one counts.
    fn twice(&mut self) {
        let path = self.new_path();
        self.file_at(&path);
        self.file_at(&path);
    }

    fn whiteout_of(path: &str) -> String {
        match path.rsplit_once('/') {
            Some((parent, name)) => format!("{parent}/.wh.{name}"),
            None => format!(".wh.{path}"),
        }
    }

    fn can_be_deleted(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap();
        let below = format!("{path}/");
        // What this layer has stays, whatever its whiteouts say.
        let is_of_layer = |other: &String| other == path || other.starts_with(&below);
        name.len() < 250 && !self.files.iter().any(is_of_layer) && !self.listed.iter().any(is_of_layer)
    }

    fn delete(&mut self) {
        let Some(path) = self.existing(|_| true).filter(|path| self.can_be_deleted(path)) else {
            return self.new_file();
        };
        self.enter(&path);
        self.put(&Self::whiteout_of(&path), b'0', b"", b"", 0o644);
        // Links of this layer below it stay too; what comes of those is not followed up.
        self.forget(&path);
    }

    fn delete_and_make(&mut self) {
        let found = self.existing(|kind| matches!(kind, Kind::Directory(_)));
        let Some(path) = found.filter(|path| self.can_be_deleted(path)) else {
            return self.new_file();
        };
        let mode = self.one_of(DIRECTORY_MODES);
        self.enter(&path);
        let is_first = self.below(2) == 0;
        let whiteout = Self::whiteout_of(&path);
        if is_first {
            self.put(&whiteout, b'0', b"", b"", 0o644);
        }
        self.forget(&path);
        self.list(&path, mode);
        let below = format!("{path}/{}", self.name());
        self.file_at(&below);
        if !is_first {
            self.put(&whiteout, b'0', b"", b"", 0o644);
        }
    }

    fn opaque(&mut self) {
        let found = self.existing(|kind| matches!(kind, Kind::Directory(_)));
        let Some(path) = found.filter(|path| self.can_be_deleted(path)) else {
            return self.new_file();
        };
        let Kind::Directory(mode) = self.nodes[&path] else {
            return;
        };
        self.enter(&path);
        self.forget(&path);
        self.list(&path, mode);
        self.put(&format!("{path}/.wh..wh..opq"), b'0', b"", b"", 0o644);
        let below = format!("{path}/{}", self.name());
        self.file_at(&below);
    }

    fn change_mode(&mut self) {
        let Some(path) = self.existing(|kind| matches!(kind, Kind::Directory(_))) else {
            return self.new_file();
        };
        let mode = self.one_of(DIRECTORY_MODES);
        self.enter(&path);
        self.list(&path, mode);
    }
}
