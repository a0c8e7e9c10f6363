//! A list of images is copied: those that are there already are skipped, the failure of one stops no other, and what was not
//! done is done by the same command again.
//!
//! ```text
//! # a line of the list                     with a target HOST[/PREFIX], else source and destination
//! registry.example.org/base/python:3.11    -> HOST/PREFIX/base/python:3.11
//! ```

use std::convert::Infallible;
use std::time::Instant;

use serde::Serialize;

use super::copies::{copy, Transport};
use super::images::ImagesError;
use crate::oci::{Digest, Place, Reference};
use crate::policy::{one_line, Kind};
use crate::progress::{Progress, Silent};
use crate::sys::pool;
use crate::transfer::{resolve_image, Attempt, Failover, Remote, RemoteTarget};

/// Images that are copied at once. Each has its own layers under way.
const AT_ONCE: usize = 4;
/// Lines of a list that are copied.
const MOST: usize = 10_000;

/// An image of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedCopy {
    /// Where it comes from.
    pub source: Place,
    /// Where it goes.
    pub destination: Place,
}

/// A line that is no part of a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read the list of images: line {line}: {reason}")]
pub struct ListError {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads a list of images: of each its source, and without a `target` its destination behind it.
///
/// # Errors
///
/// [`ListError`] for the first line that cannot be meant; nothing is copied then.
pub fn parse_list(text: &str, target: Option<&Place>) -> Result<Vec<ListedCopy>, ListError> {
    let mut all: Vec<ListedCopy> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let failed = |reason: String| ListError { line: at + 1, reason };
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(source) = words.next() else { continue };
        let place = |text: &str| text.parse::<Place>().map_err(|error| failed(error.to_string()));
        let source = place(source)?;
        let destination = match (target, words.next()) {
            (None, Some(destination)) => place(destination)?,
            (Some(target), None) => below(target, &source).map_err(failed)?,
            (None, None) => {
                return Err(failed(
                    "want a source and a destination; a target behind the file is for all lines".to_owned(),
                ))
            }
            (Some(_), Some(_)) => {
                return Err(failed(
                    "want a source alone, as the target is given for all lines".to_owned(),
                ))
            }
        };
        if words.next().is_some() {
            return Err(failed("want a source and a destination, and no more".to_owned()));
        }
        let is_taken = |one: &&ListedCopy| one.destination == destination && one.source != source;
        if let Some(other) = all.iter().find(is_taken) {
            return Err(failed(format!(
                "{destination} is the destination of another image already ({})",
                other.source
            )));
        }
        if all.len() >= MOST {
            return Err(failed(format!("there are more than {MOST} images")));
        }
        all.push(ListedCopy { source, destination });
    }
    Ok(all)
}

/// Where an image goes that keeps its repository and tag below `HOST[/PREFIX]`.
fn below(target: &Place, source: &Place) -> Result<Place, String> {
    let (path, tag, digest) = match source {
        Place::Image(Reference::Registry {
            repository,
            tag,
            digest,
            ..
        }) => (repository.clone(), tag.clone(), *digest),
        Place::Image(Reference::Local { name, tag, digest }) => (name.clone(), tag.clone(), *digest),
        Place::Image(Reference::Digest { .. } | Reference::Layout { .. }) | Place::Archive { .. } => {
            return Err(format!(
                "{source} has no repository that it could keep; name its destination, without a target"
            ));
        }
    };
    // The tag is what it is found by; a digest alone is kept.
    let suffix = match (tag, digest) {
        (Some(tag), _) => format!(":{tag}"),
        (None, Some(digest)) => format!("@{digest}"),
        (None, None) => String::new(),
    };
    let text = format!("{target}/{path}{suffix}");
    match text.parse() {
        Ok(place @ Place::Image(Reference::Registry { .. })) => Ok(place),
        _ => Err(format!(
            "{target} is no registry HOST[/PREFIX] that {source} could go to"
        )),
    }
}

/// What came of one image of a list.
#[derive(Debug, Clone, Serialize)]
pub struct CopiedOfList {
    /// Where it comes from.
    pub source: String,
    /// Where it goes.
    pub destination: String,
    /// `copied`, `equal` when it was there already, or `failed`.
    pub status: &'static str,
    /// The image, when it is there now.
    pub digest: Option<Digest>,
    /// Why it is not.
    pub error: Option<String>,
    /// Whether another try may help.
    pub is_retryable: bool,
    /// The registries that were asked, and how that went.
    pub attempts: Vec<Attempt>,
    /// How long it took.
    pub seconds: f64,
    /// What sort of failure it was.
    #[serde(skip)]
    pub kind: Option<Kind>,
}

/// Copies every image of a list, several at once, and tells `done` of each.
pub fn copy_list(
    transport: &Transport<'_>,
    list: &[ListedCopy],
    done: &(dyn Fn(&CopiedOfList) + Sync),
) -> Vec<CopiedOfList> {
    let steps = StepsOnly(transport.progress);
    let copied = pool::each(AT_ONCE, list, |one, _| {
        let mut own = Transport::new(transport.store, transport.registries, &steps);
        own.companions = transport.companions;
        let copied = copy_one(&own, one);
        done(&copied);
        Ok::<_, Infallible>(copied)
    });
    match copied {
        Ok(copied) => copied,
        Err(never) => match never {},
    }
}

fn copy_one(transport: &Transport<'_>, one: &ListedCopy) -> CopiedOfList {
    let began = Instant::now();
    let result = match find_equal(transport, one) {
        Ok(Some(digest)) => Ok(("equal", digest)),
        // Whatever keeps us from comparing is met again by the copy, which says it better.
        Ok(None) | Err(_) => copy(transport, &one.source, &one.destination).map(|copied| ("copied", copied.digest)),
    };
    let kind = result.as_ref().err().map(ImagesError::kind);
    CopiedOfList {
        source: one.source.to_string(),
        destination: one.destination.to_string(),
        status: result.as_ref().map_or("failed", |(status, _)| status),
        digest: result.as_ref().ok().map(|(_, digest)| *digest),
        error: result.as_ref().err().map(|error| one_line(error)),
        is_retryable: kind.is_some_and(Kind::is_away),
        attempts: transport.attempts(),
        seconds: began.elapsed().as_secs_f64(),
        kind,
    }
}

/// The image, when source and destination say that it is there already: two questions for a digest, and no bytes.
fn find_equal(transport: &Transport<'_>, one: &ListedCopy) -> Result<Option<Digest>, ImagesError> {
    let Place::Image(destination @ Reference::Registry { .. }) = &one.destination else {
        return Ok(None);
    };
    let Transport { store, registries, .. } = *transport;
    let wanted = match &one.source {
        Place::Image(source @ Reference::Registry { .. }) => {
            let alone = registries.clone().with_failover(Failover::Forbidden);
            let remote = Remote::new(store, &alone, source, &Silent)?;
            resolve_image(&remote, &remote.find()?)?
        }
        Place::Image(source @ (Reference::Local { .. } | Reference::Digest { .. })) => {
            match store.names().find(source)? {
                Some(digest) => digest,
                None => return Ok(None),
            }
        }
        Place::Image(Reference::Layout { .. }) | Place::Archive { .. } => return Ok(None),
    };
    let there = RemoteTarget::new(store, registries, destination, &Silent)?.find()?;
    Ok(there.filter(|there| *there == wanted))
}

/// Says what is done, and not how many bytes of which of several images.
struct StepsOnly<'a>(&'a dyn Progress);

impl Progress for StepsOnly<'_> {
    fn step(&self, verb: &str, object: &str) {
        self.0.step(verb, object);
    }

    fn bytes(&self, _: u64, _: u64) {}

    fn warn(&self, text: &str) {
        self.0.warn(text);
    }

    fn spent(&self, stage: &'static str, time: std::time::Duration) {
        self.0.spent(stage, time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str, target: Option<&str>) -> Result<Vec<String>, ListError> {
        let target = target.map(|target| target.parse().unwrap());
        let all = parse_list(text, target.as_ref())?;
        Ok(all
            .iter()
            .map(|one| format!("{} {}", one.source, one.destination))
            .collect())
    }

    #[test]
    fn a_line_names_where_from_and_where_to() {
        let text = "# all of them\n\na.example/x:1  b.example/y:2 # why\n\tlocal:1 oci:/tmp/x:1\n";
        assert_eq!(
            list(text, None).unwrap(),
            ["a.example/x:1 b.example/y:2", "local:1 oci:/tmp/x:1"]
        );
    }

    #[test]
    fn a_target_keeps_repository_and_tag() {
        let digest = Digest::of(b"x");
        let text = format!("a.example/x/y:1\na.example/x@{digest}\na.example/z:1@{digest}\nlocal:1\nbare\n");
        for (target, host) in [
            ("b.example/mirror", "b.example/mirror"),
            ("localhost:5000", "localhost:5000"),
        ] {
            let expected = [
                format!("a.example/x/y:1 {host}/x/y:1"),
                format!("a.example/x@{digest} {host}/x@{digest}"),
                format!("a.example/z:1@{digest} {host}/z:1"),
                format!("local:1 {host}/local:1"),
                format!("bare {host}/bare"),
            ];
            assert_eq!(list(&text, Some(target)).unwrap(), expected);
        }
    }

    #[test]
    fn a_line_that_cannot_be_meant_is_named() {
        for (text, target, line, says) in [
            ("a.example/x:1", None, 1, "a source and a destination"),
            ("\na.example/x:1 b.example/x:1 c", None, 2, "no more"),
            ("a.example/x:1 b.example/x:1", Some("c.example"), 1, "a source alone"),
            ("docker://x y", None, 1, "other tools name a registry"),
            ("oci:/tmp/x", Some("c.example"), 1, "no repository"),
            ("a.example/x:1", Some("oci:/tmp/x"), 1, "no registry"),
            ("a.example/x:1", Some("c.example/y:1"), 1, "no registry"),
            ("a.example/x:1", Some("word"), 1, "no registry"),
            (
                "a.example/x:1\nb.example/x:1",
                Some("c.example"),
                2,
                "another image already (a.example/x:1)",
            ),
        ] {
            let error = list(text, target).unwrap_err();
            assert!(error.line == line && error.reason.contains(says), "{text}: {error}");
        }
    }
}
