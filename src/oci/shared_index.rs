//! The index of a layout that others use too: one entry is put in, every other byte stays.
//!
//! An index may say more than gantry knows: fields of its own (`artifactType`, `subject`, `annotations`), entries with
//! `urls`, `data`, a platform's variant, or what a later specification adds. So it is not read into our types and
//! written from them: fields and entries are kept as the text they are, in the order they are.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::document::{check, parse};
use super::{media_type, to_canonical_json, Descriptor, ImageIndex, ParseImageError, REF_NAME};

const DOCUMENT: &str = "index";
const MANIFESTS: &str = "manifests";

/// Returns the index `raw`, or a new one, with `entry` at its end.
///
/// An entry of the same name is replaced. An entry without a name replaces one that says nothing but type, digest and size:
/// that is what the last copy without a name left. An artifact without a name replaces itself.
///
/// # Errors
///
/// [`ParseImageError`] when `raw` is no index. It is not checked further: entries of others may be whatever they are.
pub fn put_in_index(raw: Option<&[u8]>, entry: &Descriptor) -> Result<Vec<u8>, ParseImageError> {
    let json = |source| ParseImageError::Json {
        document: DOCUMENT,
        source,
    };
    let Some(raw) = raw else {
        return to_canonical_json(&ImageIndex {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            manifests: vec![entry.clone()],
        })
        .map_err(json);
    };
    let Fields(mut fields) = parse(DOCUMENT, raw)?;
    let version = find(&fields, "schemaVersion").unwrap_or_default().to_owned();
    check(DOCUMENT, "schemaVersion", version == "2", &version, "2")?;
    let mut manifests: Vec<Box<RawValue>> = match find(&fields, MANIFESTS) {
        Some(text) => serde_json::from_str(text).map_err(json)?,
        None => Vec::new(),
    };
    let mut kept = Vec::new();
    for other in manifests.drain(..) {
        if !is_replaced(other.get(), entry).map_err(json)? {
            kept.push(other);
        }
    }
    let entry = String::from_utf8_lossy(&to_canonical_json(entry).map_err(json)?).into_owned();
    kept.push(RawValue::from_string(entry).map_err(json)?);
    let manifests = serde_json::value::to_raw_value(&kept).map_err(json)?;
    match fields.iter_mut().find(|(key, _)| key == MANIFESTS) {
        Some((_, value)) => *value = manifests,
        None => fields.push((MANIFESTS.to_owned(), manifests)),
    }
    let mut out = Vec::new();
    for (key, value) in &fields {
        out.push(if out.is_empty() { b'{' } else { b',' });
        serde_json::to_writer(&mut out, key).map_err(json)?;
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    out.push(b'}');
    Ok(out)
}

/// Whether `entry` takes the place of the entry `text`.
fn is_replaced(text: &str, entry: &Descriptor) -> Result<bool, serde_json::Error> {
    #[derive(Deserialize)]
    struct Named {
        digest: Option<String>,
        #[serde(default)]
        annotations: BTreeMap<String, serde_json::Value>,
    }
    let Named { digest, annotations } = serde_json::from_str(text)?;
    let name = entry.annotations.get(REF_NAME).map(String::as_str);
    let other = annotations.get(REF_NAME).and_then(serde_json::Value::as_str);
    if name.is_some() {
        return Ok(other == name);
    }
    if entry.artifact_type.is_some() {
        return Ok(other.is_none() && digest.as_deref() == Some(&*entry.digest.to_string()));
    }
    let keys: BTreeMap<String, IgnoredAny> = serde_json::from_str(text)?;
    Ok(keys
        .keys()
        .all(|key| ["mediaType", "digest", "size"].contains(&key.as_str())))
}

fn find<'f>(fields: &'f [(String, Box<RawValue>)], wanted: &str) -> Option<&'f str> {
    let found = fields.iter().find(|(key, _)| key == wanted);
    found.map(|(_, value)| value.get())
}

/// The fields of an object in the order they stand there.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn entry(name: Option<&str>) -> Descriptor {
        let mut entry = Descriptor::new(media_type::MANIFEST, Digest::of(b"x"), 1);
        let name = name.map(|name| (REF_NAME.to_owned(), name.to_owned()));
        entry.annotations.extend(name);
        entry
    }

    fn put(raw: &str, name: Option<&str>) -> String {
        String::from_utf8(put_in_index(Some(raw.as_bytes()), &entry(name)).unwrap()).unwrap()
    }

    fn ours(name: Option<&str>) -> String {
        String::from_utf8(to_canonical_json(&entry(name)).unwrap()).unwrap()
    }

    /// What others wrote: fields we do not know, numbers we would print otherwise, spaces, an order of their own.
    const THEIRS: &str = r#"{ "schemaVersion":2, "x-later": {"b":1.0,"a":[1e3]}, "manifests":[
 {"size":3,"digest":"sha512:00", "mediaType":"a/b","artifactType":"c/d","urls":["https://a"],"data":"eA==",
  "platform":{"os":"linux","architecture":"arm64","variant":"v8","os.version":"6","os.features":["x"]}},
 {"mediaType":"a/b","digest":"d","size":1,"annotations":{"org.opencontainers.image.ref.name":"theirs","k":"v"}}
], "annotations":{"z":"1","a":"2"}, "subject":{"digest":"e"}, "artifactType":"f/g" }"#;

    #[test]
    fn everything_of_others_stays_as_it_is() {
        for name in [Some("a"), None] {
            let after = put(THEIRS, name);
            let before: serde_json::Value = serde_json::from_str(THEIRS).unwrap();
            let mut expected = before.clone();
            let ours = serde_json::from_str(&ours(name)).unwrap();
            expected["manifests"].as_array_mut().unwrap().push(ours);
            assert_eq!(serde_json::from_str::<serde_json::Value>(&after).unwrap(), expected);
            for kept in [
                r#"{"b":1.0,"a":[1e3]}"#,
                r#""variant":"v8","os.version":"6","#,
                r#"{"z":"1","a":"2"}"#,
            ] {
                assert!(after.contains(kept), "{kept} in {after}");
            }
            assert!(after.find("x-later") < after.find("subject"), "{after}");
            // Once more: nothing comes twice.
            assert_eq!(put(&after, name), after);
        }
    }

    #[test]
    fn a_name_moves_and_a_bare_entry_gives_way_to_a_bare_entry() {
        let moved: serde_json::Value = serde_json::from_str(&put(THEIRS, Some("theirs"))).unwrap();
        assert_eq!(moved["manifests"].as_array().unwrap().len(), 2);
        assert_eq!(
            moved["manifests"][1],
            serde_json::from_str::<serde_json::Value>(&ours(Some("theirs"))).unwrap()
        );
        let bare = r#"{"manifests":[{"mediaType":"a","digest":"b","size":1}],"schemaVersion":2}"#;
        assert_eq!(
            put(bare, None),
            format!(r#"{{"manifests":[{}],"schemaVersion":2}}"#, ours(None))
        );
    }

    #[test]
    fn an_index_of_ours_keeps_its_form() {
        let new = put_in_index(None, &entry(Some("a"))).unwrap();
        let both = put_in_index(Some(&new), &entry(Some("b"))).unwrap();
        let canonical = to_canonical_json(&serde_json::from_slice::<serde_json::Value>(&both).unwrap()).unwrap();
        assert_eq!(String::from_utf8(both), String::from_utf8(canonical));
    }

    #[test]
    fn what_is_no_index_is_refused() {
        for raw in [
            "",
            "[]",
            "{",
            r#"{"schemaVersion":1}"#,
            "{}",
            r#"{"schemaVersion":2,"manifests":{}}"#,
            r#"{"schemaVersion":2,"manifests":[1]}"#,
        ] {
            assert!(put_in_index(Some(raw.as_bytes()), &entry(None)).is_err(), "{raw}");
        }
    }
}
