//! `gantry doctor`: what it finds here is what runs report here.

use crate::common::{done, shared, Gantry, DEGRADED};
use serde_json::Value;

#[test]
fn the_doctor_agrees_with_the_outcome_of_a_run() {
    let gantry = shared();
    // It needs no image and no base.
    let own = Gantry::new();
    let examined = own.gantry(["doctor", "--json"]);
    let diagnosis: Value = serde_json::from_str(&examined.stdout).unwrap_or_else(|_| panic!("{}", examined.stderr));
    let (ran, outcome) = gantry.try_python("doctor:1", "print(1)", &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let promises = diagnosis["promises"].as_object().unwrap();
    let mut lost = 0;
    for (promise, level) in outcome["enforced"].as_object().unwrap() {
        let finding = &promises[promise];
        assert_eq!(&finding["level"], level, "{promise}: {finding}");
        let enforced = level == "enforced";
        lost += usize::from(!enforced);
        assert!(enforced || DEGRADED.split(',').any(|name| name == promise), "{promise}");
        assert_eq!(finding["fix"].is_string(), !enforced, "{promise}: {finding}");
        assert!(!finding["evidence"].as_str().unwrap().is_empty());
    }
    assert_eq!(promises.len(), 16);
    let (verdict, code) = if lost == 0 { ("ok", 0) } else { ("degraded", 3) };
    assert_eq!((diagnosis["verdict"].as_str(), examined.code), (Some(verdict), code));
    let scratch = own.root.join("tmp");
    assert_eq!(
        std::fs::read_dir(scratch).unwrap().count(),
        0,
        "nothing of the probe is left"
    );
}

#[test]
fn the_text_names_every_promise_on_a_line() {
    let examined = shared().gantry(["doctor"]);
    for promise in gantry::policy::Promise::ALL {
        let line = examined.stdout.lines().find(|line| line.starts_with(promise.name()));
        assert!(line.is_some(), "{promise}\n{}", examined.stdout);
    }
    assert!(examined.stdout.lines().any(|line| line.starts_with("host landlock")));
}

#[test]
fn a_machine_without_user_namespaces_is_unusable() {
    let gantry = shared();
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && exec {} doctor --json",
        env!("CARGO_BIN_EXE_gantry")
    );
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "sh", "-c", &script])
        .env("HOME", &gantry.home)
        .env("GANTRY_ROOT", &gantry.root);
    let examined = done(command.output().unwrap());
    let diagnosis: Value = serde_json::from_str(&examined.stdout).unwrap_or_else(|_| panic!("{}", examined.stderr));
    assert_eq!((examined.code, diagnosis["verdict"].as_str()), (4, Some("unusable")));
    let host = diagnosis["host"].as_array().unwrap();
    let setting = host
        .iter()
        .find(|seen| seen["name"] == "user/max_user_namespaces")
        .unwrap();
    assert_eq!(
        (&setting["fine"], setting["fix"].is_string()),
        (&Value::Bool(false), true)
    );
}
