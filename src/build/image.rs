//! The last step of a build: layers -> configuration and manifest, as bytes that depend on nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::BuildError;
use crate::oci::{
    media_type, to_canonical_json, Descriptor, Digest, ImageConfig, ImageConfigBody, Manifest, Reference, RootFs,
};
use crate::policy::Bytes;
use crate::progress::Silent;
use crate::python::resolve::{LARGE_IMAGE, MAX_IMAGE};
use crate::store::{BuiltLayer, Flight, Key, Memo, Roots, Step, Store, StoreError, Task};
use crate::sys::clock;

/// The platform's label that says when a function's image was made. Every image that [`config`] makes has it.
pub(crate) const CREATED_LABEL: &str = "org.mecapy.function.created";

/// Whether an image was made from a function: its command takes the caller's arguments after its own.
pub(crate) fn is_of_function(config: &ImageConfigBody) -> bool {
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
pub(crate) struct ImageSettings {
    /// Environment of the base, `NAME=value`.
    pub env: Vec<String>,
    /// The base's labels and the build's own, the build's winning.
    pub labels: BTreeMap<String, String>,
    /// When the image was made; lives in the configuration alone.
    pub created: Created,
    /// The command.
    pub command: Vec<String>,
}

/// Makes the image of `layers`, gives it the names `names`, and returns its digest. An image that is there already is that one
/// when nothing differs but a time that nobody asked for. An image without a name is kept for a day.
pub(crate) fn ensure_image(
    store: &Store,
    layers: &[BuiltLayer],
    settings: &ImageSettings,
    names: &[Reference],
) -> Result<Digest, BuildError> {
    let config = config(layers, settings);
    let key = image_key(layers, &config)?;
    let find = || find_unchanged(store, &key, layers, &config, settings.created, names.first());
    let digest = match find() {
        Some(digest) => digest,
        None => {
            // Two that begin in different seconds are one image all the same: the second takes what the first makes.
            let task = Task {
                does: "makes an image",
                progress: &Silent,
            };
            let _single = store.locks().exclusive(Flight::Layer(&key), task)?;
            find().map_or_else(|| make_image(store, &key, layers, &config), Ok)?
        }
    };
    // From here on the image is used by its name; until then the lease keeps it from being collected.
    let _lease = store.locks().lease(&digest)?;
    store.images().settle(&store.images().open(&digest)?)?;
    match names {
        [] => store.names().keep_unnamed(&digest)?,
        names => names.iter().try_for_each(|name| store.names().ensure(name, &digest))?,
    }
    Ok(digest)
}

/// Makes the image of `layers` and `config`, and remembers it by `key`.
fn make_image(store: &Store, key: &Key, layers: &[BuiltLayer], config: &ImageConfig) -> Result<Digest, BuildError> {
    let (config, config_size) = store.images().put_config(config)?;
    let digest = store.images().put_manifest(&manifest(layers, &config, config_size))?;
    store.memos().put(key, &ImageMade { image: digest })?;
    Ok(digest)
}

/// The bytes of `layers`.
///
/// # Errors
///
/// [`BuildError::TooLarge`] when they are more than an image may have.
pub(crate) fn check_size(layers: &[BuiltLayer]) -> Result<u64, BuildError> {
    let size = layers.iter().map(|layer| layer.descriptor.size).sum();
    match size > MAX_IMAGE {
        true => Err(BuildError::TooLarge { size }),
        false => Ok(size),
    }
}

/// The image that was made of the same inputs.
#[derive(Debug, Serialize, Deserialize)]
struct ImageMade {
    image: Digest,
}

impl Memo for ImageMade {
    const FOLDER: &'static str = "image";

    /// None: what nobody names or uses may go, and is then made again.
    fn roots(&self) -> Roots {
        Roots::default()
    }
}

/// What an image depends on, but for the time.
fn image_key(layers: &[BuiltLayer], config: &ImageConfig) -> Result<Key, BuildError> {
    let config = to_canonical_json(&timeless(config)).map_err(|source| StoreError::Json {
        action: "write",
        path: "image config".into(),
        source,
    })?;
    let layers = layers.iter().map(|layer| layer.descriptor.digest.to_string());
    Ok(Key::of(Step::Image).with(config).with_list(layers).finish())
}

/// The image called `tag`, or the last one that was made of the same inputs, when it serves as well: building again is no
/// change.
fn find_unchanged(
    store: &Store,
    key: &Key,
    layers: &[BuiltLayer],
    config: &ImageConfig,
    created: Created,
    tag: Option<&Reference>,
) -> Option<Digest> {
    let named = tag.and_then(|tag| store.names().find(tag).ok().flatten());
    let made = store.memos().find::<ImageMade>(key).ok().flatten();
    let serves = |digest: &Digest| {
        let there = store.images().open(digest);
        there.is_ok_and(|there| {
            let ours = layers.iter().map(|layer| &layer.descriptor);
            there.manifest.layers.iter().eq(ours) && is_no_change(&there.config, config, created)
        })
    };
    named.into_iter().chain(made.map(|made| made.image)).find(serves)
}

/// What the user should know of an image that is larger than most, by the bytes that are pushed and pulled; nothing of
/// others.
pub(crate) fn large_image(layers: &[BuiltLayer]) -> Option<String> {
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

/// A configuration without the time of its image.
fn timeless(config: &ImageConfig) -> ImageConfig {
    let mut config = config.clone();
    config.created = None;
    if let Some(labels) = &mut config.config.labels {
        labels.remove(CREATED_LABEL);
    }
    config
}

/// Whether an image with the configuration `there` serves where `wanted` was to be made: they differ in nothing, or in a
/// time that nobody asked for.
fn is_no_change(there: &ImageConfig, wanted: &ImageConfig, created: Created) -> bool {
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
    fn two_builds_at_once_make_one_image_whenever_they_began() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::open(&scratch.path().join("store")).unwrap();
        for round in 0..20 {
            let start = std::sync::Barrier::new(2);
            let build = |seconds| {
                let settings = ImageSettings {
                    env: vec![format!("ROUND={round}")],
                    labels: BTreeMap::new(),
                    created: Created::Now(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                    command: Vec::new(),
                };
                start.wait();
                ensure_image(&store, &[], &settings, &[]).unwrap()
            };
            let (one, other) = std::thread::scope(|scope| {
                let other = scope.spawn(|| build(1_800_000_000));
                (build(1_700_000_000), other.join().unwrap())
            });
            assert_eq!(one, other);
        }
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
