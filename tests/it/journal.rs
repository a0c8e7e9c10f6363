//! The journal from outside: what a run writes, and that summing it up reads each line once, whatever happens meanwhile.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Instant, SystemTime};

use rustix::process::Signal;
use serde_json::{json, Value};

use crate::common::wait::{eventually, is_so, send};
use crate::common::{function, journal, shared, tiny, Gantry};

/// An empty store with a journal of `lines` runs of each of three images of this store, of which the second is used twice as often as the
/// first, and the third thrice.
fn with_runs(lines: usize) -> (Gantry, PathBuf) {
    let gantry = Gantry::new();
    let digests = tiny(&gantry, &["a:1", "b:1", "c:1"]);
    let at = now() - 60;
    let file = gantry.root.join(format!("journal/{}.jsonl", at / 86_400));
    let mut text = Vec::new();
    for _ in 0..lines {
        for (name, digest, times) in [("a", &digests[0], 1), ("b", &digests[1], 2), ("c", &digests[2], 3)] {
            text.extend(line(at, &format!("{name}:1"), digest).as_bytes().repeat(times));
        }
    }
    fs::write(&file, text).unwrap();
    (gantry, file)
}

fn line(at: u64, reference: &str, digest: &str) -> String {
    format!("{{\"at\":{at},\"kind\":\"run\",\"reference\":\"{reference}\",\"digest\":\"{digest}\",\"status\":\"ok\",\"ms\":21,\"cache\":\"hit\"}}\n")
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// How often each image was used, as the fold of the journal has it.
fn uses(gantry: &Gantry) -> BTreeMap<String, u64> {
    let report: Value = serde_json::from_str(&gantry.ok(["cache", "warm", "--top", "100", "--json"])).unwrap();
    let images = report["images"].as_array().unwrap().iter();
    images
        .map(|one| {
            (
                one["reference"].as_str().unwrap().to_owned(),
                one["uses"].as_u64().unwrap(),
            )
        })
        .collect()
}

fn thrice(lines: u64) -> BTreeMap<String, u64> {
    [("a:1", lines), ("b:1", 2 * lines), ("c:1", 3 * lines)]
        .map(|(name, uses)| (name.to_owned(), uses))
        .into()
}

#[test]
fn a_run_is_one_line_that_says_whether_its_image_was_there_and_what_took_how_long() {
    let gantry = shared();
    gantry.build(
        function("import sys\nsys.exit(len(sys.argv) - 1)\n", None).path(),
        "journal:run",
    );
    let (ok, outcome) = gantry.run_with_outcome(&["journal:run"]);
    assert_eq!(ok.code, 0, "{}", ok.stderr);
    let failed = gantry.run(&["journal:run", "x"]);
    assert_eq!(failed.code, 1);
    let unknown = gantry.run(&["journal:none"]);
    assert_eq!(unknown.code, 125);
    let lines = journal(gantry);
    let of = |name: &str| -> Vec<Value> {
        let mut lines = lines.clone();
        lines.retain(|line| line["reference"] == name && line["kind"] == "run");
        lines
    };
    let runs = of("journal:run");
    let [.., first, second] = &*runs else {
        panic!("{runs:?}")
    };
    for key in ["digest", "image_type", "cache"] {
        assert!(first[key].is_string(), "{first}");
    }
    assert_eq!(
        (&first["image_type"], &first["cache"], &first["digest"]),
        (&json!("function"), &json!("hit"), &outcome["image"]["digest"])
    );
    assert_eq!(
        (&first["error_type"], &first["registry"], &first["bytes"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    // The phases of the outcome, without those that took nothing.
    let phases = first["phases"].as_object().unwrap();
    for (name, ms) in phases {
        let exact = outcome["phases_ms"][name].as_f64().unwrap();
        assert!((ms.as_f64().unwrap() - exact).abs() <= 0.051, "{name}: {ms} {exact}");
    }
    assert!(phases.contains_key("run") && !phases.contains_key("pull"), "{phases:?}");
    assert_eq!(
        (&second["status"], &second["error_type"]),
        (&json!("failed"), &json!("nonzero_exit"))
    );
    let unknown = of("journal:none").pop().unwrap();
    assert_eq!(
        (&unknown["error_type"], &unknown["cache"]),
        (&json!("unknown_image"), &Value::Null)
    );
    let largest = runs.iter().map(|line| line.to_string().len()).max().unwrap();
    assert!(largest < 600, "{largest}");
}

#[test]
fn what_was_read_is_not_read_again() {
    let (gantry, file) = with_runs(100);
    assert_eq!(uses(&gantry), thrice(100));
    // Behind the first line it says something else now, and that is not looked at.
    let length = fs::metadata(&file).unwrap().len();
    let before = fs::read(&file).unwrap();
    let first = before.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let changed = OpenOptions::new().write(true).open(&file).unwrap();
    changed
        .write_all_at(&vec![b'x'; usize::try_from(length).unwrap() - first], first as u64)
        .unwrap();
    assert_eq!(uses(&gantry), thrice(100));
    let digest = gantry.ok(["images", "show", "a:1"]);
    let digest: Value = serde_json::from_str(&digest).unwrap();
    let more = line(now(), "a:1", digest["digest"].as_str().unwrap());
    let mut out = OpenOptions::new().append(true).open(&file).unwrap();
    // One that is torn counts when it is whole.
    let (whole, torn) = more.split_at(more.len() / 2);
    out.write_all(format!("{more}{whole}").as_bytes()).unwrap();
    let mut expected = thrice(100);
    *expected.get_mut("a:1").unwrap() += 1;
    assert_eq!(uses(&gantry), expected);
    out.write_all(torn.as_bytes()).unwrap();
    *expected.get_mut("a:1").unwrap() += 1;
    assert_eq!(uses(&gantry), expected);
    // Without its state all is read again: the first line and the last are lines, what is between them is one that is too long.
    fs::remove_file(gantry.root.join("journal/fold.json")).unwrap();
    assert_eq!(uses(&gantry), BTreeMap::from([("a:1".to_owned(), 2)]));
}

#[test]
fn killed_while_it_sums_up_it_counts_each_line_once() {
    let (gantry, file) = with_runs(8000);
    let state = gantry.root.join("journal/fold.json");
    let next = gantry.root.join("journal/.fold.json");
    let mut lines = 8000;
    // How long it takes when it is left alone.
    let started = Instant::now();
    assert_eq!(uses(&gantry), thrice(lines));
    let whole = started.elapsed();
    fs::remove_file(&state).unwrap();
    for round in 0..12 {
        let mut command = gantry.command();
        command
            .args(["cache", "warm", "--top", "3"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        eventually("the fold begins or ends", || {
            is_so(next.exists() || state.exists(), "neither")
        });
        // From at once to after its end.
        std::thread::sleep(whole * round / 10);
        send(&child, Signal::KILL);
        child.wait().unwrap();
        if round == 6 {
            assert_eq!(uses(&gantry), thrice(lines));
            let text = fs::read(&file).unwrap();
            OpenOptions::new()
                .append(true)
                .open(&file)
                .unwrap()
                .write_all(&text)
                .unwrap();
            lines *= 2;
        }
        if round % 3 == 2 && round != 8 {
            let _ = fs::remove_file(&state);
        }
    }
    assert_eq!(uses(&gantry), thrice(lines));
    // What a killed one left is taken over, and gone with the next.
    assert!(!next.exists());
}
