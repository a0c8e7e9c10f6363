//! Lists that come in pages: tags, referrers, repositories (distribution specification, "Content Discovery").
//!
//! How many pages there are, and where the next one is, is for the registry to say. A next page on another server is refused:
//! credentials would go along. One that was there already, and more pages than a list may have, end the list with an error.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use serde::Deserialize;

use super::client::{Access, Asked, Registry, Repository};
use super::error::{Problem, READ_CATALOGUE};
use super::fetching::bounded;
use super::said::{plain, shown};
use super::RegistryError;
use crate::net::{is_same_server, Call, Payload, Url, Verb};
use crate::oci::{media_type, parse_referrers, Descriptor, Digest, Reference, MAX_DOCUMENT_BYTES, MAX_REFERRERS};

/// A page of names: 128 characters each, a thousand and more of them.
const MAX_PAGE: u64 = 1 << 20;
/// Entries of one page. Some registries refuse more.
const PAGE: usize = 1000;
/// Pages of a list.
const MAX_PAGES: usize = 100;
/// All pages of what refers to one image: eight kilobytes an entry.
const MAX_REFERRERS_BYTES: usize = 8 << 20;
/// Pages that are read for an error message.
const FEW_PAGES: usize = 5;

/// What a repository lists.
#[derive(Clone, Copy)]
pub(crate) struct Listing<'a> {
    repository: &'a Repository,
}

/// What becomes of pages that are more than are read.
#[derive(Clone, Copy)]
enum Beyond {
    /// They are an error: all of the list is wanted.
    Refused,
    /// They are left: some of it is enough.
    Left,
}

/// How a list is read.
struct Reading {
    most_pages: usize,
    /// What becomes of the pages that are more.
    beyond: Beyond,
    most_bytes: u64,
    accept: Option<&'static str>,
}

/// Takes a page, and says whether it goes on, or what is wrong.
type Take<'a> = dyn FnMut(&[u8]) -> Result<ControlFlow<()>, String> + 'a;

impl<'a> Listing<'a> {
    /// That of `repository`.
    pub(crate) fn of(repository: &'a Repository) -> Self {
        Self { repository }
    }

    /// Some tags, for people.
    pub(crate) fn some_tags(self) -> Result<Vec<String>, RegistryError> {
        let tags = self.tags(FEW_PAGES, Beyond::Left)?;
        Ok(tags.iter().map(|tag| self.repository.redact(tag)).collect())
    }

    /// All tags, sorted, as they are.
    ///
    /// # Errors
    ///
    /// Also for a list without end.
    pub(crate) fn all_tags(self) -> Result<Vec<String>, RegistryError> {
        self.tags(MAX_PAGES, Beyond::Refused)
    }

    fn tags(self, most_pages: usize, beyond: Beyond) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut asked = self.asked("list tags of", self.repository.url("tags/list"), Access::Pull);
        asked.url.set_query(Some(&format!("n={PAGE}")));
        let mut tags = BTreeSet::new();
        let reading = Reading {
            most_pages,
            beyond,
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
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(tags.into_iter().collect())
    }

    /// What refers to a manifest, and how many entries are of a kind that cannot be read; none when the registry has no such
    /// list, whatever it says instead. The list is not read on when it has more than [`MAX_REFERRERS`].
    pub(crate) fn referrers(self, digest: &Digest) -> Result<Option<(Vec<Descriptor>, usize)>, RegistryError> {
        let url = self.repository.url(&format!("referrers/{digest}"));
        let asked = self.asked("list referrers in", url, Access::Pull);
        let (mut all, mut left, mut bytes) = (Vec::new(), 0, 0);
        let (mut is_list, mut is_none) = (false, false);
        let reading = Reading {
            most_pages: MAX_PAGES,
            beyond: Beyond::Refused,
            most_bytes: MAX_DOCUMENT_BYTES,
            accept: Some(media_type::INDEX),
        };
        let listed = self.pages(asked, &reading, &mut |raw| {
            let (page, skipped) = parse_referrers(raw).map_err(|error| {
                is_none = !is_list;
                error.to_string()
            })?;
            is_list = true;
            all.extend(page);
            left += skipped;
            bytes += raw.len();
            if bytes > MAX_REFERRERS_BYTES {
                return Err("its pages are over 8 MiB together".to_owned());
            }
            Ok(match all.len() + left > MAX_REFERRERS {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
        });
        match listed {
            Ok(()) => Ok(Some((all, left))),
            // A page for people, as what stands before some registries answers; or what they say to an address they do not know.
            Err(_) if is_none => Ok(None),
            Err(error) if !is_list && matches!(error.status(), Some(400 | 404 | 405 | 406 | 501)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads each page of a list with `take`, as far as it wants.
    fn pages(self, mut asked: Asked<'_>, reading: &Reading, take: &mut Take<'_>) -> Result<(), RegistryError> {
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
            if take(&raw).map_err(wrong)?.is_break() {
                return Ok(());
            }
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
                return match reading.beyond {
                    Beyond::Left => Ok(()),
                    Beyond::Refused => Err(wrong(format!("it has more than {} pages", reading.most_pages))),
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

/// The repositories of a registry, as far as it lists them: the list is no part of the specification, and few have one.
pub(crate) fn catalogue(registry: &Registry) -> Result<Vec<String>, RegistryError> {
    #[derive(Deserialize)]
    struct Page {
        repositories: Option<Vec<String>>,
    }
    let repository = registry.repository("");
    let listing = Listing::of(&repository);
    let mut url = registry.url("v2/_catalog");
    url.set_query(Some(&format!("n={PAGE}")));
    let asked = listing.asked(READ_CATALOGUE, url, Access::Catalogue);
    let mut all = BTreeSet::new();
    let reading = Reading {
        most_pages: MAX_PAGES,
        beyond: Beyond::Refused,
        most_bytes: MAX_PAGE,
        accept: None,
    };
    listing.pages(asked, &reading, &mut |raw| {
        let page: Page = serde_json::from_slice(raw).map_err(|_| no_list())?;
        let found = page.repositories.unwrap_or_default();
        let host = repository.host();
        let is_strange = |name: &&String| {
            let parsed = format!("{host}/{name}").parse();
            !matches!(parsed, Ok(Reference::Registry { repository, tag: None, digest: None, .. }) if repository == **name)
        };
        if let Some(strange) = found.iter().find(is_strange) {
            return Err(format!("it lists the repository {:?}, which none can be", shown(strange)));
        }
        all.extend(found);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(all.into_iter().collect())
}

/// Whether a tag is one (distribution specification: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`).
pub(super) fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    let begins = bytes.next().is_some_and(is_word);
    begins && text.len() <= 128 && bytes.all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

fn no_list() -> String {
    "the list is no JSON as the specification has it".to_owned()
}

/// The address of the next page in a `Link` header (RFC 8288). An address may have commas, which also stand between links.
pub(super) fn next_page(link: &str) -> Option<&str> {
    let mut rest = link;
    loop {
        let (address, after) = rest.split_once('<')?.1.split_once('>')?;
        let (parameters, more) = after.split_at(after.find('<').unwrap_or(after.len()));
        let mut parameters = parameters
            .split([';', ','])
            .filter_map(|one| one.trim().split_once('='));
        let is_next =
            |(name, value): (&str, &str)| name.eq_ignore_ascii_case("rel") && value.trim_matches('"') == "next";
        if parameters.any(is_next) {
            return Some(address);
        }
        rest = more;
    }
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
            ("</v2/x?last=a,b>; rel=next", Some("/v2/x?last=a,b")),
            ("<a,b>; rel=prev,<c,d>; rel=next", Some("c,d")),
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
