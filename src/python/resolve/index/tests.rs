use std::os::unix::fs::PermissionsExt;

use super::*;

const OURS: &str = "https://user:pass@private.example.org/simple";

/// A directory with a `python3` that answers `pip config list` with `answer`, and a `uv.toml` of `uv`.
fn machine(answer: &str, uv: &str) -> (tempfile::TempDir, OsString, Vec<PathBuf>) {
    let scratch = tempfile::tempdir().unwrap();
    let program = scratch.path().join("python3");
    fs::write(
        &program,
        format!(
            "#!/bin/sh\necho asked >>'{}/asked'\n{answer}\n",
            scratch.path().display()
        ),
    )
    .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let file = scratch.path().join("uv.toml");
    fs::write(&file, uv).unwrap();
    let path = OsString::from(format!("{}:/usr/bin:/bin", scratch.path().display()));
    let files = vec![scratch.path().join("none.toml"), file];
    (scratch, path, files)
}

fn network(variables: &[(&str, &str)]) -> Vec<(String, OsString)> {
    let pairs = variables.iter();
    pairs.map(|(name, value)| ((*name).to_owned(), value.into())).collect()
}

#[test]
fn the_index_of_the_machine_is_found_wherever_it_is_named() {
    let says = format!("echo \"global.index-url='{OURS}'\"");
    let other = "index-url = \"https://of-uv.example.org/simple\"\n";
    let listed = "[[index]]\nname = \"a\"\nurl = \"https://a.example.org/simple\"\nexplicit = true\n[[index]]\nurl = \"https://of-uv.example.org/simple\"\ndefault = true\n";
    let variable = [("PIP_INDEX_URL", "https://variable.example.org/simple")];
    for (configured, variables, uv, pip, expected) in [
        (
            Some("https://c.example.org/simple"),
            &variable[..],
            other,
            says.as_str(),
            "https://c.example.org/simple",
        ),
        (None, &variable, other, &says, "https://variable.example.org/simple"),
        (None, &[], other, &says, "https://of-uv.example.org/simple"),
        (None, &[], listed, &says, "https://of-uv.example.org/simple"),
        (
            None,
            &[],
            "[pip]\nindex-url = \"https://p.example.org\"\n",
            &says,
            "https://p.example.org",
        ),
        (None, &[], "offline = false\n", &says, OURS),
    ] {
        let configured = configured.map(Address::new);
        let (_scratch, path, files) = machine(pip, uv);
        let network = network(variables);
        let places = Places {
            configured: configured.as_ref(),
            network: &network,
            files: &files,
            pip_files: &[],
            path: Some(&path),
            deadline: Duration::from_secs(60),
        };
        assert_eq!(places.find().unwrap().unwrap().url.as_str(), expected);
    }
}

#[test]
fn without_any_the_resolver_has_its_own() {
    for pip in ["echo \"global.cert='x'\"", "echo 'No module named pip' >&2; exit 1"] {
        let (_scratch, path, files) = machine(pip, "");
        let places = Places {
            configured: None,
            network: &[],
            files: &files,
            pip_files: &[],
            path: Some(&path),
            deadline: Duration::from_secs(60),
        };
        assert_eq!(places.find().unwrap(), None);
    }
}

#[test]
fn further_indexes_are_refused_by_name_and_without_their_password() {
    let pip = format!("cat <<'END'\nglobal.extra-index-url='\\n{OURS}'\nglobal.index-url='https://x.example.org'\nEND");
    let listed = format!("[[index]]\nurl = \"{OURS}\"\n");
    let extra = format!("extra-index-url = [\"{OURS}\"]\n");
    for (variables, uv, pip, names) in [
        (
            &[("UV_INDEX", "ours=https://user:pass@private.example.org/simple")][..],
            "",
            "",
            "UV_INDEX",
        ),
        (&[("PIP_EXTRA_INDEX_URL", OURS)], "", "", "PIP_EXTRA_INDEX_URL"),
        (&[], &listed, "", "uv.toml"),
        (&[("UV_DEFAULT_INDEX", "https://x.example.org")], &extra, "", "uv.toml"),
        (&[], "", &pip, "pip"),
    ] {
        let (_scratch, path, files) = machine(pip, uv);
        let network = network(variables);
        let mut places = Places {
            configured: None,
            network: &network,
            files: &files,
            pip_files: &[],
            path: Some(&path),
            deadline: Duration::from_secs(60),
        };
        let error = places.find().unwrap_err().to_string();
        let good = error.contains(names) && error.contains("https://private.example.org/simple");
        assert!(good && !error.contains("pass"), "{error}");
        let configured = Address::new("https://c.example.org/simple");
        places.configured = Some(&configured);
        assert!(places.find().is_ok(), "the configuration decides");
    }
}

#[test]
fn an_index_that_is_no_address_of_the_web_is_named_with_who_names_it() {
    let (_scratch, path, files) = machine("echo \"global.index-url='file:///srv/simple'\"", "");
    let variables = network(&[("UV_DEFAULT_INDEX", "ftp://me:secret@index.example.org/simple")]);
    let mut places = Places {
        configured: None,
        network: &variables,
        files: &files,
        pip_files: &[],
        path: Some(&path),
        deadline: Duration::from_secs(60),
    };
    let error = places.find().unwrap_err();
    assert!(
        matches!(&error, IndexError::Protocol { place, url } if place == "UV_DEFAULT_INDEX" && url == "ftp://index.example.org/simple"),
        "{error}"
    );
    places.network = &[];
    let error = places.find().unwrap_err();
    assert!(
        matches!(&error, IndexError::Protocol { place, url } if place == "the configuration of pip" && url == "file:///srv/simple"),
        "{error}"
    );
    for (url, is_fine) in [
        ("HTTP://x", true),
        ("https://x", true),
        ("https:/x", false),
        ("/srv", false),
        ("é", false),
    ] {
        assert_eq!(is_of_the_web(url), is_fine, "{url}");
    }
}

#[test]
fn what_cannot_be_understood_is_no_default() {
    let (_scratch, path, files) = machine("echo broken >&2; exit 3", "index-url = 5\n");
    let mut places = Places {
        configured: None,
        network: &[],
        files: &files,
        pip_files: &[],
        path: Some(&path),
        deadline: Duration::from_secs(60),
    };
    assert!(matches!(places.find(), Err(IndexError::File { .. })));
    places.files = &[];
    assert!(matches!(places.find(), Err(IndexError::Pip { reason }) if reason == "broken"));
}

#[test]
fn the_key_runs_nothing_and_tells_indexes_apart() {
    let (scratch, path, files) = machine("", "index-url = 5\n");
    let key = |configured, variables: &[(&str, &str)]| {
        let network = network(variables);
        Places {
            configured,
            network: &network,
            files: &files,
            pip_files: &[],
            path: Some(&path),
            deadline: Duration::from_secs(60),
        }
        .key()
    };
    let keys = [
        key(None, &[]),
        key(Some(&Address::new(OURS)), &[]),
        key(None, &[("UV_DEFAULT_INDEX", "https://a.example.org/simple")]),
        key(None, &[("PIP_INDEX_URL", "https://b.example.org/simple")]),
        key(None, &[("PIP_EXTRA_INDEX_URL", "https://c.example.org/simple")]),
    ];
    let distinct: std::collections::BTreeSet<&String> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len(), "{keys:?}");
    assert_eq!(keys[1], "https://private.example.org/simple");
    assert_eq!(
        Address::new("https://a@b:c@d.example.org/x@y?token=z").shown(),
        "https://d.example.org/x@y"
    );
    assert!(!scratch.path().join("asked").exists());
}

#[test]
fn pip_is_asked_only_where_it_can_be_told_something() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = |name: &str| scratch.path().join(name);
    fs::create_dir_all(folder("a/bin")).unwrap();
    // Its first bytes are those of a program, and it is none: whoever starts it hears of it.
    fs::write(folder("a/bin/python3"), b"\x7fELF").unwrap();
    fs::set_permissions(folder("a/bin/python3"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder("a/bin").into_os_string();
    let file = folder("pip.conf");
    let pip_files = [folder("none.conf"), file.clone()];
    let places = Places {
        configured: None,
        network: &[],
        files: &[],
        pip_files: &pip_files,
        path: Some(&path),
        deadline: Duration::from_secs(60),
    };
    let is_asked = || places.find().is_err();
    assert!(!is_asked());
    for told in [&file, &folder("a/pip.conf")] {
        fs::write(told, "[global]\n").unwrap();
        assert!(is_asked(), "{told:?}");
        fs::remove_file(told).unwrap();
    }
    fs::remove_file(folder("a/bin/python3")).unwrap();
    fs::write(folder("a/bin/python3"), "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(folder("a/bin/python3"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(is_asked(), "a script");
}

#[test]
fn a_pip_that_does_not_answer_is_ended_by_the_deadline() {
    let (_scratch, path, files) = machine("/bin/sleep 1000", "");
    let places = Places {
        configured: None,
        network: &[],
        files: &files,
        pip_files: &[],
        path: Some(&path),
        deadline: Duration::from_millis(300),
    };
    let error = places.find().unwrap_err();
    assert!(
        matches!(error, IndexError::Run(ProgramError::Deadline { .. })),
        "{error:?}"
    );
    assert_eq!(error.kind(), Kind::Unavailable);
}
