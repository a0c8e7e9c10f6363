//! A wheel -> entries of a layer, as the binary distribution format specification says an installer shall.
//!
//! Nothing of a wheel is executed or unpacked to find out what it holds. Its files go below a prefix of our own,
//! `/opt/py`, so that the layer does not depend on the base: `site` for purelib and platlib, `bin` for scripts,
//! `include` for headers, the prefix itself for data. `.pth` files in `site` work, for the base adds that directory as
//! a site directory. The layer is a function of the wheel's bytes and the format of [`Step::WheelLayer`] alone.

mod record;
mod scripts;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;

use crate::archive::layer::{self, order, LayerError, LayerWriter, TreeSink, WrittenLayer};
use crate::archive::zip::{Entry, Zip, ZipError};
use crate::oci::Digest;
use crate::policy::{normalise, ExtractionLimits, Kind};
use crate::store::{Key, Step};

pub(crate) use record::Record;
pub(crate) use shared::{is_either, is_idle, SharedFiles};

/// Where everything goes, without leading slash.
pub(crate) const PREFIX: &str = "opt/py";
/// Where packages go.
pub(crate) const SITE: &str = "opt/py/site";
/// The interpreter that scripts name; a base has it, or gets it as a link.
pub(crate) const PYTHON: &str = "/usr/bin/python3";
/// METADATA, WHEEL and entry points of honest wheels have kilobytes, RECORD of torch 2 MB.
const MAX_METADATA: u64 = 64 << 20;

/// Why a wheel is refused.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    /// Its zip.
    #[error("read wheel {wheel}")]
    Zip { wheel: String, source: ZipError },
    /// Its contents.
    #[error("read wheel {wheel}: {reason}")]
    Contents { wheel: String, reason: String },
    /// Two wheels install another file of the same name.
    #[error("install {one} and {other}: both bring /{path}, with different contents")]
    Clash {
        /// The first wheel.
        one: String,
        /// The second.
        other: String,
        path: String,
    },
    /// What is a file of one wheel is a directory of another.
    #[error("install {file_of} and {directory_of}: /{path} is a file of the first and a directory of the second")]
    FileAndDirectory {
        /// The wheel that brings the file.
        file_of: String,
        /// The wheel that has files below it.
        directory_of: String,
        path: String,
    },
    /// The layer cannot be written.
    #[error("{0}")]
    Layer(#[from] LayerError),
}

impl WheelError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Zip { source, .. } => source.kind(),
            Self::Layer(source) => source.kind(),
            Self::Contents { .. } | Self::Clash { .. } | Self::FileAndDirectory { .. } => Kind::Failed,
        }
    }
}

/// A wheel whose structure is checked and whose installation is planned.
#[derive(Debug)]
pub(crate) struct Wheel {
    pub file_name: String,
    zip: Zip,
    items: BTreeMap<String, Item>,
    record: Record,
    warnings: Vec<String>,
}

/// A file to install.
#[derive(Debug, Clone)]
struct Item {
    source: Source,
    executable: bool,
}

#[derive(Debug, Clone)]
enum Source {
    /// Number of the entry in the zip.
    Zip(usize),
    /// Made or rewritten here.
    Bytes(Vec<u8>),
}

/// What a layer of wheels is keyed by: their hashes, in the order given.
pub(crate) fn layer_key(wheels: &[Digest]) -> Key {
    let wheels: String = wheels.iter().map(Digest::to_string).collect();
    Key::of(Step::WheelLayer)
        .with(layer::FORMAT)
        .with(PREFIX)
        .with(wheels)
        .finish()
}

/// Where the file `rest` of a wheel's data goes. `lib/python3.11/site-packages` of a base is a link to the site directory,
/// which a directory of a layer above would hide.
fn data_target(rest: &str) -> String {
    let site = rest
        .strip_prefix("lib/python")
        .and_then(|rest| rest.split_once("/site-packages/"));
    match site {
        Some((version, inside)) if !version.contains('/') => format!("{SITE}/{inside}"),
        _ => format!("{PREFIX}/{rest}"),
    }
}

/// The project and version in a wheel's file name, as written there; none when it is not of the form
/// `name-version[-build]-python-abi-platform.whl`.
pub(crate) fn name_and_version(file_name: &str) -> Option<(&str, &str)> {
    let parts: Vec<&str> = file_name.strip_suffix(".whl")?.split('-').collect();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+!".contains(&byte);
    let starts_well = |part: &&str| {
        part.bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let (name, version) = (parts.first()?, parts.get(1)?);
    let fits = matches!(parts.len(), 5 | 6)
        && parts.iter().all(|part| !part.is_empty() && part.bytes().all(plain))
        && [name, version].into_iter().all(starts_well);
    fits.then_some((name, version))
}

impl Wheel {
    /// Opens the wheel in `file`, which must be the project and version its name says.
    pub(crate) fn open(file: File, file_name: &str) -> Result<Self, WheelError> {
        let contents = |reason: String| WheelError::Contents {
            wheel: file_name.to_owned(),
            reason,
        };
        let zip_error = |source| WheelError::Zip {
            wheel: file_name.to_owned(),
            source,
        };
        let zip = Zip::open(file, &ExtractionLimits::default()).map_err(zip_error)?;
        let (name, version) =
            name_and_version(file_name).ok_or_else(|| contents("its file name is not a wheel's".to_owned()))?;
        let dist_info = dist_info(&zip, name, version).map_err(contents)?;
        let read = |name: &str| -> Result<Option<String>, WheelError> {
            let path = format!("{dist_info}/{name}");
            let Some(entry) = zip.entries().iter().find(|entry| entry.name == path) else {
                return Ok(None);
            };
            if entry.size > MAX_METADATA {
                return Err(contents(format!("{path} has {} bytes", entry.size)));
            }
            let mut bytes = Vec::new();
            zip.read(entry, &mut Vec::new(), &mut bytes).map_err(zip_error)?;
            // Old descriptions come in any encoding; the fields that count are ASCII.
            if name == "METADATA" {
                return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
            }
            String::from_utf8(bytes)
                .map(Some)
                .map_err(|_| contents(format!("{path} is not UTF-8")))
        };
        let wheel_file = read("WHEEL")?.ok_or_else(|| contents(format!("it has no {dist_info}/WHEEL")))?;
        let major = field(&wheel_file, "Wheel-Version").and_then(|version| version.split('.').next());
        if major != Some("1") {
            return Err(contents(format!("its Wheel-Version is {major:?}, this gantry knows 1")));
        }
        let metadata = read("METADATA")?.ok_or_else(|| contents(format!("it has no {dist_info}/METADATA")))?;
        let (said_name, said_version) = (field(&metadata, "Name"), field(&metadata, "Version"));
        if said_name.map(normalise) != Some(normalise(name))
            || !said_version.is_some_and(|said| same_version(said, version))
        {
            return Err(contents(format!("its METADATA says {said_name:?} {said_version:?}")));
        }
        let record = Record::parse(&read("RECORD")?.ok_or_else(|| contents(format!("it has no {dist_info}/RECORD")))?)
            .map_err(contents)?;
        let entry_points = read("entry_points.txt")?.unwrap_or_default();
        let mut wheel = Self {
            file_name: file_name.to_owned(),
            zip,
            items: BTreeMap::new(),
            record,
            warnings: Vec::new(),
        };
        wheel.compare_with_record(&dist_info);
        wheel.plan(name, &dist_info, &entry_points)?;
        Ok(wheel)
    }

    /// Files that RECORD leaves out are installed, as all installers do, but nothing vouches for them.
    fn compare_with_record(&mut self, dist_info: &str) {
        let record_path = format!("{dist_info}/RECORD");
        let names: BTreeSet<&str> = self.zip.entries().iter().map(|entry| entry.name.as_str()).collect();
        let unlisted = names
            .iter()
            .filter(|name| !name.starts_with(&record_path) && !self.record.lists(name))
            .copied();
        let missing = self.record.paths().filter(|path| !names.contains(path));
        let unchecked = self.record.unchecked();
        for (files, what) in [
            (unlisted.collect::<Vec<_>>(), "not listed in its RECORD"),
            (missing.collect(), "listed in its RECORD, but not there"),
            (
                unchecked.collect(),
                "hashed in its RECORD in a way gantry does not know",
            ),
        ] {
            if let Some(first) = files.first() {
                let file = format!("{}: {first} is {what}", self.file_name);
                let more = files.len() - 1;
                self.warnings.push(match more {
                    0 => file,
                    _ => format!("{file} (and {more} more)"),
                });
            }
        }
    }

    /// The last components of its files' names.
    pub(crate) fn base_names(&self) -> impl Iterator<Item = &str> {
        let names = self.zip.entries().iter().map(|entry| entry.name.as_str());
        names.filter_map(|name| name.rsplit('/').next())
    }

    /// Shows `look` every file: its name and its contents, held against RECORD.
    pub(crate) fn each_file(&self, look: &mut dyn FnMut(&str, &[u8])) -> Result<(), WheelError> {
        let (mut stored, mut contents) = (Vec::new(), Vec::new());
        for entry in self.zip.entries() {
            self.read_into(entry, &mut stored, &mut contents)?;
            look(&entry.name, &contents);
        }
        Ok(())
    }

    /// Whether there is anything to compile.
    pub(crate) fn has_sources(&self) -> bool {
        self.items.keys().any(|path| path.ends_with(".py"))
    }

    /// Decides for every file where it goes.
    fn plan(&mut self, name: &str, dist_info: &str, entry_points: &str) -> Result<(), WheelError> {
        let data = format!("{}.data/", dist_info.trim_end_matches(".dist-info"));
        let record_path = format!("{dist_info}/RECORD");
        let mut renamed = BTreeMap::new();
        for (number, entry) in self.zip.entries().iter().enumerate() {
            // Signatures of the old RECORD mean nothing for the new one; and neither file is listed in it.
            if entry.name == record_path
                || [".jws", ".p7s"]
                    .iter()
                    .any(|end| entry.name == format!("{record_path}{end}"))
            {
                continue;
            }
            let mut executable = entry.executable;
            let mut source = Source::Zip(number);
            let target = match entry.name.strip_prefix(&data) {
                None => format!("{SITE}/{}", entry.name),
                Some(rest) => {
                    let (kind, rest) = rest
                        .split_once('/')
                        .ok_or_else(|| self.contents(format!("{} is in no scheme", entry.name)))?;
                    match kind {
                        "purelib" | "platlib" => format!("{SITE}/{rest}"),
                        "headers" => format!("{PREFIX}/include/{name}/{rest}"),
                        "data" => data_target(rest),
                        "scripts" => {
                            executable = true;
                            source = scripts::rewrite(&self.read(entry)?).map_or(source, Source::Bytes);
                            format!("{PREFIX}/bin/{rest}")
                        }
                        _ => return Err(self.contents(format!("{} is of the unknown kind {kind:?}", entry.name))),
                    }
                }
            };
            self.check_script(&target)?;
            renamed.insert(entry.name.clone(), target.clone());
            if self.items.insert(target.clone(), Item { source, executable }).is_some() {
                return Err(self.contents(format!("two of its files go to /{target}")));
            }
        }
        for script in scripts::generated(entry_points).map_err(|reason| self.contents(reason))? {
            let target = format!("{PREFIX}/bin/{}", script.name);
            self.check_script(&target)?;
            self.items.insert(
                target,
                Item {
                    source: Source::Bytes(script.contents),
                    executable: true,
                },
            );
        }
        let installer = format!("{SITE}/{dist_info}/INSTALLER");
        self.items.insert(
            installer,
            Item {
                source: Source::Bytes(b"gantry\n".to_vec()),
                executable: false,
            },
        );
        // Neither is ever true of this installation, and direct_url.json may hold credentials.
        for name in ["direct_url.json", "REQUESTED"] {
            self.items.remove(&format!("{SITE}/{dist_info}/{name}"));
        }
        let record = self.new_record(&renamed, dist_info)?;
        let item = Item {
            source: Source::Bytes(record),
            executable: false,
        };
        self.items.insert(format!("{SITE}/{record_path}"), item);
        Ok(())
    }

    /// `bin` is searched first: whichever way a file gets there, it may not take the interpreter's place.
    fn check_script(&self, target: &str) -> Result<(), WheelError> {
        let name = target.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix("/bin/"));
        match name.filter(|name| scripts::is_interpreter(name)) {
            Some(name) => Err(self.contents(format!("it has a script called {name:?}"))),
            None => Ok(()),
        }
    }

    /// The RECORD of what is installed, sorted: hashes of unchanged files are those the wheel says (and are checked
    /// when the file is written), the others are computed.
    fn new_record(&self, renamed: &BTreeMap<String, String>, dist_info: &str) -> Result<Vec<u8>, WheelError> {
        let original: BTreeMap<&String, &String> = renamed.iter().map(|(name, target)| (target, name)).collect();
        let mut lines = Vec::new();
        for (target, item) in &self.items {
            let relative = record::relative_to_site(target, SITE, PREFIX);
            let (hash, size) = match &item.source {
                Source::Bytes(bytes) => (record::hash(bytes), bytes.len() as u64),
                Source::Zip(number) => {
                    let Some(entry) = self.zip.entries().get(*number) else {
                        continue;
                    };
                    let said = original.get(target).and_then(|name| self.record.sha256_of(name));
                    match said {
                        Some(said) => (said, entry.size),
                        None => (record::hash(&self.read(entry)?), entry.size),
                    }
                }
            };
            lines.push(record::line(&relative, &hash, size));
        }
        lines.push(record::line(&format!("{dist_info}/RECORD"), "", 0));
        lines.sort();
        Ok(lines.concat().into_bytes())
    }

    fn contents_of(&self, item: &Item) -> Result<Vec<u8>, WheelError> {
        match &item.source {
            Source::Bytes(bytes) => Ok(bytes.clone()),
            Source::Zip(number) => self
                .zip
                .entries()
                .get(*number)
                .map_or(Ok(Vec::new()), |entry| self.read(entry)),
        }
    }

    fn read(&self, entry: &Entry) -> Result<Vec<u8>, WheelError> {
        let mut contents = Vec::new();
        self.read_into(entry, &mut Vec::new(), &mut contents)?;
        Ok(contents)
    }

    /// Reads an entry and holds it against RECORD.
    fn read_into(&self, entry: &Entry, stored: &mut Vec<u8>, contents: &mut Vec<u8>) -> Result<(), WheelError> {
        let read = self.zip.read(entry, stored, contents);
        read.map_err(|source| WheelError::Zip {
            wheel: self.file_name.clone(),
            source,
        })?;
        self.record.check(&entry.name, contents).map_err(|mismatch| {
            let record::Mismatch { got, expected } = mismatch;
            self.contents(format!("{} has {got}, its RECORD says {expected}", entry.name))
        })
    }

    fn contents(&self, reason: String) -> WheelError {
        WheelError::Contents {
            wheel: self.file_name.clone(),
            reason,
        }
    }
}

/// Writes the files of `wheels` as one layer. Also returns what the user should know of files that several bring.
pub(crate) fn write_layer(
    wheels: &[Wheel],
    out: impl Write,
    tree: Option<&mut dyn TreeSink>,
) -> Result<(WrittenLayer, Vec<String>), WheelError> {
    let (all, warnings) = merge(wheels)?;
    let mut paths: Vec<&str> = all.keys().copied().collect();
    paths.sort_by(|one, other| order(one, other));
    for pair in paths.windows(2) {
        if let [file, next] = pair {
            if next.strip_prefix(file).is_some_and(|rest| rest.starts_with('/')) {
                return Err(WheelError::FileAndDirectory {
                    file_of: name_of(&all, file),
                    directory_of: name_of(&all, next),
                    path: (*file).to_owned(),
                });
            }
        }
    }
    let mut writer = LayerWriter::new(out, tree, 0);
    let (mut stored, mut contents) = (Vec::new(), Vec::new());
    for path in paths {
        let Some((wheel, item, executable)) = all.get(path) else {
            continue;
        };
        let mode = if *executable { 0o755 } else { 0o644 };
        match &item.source {
            Source::Bytes(bytes) => writer.file(path, mode, bytes)?,
            Source::Zip(number) => {
                let Some(entry) = wheel.zip.entries().get(*number) else {
                    continue;
                };
                wheel.read_into(entry, &mut stored, &mut contents)?;
                match entry.method {
                    crate::archive::zip::Method::Deflated => {
                        writer.spliced(path, mode, &contents, &stored, entry.crc)?
                    }
                    crate::archive::zip::Method::Stored => writer.file(path, mode, &contents)?,
                }
            }
        }
    }
    Ok((writer.finish()?, warnings))
}

/// What goes to each path, and whether it is executable.
type Merged<'a> = BTreeMap<&'a str, (&'a Wheel, &'a Item, bool)>;

/// All wheels' files. One that several bring must be the same, unless it does not matter whose it is: that of the last
/// wheel is taken then. It is executable if any says so.
fn merge(wheels: &[Wheel]) -> Result<(Merged<'_>, Vec<String>), WheelError> {
    let mut all = Merged::new();
    let mut warnings: Vec<String> = wheels.iter().flat_map(|wheel| wheel.warnings.iter().cloned()).collect();
    let mut shared = SharedFiles::default();
    for wheel in wheels {
        for (path, item) in &wheel.items {
            let Some(slot) = all.get_mut(path.as_str()) else {
                all.insert(path, (wheel, item, item.executable));
                continue;
            };
            let (first, theirs, executable) = *slot;
            let (ours, theirs) = (wheel.contents_of(item)?, first.contents_of(theirs)?);
            let executable = executable | item.executable;
            if ours == theirs {
                slot.2 = executable;
                continue;
            }
            let (one, other) = (first.file_name.clone(), wheel.file_name.clone());
            if !is_either(path, executable, [&ours, &theirs]) {
                let path = path.clone();
                return Err(WheelError::Clash { one, other, path });
            }
            shared.note(&one, &other, path);
            *slot = (wheel, item, executable);
        }
    }
    warnings.extend(shared.warnings());
    Ok((all, warnings))
}

fn name_of(all: &Merged<'_>, path: &str) -> String {
    all.get(path)
        .map_or_else(String::new, |(wheel, ..)| wheel.file_name.clone())
}

/// The one `.dist-info` directory, which must be that of the project and version.
fn dist_info(zip: &Zip, name: &str, version: &str) -> Result<String, String> {
    let tops: BTreeSet<&str> = zip
        .entries()
        .iter()
        .filter_map(|entry| entry.name.split_once('/'))
        .map(|(top, _)| top)
        .collect();
    let found: Vec<&str> = tops.into_iter().filter(|top| top.ends_with(".dist-info")).collect();
    let [one] = found.as_slice() else {
        return Err(format!("it has {} .dist-info directories, not one", found.len()));
    };
    let stem = one.trim_end_matches(".dist-info");
    let matches = stem.rsplit_once('-').is_some_and(|(its_name, its_version)| {
        normalise(its_name) == normalise(name) && same_version(its_version, version)
    });
    matches
        .then(|| (*one).to_owned())
        .ok_or_else(|| format!("its metadata are in {one:?}"))
}

/// Equal as text, or as versions (`1.0` and `1.0.0`); `_` stands for `-` and `+` in file names.
pub(crate) fn same_version(one: &str, other: &str) -> bool {
    let parse = |text: &str| text.replace('_', "+").parse::<pep440_rs::Version>().ok();
    one == other || parse(one).is_some_and(|one| parse(other) == Some(one))
}

/// A header of METADATA or WHEEL.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let headers = text.lines().take_while(|line| !line.is_empty());
    headers
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests;
