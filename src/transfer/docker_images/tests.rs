//! Archives of docker, as it writes them and as a stranger would.

use super::super::archive_room::ArchiveRoom;
use super::super::{copy_image, name_of, ArchiveSource};
use super::*;
use crate::archive::packed::gzip;
use crate::oci::to_canonical_json;
use crate::progress::Silent;
use crate::store::tests::examples::tar as layer;
use crate::store::tests::{config_of, store};
use crate::store::{Store, StoreError};

/// A file or, with a target, a link.
struct Part {
    path: String,
    bytes: Vec<u8>,
    target: Option<&'static str>,
}

fn part(path: &str, bytes: &[u8]) -> Part {
    Part {
        path: path.to_owned(),
        bytes: bytes.to_vec(),
        target: None,
    }
}

fn link(path: &str, target: &'static str) -> Part {
    Part {
        target: Some(target),
        ..part(path, b"")
    }
}

fn archive(parts: &[Part]) -> Vec<u8> {
    let mut out = Vec::new();
    for Part { path, bytes, target } in parts {
        let mut header = tar::Header::new_ustar();
        // The crate refuses the names that are tried here.
        let name = header.as_old_mut();
        name.name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(match target {
            Some(_) => tar::EntryType::Symlink,
            None => tar::EntryType::Regular,
        });
        if let Some(target) = target {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        out.extend(header.as_bytes());
        out.extend(bytes);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// An image with two layers as old versions write it: what `manifest.json` says, then what else there is.
fn old(said: &str) -> Vec<Part> {
    let (first, second) = (layer(&[("a", 1)]), layer(&[("b", 2)]));
    let config = config_of(vec![DiffId::of(&first), DiffId::of(&second)]);
    vec![
        part("manifest.json", said.as_bytes()),
        part("repositories", b"{}"),
        part("config.json", &to_canonical_json(&config).unwrap()),
        part("1/VERSION", b"1.0"),
        part("1/layer.tar", &first),
        part("2/layer.tar", &second),
    ]
}

const SAID: &str =
    r#"[{"Config":"config.json","RepoTags":["tool:1","other:2"],"Layers":["1/layer.tar","2/layer.tar"]}]"#;

fn load(store: &Store, parts: &[Part]) -> Result<Vec<(Option<String>, Digest)>, TransferError> {
    let source = ArchiveSource::read(store, &*archive(parts))?;
    let images = source.images().iter().map(|image| {
        let digest = copy_image(&source, image, store, None, &Silent)?;
        store.images().prepare(&store.images().open(&digest)?)?;
        Ok((name_of(image).map(str::to_owned), digest))
    });
    images.collect()
}

#[test]
fn an_archive_gives_one_digest_whatever_lies_beside_its_layers() {
    let (_scratch, own) = store();
    let loaded = load(&own, &old(SAID)).unwrap();
    let (digest, raw) = (loaded[0].1, old(SAID).remove(2).bytes);
    assert_eq!(
        loaded,
        [
            (Some("tool:1".to_owned()), digest),
            (Some("other:2".to_owned()), digest)
        ]
    );
    let image = own.images().open(&digest).unwrap();
    assert_eq!(image.manifest.config.digest, Digest::of(&raw));
    assert_eq!(image.manifest.layers[0].media_type, media_type::LAYER_TAR);
    let mut shuffled = old(SAID);
    shuffled.reverse();
    shuffled.push(part("x/json", b"{}"));
    assert_eq!(load(&store().1, &shuffled).unwrap(), loaded);
}

#[test]
fn a_layer_that_is_there_already_may_be_a_link_to_it() {
    let bytes = layer(&[("a", 1)]);
    let config = to_canonical_json(&config_of(vec![DiffId::of(&bytes); 2])).unwrap();
    let said = SAID.as_bytes();
    let parts = |target| {
        vec![
            part("manifest.json", said),
            part("config.json", &config),
            part("1/layer.tar", &bytes),
            link("2/layer.tar", target),
        ]
    };
    assert!(load(&store().1, &parts("../1/layer.tar")).is_ok());
    for target in [
        "/etc/passwd",
        "../../1/layer.tar",
        "../2/layer.tar",
        "../none",
        "layer.tar/..",
    ] {
        let refused = load(&store().1, &parts(target));
        assert!(
            matches!(&refused, Err(TransferError::Entry { path, reason })
                if path == "2/layer.tar" && reason.contains("link")),
            "{target}: {refused:?}"
        );
    }
}

#[test]
fn what_no_archive_of_docker_has_is_refused_by_its_name() {
    let with = |extra: Part| {
        let mut parts = old(SAID);
        parts.push(extra);
        parts
    };
    let without = |path: &str| {
        let mut parts = old(SAID);
        parts.retain(|part| part.path != path);
        parts
    };
    for (parts, name, says) in [
        (with(part("../x", b"")), "../x", "leads out"),
        (with(part("/x", b"")), "/x", "leads out"),
        (with(part("a/../../x", b"")), "a/../../x", "leads out"),
        (with(part("a\nb", b"")), "a\nb", "leads out"),
        (with(part("1/layer.tar", b"x")), "1/layer.tar", "twice"),
        (with(part("./manifest.json", b"[]")), "./manifest.json", "twice"),
        (with(link("1/layer.tar", "../2/layer.tar")), "1/layer.tar", "twice"),
        (without("2/layer.tar"), "2/layer.tar", "not in the archive"),
        (without("config.json"), "config.json", "not in the archive"),
    ] {
        let refused = load(&store().1, &parts);
        assert!(
            matches!(&refused, Err(TransferError::Entry { path, reason }) if path == name && reason.contains(says)),
            "{name}: {refused:?}"
        );
    }
    // Not an archive of docker any more, and no layout either.
    let refused = load(&store().1, &without("manifest.json"));
    assert!(matches!(&refused, Err(TransferError::Entry { .. })), "{refused:?}");
}

#[test]
fn a_layer_that_is_not_the_one_of_the_configuration_is_refused() {
    let said = SAID.replace(r#"["1/layer.tar","2/layer.tar"]"#, r#"["2/layer.tar","1/layer.tar"]"#);
    let refused = load(&store().1, &old(&said));
    let (first, second) = (DiffId::of(&layer(&[("a", 1)])), DiffId::of(&layer(&[("b", 2)])));
    assert!(
        matches!(&refused, Err(TransferError::ArchivedLayer { path, expected, got })
            if path == "2/layer.tar" && *expected == first && *got == second),
        "{refused:?}"
    );
    // Too few of them.
    let said = SAID.replace(r#","2/layer.tar""#, "");
    let refused = load(&store().1, &old(&said));
    assert!(
        matches!(
            &refused,
            Err(TransferError::Document {
                source: ParseImageError::Field {
                    field: "rootfs.diff_ids",
                    ..
                },
                ..
            })
        ),
        "{refused:?}"
    );
    // One that is compressed shows it when it is unpacked.
    let mut parts = old(SAID);
    parts[4].bytes = gzip(&layer(&[("evil", 1)]));
    let refused = load(&store().1, &parts);
    assert!(
        matches!(&refused, Err(TransferError::Store(StoreError::DiffId { expected, .. })) if *expected == first),
        "{refused:?}"
    );
}

#[test]
fn the_manifest_is_the_one_that_lies_there_when_docker_wrote_a_layout_beside() {
    let bytes = layer(&[("a", 1)]);
    let config = to_canonical_json(&config_of(vec![DiffId::of(&bytes)])).unwrap();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":{}}},"layers":[{{"mediaType":"{}","digest":"{}","size":{}}}],"annotations":{{"by":"docker"}}}}"#,
        media_type::MANIFEST,
        media_type::CONFIG,
        Digest::of(&config),
        config.len(),
        media_type::LAYER_TAR,
        Digest::of(&bytes),
        bytes.len(),
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"1"}}}}]}}"#,
        media_type::MANIFEST,
        Digest::of(manifest.as_bytes()),
        manifest.len(),
    );
    let said = format!(
        r#"[{{"Config":"{}","RepoTags":["tool:1"],"Layers":["{}"]}}]"#,
        blob(&config),
        blob(&bytes)
    );
    let parts = |said: &str| {
        vec![
            part(&blob(&config), &config),
            part(&blob(&bytes), &bytes),
            part(&blob(manifest.as_bytes()), manifest.as_bytes()),
            part("index.json", index.as_bytes()),
            part("manifest.json", said.as_bytes()),
            part("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        ]
    };
    let loaded = load(&store().1, &parts(&said)).unwrap();
    assert_eq!(loaded, [(Some("tool:1".to_owned()), Digest::of(manifest.as_bytes()))]);
    // A blob that is not what it is called.
    let mut wrong = parts(&said);
    wrong[1].bytes[0] ^= 1;
    let refused = load(&store().1, &wrong);
    assert!(
        matches!(&refused, Err(TransferError::Store(StoreError::Digest { .. }))),
        "{refused:?}"
    );
}

#[test]
fn an_index_that_leads_to_itself_again_and_again_has_an_end() {
    let entry = |raw: &[u8]| {
        format!(
            r#"{{"mediaType":"{}","digest":"{}","size":{}}}"#,
            media_type::INDEX,
            Digest::of(raw),
            raw.len()
        )
    };
    let index =
        |entries: &[String]| format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")).into_bytes();
    // Each names the next one as often as an index may.
    let mut parts = old(SAID);
    let mut raw = index(&[]);
    for _ in 0..3 {
        let next = index(&vec![entry(&raw); 1000]);
        parts.push(part(&format!("blobs/sha256/{}", Digest::of(&raw).hex()), &raw));
        raw = next;
    }
    parts.push(part("index.json", &raw));
    let (scratch, (_scratch, store)) = (tempfile::tempdir().unwrap(), store());
    let room = ArchiveRoom::new(&store, 0);
    let source = Entries::read(scratch.path(), &*archive(&parts), room).unwrap();
    let mut written = Written::default();
    let listed = parse_index(&raw).unwrap();
    written.collect(&source, &listed.manifests, MAX_DEPTH).unwrap();
    assert_eq!(written.read.len(), 3);
    // And all of them are read at most once, however many there are.
    load(&store, &parts).unwrap();
}

#[test]
fn names_begin_with_a_dot_in_the_archive_or_in_what_it_says() {
    let said = SAID
        .replace("1/layer.tar", "./1/layer.tar")
        .replace("config.json", "./config.json");
    load(&store().1, &old(&said)).unwrap();
    let mut parts = old(SAID);
    for part in &mut parts {
        part.path = format!("./{}", part.path);
    }
    load(&store().1, &parts).unwrap();
}

#[test]
fn a_long_name_is_refused_by_its_name() {
    let mut raw = archive(&old(SAID));
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(120);
    header.set_cksum();
    let mut entry = header.as_bytes().to_vec();
    entry.resize(1024, b'a');
    raw.splice(0..0, entry);
    let refused = ArchiveSource::read(&store().1, &*raw).unwrap_err().to_string();
    assert!(refused.contains("over 100 characters"), "{refused}");
}
