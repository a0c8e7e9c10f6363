//! What people type and read: short options, arguments without `--`, suggestions, columns, summaries, how much is said.

use std::fs;
use std::process::{Command, Stdio};

use crate::common::{done, function, says, shared, tiny, tool, Done, Gantry};

#[test]
fn a_typo_gets_a_suggestion_that_is_meant() {
    let gantry = Gantry::new();
    for (args, code, says) in [
        (&["biuld"][..], 2, "'build'"),
        (&["images", "lss"], 2, "'ls'"),
        (&["run", "--memroy", "1G", "x:1"], 125, "'--memory'"),
        (&["build", "--tagg", "x:1"], 2, "'--tag'"),
    ] {
        let done = gantry.gantry(args);
        assert_eq!((done.code, done.stdout.as_str()), (code, ""));
        assert!(
            done.stderr.contains("similar") && done.stderr.contains(says),
            "{}",
            done.stderr
        );
    }
}

#[test]
fn no_tip_leads_to_a_directory_that_is_called_like_an_option() {
    let done = Gantry::new().gantry(["build", "-x", "x:1", "."]);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr.contains("'-x'") && !done.stderr.contains("as a value"),
        "{}",
        done.stderr
    );
}

#[test]
fn words_behind_the_image_are_the_functions_arguments() {
    let gantry = shared();
    let function = function(
        "import os, sys\nprint(sys.argv[1:], os.environ.get('A'), os.environ.get('B'))\n",
        None,
    );
    let dir = function.path().to_str().unwrap();
    gantry.ok(["build", dir, "-t", "comfort:1"]);
    for (args, printed) in [
        (&["comfort:1", "one", "two"][..], "['one', 'two'] None None\n"),
        (
            &["comfort:1", "one", "--memory", "1"],
            "['one', '--memory', '1'] None None\n",
        ),
        (&["comfort:1", "one", "--", "two"], "['one', '--', 'two'] None None\n"),
        (&["comfort:1", "--", "--one"], "['--one'] None None\n"),
        (&["-e", "A=1", "-m", "256M", "comfort:1", "-e", "B=2"], "[] 1 2\n"),
        (&["-eA=1", "-m256M", "comfort:1", "-m", "-e"], ""),
    ] {
        let done = gantry.run(args);
        assert_eq!(done.stdout, printed, "{args:?}: {}", done.stderr);
    }
    let results = tempfile::tempdir().unwrap();
    let results = results.path().to_str().unwrap();
    assert_eq!(
        gantry.run(&["-o", results, "comfort:1", "x"]).stdout,
        "['x'] None None\n"
    );
}

#[test]
fn an_option_behind_the_image_that_is_meant_for_the_function_says_where_it_goes() {
    let gantry = Gantry::new();
    let tip = |args: &[&str]| gantry.gantry([&["run"], args].concat());
    for (args, typed) in [
        (&["a:1", "-x"][..], "a:1 -- -x"),
        // The value may be a secret.
        (&["-m", "64M", "a:1", "--token=hunter2", "y"], "a:1 -- --token"),
        (&["a:1", "-eTOKEN=hunter2x", "-x"], "a:1 -- -x"),
        (&["a:1", "--env=TOKEN=hunter2", "--en"], "a:1 -- --en"),
        (&["a; b", "-x"], "IMAGE -- -x"),
        (&["a:1", "--memroy", "3"], "a:1 -- --memroy"),
    ] {
        let said = format!("tip: what is for the function stands behind --: `gantry run {typed}`\n");
        let done = tip(args);
        says(&done, 125, &[&said]);
        assert!(!done.stderr.contains("hunter2"), "{}", done.stderr);
    }
    // One that is almost ours, too.
    says(
        &tip(&["a:1", "--memroy", "3"]),
        125,
        &["tip: a similar argument exists: '--memory'"],
    );
    for args in [
        &["--oops", "a:1"][..],
        &["a:1", "--memory", "lots"],
        &["a:1", "--memory"],
    ] {
        let said = tip(args).stderr;
        assert!(!said.contains("for the function"), "{said}");
    }
}

#[test]
fn another_program_of_the_image_takes_the_place_of_its_command() {
    let gantry = shared();
    gantry.build(function("print('the command')\n", None).path(), "entry:1");
    let code = "import sys; print('another', sys.argv[1:])";
    let typed = gantry.run(&["--entrypoint", "python", "entry:1", "--", "-c", code, "x"]);
    assert_eq!(typed.stdout, "another ['x']\n", "{}", typed.stderr);
    let job = gantry.home.join("entry.json");
    let document = serde_json::json!({"image": "entry:1", "entrypoint": "python", "args": ["-c", code]});
    fs::write(&job, document.to_string()).unwrap();
    assert_eq!(gantry.run(&["--job", job.to_str().unwrap()]).stdout, "another []\n");
    assert_eq!(gantry.run(&["--entrypoint", "", "entry:1"]).code, 125);
    assert_eq!(
        gantry.run(&["--entrypoint", "/usr/bin/no-such-thing", "entry:1"]).code,
        127
    );
}

#[test]
fn a_build_without_a_directory_builds_the_current_one_and_says_what_came_of_it() {
    let gantry = shared();
    let function = function("print('here')\n", None);
    let build = |more: &[&str]| -> Done {
        let mut command = gantry.command();
        command.args(["build", "-t", "here:1"]).args(more);
        done(command.current_dir(function.path()).output().unwrap())
    };
    let first = build(&[]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    let digest = first.stdout.trim();
    assert!(digest.starts_with("sha256:") && first.stdout.lines().count() == 1);
    let short: String = digest.chars().skip("sha256:".len()).take(12).collect();
    let summary = first.stderr.lines().last().unwrap();
    assert!(
        summary.starts_with(&format!("Built here:1 {short}: "))
            && summary.contains(" layers, ")
            && summary.ends_with(" s"),
        "{summary}"
    );
    let quiet = build(&["-q"]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
    let loud = build(&["-v"]);
    for part in ["Store /", "image took ", "Built here:1"] {
        assert!(loud.stderr.contains(part), "{part}: {}", loud.stderr);
    }
    let empty = tempfile::tempdir().unwrap();
    let mut command = gantry.command();
    let none = done(command.arg("build").current_dir(empty.path()).output().unwrap());
    assert!(
        none.code == 1 && none.stderr.contains("user_function.py"),
        "{}",
        none.stderr
    );
}

#[test]
fn a_run_that_is_asked_says_how_it_was_held() {
    let gantry = shared();
    gantry.build(function("print(1)\n", None).path(), "verbose:1");
    let loud = gantry.run(&["-v", "verbose:1"]);
    assert_eq!(loud.stdout, "1\n");
    for part in [
        "Store /",
        "gantry: prepare: ",
        " ms",
        "gantry: seccomp: enforced",
        "gantry: memory: watched",
    ] {
        assert!(loud.stderr.contains(part), "{part}: {}", loud.stderr);
    }
    assert_eq!(gantry.run(&["verbose:1"]).stderr, "");
}

#[test]
fn how_much_is_said_is_set_by_a_variable_and_options_count_over_it() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1"]);
    let list = |log: &str, args: &[&str]| -> Done {
        let mut command = gantry.command();
        done(
            command
                .env("GANTRY_LOG", log)
                .args(["images", "ls"])
                .args(args)
                .output()
                .unwrap(),
        )
    };
    assert_eq!(list("quiet", &[]).stdout, "a:1\n");
    assert!(list("verbose", &[]).stderr.contains("Store /"));
    assert_eq!(list("verbose", &["-q"]).stdout, "a:1\n");
    assert!(list("", &[]).stdout.starts_with("NAME"));
    let wrong = list("loud", &[]);
    assert_eq!((wrong.code, wrong.stdout.as_str()), (2, ""));
    for part in ["GANTRY_LOG", "loud", "quiet, normal or verbose"] {
        assert!(wrong.stderr.contains(part), "{}", wrong.stderr);
    }
    assert_eq!(gantry.gantry(["images", "ls", "-q", "-v"]).code, 2);
}

#[test]
fn images_are_listed_in_columns_and_shown_in_both_formats() {
    let gantry = Gantry::new();
    let digest = tiny(&gantry, &["a:1", "much-longer-name:1"]).remove(0);
    let listed = gantry.ok(["images", "ls"]);
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "DIGEST", "SIZE", "LAYERS", "CREATED"]);
    let short: String = digest.chars().skip("sha256:".len()).take(12).collect();
    assert_eq!(lines[1][..2], ["a:1", &short]);
    assert!(listed.lines().all(|line| line.len() <= 80), "{listed}");
    let column = |line: &str, head: &str| line.find(head).unwrap();
    let heads: Vec<&str> = listed.lines().collect();
    assert_eq!(column(heads[0], "DIGEST"), column(heads[1], &short));
    for args in [&["images", "ls", "--json"][..], &["images", "ls", "--format", "json"]] {
        assert!(gantry.ok(args).starts_with('['));
    }
    assert_eq!(gantry.ok(["images", "ls", "--format", "table"]), listed);
    assert_eq!(gantry.gantry(["images", "ls", "--json", "--format", "table"]).code, 2);
    let garbage = gantry.ok(["cache", "gc", "--dry-run", "--format", "json"]);
    assert_eq!(garbage, gantry.ok(["cache", "gc", "--dry-run", "--json"]));
    let shown = gantry.ok(["images", "show", "a:1", "--format", "table"]);
    assert!(
        shown.starts_with("NAME") && shown.contains(&digest) && shown.contains("LAYERS"),
        "{shown}"
    );
    for args in [&["images", "show", "a:1"][..], &["images", "show", "a:1", "--json"]] {
        let value: serde_json::Value = serde_json::from_str(&gantry.ok(args)).unwrap();
        assert_eq!(value["digest"], digest.as_str());
    }
}

#[test]
fn what_is_there_is_removed_and_what_is_missing_is_named() {
    let gantry = Gantry::new();
    tiny(&gantry, &["a:1", "b:1", "c:1"]);
    let done = gantry.gantry(["images", "rm", "a:1", "missing:1", "b:1", "gone:1"]);
    assert_eq!(done.code, 1);
    for part in ["Removed a:1", "Removed b:1", "find missing:1, gone:1: no such image"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    assert_eq!(gantry.ok(["images", "ls", "-q"]), "c:1\n");
}

#[test]
fn an_image_that_is_missing_says_what_is_there() {
    let gantry = Gantry::new();
    let digests = tiny(&gantry, &["hello:1"]);
    let bundle = gantry.home.join("bundle");
    let says = |args: &[&str], part: &str| {
        let done = gantry.gantry(args);
        assert!(matches!(done.code, 1 | 125), "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(part), "{args:?}: {part}: {}", done.stderr);
    };
    let bundled = ["bundle", "hello", bundle.to_str().unwrap()];
    for args in [&["run", "hello"][..], &["images", "show", "hello"], &bundled] {
        says(args, "hint: `hello` means hello:latest; the store has hello:1\n");
    }
    says(&bundled, "error: bundle hello: no such image in the store\n");
    says(
        &["bundle", "hello:1", bundled[2]],
        "error: bundle hello:1: the image has no command\n\nhint: --entrypoint",
    );
    says(&["run", "hello:7"], "hint: the store has hello:1\n");
    says(&["run", "hell"], "hint: did you mean hello? The store has hello:1\n");
    says(&["run", "other"], "hint: `gantry images ls`");
    for tag in ["2", "3", "4"] {
        gantry.ok(["copy", "hello:1", &format!("hello:{tag}")]);
    }
    says(&["run", "hello"], "the store has hello:1, hello:2, hello:3 and 1 more");
    // Digits that are too few to mean a digest by themselves.
    let digits = &digests[0][7..13];
    says(
        &["run", digits],
        &format!("`sha256:{digits}` means the image whose digest"),
    );
    says(&["run", &format!("{digits}:1")], "hint: `gantry images ls`");
}

#[test]
fn help_is_a_command_and_says_what_the_option_says() {
    let gantry = Gantry::new();
    for words in [
        &[][..],
        &["run"],
        &["build"],
        &["images"],
        &["images", "rm"],
        &["base", "build"],
        &["help"],
    ] {
        let by_command = gantry.gantry([&["help"], words].concat());
        let by_option = gantry.gantry([words, &["--help"]].concat());
        assert_eq!((by_command.code, by_command.stderr.as_str()), (0, ""), "{words:?}");
        assert!(
            by_command.stdout.contains("Usage: gantry"),
            "{words:?}: {}",
            by_command.stdout
        );
        assert_eq!(by_command.stdout, by_option.stdout, "{words:?}");
    }
    assert!(
        gantry.ok(["--help"]).contains("\n  help "),
        "the list of commands has it"
    );
    for (words, meant) in [(&["help", "biuld"][..], "build"), (&["help", "images", "rmm"], "rm")] {
        let done = gantry.gantry(words);
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{words:?}");
        assert!(
            done.stderr.contains("unrecognized subcommand"),
            "{words:?}: {}",
            done.stderr
        );
        assert!(
            done.stderr.contains(&format!("'{meant}'")),
            "{words:?}: {}",
            done.stderr
        );
    }
    assert_eq!(gantry.gantry(["help", "no-such-command"]).code, 2);
    assert!(!gantry.root.exists(), "help makes no store");
}

#[test]
fn the_help_of_run_has_the_default_of_every_limit() {
    let help = Gantry::new().ok(["run", "--help"]);
    for (option, default) in [
        ("-m, --memory", "512M"),
        ("--cpus", "1"),
        ("--pids", "64"),
        ("--timeout", "60s"),
        ("--grace", "none"),
        ("--tmp-size", "64M"),
        ("--shm-size", "64M"),
        ("--output-size", "64M"),
        ("--output-limit", "16M"),
    ] {
        let text = help.split(option).nth(1).unwrap_or_else(|| panic!("{option}: {help}"));
        let text = text.split("\n  ").take(3).collect::<String>();
        assert!(text.contains(&format!("[default: {default}]")), "{option}: {text}");
    }
    assert!(help.contains("gantry run [OPTIONS] <IMAGE> [ARG]..."), "{help}");
}

#[test]
fn sizes_and_times_are_taken_as_people_write_them() {
    let gantry = shared();
    gantry.build(function("print(1)\n", None).path(), "written:1");
    for args in [
        ["--memory", "0.5G"],
        ["--memory", "512 MB"],
        ["--timeout", "5m30s"],
        ["--timeout", "5min"],
        ["--timeout", "1.5h"],
        ["--timeout", "30"],
    ] {
        assert_eq!(gantry.run(&[args[0], args[1], "written:1"]).stdout, "1\n", "{args:?}");
    }
    let job = gantry.home.join("written.json");
    fs::write(&job, r#"{"image": "written:1", "timeout": 30, "memory": "0.25G"}"#).unwrap();
    assert_eq!(gantry.run(&["--job", job.to_str().unwrap()]).stdout, "1\n");
    for (args, says) in [
        (["--memory", "1.5"], "such as 512M or 1.5G"),
        (["--timeout", "30s5m"], "such as 90s, 5m30s"),
    ] {
        let done = gantry.run(&[args[0], args[1], "written:1"]);
        assert!(done.code == 125 && done.stderr.contains(says), "{}", done.stderr);
    }
}

#[test]
fn a_list_is_no_job() {
    let gantry = Gantry::new();
    let job = gantry.home.join("job.json");
    for text in ["[]", "\"a:1\"", "", "image: a:1"] {
        fs::write(&job, text).unwrap();
        let done = gantry.gantry(["run", "--job", job.to_str().unwrap()]);
        assert_eq!((done.code, done.stdout.as_str()), (125, ""));
        assert!(
            done.stderr.contains("no JSON object") && !done.stderr.contains("struct Job"),
            "{}",
            done.stderr
        );
    }
}

#[test]
fn the_version_says_what_this_gantry_reads_and_was_made_for() {
    let gantry = Gantry::new();
    let value: serde_json::Value = serde_json::from_str(&gantry.ok(["version", "--json"])).unwrap();
    assert_eq!((&value["schema"], &value["store"]), (&1.into(), &1.into()));
    assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
    assert!(value["landlock_abi"].as_u64().unwrap() >= 6, "{value}");
    let commit = &value["commit"];
    assert!(
        commit.is_null() || commit.as_str().is_some_and(|commit| commit.len() == 40),
        "{value}"
    );
    let text = gantry.ok(["version"]);
    assert!(
        text.contains("store          1") && text.contains("Landlock ABI"),
        "{text}"
    );
    assert!(!gantry.root.exists());
    fs::create_dir_all(&gantry.root).unwrap();
    fs::write(gantry.root.join("version"), "gantry store 2\n").unwrap();
    let done = gantry.gantry(["images", "ls"]);
    assert_eq!(done.code, 1);
    for part in [
        "its version is \"gantry store 2\", this gantry reads \"gantry store 1\"",
        "hint: use the gantry that made it",
    ] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
}

#[test]
fn a_directory_of_somebody_else_does_not_become_a_store() {
    let gantry = Gantry::new();
    fs::create_dir_all(&gantry.root).unwrap();
    fs::write(gantry.root.join("thesis.tex"), "").unwrap();
    let done = gantry.gantry(["images", "ls"]);
    assert_eq!(done.code, 1);
    for part in [
        "it is not empty, and no store: \"thesis.tex\" is in it",
        "hint: set GANTRY_ROOT",
    ] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    assert_eq!(fs::read_dir(&gantry.root).unwrap().count(), 1, "nothing is made there");
    // A disk of its own, and what a killed gantry had begun to make.
    fs::remove_file(gantry.root.join("thesis.tex")).unwrap();
    for folder in ["lost+found", ".snapshot", "blobs/sha256", "tmp"] {
        fs::create_dir_all(gantry.root.join(folder)).unwrap();
    }
    assert!(gantry.ok(["images", "ls"]).starts_with("NAME"));
    // What is put into a store later is no reason to refuse it.
    fs::write(gantry.root.join("notes.txt"), "").unwrap();
    gantry.ok(["images", "ls"]);
}

#[test]
fn a_home_that_cannot_be_written_names_the_variable() {
    let gantry = Gantry::new();
    let mut command = gantry.command();
    command
        .env("HOME", "/proc/nonexistent")
        .env_remove("GANTRY_ROOT")
        .args(["images", "ls"]);
    let done = done(command.output().unwrap());
    assert_eq!(done.code, 1);
    for part in ["/proc/nonexistent", "hint:", "GANTRY_ROOT"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
}

/// A base from an archive at `url`, with `variables` instead of this machine's proxies.
fn base_from(url: &str, variables: &[(&str, &str)]) -> Done {
    let gantry = Gantry::new();
    let config = gantry.home.join("config.toml");
    fs::write(
        &config,
        format!("[base]\nmirror = \"{url}\"\nsecurity_mirror = \"{url}\"\n"),
    )
    .unwrap();
    let mut command = gantry.command();
    for name in ["http_proxy", "https_proxy", "no_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.args(["--config", config.to_str().unwrap(), "base", "build"]);
    done(command.envs(variables.iter().copied()).output().unwrap())
}

#[test]
fn a_name_that_no_server_knows_is_said_to_be_one() {
    let done = base_from("http://no-such-host.invalid/debian", &[]);
    assert_eq!(done.code, 4, "{}", done.stderr);
    for part in ["no-such-host.invalid", "cannot be resolved (DNS)"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    assert!(!done.stderr.contains("Query {"), "{}", done.stderr);
}

#[test]
fn a_dead_proxy_is_named_and_not_only_who_was_asked() {
    let proxy = [("http_proxy", "http://me:hunter2@127.0.0.1:1")];
    let done = base_from("http://deb.example.org/debian", &proxy);
    assert_eq!(done.code, 4, "{}", done.stderr);
    for part in [
        "deb.example.org",
        "hint: this request goes through the proxy 127.0.0.1:1, which http_proxy names",
    ] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    assert!(!done.stderr.contains("hunter2"), "{}", done.stderr);
}

/// Runs a program whose standard error is a terminal, and prints what it wrote there. The first word says whether it is
/// interrupted once a bar is there.
const WITH_A_TERMINAL: &str = r#"
import os, pty, subprocess, sys
ours, theirs = pty.openpty()
child = subprocess.Popen(sys.argv[2:], stderr=theirs, stdout=subprocess.DEVNULL)
os.close(theirs)
said, is_sent = b"", False
while True:
    try:
        piece = os.read(ours, 65536)
    except OSError:
        break
    if not piece:
        break
    said += piece
    if sys.argv[1] == "interrupted" and not is_sent and "\u2588".encode() in said:
        child.send_signal(2)
        is_sent = True
child.wait()
sys.stdout.buffer.write(said)
"#;

/// What `gantry ARGS` writes to a terminal.
pub fn on_a_terminal(gantry: &Gantry, how: &str, args: &[&str]) -> String {
    let plain = gantry.command();
    let mut python = Command::new("python3");
    python
        .args(["-c", WITH_A_TERMINAL, how])
        .arg(plain.get_program())
        .args(args)
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("TERM", "xterm")
        .stdin(Stdio::null());
    tool(&mut python)
}

#[test]
fn a_bar_stands_on_a_terminal_only_while_bytes_move() {
    let gantry = shared();
    let function = function("print('bar')\n", None);
    let dir = function.path().to_str().unwrap();
    let said = on_a_terminal(gantry, "whole", &["build", dir, "-t", "bar:1"]);
    // Nothing is downloaded, so there is nothing that a bar could show.
    assert!(
        said.contains("Built bar:1") && !said.contains("0 B/0 B") && !said.contains('█'),
        "{said:?}"
    );
}

#[test]
fn a_bar_has_the_units_of_all_sizes_and_goes_when_the_build_is_interrupted() {
    let gantry = Gantry::new();
    let said = on_a_terminal(&gantry, "interrupted", &["base", "build"]);
    let (before, after) = said.rsplit_once('█').unwrap_or_else(|| panic!("no bar: {said:?}"));
    assert!(
        before.contains("Downloading") && after.contains(" MB") && !said.contains("iB"),
        "{said:?}"
    );
    // The line is erased, and nothing is drawn after that.
    assert!(
        after.ends_with("\u{1b}[2K") || after.contains("\r\u{1b}[2K"),
        "{said:?}"
    );
}

#[test]
fn the_journal_has_a_file_for_each_day_by_its_date() {
    let today = || tool(Command::new("date").args(["-u", "+%Y-%m-%d"]));
    let day = today();
    let gantry = shared();
    gantry.build(function("print(1)\n", None).path(), "journal:1");
    let names: Vec<String> = fs::read_dir(gantry.root.join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    // It may have become another meanwhile.
    let is_there = |day: &str| names.contains(&format!("{}.jsonl", day.trim()));
    assert!(is_there(&day) || is_there(&today()), "{names:?}");
    // Days of the distant past go, whichever version named them.
    let other = Gantry::new();
    tiny(&other, &["a:1"]);
    let journal = other.root.join("journal");
    for name in ["2001-02-03.jsonl", "11356.jsonl", "notes"] {
        fs::write(journal.join(name), "{}\n").unwrap();
    }
    let report: serde_json::Value = serde_json::from_str(&other.ok(["cache", "gc", "--json"])).unwrap();
    assert_eq!(report["journal_days"], 2);
    assert!(journal.join("notes").exists() && !journal.join("2001-02-03.jsonl").exists());
}
