//! Traps in `/output` for the one who collects it: `--output DIR` follows no link, hangs on nothing, and leaves `DIR` as it
//! was when it refuses. The twin of each trap is the same run without `--output`: it ends well, so the trap was laid.

use std::fs;
use std::path::Path;

use crate::attacks::harness::image;
use crate::common::{shared, tree};

/// What is in `directory` after a run that laid the trap `kind`, its exit code and what it said.
fn collected(kind: &str) -> (tempfile::TempDir, i32, String) {
    let scene = [image(), "--", "scene", "output", kind];
    let twin = shared().run(&scene);
    assert!(
        twin.code == 0 && twin.stdout.ends_with("done\n"),
        "{kind}: {} {}",
        twin.stdout,
        twin.stderr
    );
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("before"), "before").unwrap();
    let options = ["--output", directory.path().to_str().unwrap()];
    let done = shared().run(&[&options[..], &scene].concat());
    (directory, done.code, done.stderr)
}

/// The run is reported as a failure of the function, which a queue does not try again, and nothing was put into the
/// directory.
fn refused(kind: &str, reason: &str) -> String {
    let (directory, code, said) = collected(kind);
    assert_eq!(code, 1, "{kind}: {said}");
    assert!(said.contains(reason), "{kind}: {said}");
    assert_eq!(tree(directory.path()), [directory.path().join("before")], "{kind}");
    said
}

/// Everything that was taken, by path below the directory, with its contents.
fn taken(kind: &str) -> Vec<(String, String)> {
    let (directory, code, said) = collected(kind);
    assert_eq!(code, 0, "{kind}: {said}");
    let relative = |path: &Path| {
        path.strip_prefix(directory.path())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let files = tree(directory.path()).into_iter().map(|path| {
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.is_file(), "{}", path.display());
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
        assert_eq!(mode & 0o6111, 0, "{} is {mode:o}", path.display());
        (relative(&path), fs::read_to_string(&path).unwrap())
    });
    files.filter(|(name, _)| name != "before").collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect()
}

#[test]
fn a_link_to_a_file_of_the_host_is_refused() {
    refused("symlink", "symbolic link");
}

#[test]
fn a_link_to_the_root_of_the_host_is_refused() {
    refused("symlinked_directory", "symbolic link");
}

#[test]
fn a_named_pipe_is_refused_and_hangs_nobody() {
    refused("fifo", "named pipe");
}

#[test]
fn a_socket_is_refused() {
    refused("socket", "socket");
}

#[test]
fn a_device_cannot_even_be_made() {
    assert!(taken("device").is_empty());
}

#[test]
fn a_tree_deeper_than_descriptors_last_is_refused() {
    refused("deep", "the depth");
}

#[test]
fn a_name_that_is_no_text_is_refused() {
    refused("not_text", "not UTF-8");
}

#[test]
fn a_file_that_may_not_be_read_is_refused() {
    refused("unreadable", "open");
}

#[test]
fn a_directory_that_may_not_be_listed_is_refused() {
    refused("unreadable_directory", "open");
}

#[test]
fn a_name_of_terminal_sequences_is_escaped_in_the_refusal() {
    let said = refused("escape", "symbolic link");
    assert!(!said.contains(['\u{1b}', '\u{7}']), "{said:?}");
}

#[test]
fn hard_links_become_two_files() {
    assert_eq!(taken("hard_links"), pairs(&[("one", "data"), ("two", "data")]));
}

#[test]
fn a_name_of_two_lines_is_one_file() {
    assert_eq!(taken("newline"), pairs(&[("a\nb", "data")]));
}

#[test]
fn names_of_dots_are_files_like_others() {
    assert_eq!(taken("dots"), pairs(&[("...", "data"), (".gantry-1-0", "data")]));
}

#[test]
fn a_program_loses_its_set_id_and_execute_bits() {
    assert_eq!(taken("set_uid"), pairs(&[("program", "data")]));
}

#[test]
fn a_sparse_giant_cannot_be_made() {
    assert_eq!(taken("sparse"), pairs(&[("giant", "")]));
}

#[test]
fn what_is_taken_was_written_before_the_last_process_died() {
    let files = taken("held_open");
    assert_eq!(files.len(), 1);
    assert!(["final", "torn", ""].contains(&files[0].1.as_str()), "{files:?}");
}
