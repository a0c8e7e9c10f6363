//! An interpreter archive -> entries of a base: a CPython that runs wherever it lies, pinned by its hash.
//!
//! Such an archive is laid out as `python/bin`, `python/lib` and so on ("install only"), and what is in `python/` goes
//! below `/usr/local`, beside what Debian's packages install. It is read like any stranger's layer; nothing of it is executed.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::definition::Interpreter;
use crate::archive::deb::DebEntry;
use crate::archive::tar_reader::{read_layer, Change, TarError};
use crate::oci::Compression;
use crate::policy::{ExtractionLimits, Kind};

/// What everything in an archive is below.
const TOP: &str = "python";
/// Where that goes.
pub(super) const PREFIX: &str = "usr/local";
/// Where its builders had it, which their configuration still says.
const BUILT_IN: &str = "/install";
/// Bytes of all files of an archive together, a hard link counted like the file that it names: they are held in memory. A whole
/// CPython with its tests and static libraries has 0.3 GB.
const MOST_BYTES: u64 = 1 << 30;
/// What compiled it, and what compiles for it on a machine with Debian's toolchain.
const PROGRAMS: [(&str, &str); 3] = [("clang", "cc"), ("clang++", "c++"), ("llvm-ar", "ar")];

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum InterpreterError {
    /// It is damaged, or says what no honest one says.
    #[error("unpack {file}")]
    Archive { file: String, source: TarError },
    /// It is laid out in another way.
    #[error("unpack {file}: {path:?}: {reason}")]
    Layout {
        file: String,
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl InterpreterError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Archive { source, .. } => source.kind(),
            Self::Layout { .. } => Kind::Failed,
        }
    }
}

/// Entries by path, of the archive that `pin` is of and whose bytes, verified, `packed` has.
pub(super) fn read(pin: &Interpreter, packed: impl Read) -> Result<BTreeMap<String, DebEntry>, InterpreterError> {
    let file = pin.file_name();
    let mut unpacked = Unpacked::default();
    let mut refused = None;
    let limits = ExtractionLimits {
        bytes: MOST_BYTES,
        ..ExtractionLimits::default()
    };
    let read = read_layer(packed, Compression::Gzip, &limits, &mut |path, change| {
        unpacked.add(pin, path, change)?.map_or_else(
            |reason| {
                refused = Some((path.to_owned(), reason));
                Err(io::Error::other(reason))
            },
            Ok,
        )
    });
    match (refused, read) {
        (Some((path, reason)), _) => Err(InterpreterError::Layout { file, path, reason }),
        (None, Err(source)) => Err(InterpreterError::Archive { file, source }),
        (None, Ok(_)) => Ok(unpacked.entries),
    }
}

/// What was read so far.
#[derive(Debug, Default)]
struct Unpacked {
    entries: BTreeMap<String, DebEntry>,
    /// Bytes of all files among them.
    bytes: u64,
}

impl Unpacked {
    /// Adds one entry; the inner error says what is wrong with it.
    fn add(&mut self, pin: &Interpreter, path: &str, change: Change<'_>) -> io::Result<Result<(), &'static str>> {
        let Some(inside) = path
            .strip_prefix(TOP)
            .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        else {
            return Ok(Err("it is not below python/"));
        };
        let inside = inside.trim_start_matches('/');
        if inside.is_empty() || !pin.is_wanted(inside) {
            return Ok(Ok(()));
        }
        let place = format!("{PREFIX}/{inside}");
        let entry = match change {
            Change::Directory { .. } => DebEntry::Directory { mode: 0o755 },
            Change::File { mode, contents, .. } => {
                let mut bytes = Vec::new();
                contents.read_to_end(&mut bytes)?;
                let name = inside.rsplit('/').next().unwrap_or(inside);
                if name.starts_with("_sysconfigdata_") && name.ends_with(".py") {
                    bytes = configuration_here(&String::from_utf8_lossy(&bytes)).into_bytes();
                }
                // As packages have them: what may be executed is so for all.
                let mode = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
                DebEntry::File { mode, contents: bytes }
            }
            Change::Symlink { target } if leads_out(inside, &target) => {
                return Ok(Err("it is a link that leads out of the archive"));
            }
            Change::Symlink { target } => DebEntry::Symlink { target },
            Change::Hardlink { target } => {
                let target = target.strip_prefix(TOP).map(|rest| format!("{PREFIX}{rest}"));
                match target.and_then(|target| self.entries.get(&target)) {
                    Some(DebEntry::File { contents, .. }) if self.bytes + contents.len() as u64 > MOST_BYTES => {
                        return Ok(Err("files and hard links have more bytes than an interpreter"));
                    }
                    Some(file @ DebEntry::File { .. }) => file.clone(),
                    _ => return Ok(Err("it is a hard link to no earlier file of those that are taken")),
                }
            }
            Change::Whiteout | Change::Opaque => return Ok(Err("it hides something, as in a layer")),
        };
        if let DebEntry::File { contents, .. } = &entry {
            self.bytes += contents.len() as u64;
        }
        let is_directory = matches!(entry, DebEntry::Directory { .. });
        if self.is_below_another(&place) || !is_directory && self.has_below(&place) {
            return Ok(Err("something is below what is no directory"));
        }
        let again = self.entries.insert(place, entry);
        if again.is_some_and(|before| !(is_directory && matches!(before, DebEntry::Directory { .. }))) {
            return Ok(Err("it is there twice"));
        }
        Ok(Ok(()))
    }

    /// Whether a directory of `place` is a file or a link.
    fn is_below_another(&self, place: &str) -> bool {
        let ends = place.match_indices('/').map(|(end, _)| end);
        let mut above = ends.filter_map(|end| self.entries.get(place.get(..end)?));
        above.any(|entry| !matches!(entry, DebEntry::Directory { .. }))
    }

    fn has_below(&self, place: &str) -> bool {
        let below = format!("{place}/");
        let next = self.entries.range(below.clone()..).next();
        next.is_some_and(|(path, _)| path.starts_with(&below))
    }
}

/// Whether a link at `path` of an archive leads to something that is not in it, or may: a name before a `..` can itself be a link.
fn leads_out(path: &str, target: &str) -> bool {
    let components = || target.split('/').filter(|component| !matches!(*component, "" | "."));
    let ups = components().take_while(|component| *component == "..").count();
    target.starts_with('/')
        || ups > path.matches('/').count()
        || components().skip(ups).any(|component| component == "..")
}

/// `_sysconfigdata`, by which source distributions are compiled, with the places and the programs of the base. Python writes it
/// with single quotes; builders of archives write it again as JSON, with double ones.
fn configuration_here(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut line = line.replace(&format!("{BUILT_IN}/"), &format!("/{PREFIX}/"));
        for (before, after) in [("'", "'"), ("\"", "\""), ("=", "'"), ("=", "\"")] {
            let whole = |place: &str| format!("{before}{place}{after}");
            line = line.replace(&whole(BUILT_IN), &whole(&format!("/{PREFIX}")));
        }
        let words = line.split(' ').map(|word| {
            // A value starts with a quote, and may end with one.
            let plain = word.trim_matches(|quote| matches!(quote, '\'' | '"' | ','));
            let base = plain.rsplit('/').next().unwrap_or(plain);
            match PROGRAMS.iter().find(|(theirs, _)| *theirs == base) {
                Some((_, ours)) => word.replace(plain, ours),
                None => word.to_owned(),
            }
        });
        lines.push(words.collect::<Vec<_>>().join(" "));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::deb::fixture::{directory, file, gzip_of, hard_link, symlink, tar_of, Data};
    use crate::oci::Digest;

    fn pin() -> Interpreter {
        Interpreter {
            url: "https://example.org/a/cpython-3.12.1%2B1.tar.gz".to_owned(),
            sha256: Digest::of(b""),
            keep: Vec::new(),
            drop: ["lib/python3.12/test/", "lib/tcl*", "bin/pip"]
                .map(str::to_owned)
                .to_vec(),
        }
    }

    fn read_of(pin: &Interpreter, fill: &dyn Fn(&mut Data)) -> Result<BTreeMap<String, DebEntry>, InterpreterError> {
        read(pin, gzip_of(&tar_of(fill)).as_slice())
    }

    #[test]
    fn what_is_below_python_goes_below_usr_local() {
        let fill = |tar: &mut Data| {
            directory(tar, "python/bin/");
            file(tar, "python/bin/python3.12", b"program");
            symlink(tar, "python/bin/python3", "python3.12");
            file(tar, "python/bin/pip", b"x");
            file(tar, "python/lib/python3.12/test/a.py", b"x");
            file(tar, "python/lib/tcl9.0/init.tcl", b"x");
            file(tar, "python/include/python3.12/Python.h", b"x");
            hard_link(tar, "python/bin/again", "python/bin/python3.12");
        };
        let entries = read_of(&pin(), &fill).unwrap();
        let paths: Vec<&str> = entries.keys().map(String::as_str).collect();
        let expected = [
            "bin",
            "bin/again",
            "bin/python3",
            "bin/python3.12",
            "include/python3.12/Python.h",
        ];
        assert_eq!(paths, expected.map(|path| format!("usr/local/{path}")));
        let program = DebEntry::File {
            mode: 0o755,
            contents: b"program".to_vec(),
        };
        assert_eq!(entries["usr/local/bin/again"], program, "and no set-id bit");
        let headers = Interpreter {
            keep: vec!["include/".to_owned()],
            ..pin()
        };
        assert_eq!(read_of(&headers, &fill).unwrap().len(), 1);
        assert_eq!(pin().file_name(), "cpython-3.12.1+1.tar.gz");
        let mirror = crate::net::Address::new("https://mirror.example.org/files/");
        assert_eq!(
            pin().address(Some(&mirror)).as_str(),
            "https://mirror.example.org/files/cpython-3.12.1%2B1.tar.gz"
        );
        assert_eq!(pin().address(None).as_str(), pin().url);
    }

    #[test]
    fn an_archive_that_is_none_is_refused() {
        let refused = |fill: &dyn Fn(&mut Data)| match read_of(&pin(), fill) {
            Err(InterpreterError::Layout { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(refused(&|tar| file(tar, "pythonic/a", b"")).contains("below python/"));
        assert!(refused(&|tar| file(tar, "etc/passwd", b"")).contains("below python/"));
        assert!(refused(&|tar| symlink(tar, "python/bin/a", "/etc/passwd")).contains("leads out"));
        assert!(refused(&|tar| symlink(tar, "python/bin/a", "../../etc/passwd")).contains("leads out"));
        let by_another = |tar: &mut Data| {
            symlink(tar, "python/lib/d/e", "../..");
            symlink(tar, "python/lib/x", "d/e/../../../etc");
        };
        assert!(refused(&by_another).contains("leads out"));
        let below_a_link = |tar: &mut Data| {
            symlink(tar, "python/lib/d/e", "../..");
            symlink(tar, "python/lib/d/e/x", "../../../etc");
        };
        assert!(refused(&below_a_link).contains("no directory"));
        let above_a_file = |tar: &mut Data| {
            file(tar, "python/lib/d/e/x", b"");
            symlink(tar, "python/lib/d/e", "../..");
        };
        assert!(refused(&above_a_file).contains("no directory"));
        assert!(refused(&|tar| file(tar, "python/bin/.wh.a", b"")).contains("hides"));
        let twice = |tar: &mut Data| {
            file(tar, "python/a", b"1");
            file(tar, "python/a", b"2");
        };
        assert!(refused(&twice).contains("twice"));
        let before = |tar: &mut Data| hard_link(tar, "python/a", "python/b");
        assert!(refused(&before).contains("no earlier file"));
        for damaged in [
            gzip_of(b"no tar at all"),
            b"no gzip".to_vec(),
            gzip_of(&tar_of(&twice))[..40].to_vec(),
        ] {
            assert!(matches!(
                read(&pin(), damaged.as_slice()),
                Err(InterpreterError::Archive { .. })
            ));
        }
        let up = |tar: &mut Data| file(tar, "python/../etc/passwd", b"");
        assert!(matches!(read_of(&pin(), &up), Err(InterpreterError::Archive { .. })));
    }

    #[test]
    fn hard_links_count_as_the_bytes_that_they_repeat() {
        let fill = |tar: &mut Data| {
            file(tar, "python/lib/a", b"1");
            hard_link(tar, "python/lib/b", "python/lib/a");
        };
        let mut unpacked = Unpacked::default();
        let limits = ExtractionLimits::default();
        let packed = gzip_of(&tar_of(&fill));
        read_layer(packed.as_slice(), Compression::Gzip, &limits, &mut |path, change| {
            unpacked.add(&pin(), path, change)?.map_err(io::Error::other)
        })
        .unwrap();
        assert_eq!(unpacked.bytes, 2);
        unpacked.bytes = MOST_BYTES;
        let target = "python/lib/a".to_owned();
        let over = unpacked.add(&pin(), "python/lib/c", Change::Hardlink { target });
        assert!(over.unwrap().unwrap_err().contains("more bytes"));
    }

    #[test]
    fn the_configuration_names_what_is_here() {
        let text = " 'AR': '/tools/llvm/bin/llvm-ar',\n 'CC': 'clang -pthread',\n 'CXX': 'clang++ -pthread',\n 'LIBDIR': '/install/lib',\n 'prefix': '/install',\n 'X': '/installed clang-format',\n";
        let expected = " 'AR': 'ar',\n 'CC': 'cc -pthread',\n 'CXX': 'c++ -pthread',\n 'LIBDIR': '/usr/local/lib',\n 'prefix': '/usr/local',\n 'X': '/installed clang-format',\n";
        assert_eq!(configuration_here(text), expected);
        // As json.dumps(indent=4) writes it, which is what archives have.
        let text = r#"build_time_vars = {
    "AR": "/tools/llvm/bin/llvm-ar",
    "CC": "clang -pthread",
    "CONFIG_ARGS": "'--prefix=/install' '--enable-shared'",
    "INSTALL": "/usr/bin/install -c",
    "LDSHARED": "clang -pthread -shared",
    "LIBDIR": "/install/lib",
    "LINKCC": "clang",
    "prefix": "/install",
    "srcdir": "."
}
"#;
        let expected = r#"build_time_vars = {
    "AR": "ar",
    "CC": "cc -pthread",
    "CONFIG_ARGS": "'--prefix=/usr/local' '--enable-shared'",
    "INSTALL": "/usr/bin/install -c",
    "LDSHARED": "cc -pthread -shared",
    "LIBDIR": "/usr/local/lib",
    "LINKCC": "cc",
    "prefix": "/usr/local",
    "srcdir": "."
}
"#;
        assert_eq!(configuration_here(text), expected);
    }
}
