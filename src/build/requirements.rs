//! `requirements.txt` of a stranger, cleaned: what reaches the resolver is names, versions, markers and nothing else.
//!
//! Everything that would make a resolver open an address, a directory or an index of the file's choosing is refused
//! here, by file and line, before anything is contacted or executed. Included files come from the function as it was
//! read, never from the disk.

use std::collections::BTreeMap;
use std::str::FromStr;

use pep508_rs::{Requirement as Pep508, VerbatimUrl, VersionOrUrl};

use super::function::Function;
use super::wheel::normalise;
use crate::oci::{Digest, Hasher};

/// The file at the top.
pub const FILE: &str = "requirements.txt";
const MAX_LINE: usize = 4096;
const MAX_REQUIREMENTS: usize = 2000;
const MAX_INCLUDES: usize = 20;

/// The cleaned requirements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirements {
    /// One requirement each, in canonical form, sorted.
    pub wanted: Vec<String>,
    /// Constraints of `-c` files, likewise.
    pub constraints: Vec<String>,
    /// By normalised name: sha256 hashes the user accepts.
    pub hashes: BTreeMap<String, Vec<Digest>>,
}

/// Why a line is refused.
#[derive(Debug, thiserror::Error)]
#[error("{file}, line {line}: {reason}")]
pub struct RequirementError {
    /// The file in the function.
    pub file: String,
    /// First line of the entry.
    pub line: usize,
    /// What and why.
    pub reason: String,
}

impl Requirements {
    /// Reads the requirements of `function`; none when it has no such file.
    pub fn read(function: &Function) -> Result<Self, RequirementError> {
        let mut reader = Reader {
            function,
            found: Self::default(),
            includes: Vec::new(),
        };
        if function.find_file(FILE).is_some() {
            reader.file(FILE, Kind::Wanted)?;
        }
        let mut found = reader.found;
        found.wanted.sort();
        found.wanted.dedup();
        found.constraints.sort();
        found.constraints.dedup();
        Ok(found)
    }

    /// What a lock is keyed by, together with the resolver's settings.
    pub fn key(&self, settings: &str) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(format!("gantry lock\x001\0{settings}\0{:?}", self).as_bytes());
        hasher.digest()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Wanted,
    Constraint,
}

struct Reader<'a> {
    function: &'a Function,
    found: Requirements,
    includes: Vec<(String, bool)>,
}

impl Reader<'_> {
    fn file(&mut self, path: &str, kind: Kind) -> Result<(), RequirementError> {
        let error = |line, reason: String| RequirementError {
            file: path.to_owned(),
            line,
            reason,
        };
        let key = (path.to_owned(), kind == Kind::Wanted);
        if self.includes.contains(&key) {
            return Ok(());
        }
        self.includes.push(key);
        if self.includes.len() > MAX_INCLUDES {
            return Err(error(1, format!("more than {MAX_INCLUDES} files are included")));
        }
        let file = self
            .function
            .find_file(path)
            .ok_or_else(|| error(1, "it is not a file of the function".to_owned()))?;
        let text = std::str::from_utf8(&file.contents).map_err(|_| error(1, "it is not UTF-8".to_owned()))?;
        for (line, entry) in logical_lines(text.strip_prefix('\u{feff}').unwrap_or(text)) {
            self.entry(path, kind, &entry)
                .map_err(|reason| error(line, reason))
                .or_else(|failed| self.included(failed, &entry))?;
        }
        Ok(())
    }

    /// Errors of included files keep their own place.
    fn included(&self, error: RequirementError, _entry: &str) -> Result<(), RequirementError> {
        match error.reason.split_once('\u{1}') {
            Some((place, reason)) => {
                let (file, line) = place.rsplit_once(':').unwrap_or((place, "1"));
                Err(RequirementError {
                    file: file.to_owned(),
                    line: line.parse().unwrap_or(1),
                    reason: reason.to_owned(),
                })
            }
            None => Err(error),
        }
    }

    fn entry(&mut self, file: &str, kind: Kind, entry: &str) -> Result<(), String> {
        if entry.len() > MAX_LINE {
            return Err(format!("the entry is over {MAX_LINE} characters"));
        }
        if entry
            .chars()
            .any(|character| character.is_control() && character != '\t')
        {
            return Err("it has control characters".to_owned());
        }
        if entry.contains("${") {
            return Err(format!(
                "{entry:?} uses an environment variable; requirements are the same everywhere"
            ));
        }
        if entry.starts_with('-') {
            return self.option(file, entry);
        }
        refuse_addresses(entry)?;
        let (requirement, hashes) = split_hashes(entry)?;
        let parsed = Pep508::<VerbatimUrl>::from_str(requirement).map_err(|error| {
            format!(
                "{requirement:?} is no requirement: {}",
                error.to_string().replace('\n', " | ")
            )
        })?;
        if matches!(parsed.version_or_url, Some(VersionOrUrl::Url(_))) {
            return Err(format!(
                "{} is a direct URL; only packages of the index are installed",
                parsed.name
            ));
        }
        let name = normalise(parsed.name.as_ref());
        if !hashes.is_empty() {
            self.found.hashes.entry(name).or_default().extend(hashes);
        }
        let list = if kind == Kind::Wanted {
            &mut self.found.wanted
        } else {
            &mut self.found.constraints
        };
        list.push(parsed.to_string());
        if list.len() > MAX_REQUIREMENTS {
            return Err(format!("there are more than {MAX_REQUIREMENTS} requirements"));
        }
        Ok(())
    }

    fn option(&mut self, file: &str, entry: &str) -> Result<(), String> {
        let end = entry
            .find(|character: char| character.is_whitespace() || character == '=')
            .unwrap_or(entry.len());
        let (name, value) = entry.split_at(end);
        let value = value.trim_start_matches(|character: char| character.is_whitespace() || character == '=');
        // `-rmore.txt` is `-r more.txt`.
        let (name, value) = match name {
            "-r" | "-c" | "--requirement" | "--constraint" => (name, value.trim()),
            _ if name.starts_with("-r") && !name.starts_with("--") => ("-r", name.get(2..).unwrap_or_default()),
            _ if name.starts_with("-c") && !name.starts_with("--") => ("-c", name.get(2..).unwrap_or_default()),
            "-e" | "--editable" => {
                return Err(format!(
                    "{name} installs from a directory or a repository; only packages of the index are installed"
                ))
            }
            _ => {
                return Err(format!(
                    "the option {name} is not taken from a requirements file; the platform's index settings apply"
                ))
            }
        };
        let kind = if matches!(name, "-c" | "--constraint") {
            Kind::Constraint
        } else {
            Kind::Wanted
        };
        let target = included_path(file, value)
            .ok_or_else(|| format!("{name} {value}: only files inside the function's directory can be included"))?;
        if self.function.find_file(&target).is_none() {
            return Err(format!(
                "{name} {value}: there is no such file in the function's directory"
            ));
        }
        // The place of an error in the other file travels inside the text; `included` takes it out again.
        self.file(&target, kind)
            .map_err(|error| format!("{}:{}\u{1}{}", error.file, error.line, error.reason))
    }
}

/// `value` relative to the directory of `file`, when that is plainly inside.
fn included_path(file: &str, value: &str) -> Option<String> {
    let value = value.strip_prefix("./").unwrap_or(value);
    let inside = !value.is_empty() && !value.starts_with('/') && !value.contains([':', '\\']);
    let plain = value.split('/').all(|component| !matches!(component, "" | "." | ".."));
    let directory = file
        .rsplit_once('/')
        .map(|(directory, _)| format!("{directory}/"))
        .unwrap_or_default();
    (inside && plain).then(|| format!("{directory}{value}"))
}

/// Whatever a resolver would take for something else than a name.
fn refuse_addresses(entry: &str) -> Result<(), String> {
    let first = entry
        .split(|character: char| character.is_whitespace() || character == ';')
        .next()
        .unwrap_or_default();
    for scheme in ["git+", "hg+", "svn+", "bzr+"] {
        if entry.to_lowercase().contains(scheme) {
            return Err(format!(
                "{first:?} is installed from a {} repository; only packages of the index are installed",
                &scheme[..scheme.len() - 1]
            ));
        }
    }
    if first.contains("://") || first.to_lowercase().starts_with("file:") {
        return Err(format!("{first:?} is a URL; only packages of the index are installed"));
    }
    let local = first.starts_with(['.', '/', '~', '\\']) || first.contains('/') && !first.contains('[');
    if local
        || [".whl", ".tar.gz", ".zip"]
            .iter()
            .any(|end| first.to_lowercase().ends_with(end))
    {
        return Err(format!("{first:?} is a path; only packages of the index are installed"));
    }
    Ok(())
}

/// The requirement and its `--hash` options.
fn split_hashes(entry: &str) -> Result<(&str, Vec<Digest>), String> {
    let Some(at) = entry.find(" --").or_else(|| entry.find("\t--")) else {
        return Ok((entry.trim(), Vec::new()));
    };
    let (requirement, options) = entry.split_at(at);
    let mut hashes = Vec::new();
    let options = options.replace("--hash=", "--hash ");
    let mut words = options.split_whitespace();
    while let Some(word) = words.next() {
        if word != "--hash" {
            return Err(format!("the option {word} is not known for a requirement"));
        }
        let hash = words.next().unwrap_or_default();
        let digest = hash.parse();
        hashes.push(digest.map_err(|_| format!("the hash {hash:?} is not sha256: and 64 hexadecimal digits"))?);
    }
    Ok((requirement.trim(), hashes))
}

/// Entries with the number of their first line: comments gone, continuations joined.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut entries: Vec<(usize, String)> = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(text.split('\n')) {
        let line = line.trim_end_matches('\r');
        let (start, mut entry) = open.take().unwrap_or((number, String::new()));
        if let Some(rest) = line.strip_suffix('\\') {
            entry.push_str(rest);
            entry.push(' ');
            open = Some((start, entry));
            continue;
        }
        entry.push_str(line);
        entries.push((start, entry));
    }
    entries.extend(open);
    let clean = |entry: String| {
        let comment = entry
            .starts_with('#')
            .then_some(0)
            .or_else(|| entry.find(" #"))
            .or_else(|| entry.find("\t#"));
        entry
            .get(..comment.unwrap_or(entry.len()))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let cleaned = entries.into_iter().map(|(number, entry)| (number, clean(entry)));
    cleaned.filter(|(_, entry)| !entry.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::function::SourceFile;
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Requirements, RequirementError> {
        let file = |(path, text): &(&str, &str)| SourceFile {
            path: (*path).to_owned(),
            executable: false,
            contents: text.as_bytes().to_vec(),
        };
        Requirements::read(&Function {
            files: files.iter().map(file).collect(),
        })
    }

    #[test]
    fn reads_everything_that_is_only_names_and_versions() {
        let hash = "0".repeat(64);
        let top = format!("\u{feff}# c\r\nNumPy >= 1.26 , <2 ; python_version >= '3.8' # why\r\nsix \\\r\n  ==1.16.0 \\\r\n  --hash=sha256:{hash}\r\n-r sub/more.txt\nuvicorn[standard]\n");
        let found = read(&[
            (FILE, &top),
            ("sub/more.txt", "-c c.txt\nscipy\n-r ./more.txt\n"),
            ("sub/c.txt", "scipy<2\n"),
        ])
        .unwrap();
        assert_eq!(found.wanted.len(), 4, "{found:?}");
        assert_eq!(found.constraints, ["scipy<2"]);
        assert_eq!(found.hashes["six"].len(), 1);
        assert_eq!(read(&[]).unwrap(), Requirements::default());
    }

    #[test]
    fn refuses_what_reaches_outside_by_file_and_line() {
        for line in [
            "a @ https://example.org/a.whl",
            "https://example.org/a.whl",
            "git+https://example.org/a",
            "a @ git+ssh://x/y",
            "-e .",
            "./a",
            "../a",
            "/a",
            "~/a",
            "a.whl",
            "dir/a",
            "file:///a",
            "-i https://x",
            "--index-url=https://x",
            "--pre",
            "--no-binary :all:",
            "-r ../x",
            "-r /etc/passwd",
            "-c https://x/c",
            "-r missing.txt",
            "${X}",
            "a\u{1b}",
            "a==",
            "a b",
            "a --global-option x",
            "a --hash=md5:00",
            "a --hash=sha256:zz",
        ] {
            let error = read(&[(FILE, &format!("\n{line}\n"))]).unwrap_err();
            assert_eq!((error.file.as_str(), error.line), (FILE, 2), "{line}: {error}");
        }
        let error = read(&[(FILE, "-r more.txt\n"), ("more.txt", "ok\n\n-e .\n")]).unwrap_err();
        assert_eq!((error.file.as_str(), error.line), ("more.txt", 3), "{error}");
    }
}
