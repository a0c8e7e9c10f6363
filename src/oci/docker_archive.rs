//! `manifest.json`, by which an archive of `docker save` and `podman save` says which images it has.

use serde::Deserialize;

use super::document::{check, parse};
use super::{ParseImageError, MAX_LAYERS};

/// Images of one archive, and names of one image: as many as an index may have.
const MOST: usize = 1000;

/// An image of such an archive. Paths are entries of the archive; layers are base first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DockerImage {
    /// The configuration.
    #[serde(rename = "Config")]
    pub config: String,
    /// Its names.
    #[serde(rename = "RepoTags", default)]
    names: Option<Vec<String>>,
    /// Its layers.
    #[serde(rename = "Layers", default)]
    layers: Option<Vec<String>>,
}

impl DockerImage {
    /// What it is called; may be nothing.
    pub fn names(&self) -> &[String] {
        self.names.as_deref().unwrap_or_default()
    }

    /// The entries that are its layers.
    pub fn layers(&self) -> &[String] {
        self.layers.as_deref().unwrap_or_default()
    }
}

/// Reads `manifest.json` of an archive.
///
/// # Errors
///
/// [`ParseImageError`]; also when there is no image, or too much of anything.
pub fn parse_docker_archive(raw: &[u8]) -> Result<Vec<DockerImage>, ParseImageError> {
    const DOCUMENT: &str = "manifest.json";
    let images: Vec<DockerImage> = parse(DOCUMENT, raw)?;
    let count =
        |field, count: usize, most, expected| check(DOCUMENT, field, count <= most, &count.to_string(), expected);
    check(DOCUMENT, "images", !images.is_empty(), "none", "at least one image")?;
    count("images", images.len(), MOST, "1000 images at most")?;
    let names = images.iter().map(|image| image.names().len()).sum();
    count("RepoTags", names, MOST, "1000 names at most")?;
    for image in &images {
        count("Layers", image.layers().len(), MAX_LAYERS, "127 layers at most")?;
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_configuration_with_names_and_layers() {
        let raw = br#"[{"Config":"c.json","RepoTags":["a:1","b:2"],"Layers":["x/layer.tar"]},{"Config":"d.json","RepoTags":null,"Layers":null,"Parent":"y"}]"#;
        let images = parse_docker_archive(raw).unwrap();
        assert_eq!(images[0].names(), ["a:1", "b:2"]);
        assert_eq!(images[0].layers(), ["x/layer.tar"]);
        assert!(images[1].names().is_empty() && images[1].layers().is_empty());
    }

    #[test]
    fn refuses_what_no_archive_says() {
        let many = format!("[{}]", vec![r#"{"Config":"c"}"#; MOST + 1].join(","));
        let deep = format!(
            r#"[{{"Config":"c","Layers":[{}]}}]"#,
            vec![r#""x""#; MAX_LAYERS + 1].join(",")
        );
        for (raw, field) in [("[]", "images"), (&*many, "images"), (&*deep, "Layers")] {
            let refused = parse_docker_archive(raw.as_bytes());
            assert!(
                matches!(refused, Err(ParseImageError::Field { field: got, .. }) if got == field),
                "{refused:?}"
            );
        }
        for raw in [
            "{}",
            "[{}]",
            r#"[{"Config":"a","Config":"b"}]"#,
            r#"[{"Config":"a","config":"b"}]"#,
        ] {
            assert!(
                matches!(parse_docker_archive(raw.as_bytes()), Err(ParseImageError::Json { .. })),
                "{raw}"
            );
        }
    }
}
