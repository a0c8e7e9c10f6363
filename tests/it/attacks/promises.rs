//! `docs/security.md` against the code: every promise has a row, and every test it names exists.

use std::fs;
use std::path::Path;

use gantry::policy::Promise;

use crate::attacks::rows::GROUPS;

/// Promises of the document that are no promise of a run's outcome.
const MORE: [&str; 4] = ["egress", "secrets", "input", "output collection"];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Name and tests of every row of the table of promises.
fn rows(document: &str) -> Vec<(String, Vec<String>)> {
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 4, "{line}");
        let quoted = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
        (quoted(cells[0]).remove(0), quoted(cells[3]))
    })
    .collect()
}

/// `attacks::GROUP::ATTACK` (or `*` for all of a group), `limits::CHECK` of the driver in User-Mode Linux, `FILE::TEST` of
/// this folder's parent, `src/FILE::TEST`.
fn exists(test: &str) -> bool {
    let holds = |path: &str, name: &str| read(path).contains(&format!("fn {name}()"));
    match test.split("::").collect::<Vec<_>>().as_slice() {
        ["attacks", group, attack] => match GROUPS.iter().find(|(name, _)| name == group) {
            Some((_, rows)) => *attack == "*" || rows.iter().any(|row| row.name == *attack),
            None => holds(&format!("tests/it/attacks/{group}.rs"), attack),
        },
        ["limits", check] => read("tests/limits/driver.py").contains(&format!("\ndef {check}():\n")),
        [path, name] if path.starts_with("src/") => holds(&format!("{path}.rs"), name),
        [file, name] => holds(&format!("tests/it/{file}.rs"), name),
        _ => false,
    }
}

#[test]
fn every_promise_has_a_row_and_every_test_of_a_row_exists() {
    let rows = rows(&read("docs/security.md"));
    let promised: Vec<&str> = Promise::ALL.iter().map(|promise| promise.name()).chain(MORE).collect();
    let written: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(written, promised, "one row each, in the order of the enum");
    for (promise, tests) in &rows {
        assert!(!tests.is_empty(), "no test attacks {promise}");
        for test in tests {
            assert!(exists(test), "{promise} names {test}, which does not exist");
        }
    }
}
