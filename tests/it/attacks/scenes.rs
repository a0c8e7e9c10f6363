//! Attacks that show from outside: what is left after a run, what comes out of it, who else is hit.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::attacks::harness::{directory, image};
use crate::common::wait::{eventually, is_so, processor_time, processor_time_at_end, send};
use crate::common::{shared, tree, Done, DEGRADED};

/// A word that no other process of this machine has in its command line.
fn marker(name: &str) -> String {
    format!("gantry-attack-{name}-{}", std::process::id())
}

/// Numbers of the processes that have `marker` in a file of their /proc entry.
fn processes(marker: &str, file: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let mut found = Vec::new();
    for entry in entries {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let contents = fs::read(entry.path().join(file)).unwrap_or_default();
        if contents.windows(marker.len()).any(|window| window == marker.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

fn kill(pids: &[i32]) {
    for pid in pids.iter().filter_map(|pid| rustix::process::Pid::from_raw(*pid)) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Runs a scene in the sandbox.
fn scene(options: &[&str], words: &[&str]) -> (Done, Value) {
    let args = [options, &[image(), "--", "scene"], words].concat();
    shared().run_with_outcome(&args)
}

/// A scene outside the sandbox, where it must work: the positive twin.
fn twin(words: &[&str]) -> (tempfile::TempDir, Command) {
    let app = directory();
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(app.path().join("user_function.py"))
        .arg("scene")
        .args(words)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    (app, command)
}

/// Starts `command` and waits for its first output.
fn up(mut command: Command) -> Child {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0u8; 2];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"up");
    child
}

#[test]
fn a_daemon_does_not_outlive_its_run() {
    let word = marker("daemon");
    let (done, outcome) = scene(&[], &["daemon", &word]);
    assert!(
        processes(&word, "cmdline").is_empty(),
        "looked at once, before anything could end by itself"
    );
    assert_eq!((done.code, &outcome["status"]), (0, &"ok".into()), "{}", done.stderr);
    assert!(done.stdout.contains("left"), "{}", done.stdout);

    let (_app, mut command) = twin(&["daemon", &word]);
    let output = command.stdout(Stdio::null()).status().unwrap();
    let left = processes(&word, "cmdline");
    kill(&left);
    assert!(output.success());
    assert_eq!(left.len(), 1, "outside, the daemon is there after its maker has ended");
}

#[test]
fn a_workload_that_ignores_every_signal_ends_at_its_deadline() {
    let word = marker("deaf");
    let (done, outcome) = scene(&["--timeout", "500ms"], &["deaf", &word]);
    assert_eq!(
        (done.code, &outcome["status"]),
        (124, &"timeout".into()),
        "{}",
        done.stderr
    );
    assert!(processes(&word, "cmdline").is_empty());
    assert!(outcome["phases_ms"]["run"].as_f64().unwrap() < 60_000.0, "{outcome}");

    let (_app, command) = twin(&["deaf", &word]);
    let mut child = up(command);
    send(&child, Signal::TERM);
    send(&child, Signal::USR1);
    assert!(
        child.try_wait().unwrap().is_none(),
        "outside, the same code survives SIGTERM"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_workload_that_stops_itself_ends_at_its_deadline() {
    let word = marker("frozen");
    let (done, outcome) = scene(&["--timeout", "500ms"], &["frozen", &word]);
    assert_eq!(
        (done.code, &outcome["status"]),
        (124, &"timeout".into()),
        "{}",
        done.stderr
    );
    assert!(processes(&word, "cmdline").is_empty());

    let (_app, command) = twin(&["frozen", &word]);
    let mut child = up(command);
    let stat = format!("/proc/{}/stat", child.id());
    eventually("outside, the same code is stopped", || {
        let found = fs::read_to_string(&stat).unwrap();
        is_so(found.contains(") T "), &found)
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn killing_everyone_hits_nobody_outside() {
    let mut victim = Command::new("/bin/sleep").arg("600").spawn().unwrap();
    let (done, _) = scene(&[], &["kill_everyone"]);
    let lives = victim.try_wait().unwrap().is_none();
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(lives, "a process of the same user is dead");
    // The kernel spares the caller and pid 1, and there is nobody else.
    assert_eq!((done.code, done.stdout.as_str()), (0, "up\nESRCH\n"), "{}", done.stderr);

    // The twin, in a process namespace of its own lest it kill the tests: who is in reach is dead.
    let app = directory();
    let script = "sleep 600 & python3 \"$0\" scene kill_everyone; wait $!; echo $?";
    let output = Command::new("/usr/bin/unshare")
        .args([
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount-proc",
            "/bin/sh",
            "-c",
            script,
        ])
        .arg(app.path().join("user_function.py"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "up\nok\n137\n");
}

#[test]
fn nothing_of_one_run_is_in_the_next() {
    let places = ["/tmp", "/output", "/dev/shm", "/app", "/run", "/"];
    let (planted, _) = scene(&[], &[&["plant"][..], &places].concat());
    assert_eq!(
        planted.stdout, "/tmp ok\n/output ok\n/dev/shm ok\n/app EROFS\n/run EROFS\n/ EROFS\n",
        "{}",
        planted.stderr
    );
    let (looked, _) = scene(&[], &[&["look"][..], &places].concat());
    let clean: String = places.iter().map(|place| format!("{place} clean\n")).collect();
    assert_eq!(looked.stdout, clean, "{}", looked.stderr);

    let scratch = tempfile::tempdir().unwrap();
    let place = scratch.path().to_str().unwrap();
    let run = |words: &[&str]| {
        let (_app, mut command) = twin(words);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(run(&["plant", place]), format!("{place} ok\n"));
    assert_eq!(
        run(&["look", place]),
        format!("{place} found\n"),
        "outside, it is there"
    );
}

#[test]
fn a_flood_of_output_is_cut_and_the_run_goes_on() {
    let limit = 64 << 10;
    let (done, outcome) = scene(&["--output-limit", "64K"], &["flood", "40"]);
    assert_eq!(
        (done.code, done.stdout.len()),
        (9, limit),
        "its own exit code, after all of its writes"
    );
    assert!(done.stderr.matches('x').count() >= limit);
    assert!(done.stderr.len() < limit + 4096, "{}", done.stderr.len());
    let bytes = 40 * (64 << 10);
    assert_eq!(
        outcome["output"],
        serde_json::json!({"stdout_bytes": bytes, "stderr_bytes": bytes, "truncated": true, "files": null, "bytes": null})
    );

    let (done, outcome) = scene(&["--output-limit", "4M"], &["flood", "40"]);
    assert_eq!(
        (done.stdout.len(), &outcome["output"]["truncated"]),
        (bytes, &false.into()),
        "nothing is cut below it"
    );
}

#[test]
fn closing_every_stream_does_not_end_or_hang_the_run() {
    let (done, outcome) = scene(&[], &["closed_streams"]);
    assert_eq!(
        (done.code, &outcome["status"]),
        (8, &"failed".into()),
        "{}",
        done.stderr
    );
}

#[test]
fn a_forged_last_word_is_output_and_nothing_else() {
    let (done, outcome) = scene(&[], &["forge"]);
    assert_eq!(
        (done.code, &outcome["exit_code"], &outcome["status"]),
        (7, &7.into(), &"failed".into())
    );
    // It was really written: to the one stream that is ours to show.
    assert!(done.stdout.contains("{\"Exited\":0}"), "{:?}", done.stdout);
}

/// A workload's bytes are passed on as they are, for they may be any data; what gantry itself says is escaped.
#[test]
fn terminal_sequences_pass_in_the_output_and_nowhere_else() {
    let (done, _) = scene(&[], &["escapes"]);
    assert!(done.stdout.contains("\u{1b}]0;owned\u{7}"), "{:?}", done.stdout);
    let name = "no\u{1b}[2Jsuch\u{9b}31m";
    for words in [
        vec!["run", name],
        vec!["run", "--env", name, image()],
        vec!["images", "show", name],
    ] {
        let done = shared().gantry(&words);
        assert_ne!(done.code, 0, "{words:?}");
        assert!(
            !done.stderr.contains(['\u{1b}', '\u{9b}', '\u{7}']),
            "{words:?}: {:?}",
            done.stderr
        );
        assert!(
            done.stderr.contains("u{1b}") || done.stderr.contains("x1b"),
            "{words:?} names it: {:?}",
            done.stderr
        );
    }
}

#[test]
fn a_secret_is_in_no_command_line_environment_or_file() {
    let secret = format!("canary-secret-{}", marker("secret"));
    let public = format!("canary-public-{}", marker("public"));
    let scratch = tempfile::tempdir().unwrap();
    let (key, report) = (scratch.path().join("key"), scratch.path().join("outcome.json"));
    fs::write(&key, &secret).unwrap();
    let mut command = shared().command();
    command
        .args(["run", "--allow-degraded", DEGRADED, "--report"])
        .arg(&report)
        .arg("--secret")
        .arg(format!("KEY={}", key.display()))
        .args([
            "--env",
            &format!("PUBLIC={public}"),
            image(),
            "--",
            "scene",
            "hold",
            &public,
        ]);
    let mut child = up(command);
    let found: Vec<Vec<i32>> = [&secret, &public]
        .iter()
        .flat_map(|word| ["cmdline", "environ"].map(|file| processes(word, file)))
        .collect();
    send(&child, Signal::TERM);
    let status = child.wait().unwrap();
    assert_eq!(status.code().or(status.signal()), Some(128 + 15));
    let [secret_argv, secret_env, public_argv, public_env]: [Vec<i32>; 4] = found.try_into().unwrap();
    assert_eq!((secret_argv, secret_env), (vec![], vec![]));
    assert!(
        !public_argv.is_empty() && !public_env.is_empty(),
        "the scan finds what is there to be found"
    );

    let outcome = fs::read_to_string(&report).unwrap();
    assert!(!outcome.contains(&secret), "{outcome}");
    assert_eq!(holders(&shared().root, &secret), Vec::<PathBuf>::new());
    assert_eq!(holders(&shared().home, &secret), Vec::<PathBuf>::new());
    assert_eq!(
        holders(scratch.path(), &secret),
        [key],
        "the scan of files finds the one that has it"
    );
}

/// Small files below `directory` that hold `word`; layers of wheels and the base cannot, and are large.
fn holders(directory: &Path, word: &str) -> Vec<PathBuf> {
    let holds = |path: &Path| {
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() < 1 << 20)
            && fs::read(path).is_ok_and(|bytes| bytes.windows(word.len()).any(|window| window == word.as_bytes()))
    };
    let skipped = |path: &Path| path.to_string_lossy().contains("/layers/");
    tree(directory)
        .into_iter()
        .filter(|path| !skipped(path) && holds(path))
        .collect()
}

#[test]
fn the_init_and_the_workload_are_the_only_processes() {
    let word = marker("hold");
    let mut command = shared().command();
    command.args([
        "run",
        "--allow-degraded",
        DEGRADED,
        image(),
        "--",
        "scene",
        "hold",
        &word,
    ]);
    let mut child = up(command);
    let init = children(child.id());
    let workload: Vec<u32> = init.iter().flat_map(|pid| children(*pid)).collect();
    let command_line = fs::read(format!("/proc/{}/cmdline", init[0])).unwrap();
    child.kill().unwrap();
    let _: Output = child.wait_with_output().unwrap();
    assert_eq!((init.len(), workload.len()), (1, 1));
    assert_eq!(
        command_line, b"gantry-init\0",
        "its command line says nothing of the run"
    );
    eventually("both are gone with gantry", || {
        let left = processes(&word, "cmdline");
        is_so(left.is_empty(), &left)
    });
}

/// A process that forbids dumps is owned by root in /proc, and its parent is not the one that started it.
#[test]
fn memory_cannot_be_hidden_from_the_watch() {
    for how in ["plain", "unmapped", "cut", "headless"] {
        let (done, outcome) = scene(&["--memory", "64M"], &["hide_memory", how, "400", "20"]);
        assert_eq!(
            (&outcome["status"], done.code),
            (&"oom".into(), 137),
            "{how} {} {outcome}",
            done.stderr
        );
        assert!(!done.stdout.contains("taken"), "{how}: stopped on the way");
        let peak = outcome["usage"]["memory_peak_bytes"].as_u64().unwrap();
        assert!(peak > 60 << 20, "{how}: what was seen is what is reported, {peak}");

        let (done, outcome) = scene(&["--memory", "1G"], &["hide_memory", how, "400", "0"]);
        assert_eq!(
            (&outcome["status"], done.stdout.as_str()),
            (&"ok".into(), "taken\n"),
            "{how} {}",
            done.stderr
        );
    }
}

/// The kernel counts descriptors on their way between processes for all processes of a user, and refuses one whose soft
/// limit on open files they exceed.
#[test]
fn descriptors_under_way_in_one_run_do_not_keep_others_from_starting() {
    let gantry = shared();
    // As low as it gets: what a session of a user has by default, soft and hard.
    let low = |soft: &str, hard: &str, words: &[&str]| {
        let mut run = gantry.command();
        run.args(["run", "--allow-degraded", DEGRADED, image(), "--"])
            .args(words);
        let mut shell = Command::new("/bin/sh");
        let script = format!("ulimit -Sn {soft}; ulimit -Hn {hard}; exec \"$0\" \"$@\"");
        shell.args(["-c", &script]).arg(run.get_program()).args(run.get_args());
        shell
            .env_clear()
            .envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.stdin(Stdio::null());
        shell
    };
    let mut holder = low("1024", "1024", &["scene", "descriptors_under_way"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.as_mut().unwrap()), &mut line).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let other = low("1024", "1024", &["scene", "escapes"]).output().unwrap();
    let lower = low("256", "4096", &["scene", "escapes"]).output().unwrap();
    send(&holder, Signal::TERM);
    holder.wait().unwrap();
    let count: u32 = words[2].parse().unwrap();
    assert_eq!(words[1], "ETOOMANYREFS");
    assert!((500..=1024).contains(&count), "{count}");
    for output in [other, lower] {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    // Outside, with the soft limit that a run used to have, there are more under way than a run of that limit can bear: those of
    // other processes of this user count, too, and at some moment there are none.
    eventually("it can bear all that are under way", || {
        let (_app, twin) = twin(&["descriptors_under_way"]);
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "ulimit -Sn 1024; exec \"$0\" \"$@\""])
            .arg(twin.get_program())
            .args(twin.get_args());
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let count: u32 = line.split_whitespace().last().unwrap().parse().unwrap();
        is_so(line.starts_with("up ETOOMANYREFS") && count > 1024, line)
    });
}

/// A read for each byte would take gantry a whole processor.
#[test]
fn output_in_packets_of_a_byte_does_not_busy_gantry() {
    let mut command = shared().command();
    // The limit on memory is far away: its looks are not what is measured.
    command.args([
        "run",
        "--allow-degraded",
        DEGRADED,
        image(),
        "--",
        "scene",
        "packets",
        "2",
    ]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let used = processor_time_at_end(&child);
    child.wait().unwrap();
    assert!(
        used < Duration::from_millis(700),
        "{used:?} of processor time in two seconds"
    );
}

/// A look at every mapping would take seconds, in which gantry hears nothing.
#[test]
fn many_mappings_do_not_blind_gantry() {
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("outcome.json");
    let run = |limits: &[&str], words: &[&str]| {
        let mut command = shared().command();
        command.args(["run", "--allow-degraded", DEGRADED, "--timeout", "600s", "--report"]);
        command
            .arg(&report)
            .args(limits)
            .args([image(), "--", "scene"])
            .args(words);
        command
    };
    let mut command = run(&["--pids", "64"], &["many_mappings", "60", "65000"]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let used = processor_time_at_end(&child);
    child.wait().unwrap();
    let outcome: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let enforced = outcome["enforced"]["memory"] == "enforced";
    assert!(
        enforced || (&outcome["exit_code"], &outcome["status"]) == (&137.into(), &"oom".into()),
        "{outcome}"
    );
    assert!(enforced || used < Duration::from_secs(3), "{used:?} of processor time");

    // Fewer than that are looked through, and a signal is heard all the same.
    let mut child = up(run(&[], &["many_mappings", "3", "50000"]));
    let before = processor_time(&child).unwrap();
    send(&child, Signal::TERM);
    let used = processor_time_at_end(&child).saturating_sub(before);
    let status = child.wait().unwrap();
    assert_eq!(status.code().or(status.signal()), Some(128 + 15));
    assert!(
        used < Duration::from_millis(500),
        "{used:?} of processor time until it listened"
    );
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}
