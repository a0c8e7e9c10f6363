//! What a function sees of the machine it runs on.

use super::{assert_prints, case, case_with};

#[test]
fn duckdb_says_what_memory_it_takes() {
    let (done, _) = case_with("duckdb-memory", &[], &["--memory", "512M"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.trim().ends_with("iB"), "{}", done.stdout);
}

#[test]
fn every_pool_of_threads_has_a_processor() {
    assert_prints(&case("thread-counts"), "True\n");
}
