//! Hostile layers, built header by header.

use super::*;

fn entry(path: &str, kind: tar::EntryType, contents: &[u8], link: &str) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    header.set_size(contents.len() as u64);
    header.set_link_name_literal(link).unwrap();
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend(contents);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn read_with(bytes: &[u8], limits: &ExtractionLimits) -> Result<(DiffId, Vec<String>), TarError> {
    let mut seen = Vec::new();
    let diff_id = read_layer(bytes, limits, &mut |path, change| {
        seen.push(match change {
            Change::File { mode, size, contents } => {
                let mut text = String::new();
                contents.read_to_string(&mut text)?;
                assert_eq!(text.len() as u64, size);
                format!("{path} {mode:o} {text}")
            }
            other => format!("{path} {other:?}"),
        });
        Ok(())
    })?;
    Ok((diff_id, seen))
}

fn read(entries: &[Vec<u8>]) -> Result<Vec<String>, TarError> {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 1024, 0);
    read_with(&bytes, &ExtractionLimits::default()).map(|(_, seen)| seen)
}

#[test]
fn reads_plain_gzip_chains_and_zstd_alike() {
    let mut tar = entry("./a", tar::EntryType::Regular, b"one", "");
    tar.extend(entry("d/.wh.gone", tar::EntryType::Regular, b"", ""));
    tar.extend(entry("d/.wh..wh..opq", tar::EntryType::Regular, b"", ""));
    tar.extend(entry("l", tar::EntryType::Symlink, b"", "../../etc/passwd"));
    tar.resize(tar.len() + 4096, 0);
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let chain = [gzip(&tar[..700]), gzip(&tar[700..])].concat();
    let zstd = zstd::bulk::compress(&tar, 3).unwrap();
    for bytes in [&tar, &chain, &zstd] {
        let (diff_id, seen) = read_with(bytes, &ExtractionLimits::default()).unwrap();
        assert_eq!(diff_id, DiffId::of(&tar));
        assert_eq!(
            seen,
            [
                "a 755 one",
                "d/gone Whiteout",
                "d Opaque",
                "l Symlink \"../../etc/passwd\""
            ]
        );
    }
    assert!(matches!(
        read_with(&chain[..chain.len() / 2], &ExtractionLimits::default()),
        Err(TarError::Read(_))
    ));
}

#[test]
fn refuses_paths_that_leave_and_kinds_that_are_no_files() {
    let one = |path: &str, kind, link: &str| read(&[entry(path, kind, b"", link)]).unwrap_err();
    for path in ["../x", "a/../../x", "a\\b"] {
        assert!(
            matches!(one(path, tar::EntryType::Regular, ""), TarError::Path { .. }),
            "{path}"
        );
    }
    assert!(matches!(
        one("h", tar::EntryType::Link, "../../etc/shadow"),
        TarError::Path { .. }
    ));
    for (path, kind) in [
        (".wh.", tar::EntryType::Regular),
        (".wh...", tar::EntryType::Regular),
        ("a/.wh..wh.x", tar::EntryType::Regular),
        ("etc/null", tar::EntryType::Char),
        ("disk", tar::EntryType::Block),
        ("pipe", tar::EntryType::Fifo),
        ("sparse", tar::EntryType::GNUSparse),
    ] {
        assert!(matches!(one(path, kind, ""), TarError::Entry { .. }), "{path}");
    }
    assert_eq!(
        read(&[entry("dev/null", tar::EntryType::Char, b"", "")]).unwrap(),
        [""; 0]
    );
}

#[test]
fn reads_long_names_and_bounds_them() {
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    let record = |key: &str, value: &str| {
        let length = value.len() + key.len() + 3 + 3;
        format!("{length} {key}={value}\n").into_bytes()
    };
    let pax = entry("pax", tar::EntryType::XHeader, &record("path", &long), "");
    assert_eq!(
        read(&[pax, entry("short", tar::EntryType::Regular, b"x", "")]).unwrap(),
        [format!("{long} 755 x")]
    );
    let gnu = entry(
        "././@LongLink",
        tar::EntryType::GNULongName,
        format!("{long}\0").as_bytes(),
        "",
    );
    assert_eq!(
        read(&[gnu, entry("short", tar::EntryType::Regular, b"x", "")]).unwrap(),
        [format!("{long} 755 x")]
    );
    let size = entry("pax", tar::EntryType::XHeader, b"10 size=9\n", "");
    assert!(matches!(
        read(&[size, entry("a", tar::EntryType::Regular, b"x", "")]),
        Err(TarError::Entry { .. })
    ));
    let huge = entry("pax", tar::EntryType::XHeader, &vec![b'x'; 2 << 20], "");
    assert!(matches!(
        read(&[huge]),
        Err(TarError::Limit {
            what: "an extended header",
            ..
        })
    ));
    let escaping = entry(
        "pax",
        tar::EntryType::XHeader,
        &record("path", &format!("../{}", "x".repeat(100))),
        "",
    );
    assert!(matches!(
        read(&[escaping, entry("a", tar::EntryType::Regular, b"", "")]),
        Err(TarError::Path { .. })
    ));
}

#[test]
fn refuses_bombs() {
    let limits = ExtractionLimits {
        entries: 3,
        bytes: 10_000,
        ratio: 10,
        ratio_floor: 1000,
        ..Default::default()
    };
    let many: Vec<u8> = (0..4)
        .flat_map(|number| entry(&format!("f{number}"), tar::EntryType::Regular, b"", ""))
        .collect();
    assert!(matches!(
        read_with(&many, &limits),
        Err(TarError::Limit {
            what: "the number of entries",
            ..
        })
    ));
    let big = entry("big", tar::EntryType::Regular, &vec![0; 20_000], "");
    assert!(matches!(
        read_with(&big, &limits),
        Err(TarError::Limit {
            what: "the unpacked size",
            ..
        })
    ));
    let bomb = zstd::bulk::compress(&entry("big", tar::EntryType::Regular, &vec![0; 9000], ""), 3).unwrap();
    assert!(matches!(
        read_with(&bomb, &limits),
        Err(TarError::Limit {
            what: "the ratio of unpacked to packed size",
            ..
        })
    ));
    let tail = vec![0; 1 << 20];
    assert!(matches!(
        read_with(&tail, &limits),
        Err(TarError::Limit {
            what: "the unpacked size",
            ..
        })
    ));
}
