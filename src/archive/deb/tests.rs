//! Packages that are right, and packages nobody should unpack.

use std::io::Write;

use super::fixture::{add, add_raw, ar_of, control, deb, file, tar_of, xz_of as xz, Data};
use super::*;

fn read_all(bytes: &[u8]) -> Result<Deb, DebError> {
    read(bytes, &ExtractionLimits::default(), &|_| true)
}

fn read_with(limits: &ExtractionLimits, fill: &dyn Fn(&mut Data)) -> Result<Deb, DebError> {
    read(&deb(fill), limits, &|_| true)
}

#[test]
fn reads_files_links_and_the_control_paragraph() {
    let bytes = deb(&|tar| {
        add(tar, "./", tar::EntryType::Directory, b"", "");
        add(tar, "./usr/bin/a", tar::EntryType::Regular, b"one", "");
        add(tar, "./usr/bin/b", tar::EntryType::Link, b"", "./usr/bin/a");
        add(tar, "./usr/bin/c", tar::EntryType::Symlink, b"", "/anywhere");
    });
    let deb = read_all(&bytes).unwrap();
    let file = DebEntry::File {
        mode: 0o755,
        contents: b"one".to_vec(),
    };
    assert_eq!(deb.control, "Package: x\n");
    assert_eq!(deb.entries["usr/bin/a"], file);
    assert_eq!(deb.entries["usr/bin/b"], file);
    let target = "/anywhere".to_owned();
    assert_eq!(deb.entries["usr/bin/c"], DebEntry::Symlink { target });
}

#[test]
fn reads_every_compression_of_the_format() {
    let data = tar_of(&|tar| file(tar, "./a", b"one"));
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&data).unwrap();
    let parts = [
        ("data.tar.xz", xz(&data)),
        ("data.tar.gz", gz.finish().unwrap()),
        ("data.tar.zst", zstd::encode_all(&data[..], 1).unwrap()),
    ];
    for (name, packed) in parts {
        let read = |packed: &[u8]| {
            read_all(&ar_of(&[
                ("debian-binary", b"2.0\n"),
                ("control.tar", &control()),
                (name, packed),
            ]))
        };
        assert!(read(&packed).unwrap().entries.contains_key("a"), "{name}");
        assert!(
            matches!(read(&packed[..packed.len() - 9]), Err(DebError::Read { .. })),
            "{name} cut short"
        );
    }
    let unknown = ar_of(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar", &control()),
        ("data.tar.lzma", &data),
    ]);
    assert!(matches!(read_all(&unknown), Err(DebError::Structure { .. })));
}

#[test]
fn refuses_what_leaves_and_what_is_no_file() {
    let limits = ExtractionLimits::default();
    for (path, problem) in [("./../x", PathProblem::Parent), ("/etc/x", PathProblem::Absolute)] {
        let refused = read_with(&limits, &|tar| file(tar, path, b""));
        assert!(
            matches!(refused, Err(DebError::Path { problem: found, .. }) if found == problem),
            "{path}"
        );
    }
    for kind in [tar::EntryType::Char, tar::EntryType::Block, tar::EntryType::Fifo] {
        let refused = read_with(&limits, &|tar| add(tar, "./dev/x", kind, b"", ""));
        assert!(matches!(refused, Err(DebError::Kind { .. })), "{kind:?}");
        // Also where nobody wants it: such a package is not what it says it is.
        let bytes = deb(&|tar| add(tar, "./dev/x", kind, b"", ""));
        assert!(
            matches!(read(&bytes, &limits, &|_| false), Err(DebError::Kind { .. })),
            "{kind:?}"
        );
    }
    for target in ["./later", "/etc/passwd", "../../etc/passwd"] {
        let refused = read_with(&limits, &|tar| add(tar, "./x", tar::EntryType::Link, b"", target));
        assert!(
            matches!(refused, Err(DebError::Structure { .. } | DebError::Path { .. })),
            "{target}"
        );
    }
    let refused = read_with(&limits, &|tar| {
        add_raw(tar, b"./\xff", tar::EntryType::Regular, b"", "")
    });
    assert!(matches!(refused, Err(DebError::Structure { .. })));
}

#[test]
fn refuses_what_two_readers_may_read_differently() {
    let limits = ExtractionLimits::default();
    let refused = read_with(&limits, &|tar| {
        file(tar, "./a", b"one");
        file(tar, "./a", b"two");
    });
    assert!(matches!(refused, Err(DebError::Twice { path }) if path == "a"));
    let (control, data) = (control(), tar_of(&|tar| file(tar, "./a", b"")));
    let version = ("debian-binary", &b"2.0\n"[..]);
    for parts in [
        vec![
            version,
            ("control.tar", &control),
            ("data.tar", &data),
            ("data.tar", &data),
        ],
        vec![
            version,
            ("control.tar", &control),
            ("control.tar", &control),
            ("data.tar", &data),
        ],
        vec![version, ("data.tar", &data)],
        vec![version, ("control.tar", &control)],
        vec![("control.tar", &control), ("data.tar", &data)],
        vec![
            ("debian-binary", b"3.0\n"),
            ("control.tar", &control),
            ("data.tar", &data),
        ],
    ] {
        assert!(matches!(read_all(&ar_of(&parts)), Err(DebError::Structure { .. })));
    }
    assert!(read_all(b"!<arch>\nrubbish").is_err());
    assert!(matches!(read_all(b"!<arch>\n"), Err(DebError::Structure { .. })));
}

#[test]
fn stops_unpacking_at_every_limit() {
    let limits = ExtractionLimits::default();
    let many = ExtractionLimits {
        entries: 2,
        ..limits.clone()
    };
    let refused = read_with(&many, &|tar| {
        (0..3).for_each(|number| file(tar, &format!("./{number}"), b""))
    });
    assert!(matches!(refused, Err(DebError::Limit { limit: 2, .. })));
    // Cut exactly between two entries: without its own check that would look like the end.
    let few = ExtractionLimits {
        bytes: 1024,
        ..limits.clone()
    };
    let refused = read_with(&few, &|tar| {
        (0..3).for_each(|number| file(tar, &format!("./{number}"), b"x"))
    });
    assert!(matches!(refused, Err(DebError::Limit { limit: 1024, .. })));
    let bomb = xz(&tar_of(&|tar| file(tar, "./zeroes", &vec![0; 4 << 20])));
    let bomb = ar_of(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar", &control()),
        ("data.tar.xz", &bomb),
    ]);
    let strict = ExtractionLimits {
        ratio_floor: 1 << 20,
        ..limits
    };
    for wanted in [true, false] {
        assert!(
            matches!(read(&bomb, &strict, &|_| wanted), Err(DebError::Limit { .. })),
            "{wanted}"
        );
    }
}

#[test]
fn reads_the_scripts_that_an_installation_runs() {
    let of = |fill: &dyn Fn(&mut Data)| ar_of(&[("debian-binary", b"2.0\n"), ("control.tar.xz", &xz(&tar_of(fill)))]);
    let bytes = of(&|tar| {
        file(tar, "./control", b"Package: x\n");
        file(tar, "./postinst", b"#!/bin/sh\n\xff");
        file(tar, "./prerm", b"#!/bin/sh\n");
        file(tar, "preinst", b"#!/bin/dash\n");
    });
    let scripts = read_scripts(&bytes).unwrap();
    let scripts: Vec<(&str, &str)> = scripts.iter().map(|(name, text)| (*name, text.as_str())).collect();
    assert_eq!(
        scripts,
        [("postinst", "#!/bin/sh\n\u{fffd}"), ("preinst", "#!/bin/dash\n")]
    );
    let twice = of(&|tar| {
        file(tar, "./postinst", b"1");
        file(tar, "postinst", b"2");
    });
    assert!(matches!(read_scripts(&twice), Err(DebError::Twice { .. })));
    let large = of(&|tar| file(tar, "./postinst", &vec![b'a'; (1 << 20) + 1]));
    assert!(matches!(read_scripts(&large), Err(DebError::Limit { .. })));
}
