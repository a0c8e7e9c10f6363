//! Lists that come in pages: tags, referrers (distribution specification, "Content Discovery").
//!
//! How many pages there are, and where the next one is, is for the registry to say. A next page on another server is refused:
//! credentials would go along. One that was there already, and more pages than a list may have, end the list with an error.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::client::{Access, Asked, Repository};
use super::error::Problem;
use super::fetching::bounded;
use super::said::{plain, shown};
use super::RegistryError;
use crate::net::{is_same_server, Call, Payload, Url, Verb};
use crate::oci::{media_type, parse_referrers, Descriptor, Digest, MAX_DOCUMENT_BYTES};

/// A page of names: 128 characters each, a thousand and more of them.
const MAX_PAGE: u64 = 1 << 20;
/// Entries of one page. Some registries refuse more.
const PAGE: usize = 1000;
/// Pages of a list.
const MAX_PAGES: usize = 100;
/// Pages that are read for an error message.
const FEW_PAGES: usize = 5;

/// What a repository lists.
#[derive(Clone, Copy)]
pub(crate) struct Listing<'a> {
    repository: &'a Repository,
}

/// How a list is read.
struct Reading {
    most_pages: usize,
    most_bytes: u64,
    accept: Option<&'static str>,
}

impl<'a> Listing<'a> {
    /// That of `repository`.
    pub(crate) fn of(repository: &'a Repository) -> Self {
        Self { repository }
    }

    /// Some tags, for people.
    pub(crate) fn some_tags(self) -> Result<Vec<String>, RegistryError> {
        self.tags(FEW_PAGES)
    }

    fn tags(self, most_pages: usize) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut asked = self.asked("list tags of", self.repository.url("tags/list"), Access::Pull);
        asked.url.set_query(Some(&format!("n={PAGE}")));
        let mut tags = BTreeSet::new();
        let reading = Reading {
            most_pages,
            most_bytes: MAX_PAGE,
            accept: None,
        };
        self.pages(asked, &reading, &mut |raw| {
            let page: Page = serde_json::from_slice(raw).map_err(|_| no_list())?;
            let found = page.tags.unwrap_or_default();
            if let Some(strange) = found.iter().find(|tag| !is_tag(tag)) {
                return Err(format!("it lists the tag {:?}, which none can be", shown(strange)));
            }
            tags.extend(found);
            Ok(())
        })?;
        Ok(tags.iter().map(|tag| self.repository.redact(tag)).collect())
    }

    /// What refers to a manifest, and how many entries are of a kind that cannot be read; none when the registry has no such
    /// list.
    pub(crate) fn referrers(self, digest: &Digest) -> Result<Option<(Vec<Descriptor>, usize)>, RegistryError> {
        let url = self.repository.url(&format!("referrers/{digest}"));
        let asked = self.asked("list referrers in", url, Access::Pull);
        let (mut all, mut left) = (Vec::new(), 0);
        let reading = Reading {
            most_pages: MAX_PAGES,
            most_bytes: MAX_DOCUMENT_BYTES,
            accept: Some(media_type::INDEX),
        };
        let listed = self.pages(asked, &reading, &mut |raw| {
            let (page, skipped) = parse_referrers(raw).map_err(|error| error.to_string())?;
            all.extend(page);
            left += skipped;
            Ok(())
        });
        match listed {
            Ok(()) => Ok(Some((all, left))),
            Err(error) if matches!(error.status(), Some(404 | 405)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads each page of a list with `take`.
    fn pages(
        self,
        mut asked: Asked<'_>,
        reading: &Reading,
        take: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), RegistryError> {
        let mut seen = BTreeSet::new();
        while seen.insert(asked.url.to_string()) {
            let mut answer = self.repository.exchange(&asked, &mut |url| Call {
                verb: Verb::Get,
                url,
                headers: reading
                    .accept
                    .iter()
                    .map(|name| ("accept", (*name).to_owned()))
                    .collect(),
                payload: Payload::Empty,
            })?;
            let raw = bounded(&asked, &mut answer, reading.most_bytes)?;
            let wrong = |reason: String| RegistryError::answer(asked.doing, &plain(&asked.url), reason);
            take(&raw).map_err(wrong)?;
            let Some(link) = answer.header("link").and_then(next_page) else {
                return Ok(());
            };
            let refused = |reason: String| {
                let problem = Problem::Redirect { reason };
                RegistryError::new(asked.doing, &plain(&asked.url), problem)
            };
            let next = asked.url.join(link).map_err(|error| refused(error.to_string()))?;
            if !is_same_server(&next, &asked.url) {
                return Err(refused(format!("the next page is said to be on {}", plain(&next))));
            }
            if seen.len() >= reading.most_pages {
                return match reading.most_pages {
                    FEW_PAGES => Ok(()),
                    most => Err(wrong(format!("it has more than {most} pages"))),
                };
            }
            asked.url = next;
        }
        let reason = "its pages go round in a circle".to_owned();
        Err(RegistryError::answer(asked.doing, &plain(&asked.url), reason))
    }

    fn asked(self, doing: &'static str, url: Url, access: Access<'static>) -> Asked<'static> {
        Asked { doing, url, access }
    }
}

/// Whether a tag is one (distribution specification: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`).
fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    let begins = bytes.next().is_some_and(is_word);
    begins && text.len() <= 128 && bytes.all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

fn no_list() -> String {
    "the list is no JSON as the specification has it".to_owned()
}

/// The address of the next page in a `Link` header (RFC 8288).
pub(super) fn next_page(link: &str) -> Option<&str> {
    let mut links = link
        .split(',')
        .filter_map(|link| link.trim().strip_prefix('<')?.split_once('>'));
    let is_next = |rest: &str| {
        let mut parameters = rest.split(';').filter_map(|parameter| parameter.trim().split_once('='));
        parameters.any(|(name, value)| name.eq_ignore_ascii_case("rel") && value.trim_matches('"') == "next")
    };
    links.find(|(_, rest)| is_next(rest)).map(|(address, _)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_the_link_that_says_so() {
        for (link, next) in [
            (
                "</v2/x/tags/list?last=b&n=2>; rel=\"next\"",
                Some("/v2/x/tags/list?last=b&n=2"),
            ),
            ("<a>; rel=prev, <b>; title=x; REL=next", Some("b")),
            ("<a>; rel=\"prev\"", None),
            ("a; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next_page(link), next, "{link}");
        }
    }

    #[test]
    fn a_tag_is_what_the_specification_says() {
        for tag in ["a", "_", "v1.0.0-beta_2", &"x".repeat(128)] {
            assert!(is_tag(tag), "{tag}");
        }
        for tag in [
            "",
            ".a",
            "-a",
            "a/b",
            "a b",
            "a:b",
            "../x",
            "a\n",
            "é",
            &"x".repeat(129),
        ] {
            assert!(!is_tag(tag), "{tag}");
        }
    }
}
