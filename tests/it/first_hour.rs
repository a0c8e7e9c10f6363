//! `docs/first-hour.md`: every command on the page does what the page says.

use std::path::Path;
use std::process::Command;

use crate::common::Gantry;

/// The commands of the page in order, each with what it shows.
fn steps(page: &str) -> Vec<(String, Option<String>)> {
    let mut steps: Vec<(String, Option<String>)> = Vec::new();
    let mut blocks = page.split("```").skip(1).step_by(2);
    blocks.by_ref().for_each(|block| match block.split_once('\n').unwrap() {
        ("sh", commands) => steps.push((commands.to_owned(), None)),
        ("text", shown) => steps.last_mut().unwrap().1 = Some(shown.to_owned()),
        (other, _) => panic!("a block of {other:?}"),
    });
    steps
}

#[test]
fn every_command_of_the_first_hour_does_what_the_page_says() {
    let gantry = Gantry::with_downloads();
    let steps = steps(include_str!("../../docs/first-hour.md"));
    assert!(steps.len() > 6, "the page has lost its commands");
    let binary = Path::new(env!("CARGO_BIN_EXE_gantry")).parent().unwrap();
    for (commands, shown) in steps {
        let environment = gantry.command();
        let mut shell = Command::new("bash");
        shell
            .args(["-euo", "pipefail", "-c", &commands])
            .current_dir(&gantry.home);
        shell.env_clear();
        for (name, value) in environment.get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
        shell.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", binary.display()));
        let done = shell.output().unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr),
        );
        assert!(done.status.success(), "{commands}\n{out}\n{err}");
        for line in shown.iter().flat_map(|shown| shown.lines()) {
            assert!(out.contains(line), "{commands}\nshows no {line:?}:\n{out}\n{err}");
        }
    }
}
