//! Symbolic links of a function: kept when they lead to something of the function, by way of nothing else.
//!
//! They are followed among the entries that were read, not on disk: what is judged is what gets into the image.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::Trail;

/// The entries of a function by their paths.
pub(super) struct Entries<'a> {
    files: BTreeSet<&'a str>,
    directories: BTreeSet<&'a str>,
    links: BTreeMap<&'a str, &'a str>,
}

impl<'a> Entries<'a> {
    /// Those with the paths of `files`, and the paths and targets of `links`.
    pub(super) fn new(files: impl Iterator<Item = &'a str>, links: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let files: BTreeSet<&str> = files.collect();
        let links: BTreeMap<&str, &str> = links.collect();
        // An empty directory gets into no image.
        let parents = |path: &'a str| path.match_indices('/').filter_map(|(end, _)| path.get(..end));
        let paths = files.iter().chain(links.keys()).copied();
        let directories = paths.flat_map(parents).collect();
        Self {
            files,
            directories,
            links,
        }
    }

    /// The path of the file or directory that `path` leads to, or why it leads to none.
    pub(super) fn resolve(&self, path: &str) -> Result<String, &'static str> {
        let mut way: Vec<String> = Vec::new();
        let mut trail = Trail::of(path);
        while let Some(name) = trail.step() {
            if name == "." {
                continue;
            }
            if name == ".." {
                way.pop().ok_or("which leads out of the directory")?;
                continue;
            }
            way.push(name);
            let here = way.join("/");
            if let Some(target) = self.links.get(here.as_str()) {
                trail.follow(target).ok_or("which leads in a circle")?;
                if target.starts_with('/') {
                    return Err("which is absolute");
                }
                way.pop();
                continue;
            }
            let is_file = trail.is_at_end() && self.files.contains(here.as_str());
            if !is_file && !self.directories.contains(here.as_str()) {
                return Err("which leads to nothing that the image holds");
            }
        }
        Ok(way.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_name_by_name() {
        let (files, links) = (
            &["a/b/file", "top"],
            &[
                ("dir", "a/b/"),
                ("a/up", ".."),
                ("a/b/back", "../../dir/file"),
                ("chain", "a/up/./dir/back"),
                ("all", "."),
                ("one", "two"),
                ("two", "a/../one"),
                ("out", "a/../../x/top"),
                ("sly", "a/up/../top"),
                ("slash", "top/"),
                ("below", "top/x"),
                ("none", "a/none"),
                ("absolute", "/top"),
                ("through", "absolute"),
            ],
        );
        let entries = Entries::new(files.iter().copied(), links.iter().copied());
        for (path, leads) in [
            ("dir", "a/b"),
            ("a/b/back", "a/b/file"),
            ("chain", "a/b/file"),
            ("all", ""),
            ("dir/file", "a/b/file"),
        ] {
            assert_eq!(entries.resolve(path).as_deref(), Ok(leads), "{path}");
        }
        for (path, reason) in [
            ("one", "circle"),
            ("out", "out of"),
            ("sly", "out of"),
            ("slash", "nothing"),
            ("below", "nothing"),
            ("none", "nothing"),
            ("absolute", "absolute"),
            ("through", "absolute"),
        ] {
            assert!(entries.resolve(path).unwrap_err().contains(reason), "{path}");
        }
    }
}
