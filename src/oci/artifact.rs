//! What refers to an image: manifests with a `subject`, such as signatures and lists of packages (OCI image specification 1.1,
//! "Guidelines for Artifact Usage"), and the index in which a registry that does not list them has them listed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{json, Map, Value};

use super::document::{check, parse};
use super::{media_type, to_canonical_json, Descriptor, Digest, ParseImageError};

/// What cosign puts behind the tag of an image's digest: signatures, statements, lists of packages.
const COMPANIONS: [&str; 3] = ["sig", "att", "sbom"];
/// Blobs of one artifact.
const MAX_PARTS: usize = 1000;
/// What may refer to one image, with what refers to that: a statement a day is that many in almost three years.
pub const MAX_REFERRERS: usize = 1000;

/// A manifest or an index that is copied as it is: what it needs, and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its media type, when it says one.
    pub media_type: Option<String>,
    /// The blobs of a manifest, its configuration first.
    pub blobs: Vec<Descriptor>,
    /// The manifests of an index.
    pub manifests: Vec<Descriptor>,
    /// What it refers to.
    pub subject: Option<Digest>,
    /// What sort of thing it is, as registries list it.
    pub artifact_type: Option<String>,
    /// Its notes.
    pub annotations: BTreeMap<String, String>,
}

/// Reads a manifest or an index of whatever artifact.
///
/// # Errors
///
/// [`ParseImageError`]; what its blobs are is not looked at.
pub fn parse_artifact(raw: &[u8]) -> Result<Artifact, ParseImageError> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "schemaVersion")]
        version: u32,
        #[serde(rename = "mediaType")]
        media_type: Option<String>,
        config: Option<Descriptor>,
        #[serde(default)]
        layers: Vec<Descriptor>,
        #[serde(default)]
        manifests: Vec<Descriptor>,
        subject: Option<Descriptor>,
        #[serde(rename = "artifactType")]
        artifact_type: Option<String>,
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    const DOCUMENT: &str = "artifact manifest";
    let document: Document = parse(DOCUMENT, raw)?;
    let version = document.version.to_string();
    check(DOCUMENT, "schemaVersion", version == "2", &version, "2")?;
    let parts = document.layers.len() + document.manifests.len();
    let expected = "1000 layers and manifests at most";
    check(DOCUMENT, "layers", parts <= MAX_PARTS, &parts.to_string(), expected)?;
    let is_one = document.manifests.is_empty() || (document.layers.is_empty() && document.config.is_none());
    let expected = "nothing: that is a field of an index";
    check(DOCUMENT, "manifests", is_one, "there", expected)?;
    let of_config = document.config.as_ref().map(|config| config.media_type.clone());
    Ok(Artifact {
        media_type: document.media_type.filter(|name| !name.is_empty()),
        artifact_type: document.artifact_type.filter(|name| !name.is_empty()).or(of_config),
        blobs: document.config.into_iter().chain(document.layers).collect(),
        manifests: document.manifests,
        subject: document.subject.map(|subject| subject.digest),
        annotations: document.annotations,
    })
}

/// The tag under which a registry without a list of referrers has those of an image (distribution specification,
/// "Referrers Tag Schema").
pub fn fallback_tag(image: &Digest) -> String {
    format!("sha256-{}", image.hex())
}

/// The tags under which cosign puts what belongs to an image.
pub fn companion_tags(image: &Digest) -> [String; 3] {
    COMPANIONS.map(|kind| format!("{}.{kind}", fallback_tag(image)))
}

/// Whether a tag or a name belongs to another image and names none itself.
pub fn is_companion_tag(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("sha256-") else {
        return false;
    };
    let (hex, kind) = rest.split_once('.').unwrap_or((rest, ""));
    format!("sha256:{hex}").parse::<Digest>().is_ok() && (kind.is_empty() || COMPANIONS.contains(&kind))
}

/// The entries of a list of referrers that can be copied, and how many cannot: what has another digest than SHA-256.
///
/// # Errors
///
/// [`ParseImageError`] when it is no index.
pub fn parse_referrers(raw: &[u8]) -> Result<(Vec<Descriptor>, usize), ParseImageError> {
    let manifests = List::parse(raw)?.manifests.unwrap_or_default();
    let count = manifests.len();
    let read = manifests
        .into_iter()
        .filter_map(|entry| serde_json::from_value(entry).ok());
    let read: Vec<Descriptor> = read.collect();
    let left = count - read.len();
    Ok((read, left))
}

const LIST: &str = "list of referrers";

/// An index, with what it says beside its entries.
#[derive(Default, Deserialize)]
struct List {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    /// Some registries write an empty list as none.
    manifests: Option<Vec<Value>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl List {
    /// Whatever else has that tag is somebody's: a manifest is no list without entries.
    fn parse(raw: &[u8]) -> Result<Self, ParseImageError> {
        let list: Self = parse(LIST, raw)?;
        let version = list.rest.get("schemaVersion").map(Value::to_string).unwrap_or_default();
        check(LIST, "schemaVersion", version == "2", &version, "2")?;
        let kind = list.media_type.as_deref().unwrap_or_default();
        let is_index = match kind {
            "" => list.manifests.is_some(),
            kind => media_type::is_index(kind),
        };
        check(LIST, "mediaType", is_index, kind, media_type::INDEX)?;
        Ok(list)
    }
}

/// How a list of referrers names the artifact `descriptor`.
pub fn listed(descriptor: &Descriptor, artifact: &Artifact) -> Value {
    let mut entry = json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    });
    if let Some(name) = &artifact.artifact_type {
        entry["artifactType"] = json!(name);
    }
    if !artifact.annotations.is_empty() {
        entry["annotations"] = json!(artifact.annotations);
    }
    entry
}

/// The list of referrers `raw`, or a new one, with all entries of `known`; none when it has them all. What it has itself is
/// added to `known`: of two that write it at once, neither loses what the other one wrote. Its other fields stay.
///
/// # Errors
///
/// [`ParseImageError`] when `raw` is no index.
pub fn with_referrers(raw: Option<&[u8]>, known: &mut Vec<Value>) -> Result<Option<Vec<u8>>, ParseImageError> {
    let there = match raw {
        Some(raw) => List::parse(raw)?,
        None => List::default(),
    };
    let listed = there.manifests.unwrap_or_default();
    let digest = |entry: &Value| {
        entry
            .get("digest")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let has: BTreeSet<String> = listed.iter().map(digest).collect();
    let missing: Vec<Value> = known
        .iter()
        .filter(|entry| !has.contains(&digest(entry)))
        .cloned()
        .collect();
    let (is_complete, mut all) = (missing.is_empty(), listed);
    all.extend(missing);
    known.clone_from(&all);
    if is_complete {
        return Ok(None);
    }
    let mut index = there.rest;
    index.insert("schemaVersion".to_owned(), json!(2));
    let kind = there.media_type.unwrap_or_else(|| media_type::INDEX.to_owned());
    index.insert("mediaType".to_owned(), json!(kind));
    index.insert("manifests".to_owned(), json!(all));
    let json = |source| ParseImageError::Json { document: LIST, source };
    to_canonical_json(&index).map(Some).map_err(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(kind: &str) -> String {
        format!(r#"{{"mediaType":"{kind}","digest":"{DIGEST}","size":0}}"#)
    }

    #[test]
    fn an_artifact_is_of_the_type_that_it_or_its_configuration_says() {
        let config = descriptor("application/vnd.x.config");
        for (more, expected) in [
            ("", Some("application/vnd.x.config")),
            (r#","artifactType":"application/vnd.x""#, Some("application/vnd.x")),
            (r#","artifactType":"""#, Some("application/vnd.x.config")),
        ] {
            let raw =
                format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{config}],"subject":{config}{more}}}"#);
            let artifact = parse_artifact(raw.as_bytes()).unwrap();
            assert_eq!(artifact.artifact_type.as_deref(), expected);
            assert_eq!((artifact.blobs.len(), artifact.subject), (2, DIGEST.parse().ok()));
        }
        for raw in [
            r#"{"schemaVersion":1}"#.to_owned(),
            format!(r#"{{"schemaVersion":2,"config":{config},"manifests":[{config}]}}"#),
            format!(
                r#"{{"schemaVersion":2,"layers":[{}]}}"#,
                vec![config; MAX_PARTS + 1].join(",")
            ),
        ] {
            assert!(
                matches!(parse_artifact(raw.as_bytes()), Err(ParseImageError::Field { .. })),
                "{raw:.80}"
            );
        }
    }

    #[test]
    fn what_belongs_to_an_image_is_known_by_its_tag() {
        let digest: Digest = DIGEST.parse().unwrap();
        for tag in companion_tags(&digest).iter().chain([&fallback_tag(&digest)]) {
            assert!(is_companion_tag(tag), "{tag}");
        }
        for tag in [
            "latest",
            "sha256-",
            "sha256-abc",
            &format!("sha256-{}.exe", digest.hex()),
        ] {
            assert!(!is_companion_tag(tag), "{tag}");
        }
    }

    #[test]
    fn nobody_loses_an_entry_when_two_write_the_list_at_once() {
        let entry = |name: &str| json!({"digest": name, "mediaType": "x", "size": 1, "new": {"field": 1}});
        let mut ours = vec![entry("sha256:a")];
        let written = with_referrers(None, &mut ours).unwrap().unwrap();
        assert!(with_referrers(Some(&written), &mut ours).unwrap().is_none());
        // Another one adds its own; a third one, who had not seen ours, writes over both.
        let mut theirs = vec![entry("sha256:b")];
        let both = with_referrers(Some(&written), &mut theirs).unwrap().unwrap();
        assert!(with_referrers(Some(&both), &mut ours).unwrap().is_none());
        let lost = with_referrers(None, &mut vec![entry("sha256:c")]).unwrap().unwrap();
        let mended = with_referrers(Some(&lost), &mut ours).unwrap().unwrap();
        let List { manifests, .. } = serde_json::from_slice(&mended).unwrap();
        assert_eq!(manifests.unwrap(), ["sha256:c", "sha256:a", "sha256:b"].map(entry));
    }

    #[test]
    fn a_list_keeps_what_else_it_says_and_what_is_none_is_refused() {
        let mut ours = vec![json!({"digest": "sha256:a"})];
        let there = r#"{"schemaVersion":2,"manifests":[],"annotations":{"a":"b"},"artifactType":"x","x-new":[1,null]}"#;
        let next = with_referrers(Some(there.as_bytes()), &mut ours).unwrap().unwrap();
        let next: Value = serde_json::from_slice(&next).unwrap();
        let expected = json!({
            "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [{"digest": "sha256:a"}],
            "annotations": {"a": "b"}, "artifactType": "x", "x-new": [1, null],
        });
        assert_eq!(next, expected);
        for raw in [
            "[]",
            "<html>",
            "{}",
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":1,"manifests":[]}"#,
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}"#,
        ] {
            assert!(parse_referrers(raw.as_bytes()).is_err(), "{raw}");
            assert!(with_referrers(Some(raw.as_bytes()), &mut ours).is_err(), "{raw}");
        }
        // As some registries write it.
        let empty = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":null}}"#,
            media_type::INDEX
        );
        assert_eq!(parse_referrers(empty.as_bytes()).unwrap(), (Vec::new(), 0));
    }

    #[test]
    fn what_has_another_digest_is_counted_and_left() {
        let raw = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{{"mediaType":"x","digest":"sha512:00","size":1}}]}}"#,
            descriptor("x")
        );
        let (read, left) = parse_referrers(raw.as_bytes()).unwrap();
        assert_eq!((read.len(), left), (1, 1));
    }
}
