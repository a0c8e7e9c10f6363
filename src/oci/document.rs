//! Documents of images as JSON: parsed with bounds and without ambiguity, written canonically (keys in order, no spaces).
//!
//! A key that stands twice in one object means one thing to us and another to the next tool, so it is refused at every
//! depth. Go's decoder also takes `Layers` for `layers`: two keys that differ in case alone are refused too, except where
//! keys are free text (annotations, labels and the like).

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::Digest;

/// Largest manifest, config or index that is read: registries must accept 4 MiB manifests (distribution
/// specification), so a smaller bound would refuse legal images and a larger one only helps an attacker.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Most of a stranger's value that an error repeats.
const SHOWN: usize = 100;
/// Objects whose keys are free text: names of labels, ports, volumes.
const FREE_KEYS: [&str; 4] = ["annotations", "labels", "exposedports", "volumes"];

/// Why an image document was refused.
#[derive(Debug, thiserror::Error)]
pub enum ParseImageError {
    /// Larger than [`MAX_DOCUMENT_BYTES`].
    #[error("parse {document}: size is {size}, at most {MAX_DOCUMENT_BYTES} is read")]
    TooLarge {
        /// Which document.
        document: &'static str,
        /// Its size in bytes.
        size: u64,
    },
    /// Not JSON, a key is there twice, or a field is missing or of the wrong type.
    #[error("parse {document}")]
    Json {
        /// Which document.
        document: &'static str,
        /// What serde says.
        source: serde_json::Error,
    },
    /// A field has a value gantry cannot use.
    #[error("parse {document}: {field} is {got}, expected {expected}")]
    Field {
        /// Which document.
        document: &'static str,
        /// The field's path.
        field: &'static str,
        /// Its value, cut to 100 characters.
        got: String,
        /// What would do.
        expected: &'static str,
    },
    /// A layer of a kind that cannot be unpacked.
    #[error("parse manifest: layer {digest} has the media type {media_type:?}: {reason}")]
    Layer {
        /// The layer's blob.
        digest: Digest,
        /// Its media type, cut to 100 characters.
        media_type: String,
        /// Why that is no layer for us.
        reason: &'static str,
    },
    /// A descriptor that carries other bytes than it describes.
    #[error("parse {document}: the data embedded in the descriptor of {digest} is not what its digest and size say")]
    Data {
        /// Which document.
        document: &'static str,
        /// The descriptor's digest.
        digest: Digest,
    },
}

/// Parses a document that is at most [`MAX_DOCUMENT_BYTES`] long.
pub(super) fn parse<'a, T: Deserialize<'a>>(document: &'static str, raw: &'a [u8]) -> Result<T, ParseImageError> {
    let size = raw.len() as u64;
    if size > MAX_DOCUMENT_BYTES {
        return Err(ParseImageError::TooLarge { document, size });
    }
    let refused = |source| ParseImageError::Json { document, source };
    check_keys(raw).map_err(refused)?;
    serde_json::from_slice(raw).map_err(refused)
}

/// Refuses a field unless what is asked of it holds.
pub(super) fn check(
    document: &'static str,
    field: &'static str,
    holds: bool,
    got: &str,
    expected: &'static str,
) -> Result<(), ParseImageError> {
    if holds {
        return Ok(());
    }
    Err(ParseImageError::Field {
        document,
        field,
        got: shown(got),
        expected,
    })
}

/// The beginning of a stranger's text.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Compact JSON with the keys of every object in byte order, so that equal values give equal bytes.
pub fn to_canonical_json<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    // serde_json's Map is a BTreeMap unless some crate turns on `preserve_order`; the test below would notice.
    serde_json::to_vec(&serde_json::to_value(value)?)
}

fn check_keys(raw: &[u8]) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(raw);
    Unambiguous { keys: Keys::Fields }.deserialize(&mut deserializer)?;
    deserializer.end()
}

#[derive(Clone, Copy, PartialEq)]
enum Keys {
    /// Names of fields: two that differ in case alone are one to some readers.
    Fields,
    /// Free text.
    Free,
}

/// Reads any JSON and keeps nothing; an object with a key twice is an error.
struct Unambiguous {
    keys: Keys,
}

impl<'de> DeserializeSeed<'de> for Unambiguous {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unambiguous {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Unambiguous { keys: Keys::Fields })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let folded = key.to_lowercase();
            let keys = match FREE_KEYS.contains(&folded.as_str()) {
                true => Keys::Free,
                false => Keys::Fields,
            };
            let compared = if self.keys == Keys::Free { key.clone() } else { folded };
            if !seen.insert(compared) {
                return Err(A::Error::custom(format!("the key {:?} is there twice", shown(&key))));
            }
            map.next_value_seed(Unambiguous { keys })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_json_sorts_keys() {
        let value: serde_json::Value = serde_json::from_str(r#"{"b":1,"a":{"d":1,"c":2}}"#).unwrap();
        assert_eq!(to_canonical_json(&value).unwrap(), br#"{"a":{"c":2,"d":1},"b":1}"#);
    }

    #[test]
    fn refuses_a_key_that_is_there_twice_at_any_depth() {
        for (raw, is_refused) in [
            (r#"{"a":1,"a":1}"#, true),
            (r#"{"a":[{"b":{"c":1,"c":2}}]}"#, true),
            (r#"{"layers":[],"Layers":[]}"#, true),
            (r#"{"annotations":{"a":"1","a":"2"}}"#, true),
            (
                r#"{"annotations":{"a":"1","A":"2"},"config":{"Labels":{"x":"","X":""}}}"#,
                false,
            ),
            (r#"{"a":{"x":1},"b":{"x":1},"c":[1.5,-1,null,true,"a","a"]}"#, false),
        ] {
            let parsed = parse::<serde_json::Value>("document", raw.as_bytes());
            assert_eq!(
                matches!(parsed, Err(ParseImageError::Json { .. })),
                is_refused,
                "{raw}: {parsed:?}"
            );
        }
    }

    #[test]
    fn refuses_json_that_is_nested_too_deep() {
        let raw = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let parsed = parse::<serde_json::Value>("document", raw.as_bytes());
        assert!(matches!(parsed, Err(ParseImageError::Json { .. })), "{parsed:?}");
    }
}
