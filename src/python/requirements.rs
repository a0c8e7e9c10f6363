//! `requirements.txt` of a stranger, cleaned: what reaches the resolver is names, versions, markers and nothing else.
//!
//! Everything that would make a resolver open an address, a directory or an index of the file's choosing is refused
//! here, by file and line, before anything is contacted or executed. Included files come from the function as it was
//! read, never from the disk.

mod entries;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use pep508_rs::{MarkerTree, Requirement as Pep508, VerbatimUrl, VersionOrUrl};

use crate::oci::Digest;
use crate::policy::normalise;
use crate::policy::Kind;
use crate::store::{Key, Step};
use entries::{decoded, logical_lines};

/// The file at the top.
pub(crate) const FILE: &str = "requirements.txt";
/// What is required instead of what the requirements and the packages say, by uv's rules; it stands beside [`FILE`].
pub(crate) const OVERRIDES: &str = "overrides.txt";
/// One requirement without its hashes; the longest honest ones are markers of some hundred characters.
const MAX_LINE: usize = 4096;
/// One entry with its hashes: 800 of them, where the largest packages publish 150 files.
const MAX_ENTRY: usize = 64 << 10;
/// Comparisons in one marker; sqlalchemy's of greenlet has 14.
const MAX_COMPARISONS: usize = 64;
/// Comparisons by `in` or with `extra`. Each makes a variable of the marker's decision diagram, which grows
/// exponentially: 32 of them take half a second, 40 take all memory.
const MAX_VARIABLES: usize = 16;
/// Parentheses in one marker: the parser recurses, and one who writes 64 of them means its stack.
const MAX_PARENTHESES: usize = 64;
/// Characters shown on either side of the place of a syntax error.
const SHOWN: usize = 50;
const MAX_REQUIREMENTS: usize = 2000;
const MAX_INCLUDES: usize = 20;
/// What `--only-binary` calls all packages.
const ALL: &str = ":all:";

/// The cleaned requirements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirements {
    /// One requirement each, in canonical form, sorted.
    pub wanted: Vec<String>,
    /// Constraints of `-c` files, likewise.
    pub constraints: Vec<String>,
    /// What replaces everything that is said about the same package, likewise.
    pub overrides: Vec<String>,
    /// By normalised name: sha256 hashes the user accepts.
    pub hashes: BTreeMap<String, Vec<Digest>>,
    /// Whether versions before the release are taken (`--pre`).
    pub prereleases: bool,
    /// Normalised names of packages that are never built here (`--only-binary`); [`ALL`] for every one.
    pub only_binary: BTreeSet<String>,
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

impl RequirementError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        Kind::Failed
    }
}

impl Requirements {
    /// Reads the requirements of a function, whose files `find` returns by path; none when it has no such file.
    pub fn read(find: Find<'_>) -> Result<Self, RequirementError> {
        let mut reader = Reader {
            find,
            found: Self::default(),
            includes: Vec::new(),
        };
        if find(FILE).is_some() {
            reader.file(FILE, Role::Wanted)?;
        }
        if find(OVERRIDES).is_some() {
            reader.file(OVERRIDES, Role::Override)?;
        }
        let mut found = reader.found;
        found.wanted.sort();
        found.wanted.dedup();
        found.constraints.sort();
        found.constraints.dedup();
        found.overrides.sort();
        found.overrides.dedup();
        Ok(found)
    }

    /// Reads what a stranger's package, called `of`, says it needs to be built.
    pub fn of_build(of: &str, lines: &[String]) -> Result<Self, RequirementError> {
        Self::of_list(&format!("build requirements of {of}"), lines)
    }

    /// Reads a list of requirements that `file` holds: under the rules of a requirements file, but there is nothing that
    /// could be included and no option.
    pub fn of_list(file: &str, lines: &[String]) -> Result<Self, RequirementError> {
        let mut reader = Reader {
            find: &|_| None,
            found: Self::default(),
            includes: Vec::new(),
        };
        for (line, entry) in (1..).zip(lines) {
            let entry = entry.trim();
            let read = match entry.is_empty() || entry.starts_with(['-', '#']) {
                true => Err(format!(
                    "{} is no requirement",
                    shown(entry.split(' ').next().unwrap_or_default())
                )
                .into()),
                false => reader.entry(file, Role::Wanted, entry),
            };
            read.map_err(|problem| match problem {
                Problem::There(error) => error,
                Problem::Here(reason) => RequirementError {
                    file: file.to_owned(),
                    line,
                    reason,
                },
            })?;
        }
        reader.found.wanted.sort();
        reader.found.wanted.dedup();
        Ok(reader.found)
    }

    /// The requirements and constraints about the package `name` (normalised).
    pub fn about(&self, name: &str) -> (Vec<&str>, Vec<&str>) {
        let is_about = |line: &&str| name_of(line) == name;
        (
            self.wanted.iter().map(String::as_str).filter(is_about).collect(),
            self.constraints.iter().map(String::as_str).filter(is_about).collect(),
        )
    }

    /// Whether a line asks for the package `name`, however that is written.
    pub fn mentions(&self, name: &str) -> bool {
        !self.about(&normalise(name)).0.is_empty()
    }

    /// Whether the package `name` (normalised) may be built here.
    pub fn lets_build(&self, name: &str) -> bool {
        !self.only_binary.contains(ALL) && !self.only_binary.contains(name)
    }

    /// What a lock is keyed by, together with the resolver's settings.
    pub fn key(&self, settings: &[&str]) -> Key {
        let mut key = Key::of(Step::Lock)
            .with_list(settings)
            .with_list(&self.wanted)
            .with_list(&self.constraints)
            .with_list(&self.overrides);
        for (name, hashes) in &self.hashes {
            key = key.with(name).with_list(hashes.iter().map(Digest::to_string));
        }
        // No name begins so.
        if self.prereleases {
            key = key.with("--pre");
        }
        if !self.only_binary.is_empty() {
            key = key.with("--only-binary").with_list(&self.only_binary);
        }
        key.finish()
    }
}

/// The normalised name of the package that a requirement is about.
pub(crate) fn name_of(requirement: &str) -> String {
    let end = requirement.find(|character: char| !character.is_ascii_alphanumeric() && !"._-".contains(character));
    normalise(requirement.get(..end.unwrap_or(requirement.len())).unwrap_or_default())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Wanted,
    Constraint,
    Override,
}

/// Returns the contents of a file by its path in the function; none when there is no such file.
pub(crate) type Find<'a> = &'a dyn Fn(&str) -> Option<&'a [u8]>;

struct Reader<'a> {
    find: Find<'a>,
    found: Requirements,
    includes: Vec<(String, Role)>,
}

/// Why an entry is refused: for itself, or for what a file it includes holds.
enum Problem {
    Here(String),
    There(RequirementError),
}

impl From<String> for Problem {
    fn from(reason: String) -> Self {
        Self::Here(reason)
    }
}

impl Reader<'_> {
    fn file(&mut self, path: &str, role: Role) -> Result<(), RequirementError> {
        let error = |line, reason: String| RequirementError {
            file: path.to_owned(),
            line,
            reason,
        };
        let key = (path.to_owned(), role);
        if self.includes.contains(&key) {
            return Ok(());
        }
        self.includes.push(key);
        if self.includes.len() > MAX_INCLUDES {
            return Err(error(1, format!("more than {MAX_INCLUDES} files are included")));
        }
        let contents = (self.find)(path).ok_or_else(|| error(1, "it is not a file of the function".to_owned()))?;
        let text = decoded(contents).map_err(|reason| error(1, format!("{reason}: save it as UTF-8")))?;
        for (line, entry) in logical_lines(&text) {
            self.entry(path, role, &entry).map_err(|problem| match problem {
                Problem::Here(reason) => error(line, reason),
                Problem::There(error) => error,
            })?;
        }
        Ok(())
    }

    fn entry(&mut self, file: &str, role: Role, entry: &str) -> Result<(), Problem> {
        if entry.len() > MAX_ENTRY {
            return Err(format!("the entry is over {MAX_ENTRY} characters").into());
        }
        if entry
            .chars()
            .any(|character| character.is_control() && character != '\t')
        {
            return Err("it has control characters".to_owned().into());
        }
        if let Some(variable) = entry.find("${").and_then(|at| entry.get(at..)) {
            return Err(format!(
                "{} is an environment variable; requirements are the same everywhere",
                shown(variable)
            )
            .into());
        }
        if entry.starts_with('-') && role == Role::Override {
            return Err(format!("it is an option; {OVERRIDES} has names, versions and markers alone").into());
        }
        if entry.starts_with('-') {
            return self.option(file, entry);
        }
        refuse_addresses(entry)?;
        let (requirement, hashes) = split_hashes(entry)?;
        let (parsed, text) = parse(requirement)?;
        let name = normalise(parsed.name.as_ref());
        if !hashes.is_empty() {
            self.found.hashes.entry(name).or_default().extend(hashes);
        }
        let list = match role {
            Role::Wanted => &mut self.found.wanted,
            Role::Constraint => &mut self.found.constraints,
            Role::Override => &mut self.found.overrides,
        };
        list.push(text);
        if list.len() > MAX_REQUIREMENTS {
            return Err(format!("there are more than {MAX_REQUIREMENTS} requirements").into());
        }
        Ok(())
    }

    fn option(&mut self, file: &str, entry: &str) -> Result<(), Problem> {
        let (name, value) = name_and_value(entry);
        match name {
            "--pre" if value.is_empty() => {
                self.found.prereleases = true;
                return Ok(());
            }
            // They are all that is taken, unless there is none.
            "--prefer-binary" if value.is_empty() => return Ok(()),
            "--only-binary" => return Ok(self.only_binary(value)?),
            _ => {}
        }
        let (role, value) = included(entry)?;
        let target = included_path(file, value).ok_or_else(|| {
            format!(
                "{}: only files inside the function's directory can be included",
                shown(value)
            )
        })?;
        if (self.find)(&target).is_none() {
            return Err(format!(
                "{}: there is no such file in the function's directory, or an ignore file leaves it out",
                shown(value)
            )
            .into());
        }
        self.file(&target, role).map_err(Problem::There)
    }

    /// Names of packages with commas between them; each line counts on top of those before.
    fn only_binary(&mut self, value: &str) -> Result<(), String> {
        for name in value.split(',').map(str::trim) {
            match name {
                ":none:" => self.found.only_binary.clear(),
                ALL => drop(self.found.only_binary.insert(ALL.to_owned())),
                _ if !name.is_empty() && name_of(name) == normalise(name) => {
                    self.found.only_binary.insert(normalise(name));
                }
                _ => {
                    return Err(format!(
                        "--only-binary wants {ALL}, :none: or names of packages, not {}",
                        shown(name)
                    ))
                }
            }
        }
        Ok(())
    }
}

/// An option and what follows it, by `=` or a space.
fn name_and_value(entry: &str) -> (&str, &str) {
    let is_end = |character: char| character.is_whitespace() || character == '=';
    let (name, value) = entry.split_at(entry.find(is_end).unwrap_or(entry.len()));
    (name, value.trim_start_matches(is_end).trim_end())
}

/// Which file an option includes, and as what; every other option is refused by its name, for its value may hold a
/// password.
fn included(entry: &str) -> Result<(Role, &str), String> {
    let (name, value) = name_and_value(entry);
    match name {
        "-r" | "--requirement" => return Ok((Role::Wanted, value)),
        "-c" | "--constraint" => return Ok((Role::Constraint, value)),
        _ => {}
    }
    // `-rmore.txt` is `-r more.txt`.
    if let Some(attached) = entry.strip_prefix("-r") {
        return Ok((Role::Wanted, attached));
    }
    if let Some(attached) = entry.strip_prefix("-c") {
        return Ok((Role::Constraint, attached));
    }
    // So is `-ihttps://user:password@host`: of a short option only the letter is shown.
    let name = if name.starts_with("--") {
        name
    } else {
        name.get(..2).unwrap_or(name)
    };
    let name: String = name.chars().take(SHOWN).collect();
    Err(match name.as_str() {
        "-e" | "--editable" => {
            format!("{name} installs from a directory or a repository; only packages of the index are installed")
        }
        _ => format!("the option {name} is not taken from a requirements file; the platform's index settings apply"),
    })
}

/// Refuses a name of a package or an extra that ends in a separator: the parser panics at one that something follows.
fn check_names(package: &str) -> Result<(), String> {
    let is_of_name = |character: char| character.is_ascii_alphanumeric() || ".-_".contains(character);
    let package = package.trim_start();
    let end = package
        .find(|character| !is_of_name(character))
        .unwrap_or(package.len());
    let (name, rest) = package.split_at(end);
    let extras = rest.trim_start().strip_prefix('[').unwrap_or_default();
    let extras = extras.split(']').next().unwrap_or_default();
    let mut names = std::iter::once(name).chain(extras.split(|character| !is_of_name(character)));
    names
        .find(|name| name.ends_with(['.', '-', '_']))
        .map_or(Ok(()), |name| {
            Err(format!(
                "{}: the name of a package or an extra ends in a letter or a digit",
                shown(name)
            ))
        })
}

/// A requirement, and its text for the resolver.
///
/// The marker is checked but passed on as it was written: printing the parsed one takes exponential time.
fn parse(requirement: &str) -> Result<(Pep508<VerbatimUrl>, String), String> {
    if requirement.len() > MAX_LINE {
        return Err(format!("the requirement is over {MAX_LINE} characters"));
    }
    // The parser's spans are no character boundaries in other texts, and it panics.
    if let Some(other) = requirement.chars().find(|character| !character.is_ascii()) {
        return Err(format!(
            "{} has {other:?}; names, versions and markers are ASCII",
            shown(requirement)
        ));
    }
    let (package, marker) = requirement
        .split_once(';')
        .map_or((requirement, None), |(package, marker)| (package, Some(marker.trim())));
    // Before the parser sees it: it would expand variables in an address.
    if let Some((name, _)) = package.split_once('@') {
        return Err(format!(
            "{} is a direct URL; only packages of the index are installed",
            shown(name.trim())
        ));
    }
    check_names(package)?;
    check_marker(marker.unwrap_or_default())?;
    let mut parsed = Pep508::<VerbatimUrl>::from_str(requirement)
        .map_err(|error| point(requirement, error.start, &error.message.to_string()))?;
    if matches!(parsed.version_or_url, Some(VersionOrUrl::Url(_))) {
        return Err(format!(
            "{} is a direct URL; only packages of the index are installed",
            parsed.name
        ));
    }
    parsed.marker = MarkerTree::TRUE;
    let text = match marker {
        Some(marker) => format!("{parsed} ; {marker}"),
        None => parsed.to_string(),
    };
    Ok((parsed, text))
}

/// Bounds what a marker costs.
fn check_marker(marker: &str) -> Result<(), String> {
    let mut quote = None;
    let outside: String = marker
        .chars()
        .map(|character| {
            let inside = quote.is_some();
            match quote {
                Some(open) if open == character => quote = None,
                None if character == '\'' || character == '"' => quote = Some(character),
                _ => {}
            }
            if inside || !character.is_ascii_alphanumeric() && character != '_' {
                ' '
            } else {
                character
            }
        })
        .collect();
    let count = |words: &[&str]| outside.split(' ').filter(|word| words.contains(word)).count();
    if count(&["and", "or"]) >= MAX_COMPARISONS {
        return Err(format!("its marker has more than {MAX_COMPARISONS} comparisons"));
    }
    if marker.bytes().filter(|byte| *byte == b'(').count() > MAX_PARENTHESES {
        return Err(format!("its marker has more than {MAX_PARENTHESES} parentheses"));
    }
    if count(&["in", "extra"]) > MAX_VARIABLES {
        return Err(format!(
            "its marker has more than {MAX_VARIABLES} comparisons by `in` or with `extra`"
        ));
    }
    Ok(())
}

/// The message, the text around `at` and a caret below it.
fn point(text: &str, at: usize, message: &str) -> String {
    let from = at.saturating_sub(SHOWN);
    let part: String = text.chars().skip(from).take(2 * SHOWN).collect();
    let message: String = message
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(2 * SHOWN)
        .collect();
    format!("{message}\n    {part}\n    {}^", " ".repeat(at - from))
}

/// A text of the file as an error may show it: quoted, short, of an address the host alone.
fn shown(text: &str) -> String {
    let public = match text.split_once("//") {
        // A user, a password or a token may be anywhere around an @.
        Some((before, rest)) if rest.contains('@') => format!("{before}//***"),
        Some((before, rest)) => {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            format!("{before}//{host}{}", if host.len() < rest.len() { "/..." } else { "" })
        }
        None => text.to_owned(),
    };
    format!("{:?}", public.chars().take(2 * SHOWN).collect::<String>())
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
    let lower = entry.to_lowercase();
    for scheme in ["git+", "hg+", "svn+", "bzr+"] {
        if lower.contains(scheme) {
            return Err(format!(
                "{} is installed from a {} repository; only packages of the index are installed",
                shown(first),
                scheme.trim_end_matches('+')
            ));
        }
    }
    let first_lower = first.to_lowercase();
    if first.contains("://") || first_lower.starts_with("file:") {
        return Err(format!(
            "{} is a URL; only packages of the index are installed",
            shown(first)
        ));
    }
    let local = first.starts_with(['.', '/', '~', '\\']) || first.contains('/') && !first.contains('[');
    if local
        || [".whl", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip", ".egg"]
            .iter()
            .any(|end| first_lower.ends_with(end))
    {
        return Err(format!(
            "{} is a path; only packages of the index are installed",
            shown(first)
        ));
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
            let name = word.split('=').next().unwrap_or_default();
            return Err(format!("the option {} is not known for a requirement", shown(name)));
        }
        let hash = words.next().unwrap_or_default();
        let digest = hash.parse();
        hashes.push(digest.map_err(|_| {
            format!(
                "the hash {} is not sha256: and 64 lower-case hexadecimal digits",
                shown(hash)
            )
        })?);
    }
    Ok((requirement.trim(), hashes))
}

#[cfg(test)]
mod tests;
