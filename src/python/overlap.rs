//! Two layers of wheels that bring the same path: both must bring the same file, or one that may be that of either, as
//! within one layer.
//!
//! Only directories that more than one tree has are read: wheels share the top and, now and then, a namespace.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::wheel::{is_either, is_idle, Record, SharedFiles, WheelError, SITE};
use crate::policy::{normalise, Kind};
use crate::store::StoreError;

/// Files larger than this are neither a namespace's nor a README: they are compared by size first.
const MOST_EITHER: u64 = 1 << 20;

/// Why layers do not go together.
#[derive(Debug, thiserror::Error)]
pub enum OverlapError {
    /// As within one layer.
    #[error("{0}")]
    Clash(#[from] WheelError),
    /// The store's trees cannot be read.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl OverlapError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Clash(source) => source.kind(),
            Self::Store(source) => source.kind(),
        }
    }
}

/// Checks `trees`, each with the names of its wheels: a path that several have is the same file everywhere, or a
/// directory everywhere. Returns what the user should know of files that may be that of either wheel: the last tree's is
/// on top.
pub(super) fn check(trees: &[(String, PathBuf)]) -> Result<Vec<String>, OverlapError> {
    let all: Vec<usize> = (0..trees.len()).collect();
    let mut shared = SharedFiles::default();
    directory(trees, "", &all, &mut shared)?;
    Ok(shared.warnings().collect())
}

/// Compares what `have`, the trees that have the directory `path`, hold below it.
fn directory(
    trees: &[(String, PathBuf)],
    path: &str,
    have: &[usize],
    shared: &mut SharedFiles,
) -> Result<(), OverlapError> {
    if have.len() < 2 {
        return Ok(());
    }
    // By name: the trees that have it as a directory, and those that have it as something else.
    let mut names: BTreeMap<String, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for number in have {
        let Some((_, tree)) = trees.get(*number) else { continue };
        let place = tree.join(path);
        for entry in fs::read_dir(&place).map_err(failed("list", &place))? {
            let entry = entry.map_err(failed("list", &place))?;
            let is_directory = entry.file_type().map_err(failed("read", &place))?.is_dir();
            let (directories, files) = names
                .entry(entry.file_name().to_string_lossy().into_owned())
                .or_default();
            if is_directory { directories } else { files }.push(*number);
        }
    }
    let owner = |number: &usize, path: &str| {
        let tree = trees.get(*number);
        tree.map_or_else(String::new, |(names, tree)| {
            owner(tree, path).unwrap_or_else(|| names.clone())
        })
    };
    for (name, (directories, files)) in names {
        let path = if path.is_empty() {
            name
        } else {
            format!("{path}/{name}")
        };
        if let (Some(directory), Some(file)) = (directories.first(), files.first()) {
            let (file_of, directory_of) = (owner(file, &path), owner(directory, &path));
            return Err(WheelError::FileAndDirectory {
                file_of,
                directory_of,
                path,
            }
            .into());
        }
        for pair in files.windows(2) {
            let [one, other] = pair else { continue };
            let relation = compare(trees, *one, *other, &path)?;
            if relation == Relation::Same {
                continue;
            }
            let (one, other) = (owner(one, &path), owner(other, &path));
            if relation == Relation::Other {
                return Err(WheelError::Clash { one, other, path }.into());
            }
            shared.note(&one, &other, &path);
        }
        directory(trees, &path, &directories, shared)?;
    }
    Ok(())
}

/// How two files of one path stand to each other.
#[derive(PartialEq, Eq)]
enum Relation {
    Same,
    /// Other contents, but it does not matter whose.
    Either,
    Other,
}

fn compare(trees: &[(String, PathBuf)], one: usize, other: usize, path: &str) -> Result<Relation, OverlapError> {
    let place = |number: usize| trees.get(number).map(|(_, tree)| tree.join(path)).unwrap_or_default();
    let (one, other) = (place(one), place(other));
    let look = |path: &Path| fs::symlink_metadata(path).map_err(failed("read", path));
    let (of_one, of_other) = (look(&one)?, look(&other)?);
    let largest = of_one.len().max(of_other.len());
    if of_one.len() != of_other.len() && largest > MOST_EITHER && !is_idle(path) {
        return Ok(Relation::Other);
    }
    let contents = |path: &Path| fs::read(path).map_err(failed("read", path));
    let (mine, theirs) = (contents(&one)?, contents(&other)?);
    let is_executable = (of_one.permissions().mode() | of_other.permissions().mode()) & 0o111 != 0;
    Ok(match mine == theirs {
        true => Relation::Same,
        false if is_either(path, is_executable, [&mine, &theirs]) => Relation::Either,
        false => Relation::Other,
    })
}

/// The wheel of `tree` whose RECORD has `path` or something below it: its project and version.
fn owner(tree: &Path, path: &str) -> Option<String> {
    let inside = Path::new(path).strip_prefix(SITE).ok()?.to_str()?.to_owned();
    for entry in fs::read_dir(tree.join(SITE)).ok()?.flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let Some((project, version)) = name.strip_suffix(".dist-info").and_then(|name| name.rsplit_once('-')) else {
            continue;
        };
        let record = Record::parse(&fs::read_to_string(entry.path().join("RECORD")).unwrap_or_default());
        let below = format!("{inside}/");
        if record.is_ok_and(|record| record.paths().any(|path| path == inside || path.starts_with(&below))) {
            return Some(format!("{} {version}", normalise(project)));
        }
    }
    None
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OverlapError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let scratch = tempfile::tempdir().unwrap();
        for (path, contents) in files {
            let path = scratch.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        scratch
    }

    fn check_all(all: &[&[(&str, &str)]]) -> Result<Vec<String>, OverlapError> {
        let trees: Vec<_> = all.iter().map(|files| tree(files)).collect();
        let named = trees.iter().enumerate();
        let named = named.map(|(number, tree)| (format!("w{number} 1"), tree.path().to_owned()));
        check(&named.collect::<Vec<_>>())
    }

    #[test]
    fn layers_may_share_directories_and_equal_files() {
        let one = [("site/ns/__init__.py", ""), ("site/ns/one.py", "1")];
        let other = [("site/ns/__init__.py", ""), ("site/ns/other.py", "2")];
        assert!(check_all(&[&one, &other, &[("site/alone/x.py", "3")]]).is_ok());
    }

    #[test]
    fn files_that_differ_are_refused_by_name() {
        let same = [("site/ns/a.py", "1")];
        let error = check_all(&[&[("bin/x", "9")], &same, &same, &[("site/ns/a.py", "2")]]).unwrap_err();
        assert!(
            matches!(&error, OverlapError::Clash(WheelError::Clash { one, other, path }) if (one.as_str(), other.as_str(), path.as_str()) == ("w2 1", "w3 1", "site/ns/a.py")),
            "{error}"
        );
    }

    #[test]
    fn files_that_may_be_either_are_named_with_their_wheels() {
        let bundle = [
            ("opt/py/site/README.md", "1"),
            ("opt/py/site/one-1.dist-info/RECORD", "one.py,,\nREADME.md,,\n"),
            ("opt/py/site/two-1.dist-info/RECORD", "two.py,,\n"),
        ];
        let warnings = check_all(&[&bundle, &[("opt/py/site/README.md", "22")]]).unwrap();
        let expected =
            "one 1 and w1 1 both bring /opt/py/site/README.md, with different contents: that of w1 1 is used";
        assert_eq!(warnings, [expected]);
        let code = ("opt/py/site/one.py", "1");
        let error = check_all(&[&[code, bundle[1]], &[("opt/py/site/one.py", "2")]]).unwrap_err();
        assert!(error.to_string().contains("one 1 and w1 1"), "{error}");
    }

    #[test]
    fn a_file_of_one_is_no_directory_of_another() {
        let error = check_all(&[&[("site/a", "1")], &[("site/a/b.py", "1")]]).unwrap_err();
        assert!(
            matches!(&error, OverlapError::Clash(WheelError::FileAndDirectory { file_of, directory_of, path }) if (file_of.as_str(), directory_of.as_str(), path.as_str()) == ("w0 1", "w1 1", "site/a")),
            "{error}"
        );
    }
}
