//! Any image as a base: whether functions can run on it, and the small layer of what it lacks.
//!
//! The image is a stranger's: it is looked at through [`LayerStack`], never through the paths of this machine.

use std::collections::BTreeMap;
use std::io::Write;

use super::synthesise::{site_link, SITE, SITE_LINE};
use super::BaseError;
use crate::archive::layer::{order, LayerError, LayerWriter, TreeSink, WrittenLayer};
use crate::oci::Digest;
use crate::store::{Found, Key, LastLink, LayerStack, Step};

/// Makes the interpreter look into `/opt/py/site`.
const PTH: &str = "gantry.pth";
/// Where wheels put their programs.
const SCRIPTS: &str = "/opt/py/bin";
/// What runtimes take when an image says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const USER: &[u8] = b"mecapy:x:1000:1000:mecapy:/app:/usr/sbin/nologin\n";
/// The largest honest ones have some kilobytes.
const MAX_PASSWD: u64 = 1 << 20;
/// glibc's loader, where the distributions have it.
const LOADERS: [&str; 4] = [
    "lib64/ld-linux-x86-64.so.2",
    "usr/lib64/ld-linux-x86-64.so.2",
    "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
];

/// glibc itself, likewise.
const LIBRARIES: [&str; 4] = [
    "lib64/libc.so.6",
    "usr/lib64/libc.so.6",
    "lib/x86_64-linux-gnu/libc.so.6",
    "usr/lib/x86_64-linux-gnu/libc.so.6",
];
/// Says which distribution it is (os-release(5)).
const RELEASE: &str = "usr/lib/os-release";
const MAX_RELEASE: u64 = 64 << 10;
/// The largest have two megabytes.
const MAX_LIBRARY: u64 = 16 << 20;
/// That of manylinux2014, the oldest platform that wheels are made for.
const OLDEST: u32 = 17;

/// A foreign base that functions can run on once it has what it lacks.
#[derive(Debug)]
pub(super) struct Foreign {
    /// Absolute path of the interpreter.
    pub python: String,
    /// Its version, such as `3.11`.
    pub version: String,
    /// The minor version of its C library.
    pub glibc: u32,
    /// What its processes get as `PATH`.
    pub path: String,
    /// The release of Debian that it is.
    pub suite: Option<String>,
    /// Whether it has the headers of its Python.
    pub has_headers: bool,
    lacks: BTreeMap<String, Lack>,
}

#[derive(Debug)]
enum Lack {
    File(Vec<u8>),
    Link(String),
}

impl Foreign {
    /// Looks at the base called `name`, with `path` as the `PATH` of its configuration, for the first of the Python
    /// `versions`; what lies in `/usr/local` comes before what the distribution has.
    pub(super) fn survey(
        name: &str,
        stack: &LayerStack,
        versions: &[String],
        path: Option<&str>,
    ) -> Result<Self, BaseError> {
        let base = Base { name, stack };
        if !base.has_one_of(&LOADERS)? {
            return Err(BaseError::NoGlibc {
                name: name.to_owned(),
                loaders: LOADERS.map(|loader| format!("/{loader}")).join(", "),
            });
        }
        let mut found = None;
        for directory in ["usr/local/bin", "usr/bin"] {
            for version in versions {
                let candidate = format!("{directory}/python{version}");
                if let (None, Found::File(file)) = (&found, base.find(&candidate, LastLink::Follow)?) {
                    found = Some((directory, version.clone(), format!("/{candidate}"), file));
                }
            }
        }
        let (directory, version, python, real) = found.ok_or_else(|| BaseError::NoPython {
            name: name.to_owned(),
            python: versions.join(" or "),
        })?;
        let glibc = base.glibc()?;
        let headers = format!(
            "{}/include/python{version}/Python.h",
            directory.trim_end_matches("/bin")
        );
        let has_headers = base.has_one_of(&[&headers])?;
        let own_path = path.unwrap_or(DEFAULT_PATH);
        let mut lacks = BTreeMap::new();
        let site = match directory {
            "usr/local/bin" => format!("usr/local/lib/python{version}/site-packages/{PTH}"),
            _ => format!("usr/lib/python3/dist-packages/{PTH}"),
        };
        if let Some(place) = base.lacks(&site)? {
            lacks.insert(place, Lack::File(SITE_LINE.as_bytes().to_vec()));
        }
        lacks.extend(base.lacks_site(&site_link(&version))?);
        // The interpreter of the programs of wheels.
        if let Some(place) = base.lacks("usr/bin/python3")? {
            lacks.insert(place, Lack::Link(python.clone()));
        }
        if let Some(place) = base.lacks_command(own_path, directory, &real)? {
            lacks.insert(place, Lack::Link(python.clone()));
        }
        lacks.extend(base.passwd()?.map(|(place, text)| (place, Lack::File(text))));
        let path = match own_path.split(':').any(|entry| entry == SCRIPTS) {
            true => own_path.to_owned(),
            false => format!("{SCRIPTS}:{own_path}"),
        };
        Ok(Self {
            python,
            version,
            glibc,
            path,
            suite: base.suite()?,
            has_headers,
            lacks,
        })
    }

    /// Whether it lacks nothing.
    pub(super) fn is_complete(&self) -> bool {
        self.lacks.is_empty()
    }

    /// What the layer of a base with this digest is keyed by.
    pub(super) fn key(&self, image: &Digest) -> Key {
        Key::of(Step::GlueLayer)
            .with(image.to_string())
            .with(&self.python)
            .finish()
    }

    /// Writes what is lacking.
    pub(super) fn write_layer(&self, blob: impl Write, tree: &mut dyn TreeSink) -> Result<WrittenLayer, LayerError> {
        let mut writer = LayerWriter::new(blob, Some(tree), 0);
        let mut lacks: Vec<_> = self.lacks.iter().collect();
        lacks.sort_by(|(one, _), (other, _)| order(one, other));
        for (place, lack) in lacks {
            match lack {
                Lack::File(contents) => writer.file(place, 0o644, contents)?,
                Lack::Link(target) => writer.symlink(place, target)?,
            }
        }
        writer.finish()
    }
}

/// The minor version in what glibc prints when it is executed: `GNU C Library (...) stable release version 2.36.`
fn banner(library: &[u8]) -> Option<u32> {
    const BEGIN: &[u8] = b"GNU C Library ";
    const VERSION: &[u8] = b" release version 2.";
    let begin = library.windows(BEGIN.len()).position(|window| window == BEGIN)?;
    let line = library.get(begin..)?.split(|byte| *byte == b'\n').next()?;
    let line = line.get(..line.len().min(1000))?;
    let at = line.windows(VERSION.len()).position(|window| window == VERSION)?;
    let digits = line.get(at + VERSION.len()..)?;
    let digits: Vec<u8> = digits.iter().copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

struct Base<'a> {
    name: &'a str,
    stack: &'a LayerStack,
}

impl Base<'_> {
    fn find(&self, path: &str, last: LastLink) -> Result<Found, BaseError> {
        let found = self.stack.find(path, last);
        found.map_err(|source| BaseError::Read {
            name: self.name.to_owned(),
            path: path.to_owned(),
            source,
        })
    }

    fn refused(&self, path: &str, reason: &'static str) -> BaseError {
        BaseError::Refused {
            name: self.name.to_owned(),
            path: path.to_owned(),
            reason,
        }
    }

    fn has_one_of(&self, paths: &[&str]) -> Result<bool, BaseError> {
        for path in paths {
            if let Found::File(_) = self.find(path, LastLink::Follow)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The minor version of its C library by what that says of itself; of one that does not say, the oldest that wheels
    /// of today are made for.
    fn glibc(&self) -> Result<u32, BaseError> {
        for path in LIBRARIES {
            let Found::File(file) = self.find(path, LastLink::Follow)? else {
                continue;
            };
            let bytes = self.stack.read(&file, MAX_LIBRARY).map_err(|source| BaseError::Read {
                name: self.name.to_owned(),
                path: path.to_owned(),
                source,
            })?;
            return Ok(banner(&bytes).unwrap_or(OLDEST));
        }
        Ok(OLDEST)
    }

    /// The code name of its release, when it says one.
    fn suite(&self) -> Result<Option<String>, BaseError> {
        let Found::File(file) = self.find(RELEASE, LastLink::Follow)? else {
            return Ok(None);
        };
        // What cannot be read says nothing.
        let text = self.stack.read(&file, MAX_RELEASE).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        Ok(name.map(|name| name.trim_matches('"').to_owned()))
    }

    /// Where the file at `path` has to be put, when it is not there.
    fn lacks(&self, path: &str) -> Result<Option<String>, BaseError> {
        match self.find(path, LastLink::Follow)? {
            Found::File(_) => Ok(None),
            Found::Nothing(place) => Ok(Some(place)),
            _ => Err(self.refused(path, "it is neither a file nor a place for one")),
        }
    }

    /// The link by which Python knows where packages are, unless it is there.
    fn lacks_site(&self, path: &str) -> Result<Option<(String, Lack)>, BaseError> {
        match self.find(path, LastLink::Keep)? {
            Found::Nothing(place) => Ok(Some((place, Lack::Link(SITE.to_owned())))),
            Found::Link(_) => Ok(None),
            _ => Err(self.refused(path, "it is no link to /opt/py/site, where packages are put")),
        }
    }

    /// Where `python` has to be put so that the image's command is the interpreter, which is the file `real` in
    /// `directory`: beside it, but before another `python` of the base.
    fn lacks_command(&self, path: &str, directory: &str, real: &str) -> Result<Option<String>, BaseError> {
        let mut is_searched = false;
        for entry in path.split(':').filter(|entry| entry.starts_with('/')) {
            match self.find(&format!("{entry}/python"), LastLink::Follow)? {
                Found::File(found) if found == real => return Ok(None),
                Found::File(_) => return self.lacks(&format!("{SCRIPTS}/python")),
                _ => is_searched |= entry.trim_matches('/') == directory,
            }
        }
        let directory = if is_searched { directory } else { SCRIPTS };
        self.lacks(&format!("{directory}/python"))
    }

    /// Path and text of the password file with our user, when it has none with that number.
    fn passwd(&self) -> Result<Option<(String, Vec<u8>)>, BaseError> {
        const PATH: &str = "etc/passwd";
        let (place, mut text) = match self.find(PATH, LastLink::Keep)? {
            Found::Nothing(place) => (place, Vec::new()),
            Found::File(place) => {
                let text = self.stack.read(&place, MAX_PASSWD + 1);
                let text = text.map_err(|source| BaseError::Read {
                    name: self.name.to_owned(),
                    path: PATH.to_owned(),
                    source,
                })?;
                (place, text)
            }
            Found::Link(_) => return Err(self.refused(PATH, "it is a symbolic link")),
            _ => return Err(self.refused(PATH, "it is no regular file")),
        };
        if text.len() as u64 > MAX_PASSWD {
            return Err(self.refused(PATH, "it is over 1 MiB"));
        }
        let mut lines = text.split(|byte| *byte == b'\n');
        if lines.any(|line| line.split(|byte| *byte == b':').nth(2) == Some(b"1000")) {
            return Ok(None);
        }
        if !text.is_empty() && !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        text.extend_from_slice(USER);
        Ok(Some((place, text)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

    /// A base of one layer: files, and links as `path -> target`.
    fn survey(what: &[&str], path: Option<&str>) -> Result<Foreign, BaseError> {
        let scratch = tempfile::tempdir().unwrap();
        for entry in what {
            let (path, target) = entry.split_once(" -> ").unwrap_or((entry, ""));
            let (path, text) = path.split_once(" = ").unwrap_or((path, ""));
            let at = scratch.path().join(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            match target {
                "" => fs::write(at, text).unwrap(),
                _ => symlink(target, at).unwrap(),
            }
        }
        let stack = LayerStack::open([scratch.path().to_owned()]).unwrap();
        Foreign::survey("the-base", &stack, &["3.11".to_owned(), "3.13".to_owned()], path)
    }

    fn lacks(foreign: &Foreign) -> Vec<(&str, String)> {
        let shown = |lack: &Lack| match lack {
            Lack::File(contents) => String::from_utf8(contents.clone()).unwrap(),
            Lack::Link(target) => format!("-> {target}"),
        };
        let lacks = foreign.lacks.iter();
        lacks.map(|(path, lack)| (path.as_str(), shown(lack))).collect()
    }

    #[test]
    fn an_image_says_what_packages_can_be_built_with() {
        let of = |what: &[&str]| {
            let files = [&[LOADER, "usr/local/bin/python3.11"][..], what].concat();
            let found = survey(&files, None).unwrap();
            (found.suite, found.has_headers)
        };
        assert_eq!(of(&[]), (None, false));
        assert_eq!(
            of(&[
                "usr/lib/os-release = VERSION_CODENAME=trixie\n",
                "usr/include/python3.11/Python.h"
            ]),
            (Some("trixie".to_owned()), false),
            "those are of Debian's Python"
        );
        assert!(of(&["usr/local/include/python3.11/Python.h"]).1);
    }

    #[test]
    fn a_base_without_anything_of_ours_gets_it() {
        let base = [LOADER, "usr/bin/python3.11", "etc/passwd = root:x:0:0:root:/:/x"];
        let foreign = survey(&base, None).unwrap();
        assert_eq!(foreign.python, "/usr/bin/python3.11");
        assert!(
            foreign.path.starts_with("/opt/py/bin:/usr/local/sbin:"),
            "{}",
            foreign.path
        );
        let link = "-> /usr/bin/python3.11".to_owned();
        let passwd = "root:x:0:0:root:/:/x\n".to_owned() + std::str::from_utf8(USER).unwrap();
        assert_eq!(
            lacks(&foreign),
            [
                ("etc/passwd", passwd),
                ("opt/py/lib/python3.11/site-packages", "-> /opt/py/site".to_owned()),
                ("usr/bin/python", link.clone()),
                ("usr/bin/python3", link),
                ("usr/lib/python3/dist-packages/gantry.pth", SITE_LINE.to_owned()),
            ]
        );
    }

    #[test]
    fn a_base_without_a_wish_gives_the_python_that_comes_first_in_its_path() {
        let python = |what: &[&str]| {
            let foreign = survey(&[&[LOADER, "etc/passwd"][..], what].concat(), None).unwrap();
            (foreign.version, foreign.python)
        };
        let found = |version: &str, path: &str| (version.to_owned(), path.to_owned());
        assert_eq!(python(&["usr/bin/python3.13"]), found("3.13", "/usr/bin/python3.13"));
        let both = python(&["usr/bin/python3.11", "usr/local/bin/python3.13"]);
        assert_eq!(both, found("3.13", "/usr/local/bin/python3.13"));
    }

    #[test]
    fn the_c_library_says_its_version() {
        let own = fs::read("/usr/lib/x86_64-linux-gnu/libc.so.6").unwrap();
        let said = std::process::Command::new("/usr/lib/x86_64-linux-gnu/libc.so.6")
            .output()
            .unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(
            said.contains(&format!("release version 2.{}.", banner(&own).unwrap())),
            "{said}"
        );
        assert_eq!(banner(b"x GNU C Library (X) stable release version 2.41.\n"), Some(41));
        for other in [
            &b""[..],
            b"GNU C Library (X)\n release version 2.41",
            b"GNU C Library (X) release version 2.x",
        ] {
            assert_eq!(banner(other), None);
        }
        let base = [LOADER, "usr/bin/python3.11", "etc/passwd"];
        assert_eq!(survey(&base, None).unwrap().glibc, OLDEST);
        let libc = "usr/lib64/libc.so.6 = GNU C Library (X) stable release version 2.34.";
        assert_eq!(survey(&[&base[..], &[libc]].concat(), None).unwrap().glibc, 34);
    }

    #[test]
    fn links_within_the_base_lead_to_what_it_has() {
        let base = [
            "lib64 -> usr/lib64",
            "usr/lib64/ld-linux-x86-64.so.2 -> ../lib/x86_64-linux-gnu/ld.so",
            "usr/lib/x86_64-linux-gnu/ld.so",
            "opt/python/bin/python3.11",
            "usr/local -> /opt/python",
            "opt/python/bin/python -> python3.11",
            "usr/bin/python3 -> /usr/local/bin/python",
            "opt/python/lib/python3.11/site-packages/gantry.pth",
            "opt/py/lib/python3.11/site-packages -> /opt/py/site",
            "etc/passwd = a:x:1000:1:::\n",
        ];
        let foreign = survey(&base, Some("/opt/py/bin:/usr/local/bin")).unwrap();
        assert!(foreign.is_complete(), "{foreign:?}");
        assert_eq!(foreign.python, "/usr/local/bin/python3.11");
        assert_eq!(foreign.path, "/opt/py/bin:/usr/local/bin");
    }

    #[test]
    fn the_command_is_the_interpreter_and_no_other_python() {
        let plain = [LOADER, "usr/bin/python3.11", "usr/bin/python3", "etc/passwd"];
        let command = |more: &[&str], path| {
            let foreign = survey(&[&plain, more].concat(), path).unwrap();
            let lacks = lacks(&foreign);
            let lacks = lacks.into_iter().filter(|(path, _)| path.ends_with("/python"));
            lacks.map(|(path, _)| path.to_owned()).collect::<Vec<_>>()
        };
        let ours = ["opt/py/bin/python".to_owned()];
        assert_eq!(command(&[], Some("/bin:/usr/bin/")), ["usr/bin/python".to_owned()]);
        assert_eq!(
            command(&[], Some("/bin")),
            ours,
            "where the interpreter lies is not searched"
        );
        assert_eq!(
            command(&["usr/local/bin/python"], None),
            ours,
            "another one comes first"
        );
        assert_eq!(command(&["usr/bin/python"], None), ours, "another one is in its place");
        assert!(command(&["bin/python -> ../usr/bin/python3.11"], Some("/bin")).is_empty());
    }

    #[test]
    fn a_password_file_that_is_a_link_is_refused() {
        let error = survey(&[LOADER, "usr/bin/python3.11", "etc/passwd -> /etc/hostname"], None).unwrap_err();
        assert!(
            matches!(&error, BaseError::Refused { path, .. } if path == "etc/passwd"),
            "{error}"
        );
        assert!(error.to_string().contains("the-base"), "{error}");
        let large = format!("etc/passwd = {}", "x".repeat(1 << 21));
        let error = survey(&[LOADER, "usr/bin/python3.11", &large], None).unwrap_err();
        assert!(matches!(error, BaseError::Refused { .. }), "{error}");
        let error = survey(&[LOADER, "usr/bin/python3.11", "etc -> /proc/self/cwd/etc"], None);
        assert!(!lacks(&error.unwrap())[0].1.contains("root"), "only our line");
    }

    #[test]
    fn a_base_of_another_c_library_or_python_is_refused() {
        let musl = ["usr/local/bin/python3.11", "lib/ld-musl-x86_64.so.1"];
        let error = survey(&musl, None).unwrap_err().to_string();
        for part in ["the-base", "glibc", "/lib64/ld-linux-x86-64.so.2"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let outside = [LOADER, "usr/bin/python3.11 -> ../../../../../../bin/sh"];
        assert!(matches!(survey(&outside, None), Err(BaseError::NoPython { .. })));
    }
}
