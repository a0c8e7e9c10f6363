//! Archives that are small on disk and large in memory.

use std::collections::BTreeMap;

use super::*;
use crate::oci::{media_type, to_canonical_json, ImageIndex, Manifest, REF_NAME};
use crate::store::tests::{config_of, store};
use crate::sys::fault;
use crate::transfer::{copy_image, name_of};

fn load(store: &Store, bytes: &[u8]) -> Result<Vec<(Option<String>, Digest)>, TransferError> {
    let archive = ArchiveSource::read(store, bytes)?;
    let images = archive.images().iter();
    let copied = images.map(|image| {
        let digest = copy_image(&archive, image, store, None, &crate::progress::Silent)?;
        Ok((name_of(image).map(str::to_owned), digest))
    });
    copied.collect()
}

fn entry(path: &str, kind: tar::EntryType, contents: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path).unwrap();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(contents.len() as u64);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend(contents);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn file(path: &str, contents: &[u8]) -> Vec<u8> {
    entry(path, tar::EntryType::Regular, contents)
}

/// An archive of one image without layers, called `names`, with `extra` entries first.
fn archive(names: &[&str], extra: &[Vec<u8>]) -> (Digest, Vec<u8>) {
    let config = config_of(Vec::new());
    let config = to_canonical_json(&config).unwrap();
    let manifest = Manifest {
        schema_version: 2,
        media_type: None,
        config: Descriptor::new(media_type::CONFIG, Digest::of(&config), config.len() as u64),
        layers: Vec::new(),
        annotations: BTreeMap::from([("padding".to_owned(), "x".repeat(1 << 16))]),
    };
    let manifest = to_canonical_json(&manifest).unwrap();
    let named = |name: &&str| {
        let mut descriptor = Descriptor::new(media_type::MANIFEST, Digest::of(&manifest), manifest.len() as u64);
        descriptor.annotations.insert(REF_NAME.to_owned(), (*name).to_owned());
        descriptor
    };
    let index = ImageIndex {
        schema_version: 2,
        media_type: None,
        manifests: names.iter().map(named).collect(),
    };
    let mut bytes = extra.concat();
    bytes.extend(file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#));
    bytes.extend(file("index.json", &to_canonical_json(&index).unwrap()));
    for blob in [&config, &manifest] {
        bytes.extend(file(&format!("blobs/sha256/{}", Digest::of(blob).hex()), blob));
    }
    bytes.resize(bytes.len() + 1024, 0);
    (Digest::of(&manifest), bytes)
}

#[test]
fn an_image_with_many_names_is_read_once() {
    let (_scratch, store) = store();
    let (digest, bytes) = archive(&["a:1", "b:1", "a:2"], &[]);
    let loaded = load(&store, &bytes).unwrap();
    let expected = ["a:1", "b:1", "a:2"].map(|name| (Some(name.to_owned()), digest));
    assert_eq!(loaded, expected);
    let (_, many) = archive(&["a:1"; MAX_IMAGES + 1], &[]);
    let refused = load(&store, &many).unwrap_err();
    assert!(matches!(refused, TransferError::TooMany { got: 1001 }), "{refused:?}");
    assert!(load(&store, &archive(&["a:1"; MAX_IMAGES], &[]).1).is_ok());
}

fn refusal(extra: &[Vec<u8>]) -> String {
    let (_scratch, store) = store();
    match load(&store, &archive(&["a:1"], extra).1) {
        Err(TransferError::Entry { reason, .. }) => reason.to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn extended_headers_are_not_kept_in_memory() {
    for kind in [tar::EntryType::GNULongName, tar::EntryType::GNULongLink] {
        assert_eq!(
            refusal(&[entry("x", kind, b"oci-layout")]),
            "it gives the next entry a name or a target of over 100 characters"
        );
    }
    for kind in [tar::EntryType::XHeader, tar::EntryType::XGlobalHeader] {
        let time = entry("x", kind, b"20 mtime=1700000000\n");
        assert!(load(&store().1, &archive(&["a:1"], &[time]).1).is_ok());
        let large = entry("x", kind, &[b'x'; (64 << 10) + 1]);
        assert_eq!(refusal(&[large]), "it is an extended header of more than 64 KiB");
        let renamed = entry("x", kind, b"10 path=x\n");
        assert!(refusal(&[renamed]).ends_with("gives another name or size"));
        assert_eq!(refusal(&[entry("x", kind, b"junk")]), "it is a damaged extended header");
    }
    // Says that it has 8 GiB, which are not there: refused by what it says.
    let mut header = tar::Header::new_ustar();
    header.set_path("x").unwrap();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_mode(0);
    header.set_size(8 << 30);
    header.set_cksum();
    assert_eq!(
        refusal(&[header.as_bytes().to_vec()]),
        "it is an extended header of more than 64 KiB"
    );
}

#[test]
fn an_archive_that_ends_early_says_where_and_what_is_not_there() {
    let (digest, bytes) = archive(&["a:1"], &[]);
    let closed = bytes.len() - 1024;
    let cut = |length: usize| load(&store().1, &bytes[..length]);
    for length in (512..closed).step_by(256) {
        let refused = cut(length);
        assert!(
            matches!(&refused, Err(TransferError::EndsEarly { at, .. }) if *at == length as u64),
            "{length}: {refused:?}"
        );
    }
    // Whoever does not close a tar has written all of it: such archives are taken.
    for length in [closed, closed + 512, closed + 1024] {
        assert_eq!(cut(length).unwrap(), [(Some("a:1".to_owned()), digest)], "{length}");
    }
    let lacks = |bytes: &[u8]| match load(&store().1, bytes) {
        Err(TransferError::EndsEarly { lacks, .. }) => lacks,
        other => panic!("{other:?}"),
    };
    let parts = |names: &[&str]| {
        names
            .iter()
            .flat_map(|name| file(name, b"0123456789"))
            .collect::<Vec<u8>>()
    };
    assert_eq!(lacks(&parts(&["index.json"])), "it has no oci-layout");
    assert_eq!(
        lacks(&parts(&["a", "b"])[..1536 + 4]),
        "\"b\" has 10 bytes, of which 4 are there"
    );
    assert_eq!(
        lacks(&parts(&["a"])[..700]),
        "the header or the padding of an entry is cut off"
    );
    let named = br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":[]}]"#;
    assert_eq!(
        lacks(&file("manifest.json", named)),
        "manifest.json names \"c.json\", and it is not there"
    );
    // With its end it is another mistake.
    let mut whole = parts(&["index.json"]);
    whole.extend([0; 1024]);
    assert!(matches!(
        load(&store().1, &whole),
        Err(TransferError::Missing { part: "oci-layout" })
    ));
}

#[test]
fn an_archive_without_room_names_the_file_of_the_store() {
    let (_, bytes) = archive(&["a"], &[]);
    for errno in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
        let (_scratch, store) = store();
        fault::FAIL.set(Some((fault::Step::Bytes, 0)));
        fault::ERRNO.set(Some(errno));
        let failed = load(&store, &bytes);
        fault::FAIL.set(None);
        fault::ERRNO.set(None);
        assert!(
            matches!(&failed, Err(TransferError::Store(StoreError::NoSpace { path, .. })) if path.starts_with(store.root())),
            "{errno}: {failed:?}"
        );
    }
}
