//! What the conformance suite of the distribution specification asks of a registry, asked by us of two: content of every shape is
//! put there as it puts it, and goes from one repository to another as it is, or is refused by name.

use std::io::{Read, Write};
use std::net::TcpStream;

use gantry::oci::Digest;
use serde_json::{json, Value};

use super::fake::Fake;
use super::images::configure;
use crate::common::Gantry;
use crate::interop;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const REPOSITORY: &str = "from/x";

/// A registry that is spoken to without gantry.
struct Peer {
    host: String,
}

struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.lines().filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim())
    }
}

impl Peer {
    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        let accept = format!("{MANIFEST}, {INDEX}");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAccept: {accept}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut reader = std::io::BufReader::new(stream);
        let mut headers = String::new();
        loop {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            headers.push_str(&line);
        }
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer {
            status,
            headers,
            body: Vec::new(),
        };
        // The fake keeps a connection open.
        let length: u64 = answer
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap());
        if method != "HEAD" {
            reader.take(length).read_to_end(&mut answer.body).unwrap();
        }
        answer
    }

    /// Puts a blob there and returns its descriptor.
    fn blob(&self, kind: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes).to_string();
        let begun = self.ask("POST", &format!("/v2/{REPOSITORY}/blobs/uploads/"), "", b"");
        assert_eq!(begun.status, 202);
        let location = begun.header("location").unwrap();
        let path = location
            .strip_prefix(&format!("http://{}", self.host))
            .unwrap_or(location);
        let joint = if path.contains('?') { '&' } else { '?' };
        let put = self.ask(
            "PUT",
            &format!("{path}{joint}digest={digest}"),
            "application/octet-stream",
            bytes,
        );
        assert_eq!(put.status, 201, "{}", String::from_utf8_lossy(&put.body));
        json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    }

    /// Puts a document there, by its digest and under `tag`; returns its descriptor.
    fn document(&self, kind: &str, tag: Option<&str>, document: &Value) -> Value {
        // Not as gantry would write it: other spaces, other order of keys.
        let raw = serde_json::to_vec_pretty(document).unwrap();
        let digest = Digest::of(&raw).to_string();
        for name in tag.into_iter().chain([digest.as_str()]) {
            let put = self.ask("PUT", &format!("/v2/{REPOSITORY}/manifests/{name}"), kind, &raw);
            assert_eq!(put.status, 201, "{}", String::from_utf8_lossy(&put.body));
        }
        json!({"mediaType": kind, "digest": digest, "size": raw.len()})
    }

    fn raw(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        let got = self.ask("GET", &format!("/v2/{repository}/manifests/{name}"), "", b"");
        (got.status == 200).then_some(got.body)
    }

    /// An image with one layer; `change` makes it special.
    fn image(&self, tag: Option<&str>, change: impl FnOnce(&mut Value)) -> Value {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        header.set_mode(0o644);
        archive.append_data(&mut header, "x", &b"x"[..]).unwrap();
        let layer = archive.into_inner().unwrap();
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]},
        });
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(CONFIG, &serde_json::to_vec(&config).unwrap()),
            "layers": [self.blob(LAYER, &layer)],
        });
        change(&mut manifest);
        self.document(MANIFEST, tag, &manifest)
    }

    fn empty_image(&self, tag: &str) -> Value {
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
        let config = self.blob(CONFIG, &serde_json::to_vec(&config).unwrap());
        self.image(Some(tag), |manifest| {
            manifest["config"] = config;
            manifest["layers"] = json!([]);
        })
    }

    fn index(&self, tag: Option<&str>, manifests: Value) -> Value {
        self.document(
            INDEX,
            tag,
            &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}),
        )
    }

    fn artifact(&self, tag: Option<&str>, subject: Option<&Value>, bytes: &[u8]) -> Value {
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/vnd.example.thing",
            "config": self.blob("application/vnd.oci.empty.v1+json", b"{}"),
            "layers": [self.blob("application/vnd.example.bytes", bytes)],
        });
        if let Some(subject) = subject {
            manifest["subject"] = subject.clone();
        }
        self.document(MANIFEST, tag, &manifest)
    }

    /// Lists referrers as a client has to where the registry does not.
    fn list(&self, subject: &Value, referrers: Value) {
        self.index(Some(&text(&subject["digest"]).replace(':', "-")), referrers);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn for_machine(mut descriptor: Value, machine: &str) -> Value {
    descriptor["platform"] = json!({"os": "linux", "architecture": machine});
    descriptor
}

/// What becomes of a tag that is copied.
enum Becomes {
    /// This image, byte for byte.
    Image(Value),
    /// An image and what refers to it, byte for byte.
    With(Value, Vec<Value>),
    /// This image, which is listed at what it refers to.
    Refers(Value, Value),
    /// Nothing: an error that says so.
    Refused(&'static str),
}

use Becomes::{Image, Refers, Refused, With};

/// A name, whether the registry of the distribution takes such content, and what becomes of it.
type Row = (&'static str, bool, fn(&Peer, &str) -> Becomes);

const ROWS: [Row; 17] = [
    ("image", true, |peer, tag| Image(peer.image(Some(tag), |_| ()))),
    ("index", true, |peer, tag| {
        let ours = peer.image(None, |_| ());
        let other = peer.image(None, |manifest| manifest["annotations"] = json!({"of": "arm64"}));
        peer.index(
            Some(tag),
            json!([for_machine(other, "arm64"), for_machine(ours.clone(), "amd64")]),
        );
        Image(ours)
    }),
    ("nested index", true, |peer, tag| {
        let ours = peer.image(None, |_| ());
        let inner = peer.index(None, json!([for_machine(ours.clone(), "amd64")]));
        peer.index(Some(tag), json!([inner]));
        Image(ours)
    }),
    ("sparse index", false, |peer, tag| {
        let ours = peer.image(None, |_| ());
        let missing = json!({"mediaType": MANIFEST, "digest": format!("sha256:{}", "0".repeat(64)), "size": 5});
        peer.index(
            Some(tag),
            json!([for_machine(missing, "arm64"), for_machine(ours.clone(), "amd64")]),
        );
        Image(ours)
    }),
    ("index of other machines", true, |peer, tag| {
        let other = peer.image(None, |_| ());
        peer.index(Some(tag), json!([for_machine(other, "arm64")]));
        Refused("no image for linux/amd64")
    }),
    ("artifact", true, |peer, tag| {
        peer.artifact(Some(tag), None, b"thing");
        Refused("config.mediaType")
    }),
    ("artifact with subject", true, |peer, tag| {
        let image = peer.image(Some(tag), |_| ());
        let thing = peer.artifact(None, Some(&image), b"thing");
        peer.list(&image, json!([thing]));
        With(image, vec![thing])
    }),
    ("list of artifacts", true, |peer, tag| {
        let image = peer.empty_image(tag);
        let things = [b"a", b"b", b"c"].map(|bytes| peer.artifact(None, Some(&image), bytes));
        peer.list(&image, json!(things));
        With(image, things.to_vec())
    }),
    ("index as artifact", true, |peer, tag| {
        let image = peer.image(Some(tag), |manifest| {
            manifest["annotations"] = json!({"for": "an index"})
        });
        let part = peer.artifact(None, None, b"part");
        let whole = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [part], "subject": image, "artifactType": "application/vnd.example.all"});
        let whole = peer.document(INDEX, None, &whole);
        peer.list(&image, json!([whole]));
        With(image, vec![whole, part])
    }),
    ("subject missing", true, |peer, tag| {
        let subject = json!({"mediaType": MANIFEST, "digest": format!("sha256:{}", "1".repeat(64)), "size": 5});
        Refers(
            peer.image(Some(tag), |manifest| manifest["subject"] = subject.clone()),
            subject,
        )
    }),
    ("data field", true, |peer, tag| {
        let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let mut descriptor = peer.blob(CONFIG, config);
        descriptor["data"] = json!(
            "eyJhcmNoaXRlY3R1cmUiOiJhbWQ2NCIsIm9zIjoibGludXgiLCJyb290ZnMiOnsidHlwZSI6ImxheWVycyIsImRpZmZfaWRzIjpbXX19"
        );
        Image(peer.image(Some(tag), |manifest| {
            manifest["config"] = descriptor;
            manifest["layers"] = json!([]);
        }))
    }),
    ("data field that lies", true, |peer, tag| {
        peer.image(Some(tag), |manifest| manifest["layers"][0]["data"] = json!("bGll"));
        Refused("data embedded")
    }),
    ("nondistributable layer", false, |peer, tag| {
        peer.image(Some(tag), |manifest| {
            manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar");
        });
        Refused("foreign layer")
    }),
    ("custom fields", true, |peer, tag| {
        Image(peer.image(Some(tag), |manifest| {
            manifest["x-custom"] = json!({"kept": [1, null, 1.50]});
            manifest["layers"][0]["x-custom"] = json!("kept");
            manifest["annotations"] = json!({"org.example": "\u{1f600}"});
        }))
    }),
    ("no layers", true, |peer, tag| Image(peer.empty_image(tag))),
    ("empty blob", true, |peer, tag| {
        let image = peer.image(Some(tag), |manifest| {
            manifest["annotations"] = json!({"for": "an empty blob"})
        });
        let thing = peer.artifact(None, Some(&image), b"");
        peer.list(&image, json!([thing]));
        With(image, vec![thing])
    }),
    ("sha512", false, |peer, tag| {
        peer.image(Some(tag), |manifest| {
            manifest["layers"][0]["digest"] = json!(format!("sha512:{}", "0".repeat(128)))
        });
        Refused("sha512")
    }),
];

fn replay(host: &str, is_real: bool) {
    let (peer, gantry) = (Peer { host: host.to_owned() }, Gantry::new());
    configure(
        &gantry,
        &format!("[[registry]]\nhost = \"{host}\"\nplain_http = true\n"),
    );
    for (number, (name, is_taken, make)) in ROWS.iter().enumerate() {
        if is_real && !is_taken {
            continue;
        }
        let (tag, to) = (format!("t{number}"), format!("to/x{number}"));
        let becomes = make(&peer, &tag);
        let done = gantry.gantry(["copy", &format!("{host}/{REPOSITORY}:{tag}"), &format!("{host}/{to}:1")]);
        match becomes {
            Refused(says) => {
                assert_eq!(done.code, 1, "{name}: {}", done.stderr);
                assert!(done.stderr.contains(says), "{name}: {}", done.stderr);
                assert!(peer.raw(&to, "1").is_none(), "{name}");
            }
            Image(image) => check(&peer, name, &to, &image, &[], &done.stderr),
            Refers(image, subject) => {
                check(&peer, name, &to, &image, &[], &done.stderr);
                let listed = peer.raw(&to, &text(&subject["digest"]).replace(':', "-")).unwrap();
                assert!(
                    String::from_utf8(listed).unwrap().contains(text(&image["digest"])),
                    "{name}"
                );
            }
            With(image, all) => check(&peer, name, &to, &image, &all, &done.stderr),
        }
    }

    // Pull: what is not there is not found. Management: what is deleted neither.
    let remote = format!("{host}/to/x0:1");
    let missing = gantry.gantry(["pull", &format!("{host}/to/x0:none")]);
    assert!(
        missing.code == 1 && missing.stderr.contains("no registry has this tag"),
        "{}",
        missing.stderr
    );
    let unknown = gantry.gantry(["pull", &format!("{host}/to/x0@sha256:{}", "2".repeat(64))]);
    assert_eq!(unknown.code, 1, "{}", unknown.stderr);
    assert_eq!(gantry.ok(["registries", "tags", &format!("{host}/to/x0")]), "1\n");
    gantry.ok(["registries", "rm", &remote]);
    assert_eq!(peer.ask("GET", "/v2/to/x0/manifests/1", "", b"").status, 404);
    assert_eq!(gantry.gantry(["pull", &remote]).code, 1);
}

fn check(peer: &Peer, name: &str, to: &str, image: &Value, all: &[Value], said: &str) {
    let digest = text(&image["digest"]);
    assert_eq!(peer.raw(to, "1"), peer.raw(REPOSITORY, digest), "{name}: {said}");
    for thing in all {
        let thing = text(&thing["digest"]);
        assert_eq!(peer.raw(to, thing), peer.raw(REPOSITORY, thing), "{name}: {said}");
    }
    if let Some(first) = all.first() {
        let listed = peer.raw(to, &digest.replace(':', "-")).unwrap();
        assert!(
            String::from_utf8(listed).unwrap().contains(text(&first["digest"])),
            "{name}"
        );
    }
}

#[test]
fn content_of_every_shape_moves_as_it_is_or_is_refused_by_name() {
    let fake = Fake::start();
    replay(&fake.host, false);
}

#[test]
fn the_registry_of_the_distribution_gets_it_as_it_is() {
    let registry = interop::Registry::start();
    replay(&registry.address, true);
}
