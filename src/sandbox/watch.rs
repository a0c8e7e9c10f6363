//! Looks at the memory of a sandbox from outside, where no cgroup limits it: better than nothing, and never called
//! more than watched. Between two looks a function may take any amount.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::fs::statvfs;

/// How often: a look costs about 0.1 ms a process, and 50 ms is what it takes to touch some 100 MB.
pub const EVERY: Duration = Duration::from_millis(50);
/// Writable places; their pages belong to no process.
const PLACES: [&str; 3] = ["tmp", "output", "dev/shm"];
/// Processes looked at: the limit on them is 4096.
const MOST: usize = 5000;

/// Bytes that the init `pid`, all its descendants and the files in memory hold together.
pub fn memory_of(pid: i32) -> u64 {
    let (mut anonymous, mut shared) = (0, 0);
    let mut pending = vec![pid.to_string()];
    let mut looked = 0;
    while let Some(pid) = pending.pop() {
        looked += 1;
        if looked > MOST {
            break;
        }
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        anonymous += kilobytes(&rollup, "Pss_Anon:") << 10;
        shared += kilobytes(&rollup, "Pss_Shmem:") << 10;
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pending.extend(children.split_whitespace().map(str::to_owned));
        }
    }
    let root = format!("/proc/{pid}/root");
    let files = PLACES.iter().map(|place| used(&Path::new(&root).join(place))).sum();
    // A file in memory that is mapped is in both.
    anonymous + u64::max(shared, files)
}

fn used(path: &Path) -> u64 {
    statvfs(path).map_or(0, |found| found.f_blocks.saturating_sub(found.f_bfree) * found.f_frsize)
}

fn kilobytes(rollup: &str, name: &str) -> u64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_this_process_holds() {
        let pid = std::process::id().cast_signed();
        let before = memory_of(pid);
        let held = vec![1u8; 64 << 20];
        let after = memory_of(pid);
        assert!(after >= before + (60 << 20), "{before} -> {after}");
        drop(held);
    }

    #[test]
    fn a_process_that_is_gone_holds_nothing() {
        assert_eq!(memory_of(i32::MAX), 0);
    }
}
