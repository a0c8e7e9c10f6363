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
    /// Those with the paths of `files` and of `empty` directories, and the paths and targets of `links`.
    pub(super) fn new(
        files: impl Iterator<Item = &'a str>,
        empty: impl Iterator<Item = &'a str>,
        links: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let files: BTreeSet<&str> = files.collect();
        let links: BTreeMap<&str, &str> = links.collect();
        let mut directories: BTreeSet<&str> = empty.collect();
        let parents = |path: &'a str| path.match_indices('/').filter_map(|(end, _)| path.get(..end));
        let paths = files.iter().chain(links.keys()).chain(&directories).copied();
        let above: Vec<&str> = paths.flat_map(parents).collect();
        directories.extend(above);
        Self {
            files,
            directories,
            links,
        }
    }

    /// The path of the file or directory that `path` leads to, or why it leads to none.
    pub(super) fn resolve(&self, path: &str) -> Result<String, String> {
        let mut way: Vec<String> = Vec::new();
        let mut trail = Trail::of(path);
        // The last link that was followed, and where it leads.
        let mut last: Option<(String, &str)> = None;
        let blame = |last: &Option<(String, &str)>, reason: &str| match last {
            Some((link, target)) if link != path => {
                format!("which leads to the symbolic link {link:?} to {target:?}, which {reason}")
            }
            _ => format!("which {reason}"),
        };
        while let Some(name) = trail.step() {
            if name == "." {
                continue;
            }
            if name == ".." {
                way.pop().ok_or_else(|| blame(&last, "leads out of the directory"))?;
                continue;
            }
            way.push(name);
            let here = way.join("/");
            if let Some(target) = self.links.get(here.as_str()) {
                trail.follow(target).ok_or("which leads in a circle")?;
                last = Some((here, target));
                if target.starts_with('/') {
                    return Err(blame(&last, "is absolute"));
                }
                way.pop();
                continue;
            }
            let is_file = trail.is_at_end() && self.files.contains(here.as_str());
            if !is_file && !self.directories.contains(here.as_str()) {
                return Err(blame(&last, "leads to nothing that the image holds"));
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
                ("hollow", "empty/below/"),
                ("in", "empty"),
                ("in-it", "empty/below/x"),
            ],
        );
        let empty = ["empty/below"].into_iter();
        let entries = Entries::new(files.iter().copied(), empty, links.iter().copied());
        for (path, leads) in [
            ("dir", "a/b"),
            ("a/b/back", "a/b/file"),
            ("chain", "a/b/file"),
            ("all", ""),
            ("dir/file", "a/b/file"),
            ("hollow", "empty/below"),
            ("in", "empty"),
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
            (
                "through",
                "the symbolic link \"absolute\" to \"/top\", which is absolute",
            ),
            ("in-it", "nothing"),
        ] {
            let said = entries.resolve(path).unwrap_err();
            assert!(said.contains(reason), "{path}: {said}");
        }
    }
}
