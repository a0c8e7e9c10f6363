//! Where images go and come from: what is no place is refused by name, and never becomes a local name.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::port::ClosedPort;
use crate::common::{done, function, tiny, tool, tree, Gantry};

/// What the store calls its images.
fn names(gantry: &Gantry) -> Vec<String> {
    let listed: Vec<serde_json::Value> = serde_json::from_str(&gantry.ok(["images", "ls", "--json"])).unwrap();
    let name = |image: &serde_json::Value| image["reference"].as_str().unwrap().to_owned();
    listed.iter().map(name).collect()
}

#[test]
fn a_registry_that_cannot_be_reached_is_an_error_whatever_the_store_has_by_that_name() {
    let gantry = Gantry::new();
    let closed = ClosedPort::new();
    let dead = &closed.host;
    let name = |rest: &str| format!("{dead}/{rest}");
    tiny(&gantry, &["a:1", &name("team/a:1")]);
    let before = names(&gantry);
    let scratch = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}", scratch.path().join("layout").display());
    for args in [
        &["push", "a:1", &name("team/a:1")][..],
        &["push", "a:1", &name("team/a:2")],
        &["push", &name("team/a:1")],
        &["copy", "a:1", &name("team/b")],
        &["copy", &name("team/a:1"), "b:1"],
        &["copy", &name("team/a:1"), &layout],
        &["pull", &name("team/a:1")],
        &["pull", &name("team/none:1")],
    ] {
        let done = gantry.gantry(args);
        assert_eq!((done.code, done.stdout.as_str()), (4, ""), "{args:?}: {}", done.stderr);
        assert!(
            done.stderr.contains(&format!("https://{dead}/v2/team/")),
            "{args:?}: {}",
            done.stderr
        );
        assert!(done.stderr.contains("nobody answers"), "{args:?}: {}", done.stderr);
    }
    assert_eq!(names(&gantry), before);
    assert!(tree(scratch.path()).is_empty());
}

#[test]
fn transports_of_other_tools_are_refused_by_name_and_never_become_names() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1"]);
    let scratch = tempfile::tempdir().unwrap();
    let function = function("print(1)\n", None);
    let dir = function.path().to_str().unwrap();
    for place in [
        "docker-archive:x.tar",
        "docker://alpine",
        "dir:x",
        "containers-storage:x",
        "docker-daemon:x:1",
        "https://registry.example.org/x",
    ] {
        for (args, code) in [
            (&["copy", "a:1", place][..], 2),
            (&["push", "a:1", place], 2),
            (&["pull", place], 2),
            (&["save", "a:1", place], 2),
            (&["load", place], 2),
            (&["build", dir, "--tag", place], 2),
            (&["images", "rm", place], 2),
            (&["images", "show", place], 2),
            (&["run", place], 125),
        ] {
            let mut command = gantry.command();
            let done = done(command.args(args).current_dir(scratch.path()).output().unwrap());
            assert_eq!(
                (done.code, done.stdout.as_str()),
                (code, ""),
                "{args:?}: {}",
                done.stderr
            );
            assert!(
                done.stderr.contains(place) && done.stderr.contains("oci:DIR"),
                "{args:?}: {}",
                done.stderr
            );
        }
    }
    assert_eq!(names(&gantry), ["a:1"]);
    assert!(tree(scratch.path()).is_empty());
}

#[test]
fn a_job_and_a_base_take_no_transport_either() {
    let gantry = Gantry::new();
    let job = gantry.home.join("job.json");
    fs::write(&job, r#"{"image": "docker://alpine"}"#).unwrap();
    let done = gantry.gantry(["run", "--job", job.to_str().unwrap()]);
    assert_eq!(done.code, 125);
    assert!(
        done.stderr.contains("docker:// is how other tools name a registry"),
        "{}",
        done.stderr
    );
    let function = function("print(1)\n", None);
    let dir = function.path().to_str().unwrap();
    for base in ["docker://python", "oci-archive:base.tar"] {
        let done = gantry.gantry(["build", dir, "--base", base]);
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{}", done.stderr);
        assert!(done.stderr.contains(base), "{}", done.stderr);
    }
}

#[test]
fn a_bare_name_is_neither_pulled_nor_pushed_to() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1"]);
    for (args, says) in [
        (
            &["pull", "alpine"][..],
            "pull alpine: a bare name is an image of this store",
        ),
        (&["pull", "a:1"], "pull a:1: a bare name"),
        (
            &["push", "a:1"],
            "push a:1: the name is of this store alone and says no registry",
        ),
        (&["push", "a:1", "b:1"], "`gantry copy a:1 b:1` gives it"),
    ] {
        let done = gantry.gantry(args);
        assert_eq!(done.code, 1, "{}", done.stderr);
        assert!(done.stderr.contains(says), "{}", done.stderr);
    }
    assert_eq!(gantry.ok(["images", "ls", "-q"]), "a:1\n");
}

#[test]
fn an_archive_is_a_place_like_a_layout() {
    let gantry = Gantry::new();
    let digest = tiny(&gantry, &["a:1"]).remove(0);
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str| scratch.path().join(name).display().to_string();
    let archive = |name: &str| format!("oci-archive:{}", file(name));
    // Saved and pushed is one: the same bytes.
    assert_eq!(gantry.ok(["push", "a:1", &archive("pushed.tar")]).trim(), digest);
    gantry.ok(["save", "a:1", &archive("saved.tar")]);
    assert!(fs::read(file("pushed.tar")).unwrap() == fs::read(file("saved.tar")).unwrap());
    // By another name, and from there to a layout, to another archive and back.
    gantry.ok(["copy", "a:1", &format!("{}:b:2", archive("named.tar"))]);
    let layout = format!("oci:{}:x", file("layout"));
    assert_eq!(gantry.ok(["copy", &archive("named.tar"), &layout]).trim(), digest);
    gantry.ok(["copy", &layout, &archive("again.tar")]);
    for (source, kept) in [
        (archive("pushed.tar"), "a:1"),
        (archive("named.tar"), "b:2"),
        (format!("{}:b:2", archive("named.tar")), "b:2"),
    ] {
        let other = Gantry::new();
        assert_eq!(other.ok(["pull", &source]).trim(), digest, "{source}");
        assert_eq!(names(&other), [kept], "{source}");
    }
    let other = Gantry::new();
    other.ok(["copy", &archive("again.tar"), "mine:1"]);
    assert!(other.ok(["load", &archive("saved.tar")]).contains(&digest));
    assert_eq!(names(&other), ["a:1", "mine:1"]);
    let done = other.gantry(["pull", &format!("{}:c:3", archive("named.tar"))]);
    assert_eq!((done.code, done.stdout.as_str()), (1, ""));
    for part in ["named.tar", "\"c:3\"", "\"b:2\""] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    // What cannot be written whole is not there.
    let done = other.gantry(["push", "a:1", "oci-archive:/proc/none/x.tar"]);
    assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{}", done.stderr);
    assert!(done.stderr.contains("/proc/none"), "{}", done.stderr);
}

#[test]
fn what_is_no_archive_is_said_with_what_to_do() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1"]);
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str| scratch.path().join(name).display().to_string();
    gantry.ok(["save", "a:1", &file("a.tar")]);
    tool(Command::new("gzip").arg("-k").arg(file("a.tar")));
    fs::write(file("empty"), "").unwrap();
    let make = "import sys, tarfile; t = tarfile.open(sys.argv[1], 'w'); t.add('/etc/passwd', 'manifest.json')";
    tool(Command::new("python3").args(["-c", make, &file("docker.tar")]));
    for (file, says) in [
        (file("a.tar.gz"), "gunzip -c FILE | gantry load -"),
        ("/etc/passwd".to_owned(), "no tar archive"),
        (file("empty"), "it is empty"),
        (file("docker.tar"), "manifest.json"),
    ] {
        let pulled = format!("oci-archive:{file}");
        for args in [["load", file.as_str()], ["pull", &pulled]] {
            let other = Gantry::new();
            let done = other.gantry(args);
            assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{args:?}");
            assert!(
                done.stderr.contains(says) && done.stderr.contains(&file),
                "{}",
                done.stderr
            );
            assert!(!done.stderr.contains("cksum"), "{}", done.stderr);
        }
    }
    // The remedy works.
    let mut unpack = Command::new("gunzip")
        .args(["-c", &file("a.tar.gz")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let other = Gantry::new();
    let mut load = other.command();
    let loaded = done(
        load.args(["load", "-"])
            .stdin(unpack.stdout.take().unwrap())
            .output()
            .unwrap(),
    );
    assert_eq!(loaded.code, 0, "{}", loaded.stderr);
    assert!(unpack.wait().unwrap().success());
}

#[test]
fn a_layout_is_said_to_be_one_where_an_image_or_an_archive_was_meant() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1"]);
    let scratch = tempfile::tempdir().unwrap();
    let (layout, empty) = (scratch.path().join("layout"), scratch.path().join("empty"));
    fs::create_dir(&empty).unwrap();
    let (layout, empty) = (layout.to_str().unwrap(), empty.to_str().unwrap());
    let place = format!("oci:{layout}:beam");
    gantry.ok(["copy", "a:1", &place]);
    let copy = format!("hint: {place} is a place outside the store: `gantry copy {place} NAME` brings its image in");
    let load = format!("hint: {layout} is the directory of an image layout: `gantry copy oci:{layout} NAME`");
    for (args, code, says) in [
        (["run", &place], 125, &copy),
        (["save", &place], 1, &copy),
        (["load", layout], 1, &load),
        (
            ["load", empty],
            1,
            &format!("hint: {empty} is a directory; an archive is a file"),
        ),
    ] {
        let mut args = args.to_vec();
        let file = format!("{empty}/x.tar");
        args.extend((args[0] == "save").then_some(file.as_str()));
        let done = gantry.gantry(&args);
        assert_eq!((done.code, done.stdout.as_str()), (code, ""), "{args:?}");
        assert!(done.stderr.contains(says), "{args:?}: {says}: {}", done.stderr);
    }
    // What is to be typed does it.
    for (source, name) in [(place, "one:1"), (format!("oci:{layout}"), "two:1")] {
        gantry.ok(["copy", &source, name]);
    }
    assert_eq!(names(&gantry), ["a:1", "one:1", "two:1"]);
}

/// Runs a program on a terminal of its own and prints what it wrote there and its exit code.
const ON_A_TERMINAL: &str = "import os, pty, sys\n\
    code = pty.spawn(sys.argv[1:])\n\
    print('code', os.waitstatus_to_exitcode(code))";

#[test]
fn an_archive_is_neither_written_to_a_terminal_nor_read_from_one() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1"]);
    for args in [&["save", "a:1", "-"][..], &["load", "-"]] {
        let plain = gantry.command();
        let mut python = Command::new("python3");
        python
            .args(["-c", ON_A_TERMINAL])
            .arg(plain.get_program())
            .args(args)
            .env_clear()
            .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .stdin(Stdio::null());
        let said = tool(&mut python);
        assert!(said.contains("is a terminal") && said.contains("code 2"), "{said}");
        assert!(!said.contains("blobs/sha256"), "{said}");
    }
    // A pipe is none.
    let mut save = gantry.command();
    let output = save.args(["save", "a:1", "-"]).output().unwrap();
    assert!(output.status.success() && output.stdout.len() > 1024);
    assert!(Path::new(&gantry.root).exists());
}
