//! What somebody types who knows other tools, or mistypes: each message says what to type instead.

use std::fs;
use std::process::{Command, Stdio};

use crate::common::{done, function, says, tiny, Done, Gantry, DEGRADED};

#[test]
fn commands_of_other_tools_lead_to_ours() {
    let gantry = Gantry::new();
    for (typed, ours) in [
        (&["rmi", "a:1"][..], "images rm"),
        (&["ls"], "images ls"),
        (&["ps"], "cache ls"),
        (&["tag", "a:1", "b:1"], "copy"),
        (&["inspect", "a:1"], "images show"),
    ] {
        let done = gantry.gantry(typed);
        says(&done, 2, &[&format!("tip: here that is `gantry {ours}`\n")]);
        assert!(!done.stderr.contains("similar"), "{}", done.stderr);
    }
    // Below a command the same word is only one that is not there.
    for typed in [&["cache", "rm"][..], &["help", "cache", "rm"]] {
        let below = gantry.gantry(typed);
        assert!(
            below.code == 2 && !below.stderr.contains("here that is"),
            "{typed:?}: {}",
            below.stderr
        );
    }
    says(
        &gantry.gantry(["help", "rm"]),
        2,
        &["tip: here that is `gantry images rm`\n"],
    );
    says(&gantry.gantry(["man", "nosuch"]), 2, &["`gantry help` lists them"]);
}

#[test]
fn a_negative_value_is_said_to_be_one() {
    let gantry = Gantry::new();
    for args in [["run", "--timeout", "-5s", "a:1"], ["run", "--cpus", "-1", "a:1"]] {
        says(
            &gantry.gantry(args),
            125,
            &["tip: no size, number or time is less than 0"],
        );
    }
    // Where no value is expected it is only an option that is not there.
    for args in [&["images", "ls", "-5"][..], &["run", "-q", "-5", "a:1"]] {
        let done = gantry.gantry(args);
        assert!(
            done.code != 0 && !done.stderr.contains("less than 0"),
            "{args:?}: {}",
            done.stderr
        );
    }
}

#[test]
fn an_image_that_is_mistyped_is_answered_with_the_one_that_was_meant() {
    let gantry = Gantry::new();
    tiny(&gantry, &["beam:1", "beam:2", "series:1"]);
    for typed in ["baem:1", "baem", "beeam:7"] {
        for command in [&["run"][..], &["images", "show"], &["save"]] {
            let more: &[&str] = if command == ["save"] { &["x.tar"] } else { &[] };
            let done = gantry.gantry([command, &[typed], more].concat());
            assert!(
                done.stderr
                    .contains("hint: did you mean beam? The store has beam:1, beam:2\n"),
                "{typed} {command:?}: {}",
                done.stderr
            );
        }
    }
    let other = gantry.gantry(["images", "show", "elsewhere:1"]);
    says(&other, 1, &["hint: `gantry images ls` lists the images"]);
}

#[test]
fn whoever_has_no_registry_is_told_what_names_one_and_where() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1"]);
    let file = gantry.home.join(".config/gantry/config.toml");
    let where_to = format!("`[[registry]]` in {} names those", file.display());
    for (args, example) in [
        (
            &["push", "a:1"][..],
            "such as `gantry push a:1 registry.example.org/team/a:1`; no registry is configured",
        ),
        (
            &["push", "a:1", "b:1"],
            "such as `gantry push a:1 registry.example.org/team/a:1`",
        ),
        (
            &["pull", "alpine"],
            "such as `gantry pull registry.example.org/team/alpine`",
        ),
    ] {
        says(&gantry.gantry(args), 1, &[example, &where_to]);
    }
    let listed = gantry.gantry(["registries"]);
    says(&listed, 0, &["no registry is configured: ", &where_to]);
    assert_eq!(gantry.gantry(["registries", "--json"]).stderr, "");
    assert_eq!(gantry.gantry(["-q", "registries"]).stderr, "");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "[[registry]]\nhost = \"localhost:5\"\nplain_http = true\n").unwrap();
    let push = gantry.gantry(["push", "a:1"]);
    says(
        &push,
        1,
        &["such as `gantry push a:1 localhost:5/team/a:1`; `gantry registries` lists"],
    );
    assert_eq!(gantry.gantry(["registries"]).stderr, "");
}

#[test]
fn places_and_hosts_of_the_wrong_kind_say_what_is_wanted() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1"]);
    let file = gantry.home.join("file");
    fs::write(&file, "").unwrap();
    let path = file.to_str().unwrap();
    says(
        &gantry.run(&["--output", path, "--entrypoint", "/none", "a:1"]),
        125,
        &["a file of that name is there"],
    );
    says(
        &gantry.run(&["--network", "egress", "--egress", "http://example.org:80", "a:1"]),
        125,
        &["want HOST:PORT without what stands before the host"],
    );
    says(
        &gantry.run(&["--network", "egress", "a:1"]),
        125,
        &["`--egress example.org:443`"],
    );
    let words = ["build", ".", "--label", "team"];
    says(&gantry.gantry(words), 2, &["want KEY=VALUE"]);
    // What would say something else than the name.
    let ids = ["--function", "7", "--user", "u", "--function-version", "1", "--label"];
    let words = [&["build", "."], &ids[..], &["org.mecapy.function.id=8"]].concat();
    let config = gantry.home.join("config.toml");
    fs::write(
        &config,
        "[naming]\nregistry = \"registry.example.org\"\nnamespace = \"n\"\n",
    )
    .unwrap();
    let named = [&["--config", config.to_str().unwrap()], &words[..]].concat();
    says(
        &gantry.gantry(named),
        2,
        &["--label org.mecapy.function.id: --function, --user and --function-version say another value"],
    );
    let script = tempfile::tempdir().unwrap();
    fs::write(script.path().join("main.py"), "print(1)\n").unwrap();
    let build = |dir: &std::path::Path| gantry.gantry(["build", dir.to_str().unwrap()]);
    says(
        &build(script.path()),
        1,
        &["hint: what a function runs is called user_function.py: if it is main.py, rename that file"],
    );
    fs::write(script.path().join("other.py"), "").unwrap();
    says(
        &build(script.path()),
        1,
        &["hint: a function is a directory with user_function.py"],
    );
    let wanted = function("print(1)\n", None);
    let file = wanted.path().join("user_function.py");
    says(&build(&file), 1, &["hint: a function is the directory that"]);
}

#[test]
fn sizes_are_said_as_they_were_given() {
    let gantry = Gantry::new();
    says(
        &gantry.run(&["--memory", "10K", "a:1"]),
        125,
        &["it is 10K, at least 64K is needed"],
    );
    let config = gantry.home.join("bounded.toml");
    fs::write(&config, "[limits]\nmemory = \"64M\"\n").unwrap();
    tiny(&gantry, &["a:1"]);
    let over = gantry.run(&["--config", config.to_str().unwrap(), "--memory", "65M", "a:1"]);
    says(
        &over,
        125,
        &["memory: 65M is over what this machine's configuration allows under [limits] (64M)"],
    );
}

/// What a shell's `script` comes to in which `$0` is gantry.
fn in_shell(gantry: &Gantry, script: &str) -> Done {
    let plain = gantry.command();
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(plain.get_program()).env_clear();
    let set = plain.get_envs().filter_map(|(name, value)| Some((name, value?)));
    done(shell.envs(set).stdin(Stdio::null()).output().unwrap())
}

#[test]
fn whoever_is_in_a_directory_that_is_gone_is_told_so() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1"]);
    let hint = ["hint: the directory that gantry was started in is not there any more: `cd` to one that is\n"];
    let from_nowhere = |args: &str| {
        let place = gantry.home.join("gone").display().to_string();
        in_shell(
            &gantry,
            &format!("mkdir {place} && cd {place} && rmdir {place} && exec \"$0\" {args}"),
        )
    };
    let degraded = format!("run --allow-degraded {DEGRADED}");
    for (args, code) in [
        ("build", 1),
        ("build dir", 1),
        ("load a.tar", 1),
        ("save a:1 a.tar", 1),
        ("copy a:1 oci:dir:x", 1),
        ("cache check --report r.json", 1),
        (&format!("{degraded} --report r.json a:1"), 125),
        (&format!("{degraded} --input in --entrypoint /none a:1"), 125),
    ] {
        says(&from_nowhere(args), code, &hint);
    }
    // What has nothing to do with it goes on, and what is wrong for another reason says that.
    says(&from_nowhere("images ls"), 0, &[]);
    for args in [
        "images show b:1",
        "load /no/such.tar",
        "--config /no/such.toml images ls",
        "build /no/such",
    ] {
        let done = from_nowhere(args);
        assert!(
            done.code != 0 && !done.stderr.contains("started in"),
            "{args}: {}",
            done.stderr
        );
    }
}

#[test]
fn a_closed_standard_input_is_said_to_be_closed_and_not_empty() {
    let gantry = Gantry::new();
    for (args, code) in [
        ("load -", 1),
        ("copy --all-from -", 1),
        ("cache warm --from -", 1),
        ("login registry.example.org --username u", 1),
        ("run --job -", 125),
    ] {
        let done = in_shell(&gantry, &format!("exec \"$0\" {args} <&-"));
        says(&done, code, &["caused by: it is closed\n"]);
    }
}

#[test]
fn two_commands_about_room_say_when_to_use_which() {
    let help = Gantry::new().ok(["cache", "--help"]);
    for line in ["`cache du`: which folders", "`cache stats`: which images"] {
        assert!(help.contains(line), "{line}: {help}");
    }
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1"]);
    assert!(gantry.ok(["cache", "stats"]).contains("other: tools, journal, garbage"));
}
