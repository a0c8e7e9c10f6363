//! What a machine's configuration bounds: a job can be stricter than the machine, and not weaker than it allows.

use std::fs;

use serde_json::{json, Value};

use crate::common::{done, function, shared, Done};

/// Runs `job` with a configuration, and `args` beside it.
fn run(configuration: &str, job: &Value, args: &[&str]) -> (Done, Value) {
    let gantry = shared();
    gantry.build(function("print('ran')\n", None).path(), "bounds:1");
    let scratch = tempfile::tempdir().unwrap();
    let place = |name: &str| scratch.path().join(name);
    let (config, document, report) = (place("config.toml"), place("job.json"), place("outcome.json"));
    fs::write(&config, configuration).unwrap();
    let mut wanted = json!({"image": "bounds:1"});
    wanted.as_object_mut().unwrap().extend(job.as_object().unwrap().clone());
    fs::write(&document, wanted.to_string()).unwrap();
    let mut command = gantry.command();
    command
        .arg("--config")
        .arg(&config)
        .arg("run")
        .arg("--job")
        .arg(&document);
    let done = done(command.arg("--report").arg(&report).args(args).output().unwrap());
    (done, serde_json::from_slice(&fs::read(&report).unwrap()).unwrap())
}

const DEGRADED: &str = "[run]\nallow_degraded = [\"memory\", \"cpu\"]\n";

#[test]
fn a_job_accepts_losses_within_the_machines_and_may_accept_none() {
    let (done, outcome) = run(DEGRADED, &json!({}), &[]);
    assert_eq!((done.code, &outcome["status"]), (0, &"ok".into()), "{}", done.stderr);
    let is_whole = outcome["enforced"]["cpu"] == "enforced";
    for (job, args, status) in [
        // Stricter than the machine: it runs only where nothing is lost.
        (
            json!({"allow_degraded": []}),
            &[][..],
            if is_whole { "ok" } else { "refused" },
        ),
        (
            json!({"allow_degraded": ["memory"]}),
            &[],
            if is_whole { "ok" } else { "refused" },
        ),
        (json!({"allow_degraded": ["cpu", "memory"]}), &[], "ok"),
        // Whoever types comes on top.
        (json!({"allow_degraded": []}), &["--allow-degraded", "memory,cpu"], "ok"),
    ] {
        let (done, outcome) = run(DEGRADED, &job, args);
        assert_eq!(outcome["status"], status, "{job}: {}", done.stderr);
    }
    // Weaker than the machine.
    for configuration in [DEGRADED, "[run]\nallow_degraded = []\n"] {
        let (done, outcome) = run(
            configuration,
            &json!({"allow_degraded": ["memory", "cpu", "landlock"]}),
            &[],
        );
        assert_eq!((done.code, done.stdout.as_str()), (125, ""));
        assert_eq!(
            (&outcome["status"], &outcome["code"]),
            (&"refused".into(), &"not_allowed".into())
        );
        let error = outcome["error"].as_str().unwrap();
        assert!(
            error.starts_with("allow_degraded: ") && error.contains("under [run]"),
            "{error}"
        );
    }
    // A machine that says nothing leaves it to the job.
    let (done, _) = run("", &json!({"allow_degraded": ["memory", "cpu"]}), &[]);
    assert_eq!(done.code, 0, "{}", done.stderr);
}

#[test]
fn what_is_over_a_bound_is_refused_by_its_name_whoever_asks() {
    let input = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let bounds = format!(
        "{DEGRADED}[limits]\nmemory = \"600M\"\ntimeout = \"2m\"\npids = 100\ncpus = 1.5\noutput_size = \"70M\"\nenv = [\"MODE\"]\ninput_roots = [{:?}]\n",
        input.path().canonicalize().unwrap()
    );
    let escape = input.path().join("escape");
    std::os::unix::fs::symlink(outside.path(), &escape).unwrap();
    for (job, args, says) in [
        (json!({"memory": "700M"}), &[][..], "memory: 700M is over"),
        (json!({"timeout": "1h"}), &[], "timeout: 3600s is over"),
        (json!({"grace": "61s"}), &[], "timeout: 60s and a grace of 61s is over"),
        (json!({"pids": 101}), &[], "pids: 101 is over"),
        (json!({"cpus": 2}), &[], "cpus: 2 is over"),
        (json!({"output_size": "80M"}), &[], "output_size: 80M is over"),
        (json!({"env": {"OTHER": "1"}}), &[], "env: OTHER is over"),
        (json!({"secret_env": {"TOKEN": "env:HOME"}}), &[], "env: TOKEN is over"),
        (json!({"input": outside.path()}), &[], "input_roots: "),
        (json!({"input": escape}), &[], "input_roots: "),
        (json!({}), &["--memory", "700M"], "memory: 700M is over"),
        (json!({}), &["--env", "OTHER=1"], "env: OTHER is over"),
    ] {
        let (done, outcome) = run(&bounds, &job, args);
        assert_eq!((done.code, done.stdout.as_str()), (125, ""), "{job} {args:?}");
        assert_eq!(
            (&outcome["status"], &outcome["code"]),
            (&"refused".into(), &"not_allowed".into())
        );
        let error = outcome["error"].as_str().unwrap();
        assert!(error.starts_with(says) && error.contains("under [limits] ("), "{error}");
        assert!(done.stderr.contains(says), "{}", done.stderr);
    }
    let within = json!({"memory": "600M", "timeout": "1m", "grace": "1m", "pids": 100, "cpus": 1.5,
        "output_size": "70M", "env": {"MODE": "x"}, "input": input.path()});
    let (done, outcome) = run(&bounds, &within, &[]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(outcome["limits"]["pids"], 100);
}

#[test]
fn what_nobody_asks_for_is_lowered_to_the_bound() {
    let bounds = format!("{DEGRADED}[limits]\nmemory = \"200M\"\ntimeout = \"30s\"\n");
    let (done, outcome) = run(&bounds, &json!({}), &[]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let limits = &outcome["limits"];
    assert_eq!(
        (&limits["memory"], &limits["timeout"]),
        (&json!(200 << 20), &"30s".into())
    );
}

#[test]
fn a_job_may_say_its_schema_and_another_is_refused_by_number() {
    let (done, _) = run(DEGRADED, &json!({"schema": 1}), &[]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "ran\n"), "{}", done.stderr);
    let (done, outcome) = run(DEGRADED, &json!({"schema": 2, "of_the_future": true}), &[]);
    assert_eq!((done.code, &outcome["code"]), (125, &"bad_job".into()));
    assert!(
        done.stderr.contains("schema: got 2, this version of gantry reads 1"),
        "{}",
        done.stderr
    );
}
