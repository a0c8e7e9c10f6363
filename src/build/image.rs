//! The last step of a build: layers -> configuration and manifest, as bytes that depend on nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::BuildError;
use crate::oci::{media_type, Descriptor, Digest, ImageConfig, ImageConfigBody, Manifest, Reference, RootFs};
use crate::policy::Bytes;
use crate::python::resolve::{LARGE_IMAGE, MAX_IMAGE};
use crate::store::{BuiltLayer, Store};
use crate::sys::clock;

/// The platform's label that says when a function's image was made. Every image that [`config`] makes has it.
const CREATED_LABEL: &str = "org.mecapy.function.created";

/// Whether an image was made from a function: its command takes the caller's arguments after its own.
pub fn is_of_function(config: &ImageConfigBody) -> bool {
    config
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(CREATED_LABEL))
}

/// When an image says that it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The time that was asked for, by `SOURCE_DATE_EPOCH`: an image with another time is another image.
    Fixed(SystemTime),
    /// The time of the build: an image that differs from an earlier one in nothing else is that one.
    Now(SystemTime),
}

impl Created {
    /// The time.
    pub fn time(self) -> SystemTime {
        match self {
            Self::Fixed(time) | Self::Now(time) => time,
        }
    }
}

/// What the configuration says besides the layers.
#[derive(Debug, Clone)]
pub struct ImageSettings {
    /// Environment of the base, `NAME=value`.
    pub env: Vec<String>,
    /// The base's labels and the build's own, the build's winning.
    pub labels: BTreeMap<String, String>,
    /// When the image was made; lives in the configuration alone.
    pub created: Created,
    /// The command.
    pub command: Vec<String>,
}

/// Makes the image of `layers`, gives it the name `tag`, and returns its digest. An image that has the name already stays
/// when nothing differs but a time that nobody asked for.
pub fn ensure_image(
    store: &Store,
    layers: &[BuiltLayer],
    settings: &ImageSettings,
    tag: Option<&Reference>,
) -> Result<Digest, BuildError> {
    let config = config(layers, settings);
    let digest = match find_unchanged(store, layers, &config, settings.created, tag) {
        Some(digest) => digest,
        None => {
            let (config, config_size) = store.images().put_config(&config)?;
            store.images().put_manifest(&manifest(layers, &config, config_size))?
        }
    };
    // From here on the image is used by its name; until then the lease keeps it from being collected.
    let _lease = store.locks().lease(&digest)?;
    store.images().prepare(&store.images().open(&digest)?)?;
    if let Some(tag) = tag {
        store.names().ensure(tag, &digest)?;
    }
    Ok(digest)
}

/// The bytes of `layers`.
///
/// # Errors
///
/// [`BuildError::TooLarge`] when they are more than an image may have.
pub fn check_size(layers: &[BuiltLayer]) -> Result<u64, BuildError> {
    let size = layers.iter().map(|layer| layer.descriptor.size).sum();
    match size > MAX_IMAGE {
        true => Err(BuildError::TooLarge { size }),
        false => Ok(size),
    }
}

/// The image called `tag`, when it serves as well: building again is no change.
fn find_unchanged(
    store: &Store,
    layers: &[BuiltLayer],
    config: &ImageConfig,
    created: Created,
    tag: Option<&Reference>,
) -> Option<Digest> {
    let digest = store.names().find(tag?).ok()??;
    let there = store.images().open(&digest).ok()?;
    let same_layers = there
        .manifest
        .layers
        .iter()
        .eq(layers.iter().map(|layer| &layer.descriptor));
    (same_layers && is_no_change(&there.config, config, created)).then_some(digest)
}

/// What the user should know of an image that is larger than most, by the bytes that are pushed and pulled; nothing of
/// others.
pub fn large_image(layers: &[BuiltLayer]) -> Option<String> {
    let size: u64 = layers.iter().map(|layer| layer.descriptor.size).sum();
    let mut largest: Vec<&BuiltLayer> = layers.iter().collect();
    largest.sort_by_key(|layer| std::cmp::Reverse(layer.descriptor.size));
    let named = |layer: &&BuiltLayer| format!("{} ({})", layer.reason, Bytes(layer.descriptor.size));
    let largest: Vec<String> = largest.iter().take(3).map(named).collect();
    (size > LARGE_IMAGE).then(|| {
        format!(
            "the image has {}; the largest layers are {}",
            Bytes(size),
            largest.join(", ")
        )
    })
}

/// The configuration of a function image: USER 1000, WORKDIR /app.
fn config(layers: &[BuiltLayer], settings: &ImageSettings) -> ImageConfig {
    let created = rfc3339(settings.created.time());
    let mut labels = settings.labels.clone();
    labels.insert(CREATED_LABEL.to_owned(), created.clone());
    let history = layers
        .iter()
        .map(|layer| serde_json::json!({ "created_by": format!("gantry: {}", layer.reason) }))
        .collect();
    ImageConfig {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        created: Some(created),
        config: ImageConfigBody {
            user: Some("1000:1000".to_owned()),
            env: Some(settings.env.clone()),
            entrypoint: None,
            cmd: Some(settings.command.clone()),
            working_dir: Some("/app".to_owned()),
            labels: Some(labels),
        },
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: layers.iter().map(|layer| layer.diff_id).collect(),
        },
        history,
    }
}

/// The manifest of `layers` with a configuration of the given digest and size.
fn manifest(layers: &[BuiltLayer], config: &Digest, config_size: u64) -> Manifest {
    Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        config: Descriptor::new(media_type::CONFIG, *config, config_size),
        layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
        annotations: BTreeMap::new(),
    }
}

/// Whether an image with the configuration `there` serves where `wanted` was to be made: they differ in nothing, or in a
/// time that nobody asked for.
fn is_no_change(there: &ImageConfig, wanted: &ImageConfig, created: Created) -> bool {
    let timeless = |config: &ImageConfig| {
        let mut config = config.clone();
        config.created = None;
        if let Some(labels) = &mut config.config.labels {
            labels.remove(CREATED_LABEL);
        }
        config
    };
    match created {
        Created::Fixed(_) => there == wanted,
        Created::Now(_) => timeless(there) == timeless(wanted),
    }
}

/// `2026-11-24T08:06:00Z`; times before 1970 print as 1970.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    clock::rfc3339(since.as_secs(), "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Hasher;

    #[test]
    fn a_time_that_nobody_asked_for_is_no_change_even_when_it_is_a_whole_second() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let image = |created| {
            let settings = ImageSettings {
                env: Vec::new(),
                labels: BTreeMap::new(),
                created,
                command: Vec::new(),
            };
            config(&[], &settings)
        };
        let there = image(Created::Now(at(1_700_000_000)));
        for (created, no_change) in [
            (Created::Now(at(1_800_000_000)), true),
            (Created::Fixed(at(1_800_000_000)), false),
            (Created::Fixed(at(1_700_000_000)), true),
        ] {
            assert_eq!(is_no_change(&there, &image(created), created), no_change, "{created:?}");
        }
        let mut other = image(Created::Now(at(1_800_000_000)));
        other.config.cmd = Some(vec!["other".to_owned()]);
        assert!(!is_no_change(&there, &other, Created::Now(at(1_800_000_000))));
    }

    #[test]
    fn prints_times_as_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_507_560, "2026-11-24T08:06:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn an_image_is_large_by_all_of_its_layers() {
        let layer = |reason: &str, size| BuiltLayer {
            descriptor: Descriptor::new(media_type::LAYER_GZIP, Digest::of(reason.as_bytes()), size),
            diff_id: Hasher::new().diff_id(),
            reason: reason.to_owned(),
            unpacked_bytes: 0,
            reused: false,
        };
        let mut layers = vec![
            layer("base", 200_000_000),
            layer("code", 50_000_000),
            layer("wheel a", 49_000_000),
        ];
        assert_eq!(large_image(&layers), None);
        layers.push(layer("bytecode", 2_000_000));
        let warning = large_image(&layers).unwrap();
        for part in ["301.0 MB", "base (200.0 MB), code (50.0 MB), wheel a (49.0 MB)"] {
            assert!(warning.contains(part), "{warning}");
        }
    }
}
