//! A base of packages made in memory, and packages that do not go together.

use super::*;
use crate::archive::deb::fixture::{deb, directory, file, symlink, Data};

fn variant(packages: usize) -> Variant {
    let mut variant = crate::base::definitions::Definitions::default()
        .find("python-3.11")
        .unwrap()
        .unwrap();
    variant.lock.truncate(packages);
    variant
}

/// What synthesis expects of the packages.
fn essentials(tar: &mut Data) {
    file(tar, "./usr/bin/python3.11", b"python");
    for number in 0..60 {
        let path = format!("./usr/share/ca-certificates/mozilla/{number:02}.crt");
        let text = format!("-----BEGIN CERTIFICATE-----\n{number}\n-----END CERTIFICATE-----");
        file(tar, &path, text.as_bytes());
    }
}

/// Keeps mode and contents or target by path.
#[derive(Default)]
struct Recorder(BTreeMap<String, (u32, String)>);

impl TreeSink for Recorder {
    fn directory(&mut self, path: &str, mode: u32) -> std::io::Result<()> {
        self.0.insert(path.to_owned(), (mode, String::new()));
        Ok(())
    }

    fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> std::io::Result<()> {
        let text = String::from_utf8(contents.to_vec()).unwrap();
        self.0.insert(path.to_owned(), (mode, text));
        Ok(())
    }

    fn symlink(&mut self, path: &str, target: &str) -> std::io::Result<()> {
        self.0.insert(path.to_owned(), (0o777, target.to_owned()));
        Ok(())
    }
}

fn assemble_into(debs: &[Vec<u8>], tree: &mut Recorder) -> Result<(WrittenLayer, Vec<u8>), AssembleError> {
    let files: Vec<File> = debs
        .iter()
        .map(|bytes| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file
        })
        .collect();
    let mut out = Vec::new();
    let written = assemble(
        &variant(debs.len()),
        &Parts {
            debs: &files,
            interpreter: None,
        },
        &mut out,
        Some(tree),
    )?;
    Ok((written, out))
}

fn assemble_of(debs: &[Vec<u8>]) -> Result<(WrittenLayer, Vec<u8>), AssembleError> {
    assemble_into(debs, &mut Recorder::default())
}

#[test]
fn the_same_packages_give_the_same_bytes() {
    let debs = [deb(&essentials), deb(&|tar| file(tar, "./usr/lib/b", b"b"))];
    let (first, blob) = assemble_of(&debs).unwrap();
    let (second, other) = assemble_of(&debs).unwrap();
    assert_eq!((first, blob), (second, other));
}

#[test]
fn usrmerge_moves_what_is_below_and_drops_the_directory() {
    let mut entries = BTreeMap::new();
    let file = || DebEntry::File {
        mode: 0o644,
        contents: Vec::new(),
    };
    merge(&mut entries, "lib/x86_64-linux-gnu/libc.so.6", file()).unwrap();
    merge(&mut entries, "lib", DebEntry::Directory { mode: 0o755 }).unwrap();
    merge(&mut entries, "usr/lib/y", file()).unwrap();
    assert_eq!(
        entries.keys().collect::<Vec<_>>(),
        ["usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/y"]
    );
}

#[test]
fn completes_what_maintainer_scripts_would_have_made() {
    let mut tree = Recorder::default();
    let (written, blob) = assemble_into(&[deb(&essentials)], &mut tree).unwrap();
    assert_eq!(written.size, blob.len() as u64);
    let found = tree.0;
    assert_eq!(found["tmp"].0, 0o1777);
    for (path, target) in [
        ("bin", "usr/bin"),
        ("var/run", "/run"),
        ("var/lock", "/run/lock"),
        ("lib64", "usr/lib64"),
        ("usr/bin/python", "python3.11"),
        ("usr/bin/python3", "python3.11"),
        ("etc/localtime", "/usr/share/zoneinfo/Etc/UTC"),
        ("opt/py/lib/python3.11/site-packages", "/opt/py/site"),
    ] {
        assert_eq!(found[path].1, target, "{path}");
    }
    assert!(!found.contains_key("etc/shells"), "there is no shell");
    let bundle = &found["etc/ssl/certs/ca-certificates.crt"].1;
    assert!(
        bundle.starts_with("-----BEGIN CERTIFICATE-----\n0\n-----END") && bundle.ends_with("END CERTIFICATE-----\n")
    );
    assert!(found["etc/passwd"].1.contains("mecapy:x:1000:1000:"));
    assert!(found["usr/lib/python3/dist-packages/gantry.pth"]
        .1
        .contains("site.addsitedir('/opt/py/lib/python%d.%d/site-packages'"));
    assert!(found["etc/ld.so.cache"].1.starts_with("glibc-ld.so.cache1.1"));
    assert_eq!(found["var/lib/dpkg/status.d/base-files"].1, "Package: x\n");
    assert!(["app", "opt/py/site"].iter().all(|path| found.contains_key(*path)));
    assert!(found.values().all(|(mode, _)| mode & 0o6000 == 0), "set-id bits");
}

#[test]
fn documentation_goes_and_licences_stay() {
    let variant = variant(38);
    for path in [
        "usr/share/doc/libc6/copyright",
        "usr/lib/locale/C.utf8/LC_CTYPE",
        "lib/x86_64-linux-gnu/libc.so.6",
        "lib/x86_64-linux-gnu/gconv/gconv-modules",
        "lib/x86_64-linux-gnu/gconv/IBM1047.so",
        "usr/lib/python3.11/unittest/mock.py",
        "sbin/ldconfig",
    ] {
        assert!(is_wanted(&variant, path), "{path}");
    }
    for path in [
        "usr/share/doc/libc6/changelog.gz",
        "usr/share/man/man1/x",
        "usr/share/man",
        "usr/bin/openssl",
        "lib/x86_64-linux-gnu/gconv/EBCDIC-UK.so",
        "lib/x86_64-linux-gnu/libexpatw.so.1.8.10",
        "usr/sbin/update-ca-certificates",
        "bin",
    ] {
        assert!(!is_wanted(&variant, path), "{path}");
    }
}

#[test]
fn refuses_packages_that_do_not_go_together() {
    let twice = [
        deb(&essentials),
        deb(&|tar| file(tar, "./usr/lib/a", b"one")),
        // Another spelling of the same place.
        deb(&|tar| file(tar, "./lib/a", b"two")),
    ];
    let refused = assemble_of(&twice);
    assert!(matches!(refused, Err(AssembleError::Conflict { path, .. }) if path == "lib/a"));
    let through_a_link = [
        deb(&essentials),
        deb(&|tar| symlink(tar, "./usr/lib/a", "/etc")),
        deb(&|tar| file(tar, "./usr/lib/a/passwd", b"root::0:0")),
    ];
    assert!(matches!(
        assemble_of(&through_a_link),
        Err(AssembleError::Incomplete { .. })
    ));
    let replaced = [
        deb(&essentials),
        deb(&|tar| symlink(tar, "./usr/lib/a", "/etc")),
        deb(&|tar| directory(tar, "./usr/lib/a")),
    ];
    assert!(matches!(assemble_of(&replaced), Err(AssembleError::Conflict { .. })));
    assert!(matches!(
        assemble_of(&[deb(&|_| ())]),
        Err(AssembleError::Incomplete { .. })
    ));
    assert!(matches!(
        assemble_of(&[b"no package".to_vec()]),
        Err(AssembleError::Deb { .. })
    ));
}

#[test]
fn the_toolchain_has_its_files_and_links_and_nothing_that_makes_a_root() {
    let mut toolchain = crate::base::definitions::Definitions::default()
        .toolchain("3.11", None)
        .unwrap()
        .unwrap();
    toolchain.lock.truncate(1);
    let mut bytes = tempfile::tempfile().unwrap();
    bytes
        .write_all(&deb(&|tar| file(tar, "./usr/bin/g++", b"g++")))
        .unwrap();
    let mut tree = Recorder::default();
    assemble(
        &toolchain,
        &Parts {
            debs: &[bytes],
            interpreter: None,
        },
        Vec::new(),
        Some(&mut tree),
    )
    .unwrap();
    assert_eq!(tree.0["usr/bin/c++"].1, "g++");
    assert_eq!(tree.0["usr/bin/g++"].1, "g++");
    for path in ["etc/passwd", "bin", "tmp", "usr/bin/python3", "opt"] {
        assert!(!tree.0.contains_key(path), "{path}");
    }
}
