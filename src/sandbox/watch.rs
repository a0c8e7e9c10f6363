//! Looks at a sandbox from outside, where no cgroup limits it: better than nothing, and never called more than watched.
//! Between two looks a function may take any amount.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::statvfs;

/// How often: a look costs about 0.1 ms a process, and 50 ms is what it takes to touch some 100 MB.
pub const EVERY: Duration = Duration::from_millis(50);
/// Writable places; their pages belong to no process.
const PLACES: [&str; 3] = ["tmp", "output", "dev/shm"];
/// Processes looked at: the limit on them is 4096.
const MOST: usize = 5000;
/// Clock ticks a second in `/proc/PID/stat`; the same on every x86-64 kernel (USER_HZ).
const TICKS: u64 = 100;

/// What was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes that all processes and the files in memory hold together.
    pub memory: u64,
    /// User and system time of the processes that are there, and of those they have waited for.
    pub cpu: Duration,
}

/// Looks at the init `pid` and all its descendants.
pub fn look(pid: i32) -> Seen {
    let mut held = Held::default();
    let mut cpu = 0;
    let mut pending = vec![pid.to_string()];
    let mut looked = 0;
    while let Some(pid) = pending.pop() {
        looked += 1;
        if looked > MOST {
            break;
        }
        let process = PathBuf::from(format!("/proc/{pid}"));
        let tasks: Vec<PathBuf> = fs::read_dir(process.join("task"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        // Where the first thread has ended, the memory is still that of the others.
        let mut places = std::iter::once(&process).chain(&tasks);
        places.find(|place| held.add(place));
        cpu += ticks(&fs::read_to_string(process.join("stat")).unwrap_or_default());
        for task in &tasks {
            let children = fs::read_to_string(task.join("children")).unwrap_or_default();
            pending.extend(children.split_whitespace().map(str::to_owned));
        }
    }
    let root = format!("/proc/{pid}/root");
    let files: u64 = PLACES.iter().map(|place| used(&Path::new(&root).join(place))).sum();
    Seen {
        memory: held.bytes(files),
        cpu: Duration::from_millis(cpu * (1000 / TICKS)),
    }
}

#[derive(Debug, Default)]
struct Held {
    /// Private memory and page tables.
    private: u64,
    /// Shared memory and files in memory, as far as they are mapped just now.
    mapped: u64,
    /// Whole sizes of shared memory without a name: its pages stay when they are no longer mapped. By inode.
    nameless: BTreeSet<(u64, u64)>,
}

impl Held {
    /// Adds the memory of the process or thread at `place`; false when it has none to show.
    fn add(&mut self, place: &Path) -> bool {
        let read = |file: &str| fs::read_to_string(place.join(file)).unwrap_or_default();
        let rollup = read("smaps_rollup");
        if rollup.is_empty() {
            return false;
        }
        self.private += (kilobytes(&rollup, "Pss_Anon:") + kilobytes(&read("status"), "VmPTE:")) << 10;
        let shared = kilobytes(&rollup, "Pss_Shmem:") << 10;
        self.mapped += shared;
        // Most processes have none, and their mappings need no second look.
        let maps = read("maps");
        let nameless = maps.lines().filter(|line| line.ends_with("/dev/zero (deleted)"));
        self.nameless.extend(nameless.filter_map(inode_and_end));
        true
    }

    /// A file in memory that is mapped is in both, so the larger counts.
    fn bytes(&self, files: u64) -> u64 {
        let mut whole = std::collections::BTreeMap::new();
        for (inode, end) in &self.nameless {
            let size: &mut u64 = whole.entry(*inode).or_default();
            *size = (*size).max(*end);
        }
        self.private + self.mapped.max(files + whole.values().sum::<u64>())
    }
}

/// Inode of a mapping and how far into its file it reaches (proc_pid_maps(5)).
fn inode_and_end(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let offset = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
    Some((inode, offset + hexadecimal(to)?.checked_sub(hexadecimal(from)?)?))
}

fn used(path: &Path) -> u64 {
    statvfs(path).map_or(0, |found| found.f_blocks.saturating_sub(found.f_bfree) * found.f_frsize)
}

fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
        .unwrap_or(0)
}

/// `utime`, `stime`, `cutime` and `cstime` (proc_pid_stat(5)); the name before them may hold anything but is in brackets.
fn ticks(stat: &str) -> u64 {
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let numbers = fields.split(' ').skip(11).take(4);
    numbers.filter_map(|number| number.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_this_process_holds() {
        let pid = std::process::id().cast_signed();
        let before = look(pid).memory;
        let held = vec![1u8; 64 << 20];
        let after = look(pid).memory;
        assert!(after >= before + (60 << 20), "{before} -> {after}");
        drop(held);
    }

    #[test]
    fn a_process_that_is_gone_holds_nothing() {
        assert_eq!(look(i32::MAX), Seen::default());
    }

    #[test]
    fn shared_memory_without_a_name_counts_whole_and_once() {
        let line = |range: &str, offset: &str, inode: u64| {
            format!("{range} rw-s {offset} 00:01 {inode}   /dev/zero (deleted)")
        };
        assert_eq!(inode_and_end(&line("1000-3000", "00000000", 7)), Some((7, 0x2000)));
        assert_eq!(inode_and_end(&line("1000-3000", "00001000", 7)), Some((7, 0x3000)));
        let held = Held {
            nameless: [(7, 0x2000), (7, 0x3000), (8, 0x1000)].into(),
            ..Held::default()
        };
        assert_eq!(held.bytes(0), 0x4000);
    }

    #[test]
    fn the_times_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 5 6 7 8 20 0 1 0 100 0 0";
        assert_eq!(ticks(stat), 26);
        assert_eq!(ticks(""), 0);
    }
}
