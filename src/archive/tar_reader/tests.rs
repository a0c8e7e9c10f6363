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
    let compression = Compression::of_bytes(bytes);
    let diff_id = read_layer(bytes, compression, limits, &mut |path, change| {
        seen.push(match change {
            Change::File { mode, size, contents } => {
                let mut text = String::new();
                contents.read_to_string(&mut text)?;
                if text.len() as u64 != size {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
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
    for path in ["../x", "a/../../x"] {
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

fn refusal(entries: &[Vec<u8>]) -> &'static str {
    match read(entries) {
        Err(TarError::Entry { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

/// An entry whose header `change` spoils before it is summed up.
fn spoiled(path: &str, kind: tar::EntryType, contents: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = entry(path, kind, contents, "");
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(&bytes[..512]);
    change(header.as_mut_bytes());
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    bytes
}

#[test]
fn takes_names_that_linux_takes() {
    let names = ["usr/lib/systemd/system/system-systemd\\x2dcryptsetup.slice", "a\nb"];
    for name in names {
        let seen = read(&[entry(name, tar::EntryType::Regular, b"", "")]).unwrap();
        assert_eq!(seen, [format!("{name} 755 ")]);
    }
}

#[test]
fn strips_set_id_bits_and_keeps_the_sticky_bit_of_directories() {
    let modes = |kind| {
        let all = spoiled("x", kind, b"", |header| header[100..108].copy_from_slice(b"0007777\0"));
        read(&[all]).unwrap()
    };
    assert_eq!(modes(tar::EntryType::Regular), ["x 777 "]);
    assert_eq!(modes(tar::EntryType::Directory), ["x Directory 1777"]);
}

#[test]
fn a_trailing_slash_makes_an_old_file_a_directory() {
    let old = spoiled("old/", tar::EntryType::Regular, b"", |header| header[156] = 0);
    assert_eq!(read(&[old]).unwrap(), ["old Directory 755"]);
    assert_eq!(
        read(&[entry("./", tar::EntryType::Directory, b"", "")]).unwrap(),
        [""; 0]
    );
    assert_eq!(
        refusal(&[entry("./", tar::EntryType::Symlink, b"", "/")]),
        "it is the root, but no directory"
    );
}

#[test]
fn refuses_numbers_that_readers_understand_differently() {
    let size = |field: &[u8; 12]| {
        let field = *field;
        spoiled("a", tar::EntryType::Regular, b"", move |header| {
            header[124..136].copy_from_slice(&field)
        })
    };
    for field in [
        b"\x80\x01\0\0\0\0\0\0\0\0\0\0",
        b"\x80\0\0\0\x80\0\0\0\0\0\0\0",
        b"+0000000000\0",
        b"00000\x00000001",
    ] {
        assert_eq!(refusal(&[size(field)]), "its size or mode is no number", "{field:?}");
    }
    // These the crate refuses before we see the header.
    for field in [&[0xff; 12], b"-0000000001\0", b"0x000000000\0", b"           \0"] {
        let error = read(&[size(field)]).unwrap_err();
        assert!(matches!(error, TarError::Read(_)), "{field:?}: {error:?}");
    }
    for field in [
        b"\x80\0\0\0\0\0\0\0\0\0\0\0",
        b"          0\0",
        b"0\0\0\0\0\0\0\0\0\0\0\0",
        b"00000000000 ",
    ] {
        assert_eq!(read(&[size(field)]).unwrap(), ["a 755 "], "{field:?}");
    }
    let mode = spoiled("a", tar::EntryType::Regular, b"", |header| header[100] = b'9');
    assert_eq!(refusal(&[mode]), "its size or mode is no number");
}

#[test]
fn refuses_what_hides_entries_from_some_readers() {
    let hidden = entry("hidden", tar::EntryType::Regular, b"", "");
    for kind in [
        tar::EntryType::Symlink,
        tar::EntryType::Link,
        tar::EntryType::Directory,
        tar::EntryType::Fifo,
        tar::EntryType::Char,
    ] {
        assert_eq!(refusal(&[entry("dev/x", kind, &hidden, "t")]), NOT_A_FILE_WITH_SIZE);
    }
    assert_eq!(
        refusal(&[vec![0; 512], hidden.clone()]),
        "more entries follow a single zero block"
    );
    for record in [&b"10 path=x\n"[..], b"14 linkpath=x\n", b"10 size=1\n"] {
        let global = entry("pax", tar::EntryType::XGlobalHeader, record, "");
        assert_eq!(
            refusal(&[global, hidden.clone()]),
            "it gives a name or a size to all entries"
        );
    }
    let comment = entry("pax", tar::EntryType::XGlobalHeader, b"13 comment=x\n", "");
    assert_eq!(read(&[comment, hidden]).unwrap(), ["hidden 755 "]);
    assert_eq!(
        refusal(&[entry("a/.wh.b/c", tar::EntryType::Regular, b"", "")]),
        "it lies below a whiteout"
    );
}

#[test]
fn damage_inside_contents_is_damage_of_the_layer() {
    let tar = entry("a", tar::EntryType::Regular, &[7; 5000], "");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    io::Write::write_all(&mut encoder, &tar).unwrap();
    let gzip = encoder.finish().unwrap();
    let error = read_with(&gzip[..3000], &ExtractionLimits::default()).unwrap_err();
    assert!(matches!(error, TarError::Read(_)), "{error:?}");
}

#[test]
fn no_single_changed_byte_of_a_header_makes_it_panic() {
    let mut tar = entry("a/b", tar::EntryType::Regular, b"contents", "");
    tar.extend(entry("l", tar::EntryType::Symlink, b"", "a/b"));
    tar.resize(tar.len() + 1024, 0);
    for at in (0..512).chain(1024..1536) {
        for value in [0, b'7', 0x80, 0xff] {
            let mut bytes = tar.clone();
            bytes[at] = value;
            let block = at / 512 * 512;
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&bytes[block..block + 512]);
            header.set_cksum();
            bytes[block..block + 512].copy_from_slice(header.as_bytes());
            let _ = read_layer(
                &bytes[..],
                Compression::Plain,
                &ExtractionLimits::default(),
                &mut |_, _| Ok(()),
            );
        }
    }
}

#[test]
fn the_last_file_may_lack_its_padding_but_nothing_may_be_cut() {
    let mut tar = entry("a", tar::EntryType::Regular, b"one", "");
    tar.extend(entry("b", tar::EntryType::Regular, &[b'x'; 1000], ""));
    let contents_end = tar.len() - 24;
    let whole = ["a 755 one".to_owned(), format!("b 755 {}", "x".repeat(1000))];
    for end in [contents_end, contents_end + 1, tar.len() - 1, tar.len()] {
        let (diff_id, seen) = read_with(&tar[..end], &ExtractionLimits::default()).unwrap();
        assert_eq!(seen, whole, "{end}");
        assert_eq!(diff_id, DiffId::of(&tar[..end]), "of the bytes that are there");
    }
    let header = 1024;
    for end in [header + 1, header + 156, header + 350, header + 511] {
        let refused = read_with(&tar[..end], &ExtractionLimits::default());
        assert!(matches!(refused, Err(TarError::Read(_))), "{end}: {refused:?}");
    }
    for end in [header + 512, header + 513, header + 1024, contents_end - 1] {
        let refused = read_with(&tar[..end], &ExtractionLimits::default());
        assert!(
            matches!(&refused, Err(TarError::Entry { path, reason }) if path == "b" && *reason == CUT_OFF),
            "{end}: {refused:?}"
        );
    }
    // Contents that nobody reads are looked at all the same.
    let skipped = &tar[..contents_end - 1];
    let limits = ExtractionLimits::default();
    let refused = read_layer(skipped, Compression::Plain, &limits, &mut |_, _| Ok(()));
    assert!(matches!(refused, Err(TarError::Entry { reason, .. }) if reason == CUT_OFF));
    // An extended header is not padded for: nothing would follow it.
    let long = entry("x", tar::EntryType::GNULongName, &[b'n'; 300], "");
    let refused = read_with(&long[..512 + 299], &ExtractionLimits::default());
    assert!(matches!(refused, Err(TarError::Entry { reason, .. }) if reason == CUT_OFF));
}

#[test]
fn the_bytes_are_packed_as_the_media_type_says() {
    let mut tar = entry("a", tar::EntryType::Regular, b"one", "");
    tar.resize(tar.len() + 1024, 0);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut gzip, &tar).unwrap();
    let zstd = zstd::bulk::compress(&tar, 3).unwrap();
    let kinds = [Compression::Plain, Compression::Gzip, Compression::Zstd];
    let blobs = [tar, gzip.finish().unwrap(), zstd];
    for said in kinds {
        for (is, bytes) in kinds.iter().zip(&blobs) {
            let read = read_layer(&bytes[..], said, &ExtractionLimits::default(), &mut |_, _| Ok(()));
            match read {
                Ok(_) => assert_eq!(said, *is),
                Err(TarError::Compression { said: named, got }) => {
                    assert_eq!((named, got), (said, *is));
                    assert_ne!(said, *is);
                }
                other => panic!("{said:?} {is:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn headers_of_one_entry_do_not_count_as_entries() {
    let limits = ExtractionLimits {
        entries: 2,
        ..ExtractionLimits::default()
    };
    let header = entry("pax", tar::EntryType::XHeader, b"11 mtime=1\n", "");
    let file = |path| entry(path, tar::EntryType::Regular, b"", "");
    let two = [header.clone(), file("a"), header.clone(), file("b")].concat();
    assert!(read_with(&two, &limits).is_ok());
    let three = read_with(&[two, file("c")].concat(), &limits);
    assert!(
        matches!(
            three,
            Err(TarError::Limit {
                what: "the number of entries",
                limit: 2
            })
        ),
        "{three:?}"
    );
    let many = read_with(&header.repeat(9), &limits);
    assert!(
        matches!(
            many,
            Err(TarError::Limit {
                what: "the number of headers",
                limit: 8
            })
        ),
        "{many:?}"
    );
}
