//! `gantry config`, and the configuration of a machine below that of its users.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{done, Done, Gantry};

#[test]
fn a_file_with_every_key_is_written_once_and_is_right() {
    let gantry = Gantry::new();
    let file = gantry.home.join(".config/gantry/config.toml");
    assert_eq!(
        gantry.ok(["config", "check"]),
        "no configuration file: every key has its default\n"
    );
    assert_eq!(gantry.ok(["config", "init"]).trim(), file.to_str().unwrap());
    let text = fs::read_to_string(&file).unwrap();
    for part in ["[run]", "#memory = \"512M\"", "#url = ", "[base]"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(gantry.ok(["config", "check"]), format!("{}: fine\n", file.display()));
    assert_eq!(gantry.ok(["config", "init", "-"]), text);
    // What is there stays.
    fs::write(&file, "[run]\npids = 8\n").unwrap();
    let again = gantry.gantry(["config", "init"]);
    assert_eq!((again.code, again.stdout.as_str()), (2, ""));
    assert!(
        again.stderr.contains("config.toml") && again.stderr.contains("hint:"),
        "{}",
        again.stderr
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "[run]\npids = 8\n");
    let other = gantry.home.join("other.toml");
    gantry.ok(["--config", other.to_str().unwrap(), "config", "init"]);
    gantry.ok(["config", "check", other.to_str().unwrap()]);
    assert!(!gantry.root.exists());
}

#[test]
fn what_holds_is_shown_with_where_it_comes_from() {
    let gantry = Gantry::new();
    let file = gantry.home.join("mine.toml");
    fs::write(
        &file,
        "[run]\nmemory = \"1G\"\negress = [\"a.example:1\"]\n[base]\nmirror = \"https://me:hunter2@deb.example/d\"\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let shown = gantry.ok(["--config", file, "config", "show"]);
    let line = |key: &str| shown.lines().find(|line| line.contains(&format!("{key} = "))).unwrap();
    assert!(
        line("memory").starts_with("memory = \"1G\"") && line("memory").ends_with(file),
        "{shown}"
    );
    assert!(line("egress").starts_with("egress = [\"a.example:1\"]"), "{shown}");
    assert!(
        line("pids").starts_with("#pids = 64") && line("pids").ends_with("# default"),
        "{shown}"
    );
    assert!(line("password_env").ends_with("# not set"), "{shown}");
    assert!(
        shown.contains("https://***@deb.example/d") && !shown.contains("hunter2"),
        "{shown}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&gantry.ok(["--config", file, "config", "show", "--format", "json"])).unwrap();
    assert_eq!(
        (&json["schema"], &json["files"]),
        (&1.into(), &serde_json::json!([file]))
    );
    let key = json["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["key"] == "memory")
        .unwrap();
    assert_eq!(
        *key,
        serde_json::json!({"section": "run", "key": "memory", "value": "1G", "from": file})
    );
    assert!(!gantry.root.exists());
}

#[test]
fn a_wrong_file_is_an_error_of_every_command_about_it() {
    let gantry = Gantry::new();
    let file = gantry.home.join("wrong.toml");
    fs::write(&file, "[run]\n\nmemroy = 1\n").unwrap();
    let file = file.to_str().unwrap();
    for args in [
        &["config", "check", file][..],
        &["--config", file, "config", "check"],
        &["--config", file, "config", "show"],
    ] {
        let done = gantry.gantry(args);
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{args:?}");
        for part in ["wrong.toml", "line 3", "memroy", "hint: `gantry config init -`"] {
            assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
        }
    }
    let absent = gantry.gantry(["config", "check", "/nonexistent.toml"]);
    assert_eq!(absent.code, 2);
    let mut by_variable = gantry.command();
    by_variable
        .env("GANTRY_CONFIG", "/nonexistent.toml")
        .args(["images", "ls"]);
    for absent in [absent, done(by_variable.output().unwrap())] {
        assert!(
            absent.stderr.contains(
                "hint: --config or GANTRY_CONFIG names a file that has to be there: `gantry config init FILE`"
            ),
            "{}",
            absent.stderr
        );
    }
}

#[test]
fn what_stands_twice_in_a_file_says_where_it_stands_first() {
    let gantry = Gantry::new();
    let file = gantry.home.join("twice.toml");
    for (text, says) in [
        (
            "[run]\nmemory = \"1G\"\n[cache]\n[run]\npids = 8\n",
            "duplicate key: line 1 has this table already, and a table stands once; put the keys below that heading\n",
        ),
        (
            "[run]\nmemory = \"1G\"\nmemory = \"2G\"\n",
            "duplicate key: line 2 has this key already\n",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let done = gantry.gantry(["config", "check", file.to_str().unwrap()]);
        assert_eq!(done.code, 2, "{}", done.stderr);
        assert!(done.stderr.contains(says), "{}", done.stderr);
    }
}

/// `gantry ARGS` on a machine whose `/etc` is `etc`.
fn on_machine(gantry: &Gantry, etc: &Path, args: &[&str]) -> Done {
    let plain = gantry.command();
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$0\" /etc && exec \"$@\"";
    command
        .args(["--user", "--mount", "--map-root-user", "sh", "-c", script])
        .arg(etc)
        .arg(plain.get_program())
        .args(args)
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    done(command.output().unwrap())
}

#[test]
fn the_users_file_counts_over_the_machines_key_by_key() {
    let gantry = Gantry::new();
    let etc = tempfile::tempdir().unwrap();
    fs::create_dir(etc.path().join("gantry")).unwrap();
    let machine = etc.path().join("gantry/config.toml");
    fs::write(&machine, "[run]\nmemory = \"1G\"\npids = 8\n").unwrap();
    let users = gantry.home.join(".config/gantry");
    fs::create_dir_all(&users).unwrap();
    fs::write(users.join("config.toml"), "[run]\nmemory = \"2G\"\n").unwrap();
    let shown = on_machine(&gantry, etc.path(), &["config", "show"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    let line = |key: &str| {
        shown
            .stdout
            .lines()
            .find(|line| line.contains(&format!("{key} = ")))
            .unwrap()
    };
    assert!(line("memory").starts_with("memory = \"2G\"") && line("memory").ends_with("/.config/gantry/config.toml"));
    assert!(line("pids").starts_with("pids = 8") && line("pids").ends_with("# /etc/gantry/config.toml"));
    assert!(line("cpus").ends_with("# default"));
    // Each file answers for itself, with its line.
    fs::write(&machine, "[run]\n\npisd = 8\n").unwrap();
    let wrong = on_machine(&gantry, etc.path(), &["images", "ls"]);
    assert_eq!((wrong.code, wrong.stdout.as_str()), (2, ""));
    for part in ["/etc/gantry/config.toml", "line 3", "pisd"] {
        assert!(wrong.stderr.contains(part), "{part}: {}", wrong.stderr);
    }
}
