//! What a requirements file may say, and what it may not.

use super::*;

fn read(files: &[(&str, &str)]) -> Result<Requirements, RequirementError> {
    Requirements::read(&|path| {
        let mut files = files.iter();
        files.find(|(other, _)| *other == path).map(|(_, text)| text.as_bytes())
    })
}

#[test]
fn reads_everything_that_is_only_names_and_versions() {
    let hash = "0".repeat(64);
    let top = format!("\u{feff}# c\r\nNumPy >= 1.26 , <2 ; python_version >= '3.8' # why\r\nsix \\\r\n  ==1.16.0 \\\r\n  --hash=sha256:{hash}\r\n-r sub/more.txt\nuvicorn[standard]\n");
    let found = read(&[
        (FILE, &top),
        ("sub/more.txt", "-c c.txt\nscipy\n-r ./more.txt\n"),
        ("sub/c.txt", "scipy<2\n"),
    ])
    .unwrap();
    assert_eq!(found.wanted.len(), 4, "{found:?}");
    assert_eq!(found.constraints, ["scipy<2"]);
    assert_eq!(found.hashes["six"].len(), 1);
    assert_eq!(read(&[]).unwrap(), Requirements::default());
}

#[test]
fn overrides_are_names_versions_and_markers() {
    let settings = ["3.11.2"];
    let plain = read(&[(FILE, "imgaug\n")]).unwrap();
    let text = "# a screen\nopencv-python ; python_version < \"3\"\nnumpy == 1.26.4\nnumpy==1.26.4\n";
    let found = read(&[(FILE, "imgaug\n"), (OVERRIDES, text)]).unwrap();
    assert_eq!(
        found.overrides,
        ["numpy==1.26.4", "opencv-python ; python_version < \"3\""]
    );
    assert_eq!((&found.wanted, &found.constraints), (&plain.wanted, &plain.constraints));
    assert_ne!(found.key(&settings), plain.key(&settings));
    for line in [
        "-r more.txt",
        "-c more.txt",
        "--pre",
        "-e .",
        "a @ https://example.org/a.whl",
        "./a",
    ] {
        let error = read(&[(FILE, "a\n"), ("more.txt", "b\n"), (OVERRIDES, line)]).unwrap_err();
        assert_eq!((error.file.as_str(), error.line), (OVERRIDES, 1), "{line}");
    }
}

#[test]
fn refuses_what_reaches_outside_by_file_and_line() {
    for line in [
        "a @ https://example.org/a.whl",
        "https://example.org/a.whl",
        "git+https://example.org/a",
        "a @ git+ssh://x/y",
        "-e .",
        "./a",
        "../a",
        "/a",
        "~/a",
        "a.whl",
        "dir/a",
        "file:///a",
        "-i https://x",
        "--index-url=https://x",
        "--no-binary :all:",
        "-r ../x",
        "-r /etc/passwd",
        "-c https://x/c",
        "-r missing.txt",
        "${X}",
        "a\u{1b}",
        "a==",
        "a b",
        "a --global-option x",
        "--only-binary",
        "--only-binary :some:",
        "--only-binary a/b",
        "--prefer-binary=x",
        "--pre x",
        "a --hash=md5:00",
        "a --hash=sha256:zz",
        "a --hash=sha512:00",
        "-ihttps://user:secret@host/simple",
        "--extra-index-url https://user:secret@host/simple",
        "--find-links=/tmp",
        "--no-such-option",
        "-r https://user:secret@host/r.txt",
        "a@https://user:secret@host/a.whl",
        "a@git+https://secret@host/a",
        "git+https://us/er:secret@host/a",
        "https://host/secret/a.whl?token=secret",
        "a [b] @ file:///a",
        "a @ ./a",
        "a.tgz",
        "a; python_version == 'é' é",
        "é",
        "a\u{202e}",
        "a; (",
        "a;",
    ] {
        let error = read(&[(FILE, &format!("\n{line}\n"))]).unwrap_err();
        assert_eq!((error.file.as_str(), error.line), (FILE, 2), "{line}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let error = read(&[(FILE, "-r more.txt\n"), ("more.txt", "ok\n\n-e .\n")]).unwrap_err();
    assert_eq!((error.file.as_str(), error.line), ("more.txt", 3), "{error}");
}

#[test]
fn options_about_versions_and_files_of_packages_are_taken() {
    let found = read(&[
        (
            FILE,
            "--pre\n--prefer-binary\n--only-binary My_Pkg,other\n-r more.txt\n",
        ),
        ("more.txt", "six\n--only-binary=third\n"),
    ])
    .unwrap();
    assert!(found.prereleases);
    assert!(!found.lets_build("my-pkg") && !found.lets_build("third") && found.lets_build("six"));
    let all = read(&[(FILE, "six\n--only-binary :all:\n")]).unwrap();
    assert!(!all.lets_build("six") && !all.prereleases);
    let plain = read(&[(FILE, "six\n")]).unwrap();
    let keys = [&found, &all, &plain].map(|found| found.key(&[]));
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
    assert_eq!(
        read(&[(FILE, "--only-binary :all:\n--only-binary :none:\nsix\n")]).unwrap(),
        plain
    );
}

#[test]
fn a_file_is_read_by_the_mark_of_its_encoding() {
    let text = "# \u{e9}t\u{e9}\r\nsix==1.16.0\r\n";
    let units: Vec<u16> = std::iter::once(0xfeff).chain(text.encode_utf16()).collect();
    let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
    let marked = format!("\u{feff}{text}").into_bytes();
    let latin: Vec<u8> = text
        .chars()
        .map(|character| u8::try_from(u32::from(character)).unwrap())
        .collect();
    let of = |contents: &[u8]| Requirements::read(&|path| (path == FILE).then_some(contents));
    for contents in [&little, &big, &marked, &latin, &text.as_bytes().to_vec()] {
        assert_eq!(of(contents).unwrap().wanted, ["six==1.16.0"], "{contents:?}");
    }
    let wide: Vec<u8> = "\u{feff}six"
        .chars()
        .flat_map(|character| u32::from(character).to_le_bytes())
        .collect();
    for (contents, says) in [
        (&little[2..], "UTF-16 without a mark"),
        (&little[..little.len() - 1], "UTF-16"),
        (&[0xff, 0xfe, 0, 0xd8], "UTF-16"),
        (&wide, "UTF-32"),
        (b"six\nfran\xe7ais==1\n".as_slice(), "line 2"),
    ] {
        let error = of(contents).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn errors_of_included_files_keep_their_own_place() {
    let files = [
        (FILE, "-r a.txt\n"),
        ("a.txt", "ok\n-c b.txt"),
        ("b.txt", "\n\nb:1 oops"),
    ];
    let error = read(&files).unwrap_err();
    assert_eq!((error.file.as_str(), error.line), ("b.txt", 3), "{error}");
}

#[test]
fn a_syntax_error_points_at_its_place() {
    let error = read(&[(FILE, "numpy=1.26\n")]).unwrap_err();
    let lines: Vec<&str> = error.reason.lines().collect();
    assert_eq!(lines[1], "    numpy=1.26", "{error}");
    assert_eq!(lines[2].find('^'), Some(4 + 5), "{error}");
    let long = format!("a; os_name == '{}' oops", "x".repeat(3000));
    assert!(read(&[(FILE, &long)]).unwrap_err().reason.len() < 400);
}

/// Found by `fuzz/`: the parser panics at these, and a panic ends gantry.
#[test]
fn names_that_end_in_a_separator_are_refused() {
    for line in [
        "a.*,",
        "a- ==1",
        "numpy_ ; os_name == 'x'",
        "a[b.]",
        "a[b-,c]",
        "a [ b, c_ ]",
        "a[b. ]>1",
    ] {
        let error = read(&[(FILE, &format!("{line}\n"))]).unwrap_err();
        assert!(error.reason.contains("letter or a digit"), "{line}: {error}");
    }
    assert_eq!(
        read(&[(FILE, "a.b_c-d[e.f]==1.*\n")]).unwrap().wanted,
        ["a-b-c-d[e-f]==1.*"]
    );
}

#[test]
fn a_comment_that_ends_in_a_backslash_swallows_nothing() {
    let found = read(&[(FILE, "# see C:\\lib\\\nnumpy\nsix \\\n# why \\\nscipy\n")]).unwrap();
    assert_eq!(found.wanted, ["numpy", "scipy", "six"]);
    assert!(read(&[(FILE, "# \\\n-e .\n")]).is_err());
}

#[test]
fn packages_with_many_files_have_many_hashes() {
    let hashes: Vec<String> = (0..150).map(|n| format!("    --hash=sha256:{n:064x}")).collect();
    let found = read(&[(FILE, &format!("a==1 \\\n{}\n", hashes.join(" \\\n")))]).unwrap();
    assert_eq!(
        (found.hashes["a"].len(), found.wanted.as_slice()),
        (150, &["a==1".to_owned()][..])
    );
    let many = format!("a==1 {}", hashes.join(" ").repeat(10));
    assert!(read(&[(FILE, &many)]).unwrap_err().reason.contains("65536"));
}

#[test]
fn markers_pass_as_written_and_cost_little() {
    let marker = "(os_name=='posix' or sys_platform == \"win; and in\") and python_version>='3.8'";
    let found = read(&[(FILE, &format!("A_b [X] >= 1.0;{marker}"))]).unwrap();
    assert_eq!(found.wanted, [format!("a-b[x]>=1.0 ; {marker}")]);

    let pairs = |count: usize| {
        let pair = |n: usize| format!("('a{n}' in platform_version and 'b{n}' in sys_platform)");
        format!("a; {}", (0..count).map(pair).collect::<Vec<_>>().join(" or "))
    };
    let started = std::time::Instant::now();
    assert!(read(&[(FILE, &pairs(8))]).is_ok());
    assert!(read(&[(FILE, &pairs(20))]).unwrap_err().reason.contains("`in`"));
    let wide = format!("a; {}", vec!["os_name=='x'"; 65].join(" or "));
    assert!(read(&[(FILE, &wide)]).unwrap_err().reason.contains("comparisons"));
    let nested = |depth: usize| format!("a; {}os_name=='x'{}", "(".repeat(depth), ")".repeat(depth));
    assert!(read(&[(FILE, &nested(64))]).is_ok());
    assert!(read(&[(FILE, &nested(65))]).unwrap_err().reason.contains("parentheses"));
    assert!(read(&[(FILE, &nested(2000))]).is_err());
    assert!(started.elapsed().as_secs() < 5);
}

#[test]
fn what_a_package_asks_for_to_be_built_obeys_the_same_rules() {
    let of = |lines: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        Requirements::of_build("p 1.0", &lines)
    };
    let found = of(&[
        "wheel",
        "setuptools>=40.8.0",
        "tomli ; python_version < '3.11'",
        "wheel",
    ])
    .unwrap();
    assert_eq!(found.wanted.len(), 3, "{found:?}");
    for line in [
        "evil @ https://example.org/evil-1.0-py3-none-any.whl",
        "-r /etc/passwd",
        "--index-url https://example.org",
        "git+https://example.org/a",
        "./local",
        "a\nb",
        "${HOME}",
        "--pre",
        "",
        "# a",
    ] {
        let refused = of(&["wheel", line]).unwrap_err();
        assert_eq!(
            (refused.file.as_str(), refused.line),
            ("build requirements of p 1.0", 2),
            "{line}"
        );
    }
}

#[test]
fn finds_what_is_said_about_a_package() {
    let found = read(&[
        (FILE, "My_Pkg[x]>=1 ; python_version > '3'\nmy-pkg-other\n-c c.txt\n"),
        ("c.txt", "my.pkg<2\nother\n"),
    ]);
    let found = found.unwrap();
    let (wanted, constraints) = found.about("my-pkg");
    assert!(wanted.len() == 1 && wanted[0].contains(">=1"), "{wanted:?}");
    assert_eq!(constraints.len(), 1, "{constraints:?}");
    assert!(found.about("my").0.is_empty());
}

#[test]
fn the_key_of_a_lock_is_made_of_bytes_and_not_of_the_names_of_fields() {
    let hash = "0".repeat(64);
    let found = read(&[
        (FILE, &format!("six==1.16.0 --hash=sha256:{hash}\nnumpy\n-c c.txt\n")),
        ("c.txt", "numpy<2\n"),
        (OVERRIDES, "a>1\n"),
    ]);
    let mut expected = b"gantry lock\x003\0".to_vec();
    let mut add = |input: &[u8]| {
        expected.extend((input.len() as u64).to_le_bytes());
        expected.extend(input);
    };
    let count = |count: u64| count.to_le_bytes();
    add(&count(1));
    add(b"settings");
    add(&count(2));
    add(b"numpy");
    add(b"six==1.16.0");
    add(&count(1));
    add(b"numpy<2");
    add(&count(1));
    add(b"a>1");
    add(b"six");
    add(&count(1));
    add(format!("sha256:{hash}").as_bytes());
    let key = found.unwrap().key(&["settings"]);
    assert_eq!(key.to_string(), Digest::of(&expected).to_string());
}
