//! Image layouts that mean harm, or mean two things: each is refused, by variant and with the name of what is wrong.
//!
//! One table serves every way in: the library says the variant, and the binary is shown each layout through `copy`, `pull`,
//! `load` (as an archive) and from one layout to another. A layout is drawn as an honest one with one thing changed.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry::archive::tar_reader::TarError;
use gantry::oci::{Digest, ParseImageError};
use gantry::store::{Store, StoreError};
use gantry::transfer::{copy_image, Layout, TransferError};
use serde_json::{json, Value};

use crate::common::{tool, Gantry};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Changes a document before its digest is taken; text, because some of what is wrong is no JSON value.
type Edit = Box<dyn Fn(&str) -> String>;
/// Changes the finished directory.
type After = Box<dyn Fn(&Path, &Names)>;

/// A layout under way.
struct Draft {
    /// Media type and bytes.
    layers: Vec<(String, Vec<u8>)>,
    config: Edit,
    manifest: Edit,
    index: Edit,
    after: After,
}

/// What the documents of a draft came to be called, for the messages.
struct Names {
    config: String,
    manifest: String,
    /// The last layer.
    layer: String,
}

/// What a refusal must name.
#[derive(Clone, Copy)]
enum Says {
    Config,
    Manifest,
    Layer,
    Text(&'static str),
}

fn unchanged() -> Edit {
    Box::new(str::to_owned)
}

fn edited(change: impl Fn(&mut Value) + 'static) -> Edit {
    Box::new(move |text| {
        let mut value = serde_json::from_str(text).unwrap();
        change(&mut value);
        value.to_string()
    })
}

fn replaced(from: &'static str, to: &'static str) -> Edit {
    Box::new(move |text| {
        assert!(text.contains(from), "{from} is not in {text}");
        text.replacen(from, to, 1)
    })
}

fn honest() -> Draft {
    Draft {
        layers: vec![(GZIP.to_owned(), pack("gzip", &tar_of(&["app/", "app/x"])))],
        config: unchanged(),
        manifest: unchanged(),
        index: unchanged(),
        after: Box::new(|_, _| ()),
    }
}

fn layer(media_type: &str, bytes: Vec<u8>) -> Draft {
    Draft {
        layers: vec![(media_type.to_owned(), bytes)],
        ..honest()
    }
}

fn config(change: impl Fn(&mut Value) + 'static) -> Draft {
    Draft {
        config: edited(change),
        ..honest()
    }
}

fn manifest(change: impl Fn(&mut Value) + 'static) -> Draft {
    Draft {
        manifest: edited(change),
        ..honest()
    }
}

fn index(change: impl Fn(&mut Value) + 'static) -> Draft {
    Draft {
        index: edited(change),
        ..honest()
    }
}

fn after(change: impl Fn(&Path, &Names) + 'static) -> Draft {
    Draft {
        after: Box::new(change),
        ..honest()
    }
}

/// Empty files and, where the path ends in `/`, directories.
fn tar_of(entries: &[&str]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for path in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o755);
        header.set_size(0);
        header.set_entry_type(match path.ends_with('/') {
            true => tar::EntryType::Directory,
            false => tar::EntryType::Regular,
        });
        tar.append_data(&mut header, path, &b""[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

/// The bytes as `gzip` or `zstd` packs them, or as they are.
fn pack(how: &str, bytes: &[u8]) -> Vec<u8> {
    match how {
        "gzip" => {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(bytes).unwrap();
            packed.finish().unwrap()
        }
        "zstd" => zstd::encode_all(bytes, 1).unwrap(),
        _ => bytes.to_vec(),
    }
}

fn unpacked_digest(bytes: &[u8]) -> Digest {
    let mut plain = Vec::new();
    let read = match bytes {
        [0x1f, 0x8b, ..] => std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes), &mut plain),
        [0x28, 0xb5, ..] => std::io::Read::read_to_end(&mut zstd::Decoder::new(bytes).unwrap(), &mut plain),
        _ => std::io::Read::read_to_end(&mut &bytes[..], &mut plain),
    };
    read.unwrap();
    Digest::of(&plain)
}

fn put(layout: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let digest = Digest::of(bytes);
    fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap().to_owned()
}

impl Draft {
    /// Writes the layout; its image is called `x`.
    fn write(&self, layout: &Path) -> Names {
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|(kind, bytes)| put(layout, kind, bytes))
            .collect();
        let diff_ids: Vec<String> = self
            .layers
            .iter()
            .map(|(_, bytes)| unpacked_digest(bytes).to_string())
            .collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/app/x"], "User": "1000"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = put(layout, CONFIG, (self.config)(&config.to_string()).as_bytes());
        let last = layers.last().map(|layer| text(layer, "digest")).unwrap_or_default();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let mut manifest = put(layout, MANIFEST, (self.manifest)(&manifest.to_string()).as_bytes());
        let names = Names {
            config: text(&config, "digest"),
            manifest: text(&manifest, "digest"),
            layer: last,
        };
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "x"});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});
        fs::write(layout.join("index.json"), (self.index)(&index.to_string())).unwrap();
        (self.after)(layout, &names);
        names
    }
}

/// Which refusal an error is.
fn variant(error: &TransferError) -> String {
    match error {
        TransferError::Document { source, .. } => document(source),
        TransferError::NotAFile { .. } => "no file".to_owned(),
        TransferError::NotFound { .. } => "not found".to_owned(),
        TransferError::Store(StoreError::Document { source, .. }) => document(source),
        TransferError::Store(StoreError::Layer { source, .. }) => match source {
            TarError::Compression { .. } => "compression".to_owned(),
            TarError::Limit { what, .. } => format!("limit of {what}"),
            TarError::Entry { .. } => "entry".to_owned(),
            TarError::Path { .. } => "path".to_owned(),
            TarError::Read(_) => "damaged".to_owned(),
            other => format!("{other:?}"),
        },
        TransferError::Store(StoreError::Size { .. }) => "size".to_owned(),
        TransferError::Store(StoreError::Digest { .. }) => "digest".to_owned(),
        TransferError::Store(StoreError::DiffId { .. }) => "diff id".to_owned(),
        TransferError::Io { .. } => "io".to_owned(),
        other => format!("{other:?}"),
    }
}

fn document(error: &ParseImageError) -> String {
    match error {
        ParseImageError::Json { .. } => "json".to_owned(),
        ParseImageError::Field { field, .. } => format!("field {field}"),
        ParseImageError::Layer { .. } => "layer type".to_owned(),
        ParseImageError::Data { .. } => "data".to_owned(),
        ParseImageError::TooLarge { .. } => "too large".to_owned(),
    }
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

/// Takes the image `x` of a layout as every command does, and prepares it for a run.
fn take(layout: &Path) -> Result<(), TransferError> {
    let scratch = tempfile::tempdir().unwrap();
    let store = Store::open(&scratch.path().join("store")).unwrap();
    let layout = Layout::new(&store, layout);
    let digest = copy_image(&layout, &layout.find(Some("x"))?, &store, None)?;
    store.ensure_snapshot(&store.open_image(&digest)?)?;
    Ok(())
}

/// What is wrong, the variant it is refused with, what the message names, the layout.
type Case = (&'static str, &'static str, Says, Draft);

fn field(object: &'static [&'static str], key: &'static str, value: Value) -> impl Fn(&mut Value) + 'static {
    move |document| {
        let place = object.iter().fold(document, |place, name| match name.parse::<usize>() {
            Ok(at) => &mut place[at],
            Err(_) => &mut place[*name],
        });
        place[key] = value.clone();
    }
}

fn compressions() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (said, media_type) in [("plain", TAR), ("gzip", GZIP), ("zstd", ZSTD)] {
        for got in ["plain", "gzip", "zstd"] {
            if said != got {
                let draft = layer(media_type, pack(got, &tar_of(&["app/", "app/x"])));
                cases.push((
                    "a layer packed in another way than its media type says",
                    "compression",
                    Says::Layer,
                    draft,
                ));
            }
        }
    }
    cases.push((
        "an empty blob that says gzip",
        "compression",
        Says::Layer,
        layer(GZIP, Vec::new()),
    ));
    cases
}

fn layer_types() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for media_type in [
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.oci.image.layer.v1.tar+encrypted",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar+xz",
        "application/octet-stream",
        MANIFEST,
        CONFIG,
        "",
    ] {
        let draft = layer(media_type, pack("gzip", &tar_of(&["app/"])));
        cases.push((
            "a layer of a type that is not unpacked",
            "layer type",
            Says::Layer,
            draft,
        ));
    }
    let elsewhere = field(&["layers", "0"], "urls", json!(["https://layers.example/1"]));
    cases.push((
        "a layer that lies elsewhere",
        "layer type",
        Says::Layer,
        manifest(elsewhere),
    ));
    cases
}

fn embedded_data() -> Vec<Case> {
    let data = || json!("aGVsbG8=");
    vec![
        (
            "other data in a layer's descriptor",
            "data",
            Says::Layer,
            manifest(field(&["layers", "0"], "data", data())),
        ),
        (
            "other data in the config's descriptor",
            "data",
            Says::Config,
            manifest(field(&["config"], "data", data())),
        ),
        (
            "other data in an index",
            "data",
            Says::Manifest,
            index(field(&["manifests", "0"], "data", data())),
        ),
        (
            "data that are no base64",
            "data",
            Says::Config,
            manifest(field(&["config"], "data", json!("{}"))),
        ),
        (
            "empty data",
            "data",
            Says::Config,
            manifest(field(&["config"], "data", json!(""))),
        ),
    ]
}

fn configs() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for user in [
        "4294967296:-1",
        "4294967295",
        "-1",
        "0:4294967296",
        "0:0:0",
        ":0",
        "root\n",
        "a b",
    ] {
        let draft = config(field(&["config"], "User", json!(user)));
        cases.push((
            "a user that is neither a name nor an id",
            "field config.User",
            Says::Config,
            draft,
        ));
    }
    for directory in ["/proc/self/fd/7", "/app/../proc/1/cwd", "/app\0"] {
        let draft = config(field(&["config"], "WorkingDir", json!(directory)));
        cases.push((
            "a directory outside of the image",
            "field config.WorkingDir",
            Says::Config,
            draft,
        ));
    }
    for variable in ["NOTHING", "=x", "A=\0", ""] {
        let draft = config(field(&["config"], "Env", json!(["A=1", variable])));
        cases.push(("a variable that is none", "field config.Env", Says::Config, draft));
    }
    let other = json!(format!("sha256:{}", "0".repeat(64)));
    let sha512 = json!(format!("sha512:{}", "0".repeat(128)));
    let many = json!(vec![other.clone(); 2]);
    let one = || json!(["/app/x\0"]);
    cases.extend([
        (
            "a NUL in the command",
            "field config.Cmd",
            Says::Config,
            config(field(&["config"], "Cmd", one())),
        ) as Case,
        (
            "a NUL in the entry point",
            "field config.Entrypoint",
            Says::Config,
            config(field(&["config"], "Entrypoint", one())),
        ),
        (
            "another machine",
            "field architecture",
            Says::Config,
            config(field(&[], "architecture", json!("arm64"))),
        ),
        (
            "another system",
            "field os",
            Says::Config,
            config(field(&[], "os", json!("windows"))),
        ),
        (
            "another kind of root",
            "field rootfs.type",
            Says::Config,
            config(field(&["rootfs"], "type", json!("x"))),
        ),
        (
            "more diff ids than layers",
            "field rootfs.diff_ids",
            Says::Config,
            config(field(&["rootfs"], "diff_ids", many)),
        ),
        (
            "no diff ids",
            "field rootfs.diff_ids",
            Says::Config,
            config(field(&["rootfs"], "diff_ids", json!([]))),
        ),
        (
            "the diff id of something else",
            "diff id",
            Says::Layer,
            config(field(&["rootfs"], "diff_ids", json!([other]))),
        ),
        (
            "a diff id of another hash",
            "json",
            Says::Config,
            config(field(&["rootfs"], "diff_ids", json!([sha512]))),
        ),
        (
            "a config that is a list",
            "json",
            Says::Config,
            config(|config| *config = json!([])),
        ),
    ]);
    cases
}

fn manifests() -> Vec<Case> {
    let digest = |digest: &str| manifest(field(&["layers", "0"], "digest", json!(digest)));
    let size = |size: Value| manifest(field(&["layers", "0"], "size", size));
    let swap = replaced("\"config\":{", "\"config\":{\"size\":1,");
    let twice = Draft {
        manifest: replaced("\"layers\":[", "\"layers\":[],\"Layers\":["),
        ..honest()
    };
    let deep = Draft {
        manifest: Box::new(|text| {
            let nested = format!("{}1{}", "{\"a\":".repeat(5000), "}".repeat(5000));
            text.replacen('{', &format!("{{\"x\":{nested},"), 1)
        }),
        ..honest()
    };
    let many = manifest(|manifest| {
        let layer = manifest["layers"][0].clone();
        manifest["layers"] = json!(vec![layer; 700]);
    });
    let large = Draft {
        manifest: Box::new(|text| text.replacen('{', &format!("{{\"x\":\"{}\",", "x".repeat(4 << 20)), 1)),
        ..honest()
    };
    vec![
        (
            "a key twice",
            "json",
            Says::Manifest,
            Draft {
                manifest: swap,
                ..honest()
            },
        ),
        ("a key in two cases", "json", Says::Manifest, twice),
        ("deep nesting", "json", Says::Manifest, deep),
        ("700 layers", "field layers", Says::Manifest, many),
        ("a manifest over 4 MiB", "too large", Says::Manifest, large),
        ("a negative size", "json", Says::Manifest, size(json!(-1))),
        (
            "a size of 2^64",
            "json",
            Says::Manifest,
            size(json!(18446744073709551616.0)),
        ),
        ("the largest size", "size", Says::Layer, size(json!(u64::MAX))),
        (
            "a size too small by one",
            "size",
            Says::Layer,
            manifest(|manifest| {
                let size = manifest["layers"][0]["size"].as_u64().unwrap();
                manifest["layers"][0]["size"] = json!(size - 1);
            }),
        ),
        (
            "a digest of another hash",
            "json",
            Says::Manifest,
            digest(&format!("sha512:{}", "0".repeat(128))),
        ),
        (
            "a digest that is a path",
            "json",
            Says::Manifest,
            digest("sha256:../../../../etc/passwd"),
        ),
        (
            "a digest in capitals",
            "json",
            Says::Manifest,
            digest(&format!("sha256:{}", "A".repeat(64))),
        ),
        (
            "a blob that is not there",
            "io",
            Says::Text("0000000000"),
            digest(&format!("sha256:{}", "0".repeat(64))),
        ),
        (
            "another schema",
            "field schemaVersion",
            Says::Manifest,
            manifest(field(&[], "schemaVersion", json!(1))),
        ),
        (
            "a manifest that says it is an index",
            "field mediaType",
            Says::Manifest,
            manifest(field(&[], "mediaType", json!(INDEX))),
        ),
        (
            "a manifest with manifests",
            "field manifests",
            Says::Manifest,
            manifest(field(&[], "manifests", json!([]))),
        ),
        (
            "a config that is a layer",
            "field config.mediaType",
            Says::Manifest,
            manifest(field(&["config"], "mediaType", json!(GZIP))),
        ),
        (
            "a layer that is the config",
            "compression",
            Says::Config,
            manifest(|manifest| {
                let config = manifest["config"].clone();
                manifest["layers"][0]["digest"] = config["digest"].clone();
                manifest["layers"][0]["size"] = config["size"].clone();
            }),
        ),
        (
            "layers that are no list",
            "json",
            Says::Manifest,
            manifest(field(&[], "layers", json!({}))),
        ),
        (
            "an artifact",
            "field config.mediaType",
            Says::Manifest,
            manifest(|manifest| {
                manifest["artifactType"] = json!("application/vnd.example");
                manifest["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json");
            }),
        ),
    ]
}

fn indexes() -> Vec<Case> {
    let entry = |key, value| index(field(&["manifests", "0"], key, value));
    let index_json = Says::Text("index.json");
    let nested = |depth: usize| {
        after(move |layout, _| {
            let mut index = fs::read(layout.join("index.json")).unwrap();
            for _ in 0..depth {
                let mut inner = put(layout, INDEX, &index);
                inner["annotations"] = json!({"org.opencontainers.image.ref.name": "x"});
                index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [inner]})).unwrap();
            }
            fs::write(layout.join("index.json"), index).unwrap();
        })
    };
    let twice = Draft {
        index: replaced(
            "ref.name\":\"x\"",
            "ref.name\":\"y\",\"org.opencontainers.image.ref.name\":\"x\"",
        ),
        ..honest()
    };
    vec![
        (
            "no JSON",
            "json",
            index_json,
            Draft {
                index: Box::new(|_| "{".to_owned()),
                ..honest()
            },
        ),
        ("two names of one entry", "json", index_json, twice),
        (
            "another schema",
            "field schemaVersion",
            index_json,
            index(field(&[], "schemaVersion", json!(1))),
        ),
        (
            "an index that says it is a manifest",
            "field mediaType",
            index_json,
            index(field(&[], "mediaType", json!(MANIFEST))),
        ),
        (
            "an index with layers",
            "field layers",
            index_json,
            index(field(&[], "layers", json!([]))),
        ),
        (
            "an index with a config",
            "field layers",
            index_json,
            index(field(&[], "config", json!({}))),
        ),
        (
            "a manifest called an index",
            "field mediaType",
            Says::Manifest,
            entry("mediaType", json!(INDEX)),
        ),
        (
            "a manifest called a layer",
            "not found",
            Says::Text(TAR),
            entry("mediaType", json!(TAR)),
        ),
        (
            "a manifest without a type",
            "json",
            index_json,
            index(|index| {
                index["manifests"][0].as_object_mut().unwrap().remove("mediaType");
            }),
        ),
        (
            "a name of control characters",
            "not found",
            Says::Text("\\u{1b}"),
            index(|index| {
                index["manifests"][0]["annotations"] = json!({"org.opencontainers.image.ref.name": "\u{1b}[2Jx\n"});
            }),
        ),
        (
            "the name twice",
            "not found",
            Says::Text("several"),
            index(|index| {
                let one = index["manifests"][0].clone();
                index["manifests"] = json!([one, one]);
            }),
        ),
        (
            "no entries",
            "not found",
            Says::Text("none is called"),
            index(field(&[], "manifests", json!([]))),
        ),
        ("indexes in indexes", "not found", Says::Text("too deep"), nested(6)),
        (
            "a manifest of another size",
            "size",
            Says::Manifest,
            entry("size", json!(7)),
        ),
        (
            "a manifest of another machine",
            "not found",
            Says::Text("linux/amd64"),
            after(|layout, _| {
                let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
                let mut inner = index.clone();
                inner["manifests"][0]["platform"] = json!({"os": "linux", "architecture": "arm64"});
                let mut outer = index;
                let one = put(layout, INDEX, inner.to_string().as_bytes());
                for key in ["mediaType", "digest", "size"] {
                    outer["manifests"][0][key] = one[key].clone();
                }
                fs::write(layout.join("index.json"), outer.to_string()).unwrap();
            }),
        ),
    ]
}

/// Files of the layout that are not what they seem. An archive cannot hold all of them.
fn files() -> Vec<Case> {
    let oci_layout = |text: &'static str| after(move |layout, _| fs::write(layout.join("oci-layout"), text).unwrap());
    let says = Says::Text("oci-layout");
    let blob = |names: &Names| PathBuf::from("blobs/sha256").join(names.manifest.trim_start_matches("sha256:"));
    vec![
        (
            "a layout of another version",
            "field imageLayoutVersion",
            says,
            oci_layout(r#"{"imageLayoutVersion":"2.0.0"}"#),
        ),
        ("a layout without a version", "json", says, oci_layout("{}")),
        ("a layout of no JSON", "json", says, oci_layout("1.0.0")),
        (
            "a layout of two versions",
            "json",
            says,
            oci_layout(r#"{"imageLayoutVersion":"2.0.0","imageLayoutVersion":"1.0.0"}"#),
        ),
        (
            "no oci-layout",
            "io",
            says,
            after(|layout, _| fs::remove_file(layout.join("oci-layout")).unwrap()),
        ),
        (
            "an oci-layout that is a link",
            "no file",
            says,
            after(|layout, _| {
                fs::rename(layout.join("oci-layout"), layout.join("real")).unwrap();
                symlink("real", layout.join("oci-layout")).unwrap();
            }),
        ),
        (
            "an index.json that is a pipe",
            "no file",
            Says::Text("index.json"),
            after(|layout, _| {
                fs::remove_file(layout.join("index.json")).unwrap();
                tool(Command::new("mkfifo").arg(layout.join("index.json")));
            }),
        ),
        (
            "a manifest that is a link",
            "no file",
            Says::Text("blobs/sha256"),
            after(move |layout, names| {
                let blob = layout.join(blob(names));
                fs::rename(&blob, layout.join("real")).unwrap();
                symlink("../../real", blob).unwrap();
            }),
        ),
        (
            "a layer that is a directory",
            "no file",
            Says::Text("blobs/sha256"),
            after(|layout, names| {
                let blob = layout
                    .join("blobs/sha256")
                    .join(names.layer.trim_start_matches("sha256:"));
                fs::remove_file(&blob).unwrap();
                fs::create_dir(blob).unwrap();
            }),
        ),
        (
            "a layer with a byte more",
            "size",
            Says::Layer,
            after(|layout, names| {
                let blob = layout
                    .join("blobs/sha256")
                    .join(names.layer.trim_start_matches("sha256:"));
                let mut bytes = fs::read(&blob).unwrap();
                bytes.push(0);
                fs::write(blob, bytes).unwrap();
            }),
        ),
        (
            "a config of other bytes",
            "digest",
            Says::Config,
            after(|layout, names| {
                let blob = layout
                    .join("blobs/sha256")
                    .join(names.config.trim_start_matches("sha256:"));
                let text = fs::read_to_string(&blob).unwrap().replace("1000", "0000");
                fs::write(blob, text).unwrap();
            }),
        ),
    ]
}

fn contents() -> Vec<Case> {
    let cut = |keep: usize| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(1000);
        tar.append_data(&mut header, "x", &[b'x'; 1000][..]).unwrap();
        let mut bytes = tar.into_inner().unwrap();
        bytes.truncate(keep);
        layer(TAR, bytes)
    };
    vec![
        ("a layer that ends in a file", "entry", Says::Layer, cut(512 + 990)),
        ("a layer that ends in a header", "damaged", Says::Layer, cut(400)),
    ]
}

fn cases() -> Vec<Case> {
    let all = [
        compressions(),
        layer_types(),
        embedded_data(),
        configs(),
        manifests(),
        indexes(),
        contents(),
    ];
    all.into_iter().flatten().collect()
}

fn named(says: Says, names: &Names) -> String {
    match says {
        // In messages a digest is written in full, a path ends in its digits.
        Says::Config => names.config.trim_start_matches("sha256:").to_owned(),
        Says::Manifest => names.manifest.trim_start_matches("sha256:").to_owned(),
        Says::Layer => names.layer.trim_start_matches("sha256:").to_owned(),
        Says::Text(text) => text.to_owned(),
    }
}

#[test]
fn an_honest_layout_is_taken() {
    let scratch = tempfile::tempdir().unwrap();
    honest().write(scratch.path());
    take(scratch.path()).unwrap();
    for (media_type, how) in [(TAR, "plain"), (ZSTD, "zstd")] {
        let scratch = tempfile::tempdir().unwrap();
        layer(media_type, pack(how, &tar_of(&["app/"]))).write(scratch.path());
        take(scratch.path()).unwrap();
    }
}

#[test]
fn every_hostile_layout_is_refused_by_variant_and_name() {
    let mut wrong = Vec::new();
    for (what, expected, says, draft) in cases().into_iter().chain(files()) {
        let scratch = tempfile::tempdir().unwrap();
        let names = draft.write(scratch.path());
        let name = named(says, &names);
        match take(scratch.path()) {
            Ok(()) => wrong.push(format!("{what}: taken, expected {expected}")),
            Err(error) if variant(&error) != expected || !chain(&error).contains(&name) => wrong.push(format!(
                "{what}: {} instead of {expected}, should name {name}: {}",
                variant(&error),
                chain(&error)
            )),
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

/// The layout as an archive, written by tar.
fn archive(layout: &Path, file: &Path) {
    tool(
        Command::new("tar")
            .arg("-cf")
            .arg(file)
            .arg("-C")
            .arg(layout)
            .args(["index.json", "oci-layout", "blobs"]),
    );
}

#[test]
fn no_command_takes_a_hostile_layout() {
    let gantry = Gantry::new();
    let mut wrong = Vec::new();
    for (what, _, says, draft) in cases() {
        let scratch = tempfile::tempdir().unwrap();
        let (layout, tar) = (scratch.path().join("layout"), scratch.path().join("image.tar"));
        let names = draft.write(&layout);
        let name = named(says, &names);
        archive(&layout, &tar);
        let (from, to) = (
            format!("oci:{}:x", layout.display()),
            format!("oci:{}/to:x", scratch.path().display()),
        );
        let tar = tar.to_str().unwrap();
        for command in [
            &["copy", &from, "a:1"][..],
            &["copy", &from, &to],
            &["load", tar, "--tag", "a:1"],
        ] {
            let done = gantry.gantry(command);
            // All images of an archive are loaded; which of them a name means is not asked.
            if command[0] == "load" && ["a name of control characters", "the name twice"].contains(&what) {
                continue;
            }
            // A copy from layout to layout unpacks nothing: what only the unpacked bytes show is found where it is unpacked.
            let is_packed = command[2] == to && ["diff id", "entry", "damaged"].contains(&variant_of(what));
            let is_by_name = command[0] != "load" || !matches!(says, Says::Text(_));
            if done.code == 0 && !is_packed {
                wrong.push(format!("{what}: taken by {command:?}"));
            }
            if done.code != 0 && is_by_name && !done.stderr.contains(&name) {
                wrong.push(format!("{what}: {command:?} does not name {name}: {}", done.stderr));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(gantry.ok(["images", "ls", "--json"]).trim(), "[]");
}

fn variant_of(what: &str) -> &'static str {
    cases()
        .into_iter()
        .find(|(other, ..)| *other == what)
        .map(|(_, variant, ..)| variant)
        .unwrap_or_default()
}

#[test]
fn a_layer_of_more_entries_than_any_honest_one_is_refused() {
    let limit = gantry::policy::ExtractionLimits::default().entries;
    // Device nodes below dev/ count like all entries, but make no files here.
    let mut bytes = Vec::new();
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Char);
    header.set_mode(0o600);
    header.set_size(0);
    for number in 0..=limit {
        header.set_path(format!("dev/{number}")).unwrap();
        header.set_cksum();
        bytes.extend(header.as_bytes());
    }
    let scratch = tempfile::tempdir().unwrap();
    let names = layer(TAR, bytes).write(scratch.path());
    let error = take(scratch.path()).unwrap_err();
    assert_eq!(variant(&error), "limit of the number of entries");
    assert_eq!(error.kind(), gantry::policy::Kind::Refused);
    assert!(chain(&error).contains(&names.layer), "{}", chain(&error));
}
