//! What a registry answers where a manifest was asked for, and how to tell that it is none: a portal, a proxy or a disk that is
//! ill answers with a page or with half of it, and with a status that says that all is well.

use serde::Deserialize;

use super::said::shown;
use crate::net::Answer;
use crate::oci::{media_type, Digest};

/// Bytes of a stranger's answer that an error repeats: enough for the title of a page.
const SHOWN: usize = 60;

/// The body of an answer, and what its headers say of it.
pub(super) struct Document {
    pub raw: Vec<u8>,
    /// As it is said, to be shown.
    content_type: Option<String>,
    /// The media type, if it is one of manifests.
    media_type: Option<String>,
    /// The digest that it is said to have.
    digest: Option<Digest>,
}

impl Document {
    pub(super) fn of(answer: &Answer, raw: Vec<u8>) -> Self {
        let digest = answer.header("docker-content-digest");
        Self {
            raw,
            content_type: answer.header("content-type").map(shown),
            media_type: content_type(answer).filter(|name| is_document(name)),
            digest: digest.and_then(|text| text.parse().ok()),
        }
    }

    /// What the registry says that it is, else what it looks like.
    pub(super) fn media_type(&self) -> String {
        self.media_type.clone().unwrap_or_else(|| document_type(&self.raw))
    }

    /// What came, in words, where that is no manifest.
    pub(super) fn stranger(&self) -> Option<String> {
        (!self.is_document()).then(|| self.shown())
    }

    /// As [`stranger`](Self::stranger), and where it is another manifest than the answer says itself.
    pub(super) fn stranger_to_itself(&self) -> Option<String> {
        let (said, got) = (self.digest?, Digest::of(&self.raw));
        let differs = || format!("{} and have the digest {got}, not {said} as it says", self.shown());
        (said != got).then(differs)
    }

    fn shown(&self) -> String {
        found(self.content_type.as_deref(), self.raw.len() as u64, &self.raw)
    }

    /// Whether it may be a manifest or an index: JSON to its end, and where the registry does not say that it is one, with what
    /// both of them have.
    fn is_document(&self) -> bool {
        #[derive(Deserialize)]
        struct Shape {
            #[serde(rename = "schemaVersion")]
            version: Option<serde::de::IgnoredAny>,
            #[serde(rename = "mediaType")]
            media_type: Option<serde::de::IgnoredAny>,
        }
        match &self.media_type {
            Some(_) => serde_json::from_slice::<serde::de::IgnoredAny>(&self.raw).is_ok(),
            None => serde_json::from_slice::<Shape>(&self.raw)
                .is_ok_and(|shape| shape.version.is_some() || shape.media_type.is_some()),
        }
    }
}

/// What came, in words: its media type, its size, and how it begins.
fn found(content_type: Option<&str>, size: u64, raw: &[u8]) -> String {
    let begin = String::from_utf8_lossy(raw.get(..SHOWN).unwrap_or(raw));
    let begin: String = begin.chars().flat_map(char::escape_debug).collect();
    let kind = content_type.unwrap_or("no media type");
    format!("{kind}, {size} bytes that begin \"{begin}\"")
}

/// The page that came, in words, where something of `size` bytes was asked for that is none.
pub(super) fn page(answer: &mut Answer, size: u64) -> Option<String> {
    let said = answer.size().filter(|said| *said != size)?;
    content_type(answer).filter(|name| name == "text/html")?;
    let kind = answer.header("content-type").map(shown);
    let begin = answer.bytes(SHOWN as u64).unwrap_or_default();
    Some(found(kind.as_deref(), said, &begin))
}

pub(super) fn content_type(answer: &Answer) -> Option<String> {
    let name = answer.header("content-type")?.split(';').next()?;
    Some(name.trim().to_ascii_lowercase())
}

pub(super) fn is_document(name: &str) -> bool {
    media_type::is_manifest(name) || media_type::is_index(name)
}

/// The media type of a document whose registry says none: what it says itself, else what its fields look like.
pub(crate) fn document_type(raw: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Shape {
        #[serde(rename = "mediaType")]
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    match serde_json::from_slice(raw) {
        Ok(Shape {
            media_type: Some(name), ..
        }) => name.chars().take(100).collect(),
        Ok(Shape { manifests: Some(_), .. }) => media_type::INDEX.to_owned(),
        _ => media_type::MANIFEST.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(content_type: Option<&str>, raw: &[u8]) -> Document {
        Document {
            raw: raw.to_vec(),
            content_type: content_type.map(str::to_owned),
            media_type: content_type.filter(|name| is_document(name)).map(str::to_owned),
            digest: None,
        }
    }

    #[test]
    fn a_document_without_a_type_is_what_it_says_or_looks_like() {
        assert_eq!(document_type(br#"{"mediaType":"x","manifests":[]}"#), "x");
        assert_eq!(document_type(br#"{"manifests":[]}"#), media_type::INDEX);
        assert_eq!(document_type(br#"{"layers":[]}"#), media_type::MANIFEST);
        assert_eq!(document_type(b"<html>"), media_type::MANIFEST);
    }

    #[test]
    fn a_page_and_half_a_manifest_are_told_from_manifests() {
        let manifest = br#"{"schemaVersion":2,"layers":[]}"#;
        for kind in [
            None,
            Some("application/json"),
            Some("text/plain"),
            Some(media_type::MANIFEST),
        ] {
            assert_eq!(document(kind, manifest).stranger(), None, "{kind:?}");
            assert!(document(kind, &manifest[..20]).stranger().is_some(), "{kind:?}");
            assert!(document(kind, b"").stranger().is_some(), "{kind:?}");
        }
        let words = br#"{"message":"no healthy upstream"}"#;
        assert!(document(Some("application/json"), words).stranger().is_some());
        // What it says to be a manifest is read as one.
        assert_eq!(document(Some(media_type::MANIFEST), words).stranger(), None);
    }

    #[test]
    fn what_came_is_shown_bounded_and_without_what_a_terminal_obeys() {
        let page = format!("<html>\u{1b}[31m\n\u{202e}{}", "x".repeat(5000));
        let found = document(Some("text/html"), page.as_bytes()).stranger().unwrap();
        assert!(
            found.starts_with("text/html, 5015 bytes that begin \"<html>\\u{1b}[31m\\n\\u{202e}xxx"),
            "{found}"
        );
        assert!(found.len() < 200, "{found}");
        let nothing = document(None, b"").stranger().unwrap();
        assert_eq!(nothing, "no media type, 0 bytes that begin \"\"");
        let other = Digest::of(b"other");
        let named = Document {
            digest: Some(other),
            ..document(Some(media_type::MANIFEST), b"{}")
        };
        assert_eq!(named.stranger(), None);
        let ends = format!(
            "bytes that begin \"{{}}\" and have the digest {}, not {other} as it says",
            Digest::of(b"{}")
        );
        assert!(named.stranger_to_itself().unwrap().ends_with(&ends));
    }
}
