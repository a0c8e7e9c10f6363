//! `gantry completions` and `gantry man`: what a shell and `man` take.

use std::fs;
use std::process::{Command, Stdio};

use crate::common::{tool, Gantry};

#[test]
fn bash_takes_its_completions_and_completes_with_them() {
    let gantry = Gantry::new();
    let script = gantry.home.join("gantry.bash");
    fs::write(&script, gantry.ok(["completions", "bash"])).unwrap();
    tool(Command::new("bash").arg("-n").arg(&script));
    let complete =
        "source \"$1\"; COMP_WORDS=(gantry base b); COMP_CWORD=2; _gantry gantry b base; echo \"${COMPREPLY[@]}\"";
    let completed = tool(Command::new("bash").args(["-c", complete, "bash"]).arg(&script));
    assert_eq!(completed, "build\n");
}

#[test]
fn zsh_and_fish_get_scripts_of_their_own() {
    let gantry = Gantry::new();
    assert!(gantry.ok(["completions", "zsh"]).starts_with("#compdef gantry"));
    assert!(gantry.ok(["completions", "fish"]).contains("complete -c gantry"));
    assert_eq!(gantry.gantry(["completions", "csh"]).code, 2);
}

#[test]
fn man_has_a_page_for_each_command_and_touches_no_store() {
    let gantry = Gantry::new();
    for (command, name) in [
        (&["man"][..], "gantry"),
        (&["man", "run"], "gantry-run"),
        (&["man", "base", "build"], "gantry-base-build"),
    ] {
        let page = gantry.ok(command);
        assert!(
            page.contains(&format!(".TH {name} 1")) && page.contains(".SH OPTIONS"),
            "{page}"
        );
    }
    let unknown = gantry.gantry(["man", "no-such"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (2, ""), "{}", unknown.stderr);
    assert!(!gantry.root.exists());
    // A reader that has seen enough is no failure.
    let mut command = gantry.command();
    let mut child = command.args(["man", "run"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
