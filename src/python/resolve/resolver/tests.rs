use super::*;

#[test]
fn hashes_are_checked_before_anything_is_fetched() {
    let wheel = LockedWheel {
        name: "my-pkg".to_owned(),
        version: "1.0".to_owned(),
        file_name: "my_pkg-1.0-py3-none-any.whl".to_owned(),
        url: String::new(),
        size: 5,
        sha256: Digest::of(b"wheel"),
        sdist: None,
    };
    let lock = Lock {
        wheels: vec![wheel],
        ..Lock::default()
    };
    let hashes = |hash: Digest| Requirements {
        hashes: [("my-pkg".to_owned(), vec![hash])].into(),
        ..Default::default()
    };
    assert!(check_hashes(&lock, &hashes(lock.wheels[0].sha256)).is_ok());
    assert!(matches!(
        check_hashes(&lock, &hashes(Digest::of(b""))),
        Err(LockError::Hash { .. })
    ));
    let mut built = lock.clone();
    built.wheels[0].sdist = Some(Digest::of(b"sdist"));
    assert!(check_hashes(&built, &hashes(Digest::of(b"sdist"))).is_ok());
    assert!(check_hashes(&built, &hashes(lock.wheels[0].sha256)).is_err());
}

#[test]
fn a_resolver_is_printed_without_credentials() {
    let secret = "https://me:hunter2@index.example/simple";
    let resolver = Resolver {
        index: Some(Address::new(secret)),
        network: vec![("UV_DEFAULT_INDEX".to_owned(), secret.into())],
        ..Resolver::default()
    };
    resolver.index().unwrap();
    let printed = format!("{resolver:?}");
    assert!(
        printed.contains("index.example") && printed.contains("UV_DEFAULT_INDEX"),
        "{printed}"
    );
    assert!(!printed.contains("hunter2"), "{printed}");
}

#[test]
fn a_lock_is_of_one_c_library_even_where_uv_knows_no_difference() {
    let of = |glibc: u32| {
        let python = "3.13.5".to_owned();
        let target = Target { python, glibc };
        (
            target.platform(),
            Resolver {
                target,
                ..Resolver::default()
            }
            .settings(),
        )
    };
    for (one, other) in [(40, 41), (17, 27), (28, 30)] {
        let ((platform, settings), (same, others)) = (of(one), of(other));
        assert_eq!(platform, same);
        assert_ne!(settings, others, "2.{one} and 2.{other}");
    }
}

#[test]
fn what_one_finds_out_the_others_of_a_command_know() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = tempfile::tempdir().unwrap();
    let place = |name: &str| scratch.path().join(name);
    let answer = "echo \"global.index-url='https://user:pass@index.example.org/simple'\"";
    let program = format!("#!/bin/sh\necho asked >>'{}'\n{answer}\n", place("asked").display());
    std::fs::write(place("python3"), program).unwrap();
    std::fs::set_permissions(place("python3"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(place("pip.conf"), "").unwrap();
    let make = || {
        Ok(Resolver {
            path: Some(format!("{}:/usr/bin:/bin", scratch.path().display()).into()),
            pip_files: vec![place("pip.conf")],
            ..Resolver::default()
        })
    };
    let asked = || std::fs::read_to_string(place("asked")).map_or(0, |lines| lines.lines().count());
    let shared = Resolver::sharing(&make);
    assert_eq!(asked(), 0, "whoever needs no index asks for none");
    for resolver in [shared().unwrap(), shared().unwrap().of_main_index()] {
        let index = resolver.index().unwrap().unwrap().url.clone();
        assert!(index.as_str().contains("index.example.org"), "{index:?}");
        assert_eq!(resolver.credentials().unwrap().len(), 1);
    }
    assert_eq!(asked(), 1);
    // Another command asks again.
    assert!(Resolver::sharing(&make)().unwrap().index().unwrap().is_some() && asked() == 2);
}
