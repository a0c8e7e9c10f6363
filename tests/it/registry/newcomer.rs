//! What a person meets who is new to registries: names that are typed wrong, credentials that are elsewhere, answers that come
//! from another place than the name says. Each message says what is the case and what to type.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::fake::{Fake, Reply, Then};
use super::images::{configure, image, store_of, PATIENT};
use super::logging_in::{store, with_key, NAMED};
use crate::common::port::ClosedPort;
use crate::common::{done, says, tool, Done, Gantry};

/// Two registries with one image under `team/a:1`, a store that has it as `a:1`, and its digest.
fn pair() -> (Fake, Fake, Gantry, String) {
    let (one, two, source) = (Fake::start(), Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 2000)]);
    for fake in [&one, &two] {
        fake.hold(&source.root, &digest, "team/a", "1");
    }
    (one, two, source, digest)
}

#[test]
fn who_answers_for_another_registry_is_said_and_why() {
    let (one, two, ..) = pair();
    let gantry = store_of(&[&one, &two], "");
    let (first, second) = (one.name("team/a:1"), two.name("team/a:1"));
    // By priority.
    let pulled = gantry.gantry(["pull", &second]);
    let asked = format!(
        "Asking {} for {second}: the configuration asks it before {}",
        one.host, two.host
    );
    says(&pulled, 0, &[&asked, &format!(" from {} as {second}", one.host)]);
    // The one that was named, and nothing is said.
    let pulled = gantry.gantry(["pull", &first]);
    says(&pulled, 0, &[&format!(" as {first}")]);
    assert!(
        !pulled.stderr.contains(" from ") && !pulled.stderr.contains("Asking"),
        "{}",
        pulled.stderr
    );
    // As it is preferred.
    gantry.ok(["registries", "prefer", &two.host, "--for", "1h"]);
    let preferred = format!(
        "Asking {} for {first}: it is preferred over {} until",
        two.host, one.host
    );
    says(
        &gantry.gantry(["pull", &first]),
        0,
        &[&preferred, &format!(" from {} as", two.host)],
    );
    gantry.ok(["registries", "prefer", "--off"]);
    // It fails.
    one.rule(|_, _| Some(Reply::new(503, "")));
    let failed = format!(
        "warning: {} says what {first} means: {} was asked, and failed (",
        two.host, one.host
    );
    says(
        &gantry.gantry(["pull", &first]),
        0,
        &[&failed, "503", &format!(" from {} as", two.host)],
    );
    // It failed a moment ago, and is not asked: a run says it as well.
    let away = format!(
        "warning: {} says what {first} means: {} was away a moment ago (server_error), and is asked last",
        two.host, one.host
    );
    says(&gantry.gantry(["pull", &first]), 0, &[&away]);
    says(&gantry.run(&["--pull", "always", &first]), 125, &[&away]);
}

#[test]
fn images_of_layouts_and_archives_are_named_as_skopeo_names_them() {
    let gantry = Gantry::new();
    let digest = image(&gantry, "a:1", &[(1, 2000)]);
    let folder = tempfile::tempdir().unwrap();
    let place = |rest: &str| folder.path().join(rest).display().to_string();
    let skopeo = |args: &[&str]| {
        // Of an archive it unpacks what it reads, with owners.
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "skopeo", "--insecure-policy", "--tmpdir"])
            .arg(folder.path())
            .args(args);
        tool(&mut command)
    };
    for (transport, name) in [
        ("oci", "beam:1"),
        ("oci", "registry.example.org/team/beam:1"),
        ("oci-archive", "beam:1"),
    ] {
        let ours = format!("{transport}:{}:{name}", place(&format!("{transport}-ours")));
        gantry.ok(["copy", "a:1", &ours]);
        let raw = skopeo(&["inspect", "--raw", &ours]);
        assert_eq!(gantry::oci::Digest::of(raw.as_bytes()).to_string(), digest, "{ours}");
        let theirs = format!("{transport}:{}:{name}", place(&format!("{transport}-theirs")));
        let _ = fs::remove_file(place("oci-archive-theirs"));
        skopeo(&["copy", &ours, &theirs]);
        assert_eq!(
            gantry.ok(["pull", &theirs, "--tag", "back:1"]).trim(),
            digest,
            "{theirs}"
        );
    }
    // The name there is the name here.
    let bare = format!("oci:{}:beam:1", place("oci-ours"));
    says(&gantry.gantry(["pull", &bare]), 0, &["as beam:1"]);
}

#[test]
fn a_registry_that_says_nothing_is_named_after_seconds_and_asked_once() {
    let (one, _, _, digest) = pair();
    one.rule(|_, _| Some(Reply::nothing().then(Then::Stall)));
    let gantry = store_of(&[&one], "[transfer]\nstall = \"6s\"\n");
    let waiting = format!("Waiting for {}, which has not answered for", one.host);
    for args in [
        ["pull", &one.name("team/a:1")].as_slice(),
        &["pull", &one.name(&format!("team/a@{digest}"))],
        &["registries", "tags", &one.name("team/a")],
    ] {
        let before = one.seen().len();
        says(&gantry.gantry(args), 4, &[&waiting, "given up after at most 10 s"]);
        assert_eq!(one.seen().len() - before, 1, "{args:?}");
    }
}

#[test]
fn a_registry_that_breaks_off_is_asked_again() {
    let (one, _, _, digest) = pair();
    one.first(2, "HEAD", "/manifests/", Reply::nothing());
    let gantry = store_of(&[&one], "");
    assert_eq!(gantry.ok(["pull", &one.name("team/a:1")]).trim(), digest);
}

#[test]
fn the_states_of_registries_are_true() {
    let (one, two, ..) = pair();
    let none = "registry.invalid";
    let gantry = store_of(&[&one, &two], &format!("[[registry]]\nhost = \"{none}\"\n{PATIENT}"));
    let state = |host: &str| {
        let text = gantry.ok(["registries"]);
        text.lines().find(|line| line.starts_with(host)).unwrap().to_owned()
    };
    for host in [&one.host, &two.host, none] {
        assert!(state(host).contains("no pull or push yet"), "{}", state(host));
    }
    let pull = |host: &str| {
        gantry
            .gantry(["pull", "--no-failover", &format!("{host}/team/a:1")])
            .code
    };
    assert_eq!(pull(&one.host), 0);
    let one_state = state(&one.host);
    assert!(one_state.contains("ok since 20"), "{one_state}");
    // An age, and no failure.
    assert!(
        one_state.contains(" s ago ") && one_state.ends_with(" -"),
        "{one_state}"
    );
    two.rule(|_, _| Some(Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x")));
    assert_eq!((pull(&two.host), pull(none)), (1, 4));
    for (host, reason) in [(two.host.as_str(), "(auth)"), (none, "(name)")] {
        let state = state(host);
        assert!(state.contains("failing since 20") && state.contains(reason), "{state}");
    }
    assert!(gantry.gantry(["doctor"]).stdout.contains("failing since 20"));
    let known: Value = serde_json::from_str(&gantry.ok(["registries", "--json"])).unwrap();
    assert!(known
        .as_array()
        .unwrap()
        .iter()
        .all(|one| one["since"].is_u64() && one["is_away"] == false));
    // What fails and is not away is asked as before, and one that has not the image is there.
    let before = two.seen().len();
    gantry.gantry(["pull", &two.name("team/a:1")]);
    two.rule(|_, _| None);
    let gantry = store_of(&[&one], "");
    gantry.gantry(["pull", &one.name("team/none:1")]);
    assert!(gantry.ok(["registries"]).contains("ok since 20"));
    assert!(two.seen().len() >= before);
}

#[test]
fn only_what_is_amiss_is_said_by_a_quiet_doctor() {
    let (one, two, ..) = pair();
    let gantry = store_of(&[&one, &two], "");
    two.rule(|_, _| Some(Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x")));
    gantry.gantry(["pull", "--no-failover", &two.name("team/a:1")]);
    gantry.gantry(["pull", "--no-failover", &one.name("team/a:1")]);
    let (all, quiet) = (gantry.gantry(["doctor"]), gantry.gantry(["doctor", "-q"]));
    assert_eq!(all.code, quiet.code);
    let lines = |done: &Done| done.stdout.lines().count();
    assert!(lines(&quiet) < lines(&all), "{}", quiet.stdout);
    assert!(
        quiet.stdout.contains(&two.host) && !quiet.stdout.contains(&one.host),
        "{}",
        quiet.stdout
    );
    for well in ["\nkernel ", " enforced ", " works "] {
        assert!(
            all.stdout.contains(well) && !quiet.stdout.contains(well),
            "{well}: {}",
            quiet.stdout
        );
    }
}

#[test]
fn a_host_alone_is_no_name_for_an_image() {
    let (one, _, source, _) = pair();
    configure(
        &source,
        &format!("[[registry]]\nhost = \"{}\"\nplain_http = true\n", one.host),
    );
    let type_this = format!("such as {}/a:1", one.host);
    for args in [["copy", "a:1", &one.host], ["push", "a:1", &one.host]] {
        says(&source.gantry(args), 2, &["it is a registry", &type_this]);
    }
    says(
        &source.gantry(["copy", "a:1", "registry.example.org"]),
        2,
        &["such as registry.example.org/a:1"],
    );
    assert_eq!(source.ok(["images", "ls", "-q"]).trim(), "a:1");
    source.ok(["copy", "a:1", &format!("{}/a:1", one.host)]);
    // A name with a dot is one.
    source.ok(["copy", "a:1", "beam.v2:1"]);
}

#[test]
fn a_registry_that_is_only_pulled_from_is_preferred_with_a_warning() {
    let (one, two, source, _) = pair();
    let entries = |role: &str| {
        format!(
            "[[registry]]\nhost = \"{}\"\nplain_http = true\n{role}[[registry]]\nhost = \"{}\"\nplain_http = true\nrole = \"pull\"\n",
            one.host, two.host
        )
    };
    configure(&source, &entries(""));
    let preferred = source.gantry(["registries", "prefer", &two.host, "--for", "1h"]);
    says(
        &preferred,
        0,
        &[
            "pulls ask it first",
            "warning: it is only pulled from",
            "registries prefer --off",
        ],
    );
    assert!(
        !preferred.stderr.contains("pushes go there alone"),
        "{}",
        preferred.stderr
    );
    let refused = source.gantry(["push", "a:1", &one.name("team/b:1")]);
    says(
        &refused,
        3,
        &["role = \"pull\"", "hint: `gantry registries prefer --off`"],
    );
    assert!(one.seen().is_empty() && two.seen().is_empty());
    // A worker pushes nowhere, and nothing is lost to it.
    configure(&source, &entries("role = \"pull\"\n"));
    let preferred = source.gantry(["registries", "prefer", &two.host, "--for", "1h"]);
    assert!(!preferred.stderr.contains("warning"), "{}", preferred.stderr);
    source.ok(["registries", "prefer", "--off"]);
    let deleted = source.gantry(["registries", "rm", &two.name("team/a:1")]);
    says(&deleted, 3, &["delete from", "role = \"pull\""]);
    assert!(
        !deleted.stderr.contains("push to") && !deleted.stderr.contains("gantry copy"),
        "{}",
        deleted.stderr
    );
}

fn log_in(gantry: &Gantry, host: &str, password: &str) -> Done {
    let mut command = gantry.command();
    let command = command.args(["login", host, "--username", "me"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    done(child.wait_with_output().unwrap())
}

#[test]
fn a_password_that_nobody_asks_for_is_said_not_to_be_tried() {
    let (one, ..) = pair();
    let gantry = store_of(&[&one], "");
    let kept = log_in(&gantry, &one.host, "anything");
    says(
        &kept,
        0,
        &["answers without a password", "was not tried", "config.json"],
    );
    assert!(!kept.stderr.contains("takes the password"), "{}", kept.stderr);
    one.rule(|seen, _| {
        let is_known = seen.header("authorization") == "Basic bWU6czNjcmV0";
        (!is_known).then(|| Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x"))
    });
    says(&log_in(&gantry, &one.host, "s3cret"), 0, &["takes the password of me"]);
    says(
        &log_in(&gantry, &one.host, "wrong"),
        1,
        &["hint: the user or the password on standard input is wrong"],
    );
}

#[test]
fn credentials_that_are_refused_are_said_to_be_where_they_are() {
    let fake = super::asks_for_a_password();
    let name = fake.name("team/a:1");
    let gantry = store(&fake, NAMED);
    let configured = "hint: the password came from the variable KEY, which `credentials` of";
    let refused = with_key(&gantry, &["pull", &name]);
    says(&refused, 1, &[configured, &fake.host]);
    let unset = gantry.gantry(["pull", &name]);
    says(
        &unset,
        1,
        &[
            "the variable KEY is not set",
            "hint: that is where the password is looked for",
        ],
    );
    // The password itself where the name of a variable belongs.
    let gantry = store(&fake, "credentials = { user = \"me\", password_env = \"hunter2\" }");
    let unset = gantry.gantry(["pull", &name]);
    says(&unset, 1, &["may be the password itself"]);
    assert!(!unset.stderr.contains("hunter2"), "{}", unset.stderr);
    // Docker's file.
    let gantry = store(&fake, "");
    fs::create_dir(gantry.home.join(".docker")).unwrap();
    let file = gantry.home.join(".docker/config.json");
    fs::write(
        &file,
        format!("{{\"auths\":{{\"{}\":{{\"auth\":\"bWU6eA==\"}}}}}}", fake.host),
    )
    .unwrap();
    let of_file = format!("hint: the password came from {}", file.display());
    says(
        &gantry.gantry(["pull", &name]),
        1,
        &[&of_file, &format!("`gantry login {} --username", fake.host)],
    );
    fs::remove_file(file).unwrap();
    let log_in = format!("hint: `gantry login {} --username USER <FILE`", fake.host);
    says(&gantry.gantry(["pull", &name]), 1, &[&log_in]);
}

#[test]
fn a_password_in_the_configuration_is_in_no_message() {
    let gantry = Gantry::new();
    for (text, part) in [
        (
            "credentials = \"me:hunter2\"",
            "{ user = NAME, password_env = VARIABLE }",
        ),
        (
            "credentials = { user = \"me\", password = \"hunter2\" }",
            "unknown field `password`",
        ),
        ("password = \"hunter2\"", "unknown field `password`"),
        ("credentials = \"hunter2", "line 3"),
        ("credentials = [\"hunter2\"]", "credentials are `user` with"),
        (
            "credentials = { user = \"me\", password_env = [\"hunter2\"] }",
            "not a list",
        ),
        (
            "credentials = { user = \"me\", password_env = \"hunter2!\" }",
            "name of an environment variable",
        ),
        (
            "management = { api = \"github\", url = \"http://me:hunter2@a.example/\" }",
            "want url",
        ),
        ("management = \"https://me:hunter2@a.example/\"", "a table of keys"),
    ] {
        configure(
            &gantry,
            &format!("[[registry]]\nhost = \"registry.example.org\"\n{text}\n"),
        );
        let refused = gantry.gantry(["registries"]);
        says(&refused, 2, &[part, "config.toml"]);
        assert!(
            !refused.stderr.contains("hunter2") && !refused.stderr.contains("Section"),
            "{}",
            refused.stderr
        );
    }
    for text in [
        "[[registry]]\nhost = \"https://me:hunter2@registry.example.org\"\n",
        "[index]\nurl = [\"https://me:hunter2@a.example/simple\"]\n",
        "[index]\nurl = \"https://me:hunter2@a.example/simple\"\n",
        "[base]\nmirror = 5 # https://me:hunter2@a.example\n",
    ] {
        configure(&gantry, text);
        let refused = gantry.gantry(["registries"]);
        assert!(
            refused.code == 2 && !refused.stderr.contains("hunter2"),
            "{}",
            refused.stderr
        );
    }
}

#[test]
fn a_registry_without_tls_is_said_to_be_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    // As a server of plain HTTP answers to what it cannot read.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let done = Gantry::new().gantry(["pull", &format!("{host}/team/a:1")]);
    says(
        &done,
        1,
        &["it does not speak TLS there", "hint: ", "`plain_http = true`"],
    );
    assert!(!done.stderr.contains("SSL_CERT_FILE"), "{}", done.stderr);
}

#[test]
fn a_repository_that_is_not_there_is_told_from_a_tag() {
    let (one, ..) = pair();
    one.rule(|seen, _| {
        let unknown = "{\"errors\":[{\"code\":\"NAME_UNKNOWN\",\"message\":\"no\"}]}";
        seen.path.contains("/team/none/").then(|| Reply::new(404, unknown))
    });
    let gantry = store_of(&[&one], "");
    let lists = format!("hint: `gantry registries ls {}`", one.host);
    let none = gantry.gantry(["pull", &one.name("team/none:1")]);
    says(&none, 1, &["has no repository team/none", &lists]);
    says(
        &gantry.gantry(["registries", "tags", &one.name("team/none")]),
        1,
        &["404", &lists],
    );
    says(
        &gantry.gantry(["pull", &one.name("team/a:none")]),
        1,
        &[
            "no registry has this tag; its tags are: 1",
            &format!("hint: `gantry registries tags {}/team/a` lists all tags", one.host),
        ],
    );
    let (_, outcome) = gantry.run_with_outcome(&[&one.name("team/none:1")]);
    assert_eq!(outcome["code"], "unknown_image");
}

#[test]
fn a_port_that_nobody_listens_at_is_said_to_be_one() {
    let gantry = Gantry::new();
    image(&gantry, "a:1", &[(1, 2000)]);
    let dead = ClosedPort::new();
    let (host, name) = (&dead.host, format!("{}/team/a:1", dead.host));
    let hint =
        format!("hint: nothing listens at {host}, or this machine does not get there: check the host and the port");
    for args in [
        &["pull", &name][..],
        &["push", "a:1", &name],
        &["copy", "a:1", &name],
        &["registries", "tags", &name[..name.len() - 2]],
        &["registries", "ls", host],
    ] {
        says(
            &gantry.gantry(args),
            4,
            &["nobody answers", &hint, "`gantry registries`"],
        );
    }
    says(&gantry.run(&[&name]), 4, &[&hint]);
    says(&log_in(&gantry, host, "secret"), 4, &[&hint]);
    // It is the proxy that does not answer.
    let mut by_proxy = gantry.command();
    by_proxy
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .env("HTTPS_PROXY", format!("http://{host}"))
        .args(["pull", "rg.example.org/team/a:1"]);
    let by_proxy = done(by_proxy.output().unwrap());
    says(
        &by_proxy,
        4,
        &[&format!(
            "hint: this request goes through the proxy {host}, which HTTPS_PROXY names"
        )],
    );
}

#[test]
fn a_registry_that_deletes_nothing_says_what_lets_it() {
    let (one, ..) = pair();
    one.rule(|seen, _| (seen.method == "DELETE").then(|| Reply::new(405, "")));
    let gantry = store_of(&[&one], "");
    let refused = gantry.gantry(["registries", "rm", &one.name("team/a:1")]);
    says(
        &refused,
        1,
        &[
            "405",
            "hint: ",
            "`delete: enabled: true`",
            "`management` under [[registry]]",
        ],
    );
}

#[test]
fn a_list_names_its_file_and_its_line_and_copies_each_image_once() {
    let (one, two, ..) = pair();
    let gantry = store_of(&[&one, &two], "");
    let file = gantry.home.join("images");
    let path = file.to_str().unwrap();
    let copy = |text: &str| {
        fs::write(&file, text).unwrap();
        gantry.gantry(["copy", "--all-from", path])
    };
    let line = format!("{} {}\n", one.name("team/a:1"), two.name("team/b:1"));
    says(
        &copy(&format!("{line}{}\n", one.name("team/a:1"))),
        2,
        &[&format!("{path}: line 2: ")],
    );
    let twice = copy(&format!("{line}# again\n{line}"));
    says(
        &twice,
        0,
        &[
            "warning: ",
            "line 3 says what another line before it says",
            "1 copied, 0 there already, 0 failed",
        ],
    );
    assert_eq!(twice.stdout.lines().count(), 1, "{}", twice.stdout);
    says(&copy("# nothing yet\n"), 0, &["the list has no image", "0 copied"]);
}

#[test]
fn a_host_that_is_mistyped_is_answered_with_the_one_that_was_meant() {
    let gantry = Gantry::new();
    configure(
        &gantry,
        "[[registry]]\nhost = \"registry.invalid\"\n[[registry]]\nhost = \"backup.invalid\"\n",
    );
    let typo = gantry.gantry(["pull", "regsitry.invalid/team/a:1"]);
    says(
        &typo,
        4,
        &[
            "hint: the host is mistyped (did you mean registry.invalid?)",
            "`gantry registries`",
        ],
    );
    let other = gantry.gantry(["pull", "elsewhere.invalid/team/a:1"]);
    says(&other, 4, &["hint: the host is mistyped, or"]);
    assert!(
        !gantry.root.join("registries").exists(),
        "nothing is kept of a host that is not listed"
    );
}
