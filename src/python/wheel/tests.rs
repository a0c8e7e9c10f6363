//! Wheels of every shape, made with Python's own zipfile semantics: stored and deflated entries.

use std::io::Write;

use super::*;

/// A zip of stored entries.
fn zip(files: &[(&str, &[u8])]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, contents) in files {
        let crc = flate2_crc(contents);
        let size = contents.len() as u32;
        let at = out.len() as u32;
        let fields = |out: &mut Vec<u8>| {
            out.extend([20u16, 0, 0, 0, 0].iter().flat_map(|value| value.to_le_bytes()));
            out.extend([crc, size, size].iter().flat_map(|value| value.to_le_bytes()));
            out.extend((name.len() as u16).to_le_bytes());
            out.extend(0u16.to_le_bytes());
        };
        out.extend(0x0403_4b50u32.to_le_bytes());
        fields(&mut out);
        out.extend(name.as_bytes());
        out.extend(*contents);
        directory.extend(0x0201_4b50u32.to_le_bytes());
        directory.extend(20u16.to_le_bytes());
        fields(&mut directory);
        directory.extend([0u8; 6]);
        directory.extend((0o100_644u32 << 16).to_le_bytes());
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let at = out.len() as u32;
    out.extend(&directory);
    out.extend(0x0605_4b50u32.to_le_bytes());
    out.extend([0; 4]);
    out.extend((files.len() as u16).to_le_bytes());
    out.extend((files.len() as u16).to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0; 2]);
    file.write_all(&out).unwrap();
    file
}

fn flate2_crc(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

const NAME: &str = "My_Pkg-1.0-py3-none-any.whl";
const METADATA: &[u8] = b"Metadata-Version: 1.2\nName: my.pkg\nVersion: 1.0.0\n\nVersion: 9\n";
const WHEEL: &[u8] = b"Wheel-Version: 1.9\nRoot-Is-Purelib: true\n";

fn open(extra: &[(&str, &[u8])]) -> Result<Wheel, WheelError> {
    let mut files: Vec<(&str, &[u8])> = vec![
        ("My_Pkg-1.0.dist-info/METADATA", METADATA),
        ("My_Pkg-1.0.dist-info/WHEEL", WHEEL),
        ("My_Pkg-1.0.dist-info/RECORD", b"pkg/__init__.py,,\n"),
    ];
    files.retain(|(name, _)| !extra.iter().any(|(other, _)| other == name));
    files.extend(extra);
    Wheel::open(zip(&files), NAME)
}

fn files(wheels: &[Wheel]) -> BTreeMap<String, (u32, String)> {
    let mut blob = Vec::new();
    write_layer(wheels, &mut blob, None).unwrap();
    let mut seen = BTreeMap::new();
    crate::archive::tar_reader::read_layer(
        &blob[..],
        crate::oci::Compression::Gzip,
        &ExtractionLimits::default(),
        &mut |path, change| {
            if let crate::archive::tar_reader::Change::File { mode, contents, .. } = change {
                let mut bytes = Vec::new();
                contents.read_to_end(&mut bytes)?;
                seen.insert(path.to_owned(), (mode, String::from_utf8_lossy(&bytes).into_owned()));
            }
            Ok(())
        },
    )
    .unwrap();
    seen
}

#[test]
fn everything_goes_where_the_specification_says() {
    let wheel = open(&[
        ("pkg/__init__.py", b"x"),
        ("ns/part/mod.py", b"y"),
        ("hook.pth", b"import pkg\n"),
        ("My_Pkg-1.0.data/purelib/pure.py", b"p"),
        ("My_Pkg-1.0.data/platlib/plat.so", b"s"),
        ("My_Pkg-1.0.data/scripts/tool", b"#!python\nprint(1)\n"),
        ("My_Pkg-1.0.data/data/share/doc.txt", b"d"),
        ("My_Pkg-1.0.data/headers/my.h", b"h"),
        (
            "My_Pkg-1.0.dist-info/entry_points.txt",
            b"[console_scripts]\ncmd = pkg:main\n",
        ),
        (
            "My_Pkg-1.0.dist-info/direct_url.json",
            b"{\"url\": \"https://user:pass@example.org\"}",
        ),
        ("My_Pkg-1.0.dist-info/REQUESTED", b""),
    ])
    .unwrap();
    let files = files(&[wheel]);
    let modes: BTreeMap<&str, u32> = files.iter().map(|(path, (mode, _))| (path.as_str(), *mode)).collect();
    for (path, mode) in [
        ("opt/py/site/pkg/__init__.py", 0o644),
        ("opt/py/site/ns/part/mod.py", 0o644),
        ("opt/py/site/hook.pth", 0o644),
        ("opt/py/site/pure.py", 0o644),
        ("opt/py/site/plat.so", 0o644),
        ("opt/py/bin/tool", 0o755),
        ("opt/py/bin/cmd", 0o755),
        ("opt/py/share/doc.txt", 0o644),
        ("opt/py/include/My_Pkg/my.h", 0o644),
        ("opt/py/site/My_Pkg-1.0.dist-info/INSTALLER", 0o644),
    ] {
        assert_eq!(modes.get(path), Some(&mode), "{path}");
    }
    assert!(!modes
        .keys()
        .any(|path| path.contains("direct_url") || path.contains("REQUESTED")));
    assert_eq!(files["opt/py/bin/tool"].1, "#!/usr/bin/python3\nprint(1)\n");
    let record = &files["opt/py/site/My_Pkg-1.0.dist-info/RECORD"].1;
    for line in record.lines() {
        let (path, rest) = line.split_once(',').unwrap();
        let on_disk = match path.strip_prefix("../") {
            Some(outside) => format!("opt/py/{outside}"),
            None => format!("opt/py/site/{path}"),
        };
        let contents = &files[&on_disk].1;
        if !path.ends_with("RECORD") {
            assert_eq!(
                rest,
                format!("{},{}", record::hash(contents.as_bytes()), contents.len()),
                "{path}"
            );
        }
    }
    assert_eq!(record.lines().count(), files.len());
}

#[test]
fn refuses_wheels_that_are_not_what_they_say() {
    let says = |extra: &[(&str, &[u8])]| open(extra).unwrap_err().to_string();
    assert!(says(&[("My_Pkg-1.0.dist-info/WHEEL", b"Wheel-Version: 2.0\n")]).contains("Wheel-Version"));
    assert!(says(&[("My_Pkg-1.0.dist-info/METADATA", b"Name: other\nVersion: 1.0\n")]).contains("METADATA"));
    assert!(says(&[("My_Pkg-1.0.dist-info/METADATA", b"Name: my-pkg\nVersion: 2.0\n")]).contains("METADATA"));
    assert!(says(&[("other-1.0.dist-info/METADATA", METADATA)]).contains("dist-info"));
    assert!(says(&[("My_Pkg-1.0.data/unknown/x", b"")]).contains("unknown kind"));
    assert!(says(&[("My_Pkg-1.0.data/scripts/python3", b"")]).contains("script"));
    assert!(says(&[("My_Pkg-1.0.data/data/bin/python", b"")]).contains("script"));
    assert!(says(&[("My_Pkg-1.0.data/scripts", b"")]).contains("no scheme"));
    assert!(says(&[("a", b""), ("My_Pkg-1.0.data/purelib/a", b"")]).contains("two of its files"));
    assert!(says(&[(
        "My_Pkg-1.0.dist-info/entry_points.txt",
        b"[console_scripts]\npython = a:b\n"
    )])
    .contains("script"));
    let wrong = open(&[("a.py", b"x"), ("My_Pkg-1.0.dist-info/RECORD", b"a.py,sha256=AAAA,1\n")]).unwrap();
    let refused = write_layer(&[wrong], std::io::sink(), None).unwrap_err();
    assert!(refused.to_string().contains("RECORD"), "{refused}");
}

#[test]
fn the_same_file_of_two_wheels_must_be_the_same() {
    let one = |contents: &'static [u8]| open(&[("shared/__init__.py", contents)]).unwrap();
    assert!(write_layer(&[one(b"a"), one(b"a")], std::io::sink(), None).is_ok());
    let clash = write_layer(&[one(b"a"), one(b"b")], std::io::sink(), None).unwrap_err();
    assert!(
        matches!(clash, WheelError::Clash { ref path, .. } if path.ends_with("shared/__init__.py") || path.ends_with("RECORD")),
        "{clash}"
    );
}

#[test]
fn of_files_that_may_be_either_the_last_wheel_has_its_own() {
    let wheel = |name: &str, files: &[(&str, &[u8])]| {
        let metadata = format!("Name: {name}\nVersion: 1\n");
        let of = |file: &str| format!("{name}-1.dist-info/{file}");
        let (one, two, three) = (of("METADATA"), of("WHEEL"), of("RECORD"));
        let mut all = vec![(one.as_str(), metadata.as_bytes()), (&two, WHEEL), (&three, b"")];
        all.extend(files);
        Wheel::open(zip(&all), &format!("{name}-1-py3-none-any.whl")).unwrap()
    };
    let pkgutil = b"from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n";
    let one = wheel(
        "one",
        &[("README.md", b"one"), ("ns/__init__.py", pkgutil), ("ns/one.py", b"")],
    );
    let two = wheel(
        "two",
        &[("README.md", b"two"), ("ns/__init__.py", b""), ("ns/two.py", b"")],
    );
    let wheels = [one, two];
    let (_, mut warnings) = write_layer(&wheels, std::io::sink(), None).unwrap();
    // Neither has a RECORD of its files.
    warnings.retain(|warning| !warning.contains("RECORD"));
    let files = files(&wheels);
    assert_eq!(files["opt/py/site/README.md"].1, "two");
    assert_eq!(files["opt/py/site/ns/__init__.py"].1, "");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for part in ["one-1-", "two-1-", "/opt/py/site/README.md"] {
        assert!(warnings[0].contains(part), "{part}: {warnings:?}");
    }
}

#[test]
fn a_file_of_one_wheel_is_no_directory_of_another() {
    let file = open(&[("shared", b"")]).unwrap();
    let folder = [
        ("other-1.dist-info/METADATA", &b"Name: other\nVersion: 1\n"[..]),
        ("other-1.dist-info/WHEEL", WHEEL),
        ("other-1.dist-info/RECORD", b""),
        ("shared/mod.py", b""),
    ];
    let folder = Wheel::open(zip(&folder), "other-1-py3-none-any.whl").unwrap();
    let clash = write_layer(&[folder, file], std::io::sink(), None).unwrap_err();
    assert!(
        matches!(
            clash,
            WheelError::FileAndDirectory { ref path, ref file_of, ref directory_of }
                if path == "opt/py/site/shared" && file_of == NAME && directory_of.starts_with("other-1")
        ),
        "{clash}"
    );
}

#[test]
fn takes_descriptions_in_old_encodings_and_scripts_in_folders() {
    let wheel = open(&[
        (
            "My_Pkg-1.0.dist-info/METADATA",
            b"Metadata-Version: 1.0\nName: My-Pkg\nVersion: 1.0\nAuthor: Andr\xe9\n",
        ),
        ("My_Pkg-1.0.data/scripts/sub/tool", b"#!/bin/sh\n"),
        ("My_Pkg-1.0.data/scripts/python-argcomplete-tcsh", b""),
        ("My_Pkg-1.0.dist-info/RECORD.jws", b"{}"),
    ])
    .unwrap();
    let files = files(&[wheel]);
    assert_eq!(files["opt/py/bin/sub/tool"].0, 0o755);
    assert!(files.contains_key("opt/py/bin/python-argcomplete-tcsh"));
    assert!(!files.keys().any(|path| path.ends_with(".jws")));
}

#[test]
fn warns_of_files_nothing_vouches_for() {
    let wheel = open(&[
        ("a.py", b"x"),
        ("b.py", b"x"),
        (
            "My_Pkg-1.0.dist-info/RECORD",
            b"My_Pkg-1.0.dist-info/METADATA,,\nMy_Pkg-1.0.dist-info/WHEEL,,\ngone.py,,\na.py,blake9=x,\n",
        ),
    ])
    .unwrap();
    let (_, warnings) = write_layer(&[wheel], std::io::sink(), None).unwrap();
    assert_eq!(
        warnings,
        [
            format!("{NAME}: b.py is not listed in its RECORD"),
            format!("{NAME}: gone.py is listed in its RECORD, but not there"),
            format!("{NAME}: a.py is hashed in its RECORD in a way gantry does not know"),
        ]
    );
}

#[test]
fn refuses_file_names_that_are_no_wheels() {
    for name in [
        "a-1.tar.gz",
        "a-1.whl",
        "..-1-py3-none-any.whl",
        "a/b-1-py3-none-any.whl",
        "a--py3-none-any.whl",
        "a-1-2-py3-none-any-x.whl",
    ] {
        assert_eq!(name_and_version(name), None, "{name}");
    }
    let tagged = "a-1!2.0+cpu-1-py2.py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl";
    assert_eq!(name_and_version(tagged), Some(("a", "1!2.0+cpu")));
}

#[test]
fn names_are_compared_as_the_index_compares_them() {
    assert_eq!(normalise("My.Pkg__x--Y"), "my-pkg-x-y");
    assert_eq!(name_and_version("a_b-1.0-py3-none-any.whl"), Some(("a_b", "1.0")));
    assert!(same_version("1.0", "1.0.0") && same_version("1.0+cpu", "1.0_cpu") && !same_version("1.0", "1.1"));
}
