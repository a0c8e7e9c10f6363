//! What is wrong with each hostile layout, and how it is refused.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{json, Value};

use super::documents::documents;
use super::draft::{
    after, config, honest, index, layer, manifest, pack, put, replaced, tar_of, Draft, Names, Says, CONFIG, GZIP,
    INDEX, MANIFEST, TAR, ZSTD,
};
use super::entries::entries;
use super::streams::streams;
use crate::common::tool;

/// What is wrong, the variant it is refused with, what the message names, the layout.
pub type Case = (&'static str, &'static str, Says, Draft);

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
                    format!("a layer of {got} bytes that says {said}").leak(),
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
        let what = format!("a layer of a type that is not unpacked: {media_type:?}");
        cases.push((what.leak(), "layer type", Says::Layer, draft));
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
        let what = format!("a user that is neither a name nor an id: {user:?}");
        cases.push((what.leak(), "field config.User", Says::Config, draft));
    }
    for directory in ["/proc/self/fd/7", "/app/../proc/1/cwd", "/app\0"] {
        let draft = config(field(&["config"], "WorkingDir", json!(directory)));
        let what = format!("a directory outside of the image: {directory:?}");
        cases.push((what.leak(), "field config.WorkingDir", Says::Config, draft));
    }
    for variable in ["NOTHING", "=x", "A=\0", ""] {
        let draft = config(field(&["config"], "Env", json!(["A=1", variable])));
        let what = format!("a variable that is none: {variable:?}");
        cases.push((what.leak(), "field config.Env", Says::Config, draft));
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
        (
            "the largest size",
            "size",
            Says::Text("18446744073709551615"),
            size(json!(u64::MAX)),
        ),
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
            "an index of another schema",
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
pub fn files() -> Vec<Case> {
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

pub fn cases() -> Vec<Case> {
    let all = [
        compressions(),
        layer_types(),
        embedded_data(),
        configs(),
        manifests(),
        indexes(),
        documents(),
        entries(),
        streams(),
    ];
    all.into_iter().flatten().collect()
}
