//! How many threads the libraries of a function start: as many as its run has processors.
//!
//! Each of them would start one for each processor of the machine, and on a large one meet the limit on processes before
//! it has computed anything. What the image or the caller says counts instead.

/// Variables that count for themselves.
const OWN: [&str; 7] = [
    "OMP_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    // What os.cpu_count() says, from Python 3.13 on.
    "PYTHON_CPU_COUNT",
];
/// Variables in whose absence their library reads OMP_NUM_THREADS: whoever sets that one means them, too.
const AS_OPENMP: [&str; 4] = [
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
];

/// What `env`, the image's variables and the caller's, lacks for libraries to start `processors` threads.
pub(super) fn defaults(env: &[(String, String)], processors: u32) -> Vec<(String, String)> {
    let is_set = |name: &str| env.iter().any(|(known, _)| known == name);
    let following: &[&str] = if is_set("OMP_NUM_THREADS") { &[] } else { &AS_OPENMP };
    let wanted = OWN.iter().chain(following).filter(|name| !is_set(name));
    wanted
        .map(|name| ((*name).to_owned(), processors.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(env: &[&str]) -> Vec<String> {
        let env: Vec<_> = env.iter().map(|name| ((*name).to_owned(), "8".to_owned())).collect();
        let defaults = defaults(&env, 3);
        assert!(defaults.iter().all(|(_, value)| value == "3"), "{defaults:?}");
        defaults.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_is_set_stays() {
        assert_eq!(set(&[]).len(), OWN.len() + AS_OPENMP.len());
        let left = set(&["POLARS_MAX_THREADS", "MKL_NUM_THREADS"]);
        assert_eq!(left.len(), OWN.len() + AS_OPENMP.len() - 2);
        assert!(!left
            .iter()
            .any(|name| name == "POLARS_MAX_THREADS" || name == "MKL_NUM_THREADS"));
    }

    #[test]
    fn who_sets_openmp_means_those_that_follow_it() {
        let left = set(&["OMP_NUM_THREADS"]);
        assert!(!left.iter().any(|name| AS_OPENMP.contains(&name.as_str())), "{left:?}");
        assert!(left.iter().any(|name| name == "RAYON_NUM_THREADS"));
    }
}
