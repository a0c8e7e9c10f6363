//! Writes one layer: a tar whose bytes depend on its entries alone, as a gzip blob, and in the same pass as a tree.
//!
//! ustar headers, pax records only for names that need them; owner, mode and size are the caller's, times are all the same.
//! Entries come in the order of their paths' bytes with `/` sorting first, so that a directory precedes its contents;
//! another order is an error, for it would give other bytes. Missing parents are written once, mode 0755. The diff id,
//! the blob's digest and the tree are made from one pass over the contents.

use std::cmp::Ordering;
use std::io::{self, Write};

use super::gzip::MemberWriter;
use super::path::{check_path, PathProblem};
use crate::oci::{DiffId, Digest, Hashed, Hasher};
use crate::policy::{ExtractionLimits, Kind};

/// A raw deflate stream below this is compressed with its neighbours instead: a member of its own costs 18 bytes and
/// small files compress better together (measured: smallest total at 4 to 32 KiB).
const SPLICE_FROM: usize = 4096;
/// Version of the bytes that come out for the same entries: headers, order, where members end, the compressor and its
/// level. Part of the key of every layer that is made here; the `libdeflater` of Cargo.lock belongs to it.
pub const FORMAT: &str = "3";
/// The time of every entry: 1980-01-02. A zip holds no time before 1980, and a program that packs its own files would fail;
/// the second day is in 1980 in every time zone.
const TIME: u64 = 315_619_200;
const BLOCK: usize = 512;
const ZEROES: [u8; BLOCK] = [0; BLOCK];

/// Receives the same entries as files. Paths are checked and come after their parents.
pub trait TreeSink {
    /// Makes a directory.
    fn directory(&mut self, path: &str, mode: u32) -> io::Result<()>;
    /// Makes a regular file.
    fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> io::Result<()>;
    /// Makes a symbolic link.
    fn symlink(&mut self, path: &str, target: &str) -> io::Result<()>;
}

/// What came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenLayer {
    /// Hash of the tar.
    pub diff_id: DiffId,
    /// Hash of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Bytes of all files.
    pub unpacked_bytes: u64,
    /// Entries, directories included.
    pub entries: u64,
    /// Bytes of the tar.
    pub tar_bytes: u64,
}

/// Why a layer was not written.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The output or the tree failed.
    #[error("write layer entry {path:?}")]
    Io {
        /// The entry.
        path: String,
        /// The reason.
        source: io::Error,
    },
    /// A path no archive may hold.
    #[error("write layer entry {path:?}: {problem}")]
    Path {
        /// The entry.
        path: String,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// Below something that is no directory.
    #[error("write layer entry {path:?}: {parent:?} is no directory")]
    NotADirectory {
        /// The entry.
        path: String,
        /// The file or link it would be below.
        parent: String,
    },
    /// A link to nothing that can be a path.
    #[error("write layer entry {path:?}: its link target is empty, too long or has a NUL")]
    Target {
        /// The link.
        path: String,
    },
    /// Not in order.
    #[error("write layer entry {path:?}: it does not sort after {previous:?}")]
    Order {
        /// The entry.
        path: String,
        /// The one before it.
        previous: String,
    },
}

impl LayerError {
    /// What is written here is ours, so no rule forbids it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Io { .. }
            | Self::Path { .. }
            | Self::NotADirectory { .. }
            | Self::Target { .. }
            | Self::Order { .. } => Kind::Failed,
        }
    }
}

/// Writes entries to a blob and, when given one, a tree.
pub struct LayerWriter<'a, W: Write> {
    gzip: MemberWriter<Hashed<W>>,
    tree: Option<&'a mut dyn TreeSink>,
    tar: Hasher,
    owner: u32,
    previous: String,
    previous_is_directory: bool,
    /// Directories written so far, innermost last: all are prefixes of `previous`.
    parents: Vec<String>,
    unpacked_bytes: u64,
    entries: u64,
    limits: ExtractionLimits,
}

impl<'a, W: Write> LayerWriter<'a, W> {
    /// A layer whose entries belong to `owner` (uid and gid).
    pub fn new(out: W, tree: Option<&'a mut dyn TreeSink>, owner: u32) -> Self {
        Self {
            gzip: MemberWriter::new(Hashed::new(out)),
            tree,
            tar: Hasher::new(),
            owner,
            previous: String::new(),
            previous_is_directory: true,
            parents: Vec::new(),
            unpacked_bytes: 0,
            entries: 0,
            limits: ExtractionLimits::default(),
        }
    }

    /// Adds a directory; its parents too when they are missing.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<(), LayerError> {
        self.enter(path)?;
        self.put_directory(path, mode)?;
        self.previous_is_directory = true;
        Ok(())
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<(), LayerError> {
        self.enter(path)?;
        self.header(path, mode, contents.len() as u64, tar::EntryType::Regular, None)?;
        self.put(path, contents)?;
        self.put(path, padding(contents.len()))?;
        self.mirror(path, |tree| tree.file(path, mode, contents))
    }

    /// Adds a regular file whose contents are also there as the raw deflate stream of a zip. The caller has checked that
    /// `deflated` inflates to `contents` and ends with its last byte, and that `crc` is that of `contents`.
    pub fn spliced(
        &mut self,
        path: &str,
        mode: u32,
        contents: &[u8],
        deflated: &[u8],
        crc: u32,
    ) -> Result<(), LayerError> {
        let Some(size) = u32::try_from(contents.len())
            .ok()
            .filter(|_| contents.len() >= SPLICE_FROM)
        else {
            return self.file(path, mode, contents);
        };
        self.enter(path)?;
        self.header(path, mode, contents.len() as u64, tar::EntryType::Regular, None)?;
        self.tar.update(contents);
        self.gzip.splice(deflated, crc, size).map_err(io_error(path))?;
        self.put(path, padding(contents.len()))?;
        self.mirror(path, |tree| tree.file(path, mode, contents))
    }

    /// Adds a symbolic link; the target is stored as it is.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), LayerError> {
        if target.is_empty() || target.len() > self.limits.path || target.contains('\0') {
            return Err(LayerError::Target { path: path.to_owned() });
        }
        self.enter(path)?;
        self.header(path, 0o777, 0, tar::EntryType::Symlink, Some(target))?;
        self.mirror(path, |tree| tree.symlink(path, target))
    }

    /// Ends the tar and the blob.
    ///
    /// # Errors
    ///
    /// [`LayerError`] when a bound is passed or the blob cannot be written; the blob is no layer then.
    pub fn finish(mut self) -> Result<WrittenLayer, LayerError> {
        const END: &str = "end of archive";
        self.put(END, &ZEROES)?;
        self.put(END, &ZEROES)?;
        let mut hashed = self.gzip.finish().map_err(io_error(END))?;
        hashed.flush().map_err(io_error(END))?;
        let size = hashed.hasher.bytes();
        Ok(WrittenLayer {
            digest: hashed.hasher.digest(),
            size,
            tar_bytes: self.tar.bytes(),
            diff_id: self.tar.diff_id(),
            unpacked_bytes: self.unpacked_bytes,
            entries: self.entries,
        })
    }

    /// Checks path and order, and writes missing parents.
    fn enter(&mut self, path: &str) -> Result<(), LayerError> {
        check_path(path, &self.limits).map_err(|problem| LayerError::Path {
            path: path.to_owned(),
            problem,
        })?;
        if !self.previous.is_empty() && order(&self.previous, path) != Ordering::Less {
            return Err(LayerError::Order {
                path: path.to_owned(),
                previous: self.previous.clone(),
            });
        }
        // Whatever lies below a file would come right after it.
        if !self.previous_is_directory && is_below(path, &self.previous) {
            return Err(LayerError::NotADirectory {
                path: path.to_owned(),
                parent: self.previous.clone(),
            });
        }
        self.parents.retain(|parent| is_below(path, parent));
        let missing: Vec<String> = path
            .match_indices('/')
            .map(|(end, _)| path[..end].to_owned())
            .skip(self.parents.len())
            .collect();
        for parent in missing {
            self.put_directory(&parent, 0o755)?;
        }
        path.clone_into(&mut self.previous);
        self.previous_is_directory = false;
        Ok(())
    }

    fn put_directory(&mut self, path: &str, mode: u32) -> Result<(), LayerError> {
        self.header(&format!("{path}/"), mode, 0, tar::EntryType::Directory, None)?;
        self.parents.push(path.to_owned());
        self.mirror(path, |tree| tree.directory(path, mode))
    }

    fn header(
        &mut self,
        path: &str,
        mode: u32,
        size: u64,
        kind: tar::EntryType,
        target: Option<&str>,
    ) -> Result<(), LayerError> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(u64::from(self.owner));
        header.set_gid(u64::from(self.owner));
        header.set_mtime(TIME);
        header.set_size(size);
        let mut records = Vec::new();
        if header.set_path(path).is_err() {
            records.extend(pax_record("path", path));
            // Readers take the name from the record; what a failed attempt left in the header is not ours to promise.
            set_short_name(&mut header, path);
        }
        if let Some(target) = target {
            // Verbatim: a link target is text, not a path that the crate may normalise.
            if header.set_link_name_literal(target).is_err() {
                records.extend(pax_record("linkpath", target));
            }
        }
        if !records.is_empty() {
            self.extended_header(path, &records)?;
        }
        header.set_cksum();
        self.entries += 1;
        self.unpacked_bytes += size;
        self.put(path, header.as_bytes())
    }

    fn extended_header(&mut self, path: &str, records: &[u8]) -> Result<(), LayerError> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(records.len() as u64);
        header.set_path("pax").map_err(io_error(path))?;
        header.set_cksum();
        self.put(path, header.as_bytes())?;
        self.put(path, records)?;
        self.put(path, padding(records.len()))
    }

    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), LayerError> {
        self.tar.update(bytes);
        self.gzip.write(bytes).map_err(io_error(path))
    }

    fn mirror(&mut self, path: &str, act: impl FnOnce(&mut dyn TreeSink) -> io::Result<()>) -> Result<(), LayerError> {
        match &mut self.tree {
            Some(tree) => act(*tree).map_err(io_error(path)),
            None => Ok(()),
        }
    }
}

/// Puts the first bytes of a name into a ustar header, and nothing into the prefix.
fn set_short_name(header: &mut tar::Header, path: &str) {
    if let Some(ustar) = header.as_ustar_mut() {
        ustar.prefix.fill(0);
        let bytes = path.bytes().chain(std::iter::repeat(0));
        ustar.name.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = byte);
    }
}

/// The order of entries: bytes, with `/` before everything else.
pub fn order(one: &str, other: &str) -> Ordering {
    let key = |byte: u8| if byte == b'/' { 0u16 } else { u16::from(byte) + 1 };
    one.bytes().map(key).cmp(other.bytes().map(key))
}

fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/'))
}

fn padding(length: usize) -> &'static [u8] {
    ZEROES.get(..length.next_multiple_of(BLOCK) - length).unwrap_or(&[])
}

/// `<length> <key>=<value>\n`, where the length counts itself (POSIX pax, "Extended Header").
fn pax_record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}").into_bytes()
}

fn io_error(path: &str) -> impl FnOnce(io::Error) -> LayerError + '_ {
    move |source| LayerError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn gunzip(blob: &[u8]) -> Vec<u8> {
        let mut tar = Vec::new();
        flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut tar).unwrap();
        tar
    }

    #[test]
    fn hashes_describe_the_bytes_and_the_bytes_are_a_tar() {
        let mut blob = Vec::new();
        let long = format!("dir/{}/{}", "x".repeat(120), "y".repeat(120));
        let contents = b"hello ".repeat(2000);
        let deflated = {
            let mut out = vec![0; 20_000];
            let mut compressor = Compressor::new(CompressionLvl::default());
            let length = compressor.deflate_compress(&contents, &mut out).unwrap();
            out.truncate(length);
            out
        };
        let mut crc = libdeflater::Crc::new();
        crc.update(&contents);
        let mut writer = LayerWriter::new(&mut blob, None, 1000);
        writer.file("a", 0o644, b"1").unwrap();
        writer.symlink("b", &"t".repeat(150)).unwrap();
        writer.spliced("dir/s", 0o755, &contents, &deflated, crc.sum()).unwrap();
        writer.file(&long, 0o644, b"deep").unwrap();
        let written = writer.finish().unwrap();

        assert_eq!(written.digest, Digest::of(&blob));
        assert_eq!(written.size, blob.len() as u64);
        let bytes = gunzip(&blob);
        assert_eq!(written.diff_id, DiffId::of(&bytes));
        assert_eq!(written.tar_bytes, bytes.len() as u64);
        let mut seen = Vec::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            assert_eq!(entry.header().uid().unwrap(), 1000);
            assert_eq!(entry.header().mtime().unwrap(), TIME);
            seen.push((String::from_utf8(entry.path_bytes().into_owned()).unwrap(), contents));
        }
        let names: Vec<_> = seen.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["a", "b", "dir/", "dir/s", &format!("dir/{}/", "x".repeat(120)), &long]
        );
        assert_eq!(seen[3].1, contents);
        assert_eq!(written.entries, 6);
    }

    use libdeflater::{CompressionLvl, Compressor};

    #[test]
    fn refuses_entries_out_of_order_and_paths_outside() {
        let mut writer = LayerWriter::new(io::sink(), None, 0);
        writer.file("b/x", 0o644, b"").unwrap();
        assert!(matches!(writer.file("a", 0o644, b""), Err(LayerError::Order { .. })));
        assert!(matches!(writer.file("b/x", 0o644, b""), Err(LayerError::Order { .. })));
        assert!(matches!(
            writer.file("c/../d", 0o644, b""),
            Err(LayerError::Path {
                problem: PathProblem::Parent,
                ..
            })
        ));
    }

    #[test]
    fn refuses_deletions_files_as_directories_and_links_to_nothing() {
        let mut writer = LayerWriter::new(io::sink(), None, 0);
        for path in ["site/.wh.numpy", "site/.wh..wh..opq", ".wh.a/b"] {
            assert!(matches!(
                writer.file(path, 0o644, b""),
                Err(LayerError::Path {
                    problem: PathProblem::Whiteout,
                    ..
                })
            ));
        }
        writer.file("a", 0o644, b"").unwrap();
        assert!(matches!(
            writer.file("a/b", 0o644, b""),
            Err(LayerError::NotADirectory { path, parent }) if path == "a/b" && parent == "a"
        ));
        writer.symlink("l", "a").unwrap();
        assert!(matches!(
            writer.directory("l/d", 0o755),
            Err(LayerError::NotADirectory { .. })
        ));
        writer.directory("m", 0o755).unwrap();
        writer.file("m/x", 0o644, b"").unwrap();
        for target in ["", "a\0b", &"x".repeat(5000)] {
            assert!(matches!(writer.symlink("n", target), Err(LayerError::Target { .. })));
        }
    }

    #[test]
    fn every_length_of_name_is_read_back() {
        let mut paths = Vec::new();
        for length in [1, 99, 100, 101, 154, 155, 156, 200, 254, 255] {
            paths.push("n".repeat(length));
            paths.push(format!("{}/{}", "d".repeat(length), "f".repeat(255)));
            paths.push(format!("{0}/{0}/f", "e".repeat(length)));
        }
        paths.sort_by(|one, other| order(one, other));
        let mut blob = Vec::new();
        let mut writer = LayerWriter::new(&mut blob, None, 0);
        for path in &paths {
            writer.file(path, 0o644, path.as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        let mut seen = Vec::new();
        for entry in tar::Archive::new(&gunzip(&blob)[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            if entry.header().entry_type().is_file() {
                let mut contents = String::new();
                entry.read_to_string(&mut contents).unwrap();
                assert_eq!(contents, path);
                seen.push(path);
            }
        }
        assert_eq!(seen, paths);
    }

    #[test]
    fn the_bytes_are_a_promise() {
        let mut blob = Vec::new();
        let mut writer = LayerWriter::new(&mut blob, None, 1000);
        writer.directory("app", 0o755).unwrap();
        writer.file("app/main.py", 0o644, b"print('hello')\n").unwrap();
        writer.file(&format!("app/{}", "z".repeat(150)), 0o600, b"").unwrap();
        writer.symlink("bin", "usr/bin").unwrap();
        let written = writer.finish().unwrap();
        assert_eq!(
            written.diff_id.hex(),
            "f5eb249b9bf6d1a43ea5d0747fb9ca942a772bdaa98a7e4108175c250062f212"
        );
        assert_eq!(
            written.digest.hex(),
            "ae6cf608b1fe18d9df3a9f4b335acc8df04f01b729e560ee4e8139dca7c460b6"
        );
    }

    #[test]
    fn a_directory_sorts_before_its_contents() {
        let mut paths = ["a-b", "a", "a/b", "a.b", "a/b/c"];
        paths.sort_by(|one, other| order(one, other));
        assert_eq!(paths, ["a", "a/b", "a/b/c", "a-b", "a.b"]);
    }
}
