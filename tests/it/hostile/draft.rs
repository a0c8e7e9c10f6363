//! A layout is drawn as an honest one with one thing changed.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use gantry::oci::Digest;
use serde_json::{json, Value};

pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Changes a document before its digest is taken; text, because some of what is wrong is no JSON value.
pub type Edit = Box<dyn Fn(&str) -> String>;
/// Changes the finished directory.
pub type After = Box<dyn Fn(&Path, &Names)>;

/// A layout under way.
pub struct Draft {
    /// Media type and bytes.
    pub layers: Vec<(String, Vec<u8>)>,
    pub config: Edit,
    pub manifest: Edit,
    pub index: Edit,
    pub after: After,
}

/// What the documents of a draft came to be called, for the messages.
pub struct Names {
    pub config: String,
    pub manifest: String,
    /// The last layer.
    pub layer: String,
}

/// What a refusal must name.
#[derive(Clone, Copy)]
pub enum Says {
    Config,
    Manifest,
    Layer,
    Text(&'static str),
}

pub fn unchanged() -> Edit {
    Box::new(str::to_owned)
}

pub fn edited(change: impl Fn(&mut Value) + 'static) -> Edit {
    Box::new(move |text| {
        let mut value = serde_json::from_str(text).unwrap();
        change(&mut value);
        value.to_string()
    })
}

pub fn replaced(from: &'static str, to: &'static str) -> Edit {
    Box::new(move |text| {
        assert!(text.contains(from), "{from} is not in {text}");
        text.replacen(from, to, 1)
    })
}

pub fn honest() -> Draft {
    Draft {
        layers: vec![(GZIP.to_owned(), pack("gzip", &tar_of(&["app/", "app/x"])))],
        config: unchanged(),
        manifest: unchanged(),
        index: unchanged(),
        after: Box::new(|_, _| ()),
    }
}

pub fn layer(media_type: &str, bytes: Vec<u8>) -> Draft {
    Draft {
        layers: vec![(media_type.to_owned(), bytes)],
        ..honest()
    }
}

pub fn config(change: impl Fn(&mut Value) + 'static) -> Draft {
    Draft {
        config: edited(change),
        ..honest()
    }
}

pub fn manifest(change: impl Fn(&mut Value) + 'static) -> Draft {
    Draft {
        manifest: edited(change),
        ..honest()
    }
}

pub fn index(change: impl Fn(&mut Value) + 'static) -> Draft {
    Draft {
        index: edited(change),
        ..honest()
    }
}

pub fn after(change: impl Fn(&Path, &Names) + 'static) -> Draft {
    Draft {
        after: Box::new(change),
        ..honest()
    }
}

/// Empty files and, where the path ends in `/`, directories.
pub fn tar_of(entries: &[&str]) -> Vec<u8> {
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
pub fn pack(how: &str, bytes: &[u8]) -> Vec<u8> {
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

/// The header of an entry and its contents, padded. The name and the link's target stand as they are given.
pub fn entry(path: &[u8], kind: u8, contents: &[u8], link: &[u8]) -> Vec<u8> {
    spoiled(path, kind, contents, |header| {
        header[157..157 + link.len()].copy_from_slice(link)
    })
}

/// An entry whose header `change` spoils before it is summed up.
pub fn spoiled(path: &[u8], kind: u8, contents: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(contents.len() as u64);
    header.set_entry_type(tar::EntryType::new(kind));
    header.as_mut_bytes()[..path.len()].copy_from_slice(path);
    change(header.as_mut_bytes());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(contents);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// An extended header of one record.
pub fn pax(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [format!(" {key}=").as_bytes(), value, b"\n"].concat();
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    entry(b"pax", b'x', &[length.to_string().as_bytes(), &rest].concat(), b"")
}

/// An archive of these entries, with its end.
pub fn archive_of(entries: &[Vec<u8>]) -> Vec<u8> {
    [&entries.concat()[..], &[0; 1024]].concat()
}

/// What the bytes inflate to, as far as they do.
pub fn unpacked_digest(bytes: &[u8]) -> Digest {
    let (mut hash, mut chunk) = (gantry::oci::Hasher::new(), vec![0; 1 << 20]);
    let mut reader: Box<dyn Read + '_> = match bytes {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        [0x28, 0xb5, ..] => Box::new(zstd::Decoder::new(bytes).unwrap()),
        _ => Box::new(bytes),
    };
    while let Ok(count @ 1..) = reader.read(&mut chunk) {
        hash.update(&chunk[..count]);
    }
    hash.digest()
}

pub fn put(layout: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let digest = Digest::of(bytes);
    fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
}

pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap().to_owned()
}

impl Draft {
    /// Writes the layout; its image is called `x`.
    pub fn write(&self, layout: &Path) -> Names {
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
