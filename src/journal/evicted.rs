//! What the journal says of an image that was evicted: when, which one it was, and where it can be had again.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use serde::Deserialize;

use super::day::seconds;
use super::fold::{day_files, open};
use super::line::Line;
use super::read::lines;
use super::{EventKind, FOLDER};

/// An image that was evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EvictedImage {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Its manifest.
    pub digest: String,
    /// `HOST/REPOSITORY`; none when no registry was known to have it.
    pub origin: Option<String>,
}

/// What a line of an eviction has that no other one has.
#[derive(Debug, Default, Deserialize)]
struct More<'a> {
    #[serde(default)]
    names: Vec<String>,
    #[serde(borrow, default)]
    origin: Option<Cow<'a, str>>,
}

/// The image of this name, or whose digest begins so, when its eviction is the last that the journal of the store at `root` says
/// of the name. All of the journal may be read for it.
///
/// # Errors
/// When a file of the journal cannot be read.
pub(crate) fn find_evicted(root: &Path, name: &str, now: SystemTime) -> io::Result<Option<EvictedImage>> {
    let folder = root.join(FOLDER);
    for file in day_files(&folder, seconds(now))?.iter().rev() {
        let mut last = None;
        lines(&mut open(&folder.join(file))?, 0, |line| {
            last = said(line, name).or(last.take())
        })?;
        match last {
            Some(Said::Evicted(image)) => return Ok(Some(image)),
            Some(Said::Otherwise) => return Ok(None),
            None => {}
        }
    }
    Ok(None)
}

/// What a line says of a name.
enum Said {
    Evicted(EvictedImage),
    /// It came, or somebody removed it.
    Otherwise,
}

fn said(line: &[u8], name: &str) -> Option<Said> {
    let read = Line::read(line)?;
    if read.kind != EventKind::Evict.word() {
        let changes = [EventKind::Build, EventKind::Pull, EventKind::Copy, EventKind::Delete].map(EventKind::word);
        let is_change = read.reference == name && read.status == "ok" && changes.contains(&&*read.kind);
        return is_change.then_some(Said::Otherwise);
    }
    let more: More<'_> = serde_json::from_slice(line).unwrap_or_default();
    let digest = read.digest?;
    let is_meant = read.reference == name
        || more.names.iter().any(|other| other == name)
        || (name.starts_with("sha256:") && digest.starts_with(name));
    let image = || EvictedImage {
        at: read.at,
        digest: digest.into_owned(),
        origin: more.origin.map(Cow::into_owned),
    };
    is_meant.then(image).map(Said::Evicted)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::journal::{append, Event};

    #[test]
    fn the_last_eviction_of_a_name_is_the_one_that_counts() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(FOLDER)).unwrap();
        let now = 1_796_000_000;
        let names = ["a:1".to_owned(), "r.example/team/a:1".to_owned()];
        let evict = |at, digest: &str, origin, names| {
            let event = Event {
                digest: Some(digest.to_owned()),
                origin,
                names,
                ..Event::of(EventKind::Evict, at, "a:1", "ok")
            };
            append(root.path(), &event).unwrap();
        };
        let find = |name: &str| find_evicted(root.path(), name, UNIX_EPOCH + Duration::from_secs(now)).unwrap();
        assert_eq!(find("a:1"), None);
        evict(now - 90_000, "sha256:aa", Some("r.example/team/a"), &names[..]);
        evict(now - 10, "sha256:bb", None, &[]);
        append(root.path(), &Event::of(EventKind::Run, now, "c:1", "ok")).unwrap();
        let (old, new) = (find("r.example/team/a:1").unwrap(), find("a:1").unwrap());
        assert_eq!(
            (&*old.digest, old.origin.as_deref()),
            ("sha256:aa", Some("r.example/team/a"))
        );
        assert_eq!((&*new.digest, new.origin, new.at), ("sha256:bb", None, now - 10));
        assert_eq!(find("sha256:aa").unwrap().at, now - 90_000);
        assert_eq!((find("c:1"), find("a")), (None, None));
        append(root.path(), &Event::of(EventKind::Delete, now, "a:1", "ok")).unwrap();
        assert_eq!(find("a:1"), None, "somebody removed what came back");
    }
}
