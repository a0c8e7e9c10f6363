//! What a function sees of the machine it runs on: its own memory, its own processors.

use super::{case_with, prints, prints_with};

#[test]
fn dask_asks_psutil_for_the_memory() {
    prints("dask-frame", "4950\n");
}

#[test]
fn psutil_answers_what_monitors_ask_it() {
    prints("psutil-memory", "True True True\n");
    let expected = "300 300 0\n2 2 2\n0.0 True 0 (0.0, 0.0, 0.0)\nTrue True 64\nTrue True True\n";
    prints_with("psutil-machine", &[], &["--memory", "300M", "--cpus", "1.5"], expected);
}

#[test]
fn duckdb_takes_a_share_of_the_memory_of_the_run() {
    prints_with("duckdb-memory", &[], &["--memory", "512M"], "409.5 MiB\n");
}

#[test]
fn the_limits_of_a_run_are_in_the_files_that_programs_read() {
    let expected = "3 3 3 3 3 3 3 3\nonline 0-2\npossible 0-2\npresent 0-2\ncgroup.controllers cpu memory pids\n\
                    cpu.max 250000 100000\nmemory.max 104857600\nmemory.swap.max 0\nmemory.current 0\npids.max 12\n";
    let limits = ["--memory", "100M", "--cpus", "2.5", "--pids", "12"];
    prints_with("thread-counts", &[], &limits, expected);
    let (done, _) = case_with("thread-counts", &[], &[]);
    assert!(
        done.stdout.starts_with("1 1 1 1 1 1 1 1\nonline 0\n"),
        "{}",
        done.stdout
    );
}

#[test]
fn what_the_caller_says_of_threads_counts() {
    let (done, _) = case_with(
        "thread-counts",
        &[],
        &["-e", "OMP_NUM_THREADS=7", "-e", "POLARS_MAX_THREADS=5"],
    );
    let first = done.stdout.lines().next().unwrap_or_default();
    assert_eq!(
        first, "1 7 None None None 1 1 5",
        "those that follow OpenMP are left to it"
    );
}

#[test]
fn pools_have_as_many_threads_as_the_run_has_processors() {
    let expected = "1 1 1 1\n285\n499500\n1 True\n";
    prints_with("thread-pools", &[], &["--cpus", "1", "--memory", "1G"], expected);
}
