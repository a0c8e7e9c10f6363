//! Lists of images that are copied, a line for each.
//!
//! ```text
//! # a line of the list                     with a target HOST[/PREFIX], else source and destination
//! registry.example.org/base/python:3.11    -> HOST/PREFIX/base/python:3.11
//! ```

use std::collections::BTreeMap;
use std::path::{absolute, Path, PathBuf};

use crate::oci::{Place, Reference};

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
#[error("line {line}: {reason}")]
pub struct ListError {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// A list of images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListedCopies {
    /// Each once.
    pub images: Vec<ListedCopy>,
    /// The numbers of lines that say what another one before them says.
    pub repeated: Vec<usize>,
}

/// Reads a list of images: of each its source, and without a `target` its destination behind it.
///
/// # Errors
///
/// [`ListError`] for the first line that cannot be meant; nothing is copied then.
pub fn parse_list(text: &str, target: Option<&Place>) -> Result<ListedCopies, ListError> {
    let mut all = ListedCopies::default();
    // The image that goes to each place, and how that is written.
    let mut taken: BTreeMap<String, (Place, Place)> = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let failed = |reason: String| ListError { line: at + 1, reason };
        // A path may have a `#`.
        let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
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
        let is_archive = matches!(destination, Place::Archive { .. });
        match taken.insert(meant(&destination), (source.clone(), destination.clone())) {
            Some((other, written)) if is_archive && (other != source || written != destination) => {
                let reason =
                    format!("{destination} is one image, and the file is that of another line already ({other})");
                return Err(failed(reason));
            }
            Some((other, _)) if other != source => {
                let reason = format!("{destination} is the destination of another image already ({other})");
                return Err(failed(reason));
            }
            Some(_) => {
                all.repeated.push(at + 1);
                continue;
            }
            None => {}
        }
        if all.images.len() >= MOST {
            return Err(failed(format!("there are more than {MOST} images")));
        }
        all.images.push(ListedCopy { source, destination });
    }
    Ok(all)
}

/// Reads a list of images, a name a line.
///
/// # Errors
///
/// [`ListError`] for the first line that is no name.
pub fn parse_names(text: &str) -> Result<Vec<Reference>, ListError> {
    let mut all = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let failed = |reason: String| ListError { line: at + 1, reason };
        let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
        let Some(name) = words.next() else { continue };
        if words.next().is_some() {
            return Err(failed("want one image and no more".to_owned()));
        }
        if all.len() >= MOST {
            return Err(failed(format!("there are more than {MOST} images")));
        }
        all.push(name.parse().map_err(|error| failed(format!("{error}")))?);
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

/// What a destination means, however it is written: of two images that go to one such place only one would be there. An archive
/// is written anew, so its file alone counts.
fn meant(place: &Place) -> String {
    let plain = |path: &Path| {
        absolute(path)
            .unwrap_or_else(|_| PathBuf::from(path))
            .display()
            .to_string()
    };
    match place {
        Place::Archive { file, .. } => format!("oci-archive:{}", plain(file)),
        Place::Image(Reference::Layout { dir, tag }) => {
            format!("oci:{}:{}", plain(dir), tag.as_deref().unwrap_or_default())
        }
        Place::Image(
            reference @ (Reference::Registry {
                tag: None,
                digest: Some(_),
                ..
            }
            | Reference::Digest { .. }),
        ) => reference.to_string(),
        Place::Image(reference) => reference.with_tag(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn list(text: &str, target: Option<&str>) -> Result<Vec<String>, ListError> {
        let target = target.map(|target| target.parse().unwrap());
        let all = parse_list(text, target.as_ref())?;
        Ok(all
            .images
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
    fn a_list_of_names_has_one_a_line() {
        let names =
            |text: &str| Ok::<_, ListError>(parse_names(text)?.iter().map(Reference::to_string).collect::<Vec<_>>());
        assert_eq!(
            names("# all\n\n a.example/x:1 # why\r\nlocal:1\n").unwrap(),
            ["a.example/x:1", "local:1"]
        );
        assert!(names("").unwrap().is_empty());
        for (text, line) in [
            ("a:1\nb:1 c:1", 2),
            ("a.example/X:1", 1),
            ("\u{0}", 1),
            ("a:1\n\n-x", 3),
        ] {
            assert_eq!(names(text).unwrap_err().line, line, "{text}");
        }
        let many = "a:1\n".repeat(MOST + 1);
        assert_eq!(names(&many).unwrap_err().line, MOST + 1);
    }

    #[test]
    fn a_comment_begins_at_a_word() {
        assert_eq!(
            list("a.example/x:1 oci:/tmp/d#1:a #b\n#c d\n", None).unwrap(),
            ["a.example/x:1 oci:/tmp/d#1:a"]
        );
    }

    #[test]
    fn two_images_do_not_go_to_one_place_however_it_is_written() {
        let digest = Digest::of(b"x");
        for (first, second) in [
            ("oci-archive:/tmp/f.tar:a", "oci-archive:/tmp/f.tar:b"),
            ("oci-archive:/tmp/f.tar", "oci-archive:/tmp/./f.tar"),
            ("oci-archive:f.tar", "oci-archive:./f.tar"),
            ("oci:d:1", "oci:./d:1"),
            ("b.example/x", "b.example/x:latest"),
            ("local", "local:latest"),
            (&*format!("b.example/x:1@{digest}"), "b.example/x:1"),
        ] {
            let error = list(&format!("a.example/x:1 {first}\na.example/y:1 {second}"), None).unwrap_err();
            assert!(
                error.line == 2 && error.reason.contains("already (a.example/x:1)"),
                "{error}"
            );
        }
        // An archive has one name inside.
        assert!(list(
            "a.example/x:1 oci-archive:f.tar:a\na.example/x:1 oci-archive:f.tar:b",
            None
        )
        .is_err());
        for text in [
            "a.example/x:1 oci:d:1\na.example/y:1 oci:d:2",
            "a.example/x:1 oci-archive:f.tar\na.example/y:1 oci-archive:g.tar",
        ] {
            assert_eq!(list(text, None).unwrap().len(), 2, "{text}");
        }
    }

    #[test]
    fn a_line_that_says_what_another_one_says_is_done_once() {
        for (text, images, repeated) in [
            (
                "a.example/x:1 b.example/x\n\na.example/x:1 b.example/x:latest",
                1,
                vec![3],
            ),
            (
                "a.example/x:1 oci-archive:f.tar\na.example/x:1 oci-archive:f.tar\nl:1 l:2",
                2,
                vec![2],
            ),
            ("# nothing\n", 0, vec![]),
        ] {
            let all = parse_list(text, None).unwrap();
            assert_eq!((all.images.len(), all.repeated), (images, repeated), "{text}");
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
