use super::*;

#[test]
fn sizes_and_hashes_are_checked_before_anything_is_fetched() {
    let wheel = LockedWheel {
        name: "my-pkg".to_owned(),
        version: "1.0".to_owned(),
        file_name: "my_pkg-1.0-py3-none-any.whl".to_owned(),
        url: String::new(),
        size: 5,
        sha256: Digest::of(b"wheel"),
        sdist: None,
    };
    let lock = Lock { wheels: vec![wheel] };
    let mut huge = vec![PinnedWheel::from(&lock.wheels[0])];
    assert_eq!(check_size(&huge).unwrap(), 5);
    huge[0].size = 3_000_000_000;
    assert!(check_size(&huge).unwrap_err().to_string().contains("my-pkg"));
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
fn names_the_package_without_a_wheel_and_not_the_one_that_needs_it() {
    let hint = |name: &str| {
        format!("\n\nhint: Wheels are required for `{name}` because building from source is disabled for all packages (i.e., with `--no-build`)\n")
    };
    let found = |name: &str, version: Option<&str>, needed_by: Option<&str>, specifiers: &[&str]| {
        Some(MissingWheel {
            name: name.to_owned(),
            version: version.map(str::to_owned),
            needed_by: needed_by.map(str::to_owned),
            specifiers: specifiers.iter().map(|specifier| (*specifier).to_owned()).collect(),
        })
    };
    let transitive = "  cause: Because docopt==0.6.2 has no usable wheels and only docopt<=0.6.2 is available, we can conclude that docopt>=0.6.2\n cannot be used. And because num2words>=0.5.14 depends on docopt>=0.6.2 and you require num2words==0.5.14, we can conclude";
    assert_eq!(
        missing_wheel(&(transitive.to_owned() + &hint("docopt"))),
        found("docopt", Some("0.6.2"), Some("num2words>=0.5.14"), &[">=0.6.2"])
    );
    let pinned = "Because scipy==1.0.0 has no\nusable wheels and you require scipy==1.0, we can conclude";
    assert_eq!(
        missing_wheel(&(pinned.to_owned() + &hint("scipy"))),
        found("scipy", Some("1.0.0"), None, &[])
    );
    let all = "Because all versions of docopt have no usable wheels and you require docopt, we can conclude";
    assert_eq!(
        missing_wheel(&(all.to_owned() + &hint("docopt"))),
        found("docopt", None, None, &[])
    );
    assert_eq!(
        missing_wheel("Because you require numpy<2 and numpy>2, we can conclude"),
        None
    );
    assert_eq!(missing_wheel(&hint("\u{1b}[31m; rm")), None);
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
