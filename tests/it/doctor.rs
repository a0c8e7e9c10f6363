//! `gantry doctor`: what it finds here is what runs report here.

use crate::common::{done, runtime, shared, Gantry, DEGRADED};
use crate::namespaces::without_namespaces;
use serde_json::{json, Value};

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
        for whom in ["runs", "builds"] {
            assert_eq!(finding["means"][whom].is_string(), !enforced, "{promise}: {finding}");
        }
        let accepted = diagnosis["allow_degraded"].as_array().unwrap();
        assert_eq!(accepted.contains(&promise.as_str().into()), !enforced, "{promise}");
        assert!(!finding["evidence"].as_str().unwrap().is_empty());
    }
    assert_eq!(promises.len(), 16);
    let runtimes = diagnosis["runtimes"].as_object().unwrap();
    assert_eq!(runtimes.len(), gantry::policy::Runtime::BUILT_IN.len());
    for (name, found) in runtimes {
        let chosen = *name == runtime().to_string();
        let expected = json!({"works": true, "chosen": chosen, "differs": [], "error": null});
        assert_eq!(found, &expected, "{name}");
    }
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
    for runtime in gantry::policy::Runtime::BUILT_IN {
        let works = format!("{:<20} works", format!("runtime {runtime}"));
        assert!(
            examined.stdout.lines().any(|line| line.starts_with(&works)),
            "{}",
            examined.stdout
        );
    }
}

#[test]
fn a_machine_without_user_namespaces_is_unusable() {
    let gantry = shared();
    let examined = without_namespaces("user", gantry, "doctor --json");
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

#[test]
fn what_gantry_works_with_is_named() {
    let gantry = Gantry::new();
    let file = gantry.home.join("config.toml");
    std::fs::write(&file, "[run]\npids = 60\n").unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let examined = gantry.gantry([&config[..], &["doctor", "--json"]].concat());
    let diagnosis: Value = serde_json::from_str(&examined.stdout).unwrap_or_else(|_| panic!("{}", examined.stderr));
    let around = &diagnosis["surroundings"];
    assert_eq!(around["gantry_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(around["store"], gantry.root.to_str().unwrap());
    assert_eq!(around["configuration"], file.to_str().unwrap());
    assert!(around["free_bytes"].as_u64().unwrap() > 0);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(around["kernel"], format!("Linux {}", release.trim()));
    let programs = around["programs"].as_array().unwrap();
    let names: Vec<&str> = programs
        .iter()
        .map(|program| program["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["uv", "pip", "gpgv"]);
    for program in programs {
        assert_eq!(program["path"].is_null(), program["version"].is_null(), "{program}");
        assert!(program["used"].is_string());
    }
    // Without a PATH there is none of them, and the text says so.
    let mut command = gantry.command();
    command.env("PATH", "/nonexistent").arg("doctor");
    let text = done(command.output().unwrap()).stdout;
    for name in names {
        assert!(
            text.lines()
                .any(|line| line.starts_with(name) && line.ends_with("not there")),
            "{name}: {text}"
        );
    }
    let store = text.lines().find(|line| line.starts_with("store ")).unwrap();
    assert!(
        store.contains(gantry.root.to_str().unwrap()) && store.ends_with(" free"),
        "{store}"
    );
}
