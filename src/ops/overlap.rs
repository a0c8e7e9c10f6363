//! Two layers of wheels that bring the same path: which of them wins must not depend on their order, so both must
//! bring the same file, as within one layer.
//!
//! Only directories that more than one tree has are read: wheels share the top and, now and then, a namespace.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::build::wheel::WheelError;
use crate::store::StoreError;

/// Why layers do not go together.
#[derive(Debug, thiserror::Error)]
pub enum OverlapError {
    /// As within one layer.
    #[error(transparent)]
    Clash(#[from] WheelError),
    /// The store's trees cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks `trees`, each with the names of its wheels: a path that several have is the same file everywhere, or a
/// directory everywhere.
pub(super) fn check(trees: &[(String, PathBuf)]) -> Result<(), OverlapError> {
    let all: Vec<usize> = (0..trees.len()).collect();
    directory(trees, "", &all)
}

/// Compares what `have`, the trees that have the directory `path`, hold below it.
fn directory(trees: &[(String, PathBuf)], path: &str, have: &[usize]) -> Result<(), OverlapError> {
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
    let owner = |number: &usize| trees.get(*number).map_or_else(String::new, |(names, _)| names.clone());
    for (name, (directories, files)) in names {
        let path = if path.is_empty() {
            name
        } else {
            format!("{path}/{name}")
        };
        if let (Some(directory), Some(file)) = (directories.first(), files.first()) {
            let (file_of, directory_of) = (owner(file), owner(directory));
            return Err(WheelError::FileAndDirectory {
                file_of,
                directory_of,
                path,
            }
            .into());
        }
        for pair in files.windows(2) {
            let [one, other] = pair else { continue };
            if !same(trees, *one, *other, &path)? {
                let (one, other) = (owner(one), owner(other));
                return Err(WheelError::Clash { one, other, path }.into());
            }
        }
        directory(trees, &path, &directories)?;
    }
    Ok(())
}

fn same(trees: &[(String, PathBuf)], one: usize, other: usize, path: &str) -> Result<bool, OverlapError> {
    let place = |number: usize| trees.get(number).map(|(_, tree)| tree.join(path)).unwrap_or_default();
    let (one, other) = (place(one), place(other));
    let size = |path: &Path| {
        fs::symlink_metadata(path)
            .map(|found| found.len())
            .map_err(failed("read", path))
    };
    if size(&one)? != size(&other)? {
        return Ok(false);
    }
    let contents = |path: &Path| fs::read(path).map_err(failed("read", path));
    Ok(contents(&one)? == contents(&other)?)
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

    fn check_all(all: &[&[(&str, &str)]]) -> Result<(), OverlapError> {
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
    fn a_file_of_one_is_no_directory_of_another() {
        let error = check_all(&[&[("site/a", "1")], &[("site/a/b.py", "1")]]).unwrap_err();
        assert!(
            matches!(&error, OverlapError::Clash(WheelError::FileAndDirectory { file_of, directory_of, path }) if (file_of.as_str(), directory_of.as_str(), path.as_str()) == ("w0 1", "w1 1", "site/a")),
            "{error}"
        );
    }
}
