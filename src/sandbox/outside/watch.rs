//! Looks at a sandbox from outside, where no cgroup limits it: better than nothing, and never called more than watched.
//! Between two looks a function may take any amount.
//!
//! A function decides how long a look takes, by how many processes and mappings it has; we do nothing else meanwhile. So
//! a look has a budget, and a run that cannot be looked at within it is over its limit.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::statvfs;
use rustix::time::{clock_gettime, ClockId};

/// Time between two looks: a look costs about 0.1 ms a process, and touching 100 MB takes some 50 ms.
const EVERY: Duration = Duration::from_millis(50);
/// Time between two looks while there is new shared memory without a name: what is cut before it was seen whole is not
/// counted.
const SOON: Duration = Duration::from_millis(5);
/// After a long look the next one waits this many times as long: we take a quarter of a processor at most.
const REST: u32 = 3;
/// Most processor time of a look; processor time, so that a busy machine ends no run. 60 processes that share 1 GB take
/// half of it, and twice as much where others use the same caches.
const BUDGET: Duration = Duration::from_millis(400);
/// Longest look by the clock, without the time in which a busy machine did not let us run: one that has to wait for the
/// workload's locks is given up and tried again.
const PATIENCE: Duration = Duration::from_millis(300);
/// After so many looks in a row that were given up, a run counts as one that cannot be watched.
const MOST_GIVEN_UP: u32 = 6;
/// Budget of the look before the end, which must not delay it.
const LAST: Duration = Duration::from_millis(5);
/// Mappings of all processes: an interpreter with every large library has a thousand; a process cannot have over 65,530.
const MOST_MAPPINGS: usize = 200_000;
/// A line of `/proc/PID/maps`: a path of 4096 bytes, each escaped as four.
const LONGEST_LINE: u64 = 20 << 10;
/// Writable places of the workload that are memory; their pages belong to no process.
const PLACES: [&str; 2] = ["tmp", "dev/shm"];
/// One that may be.
const OUTPUT: &str = "output";
/// Most processes of a look: the limit on them is 4096.
const MOST: usize = 5000;
/// Clock ticks a second in `/proc/PID/stat`; the same on every x86-64 kernel (USER_HZ).
const TICKS: u64 = 100;

/// What a look saw of a sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Bytes that all processes and the files in memory hold together.
    pub memory: u64,
    /// User and system time of the processes that are there, and of those they have waited for.
    pub cpu: Duration,
    /// Processes and threads, the init among them.
    pub tasks: u64,
}

/// Where `/output` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// In memory, of which it takes some.
    Memory,
    /// On disk.
    Disk,
}

impl Output {
    /// On disk when it is in `directory`.
    pub(super) fn of(directory: Option<&Path>) -> Self {
        directory.map_or(Self::Memory, |_| Self::Disk)
    }
}

/// Looks at one sandbox again and again.
#[derive(Debug)]
pub(super) struct Watch {
    limit: u64,
    output: Output,
    /// The most that any look saw.
    pub most: Seen,
    /// When to look next.
    next: Instant,
    /// Looks given up, one after the other.
    given_up: u32,
    /// Of shared memory without a name, by inode: the most of it that was ever seen mapped. Its pages stay when part of the
    /// mapping goes, as long as the rest is there.
    nameless: BTreeMap<u64, u64>,
    /// Whether the last look saw some for the first time.
    has_new: bool,
}

impl Watch {
    /// Watches for more than `limit` bytes.
    pub(super) fn new(limit: u64, output: Output) -> Self {
        Self {
            limit,
            output,
            most: Seen::default(),
            // A run that just begins holds nothing, and a short one is over by then.
            next: Instant::now() + EVERY,
            given_up: 0,
            nameless: BTreeMap::new(),
            has_new: false,
        }
    }

    /// Time until the next look.
    pub(super) fn due(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Looks at the init `pid` and all its descendants, when it is time to; whether the run is over its limit.
    pub(super) fn is_over(&mut self, pid: i32) -> bool {
        if !self.due().is_zero() {
            return false;
        }
        let began = processor_time();
        let look = self.look(pid, BUDGET, PATIENCE);
        let pause = if self.has_new { SOON } else { EVERY };
        self.next = Instant::now() + pause.max(processor_time().saturating_sub(began) * REST);
        self.judge(look)
    }

    /// Looks once more before the end: the kernel does not tell what children used that die with the init.
    pub(super) fn last_look(&mut self, pid: i32) {
        self.look(pid, LAST, LAST);
    }

    fn judge(&mut self, (seen, ended): (Seen, LookEnded)) -> bool {
        self.given_up = match ended {
            LookEnded::Whole => 0,
            LookEnded::OutOfTime => self.given_up + 1,
            LookEnded::OutOfBudget => return true,
        };
        seen.memory > self.limit || self.given_up >= MOST_GIVEN_UP
    }

    fn remember(&mut self, mapped: &BTreeMap<u64, u64>, ended: LookEnded) {
        self.has_new = mapped.keys().any(|inode| !self.nameless.contains_key(inode));
        if ended == LookEnded::Whole {
            // What nobody maps any more is gone.
            self.nameless.retain(|inode, _| mapped.contains_key(inode));
        }
        for (inode, end) in mapped {
            let size = self.nameless.entry(*inode).or_default();
            *size = (*size).max(*end);
        }
    }

    fn look(&mut self, pid: i32, budget: Duration, patience: Duration) -> (Seen, LookEnded) {
        let mut held = Held::new(budget, patience);
        let cpu = held.add_all(pid);
        self.remember(&held.nameless, held.ended);
        let root = format!("/proc/{pid}/root");
        let places = PLACES
            .iter()
            .chain(Some(&OUTPUT).filter(|_| self.output == Output::Memory));
        let files: u64 = places.map(|place| used(&Path::new(&root).join(place))).sum();
        let seen = Seen {
            tasks: held.tasks,
            memory: held.bytes(files, self.nameless.values().sum()),
            cpu: Duration::from_millis(cpu * (1000 / TICKS)),
        };
        self.most.memory = self.most.memory.max(seen.memory);
        self.most.cpu = self.most.cpu.max(seen.cpu);
        self.most.tasks = self.most.tasks.max(seen.tasks);
        (seen, held.ended)
    }
}

/// How a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LookEnded {
    Whole,
    /// Something could not be read in time.
    OutOfTime,
    /// The workload has too many processes or mappings to look at.
    OutOfBudget,
}

#[derive(Debug)]
struct Held {
    /// Private memory and page tables.
    private: u64,
    /// Shared memory and files in memory, as far as they are mapped just now.
    mapped: u64,
    /// Shared memory without a name: how much of an inode is mapped.
    nameless: BTreeMap<u64, u64>,
    mappings: usize,
    tasks: u64,
    began: Instant,
    /// Processor time of this thread at the beginning, and what it had waited for a processor.
    spent: Duration,
    queued: Duration,
    budget: Duration,
    patience: Duration,
    ended: LookEnded,
}

impl Held {
    fn new(budget: Duration, patience: Duration) -> Self {
        Self {
            private: 0,
            mapped: 0,
            nameless: BTreeMap::new(),
            mappings: 0,
            tasks: 0,
            began: Instant::now(),
            spent: processor_time(),
            queued: queued_time(),
            budget,
            patience,
            ended: LookEnded::Whole,
        }
    }

    /// Adds the init `pid` and all its descendants; returns their ticks.
    fn add_all(&mut self, pid: i32) -> u64 {
        let mut cpu = 0;
        let mut pending = vec![pid.to_string()];
        let mut looked = 0;
        while let Some(pid) = pending.pop() {
            looked += 1;
            if looked > MOST || !self.goes_on() {
                break;
            }
            let process = PathBuf::from(format!("/proc/{pid}"));
            let tasks: Vec<PathBuf> = fs::read_dir(process.join("task"))
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .collect();
            self.tasks += tasks.len() as u64;
            // Where the first thread has ended, the memory is still that of the others.
            let mut places = std::iter::once(&process).chain(&tasks);
            places.find(|place| self.add(place));
            cpu += ticks(&fs::read_to_string(process.join("stat")).unwrap_or_default());
            for task in &tasks {
                let children = fs::read_to_string(task.join("children")).unwrap_or_default();
                pending.extend(children.split_whitespace().map(str::to_owned));
            }
        }
        cpu
    }

    /// Whether there is budget left.
    fn goes_on(&mut self) -> bool {
        if self.mappings > MOST_MAPPINGS || processor_time().saturating_sub(self.spent) > self.budget {
            self.ended = LookEnded::OutOfBudget;
        } else if self.ended == LookEnded::Whole && self.is_held_up() {
            self.ended = LookEnded::OutOfTime;
        }
        self.ended == LookEnded::Whole
    }

    /// Whether something other than a busy machine made us wait. The workload itself may be what keeps all processors busy,
    /// and then looks are as seldom as its own weight among the others makes them; nothing tells that apart from a hundred runs
    /// that begin at once, of which none may be ended for it. Such a run still is bounded: a look has a budget of processor time,
    /// the pause after it follows from that time alone, and the run has its time limit.
    fn is_held_up(&self) -> bool {
        let elapsed = self.began.elapsed();
        elapsed > self.patience && self.has_waited(elapsed, queued_time())
    }

    /// Whether it is too long that we neither ran nor, `queued` since the thread began, could have run.
    fn has_waited(&self, elapsed: Duration, queued: Duration) -> bool {
        elapsed.saturating_sub(queued.saturating_sub(self.queued)) > self.patience
    }

    /// Adds the memory of the process or thread at `place`; false when it has none to show.
    fn add(&mut self, place: &Path) -> bool {
        let read = |file: &str| fs::read_to_string(place.join(file)).unwrap_or_default();
        // The mappings first: their number is what makes the sum of them slow.
        if !self.add_mappings(place) {
            return true;
        }
        let rollup = read("smaps_rollup");
        if rollup.is_empty() {
            return false;
        }
        self.private += (kilobytes(&rollup, "Pss_Anon:") + kilobytes(&read("status"), "VmPTE:")) << 10;
        self.mapped += kilobytes(&rollup, "Pss_Shmem:") << 10;
        true
    }

    /// Whether there is budget left after that.
    fn add_mappings(&mut self, place: &Path) -> bool {
        let Ok(maps) = File::open(place.join("maps")) else {
            return true;
        };
        let mut maps = BufReader::with_capacity(LONGEST_LINE as usize, maps);
        let mut line = Vec::new();
        loop {
            line.clear();
            match maps.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return self.goes_on(),
                Ok(_) => {}
            }
            self.mappings += 1;
            if self.mappings.is_multiple_of(1000) && !self.goes_on() {
                return false;
            }
            if let Some((inode, end)) = std::str::from_utf8(&line).ok().and_then(nameless) {
                let size = self.nameless.entry(inode).or_default();
                *size = (*size).max(end);
            }
        }
    }

    /// A file in memory that is mapped is in both, so the larger counts.
    fn bytes(&self, files: u64, nameless: u64) -> u64 {
        self.private + self.mapped.max(files + nameless)
    }
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// How long this thread could have run and had no processor; nothing where the kernel does not say.
fn queued_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(queued_nanoseconds(&text).unwrap_or_default())
}

/// The second number of `/proc/PID/schedstat` (sched-stats.rst of the kernel).
fn queued_nanoseconds(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().nth(1)?.parse().ok()
}

/// Inode and end, as [`inode_and_end`], of a mapping of shared memory without a name. Its owner may have given it one that
/// is shown alone (PR_SET_VMA), which the filter refuses.
fn nameless(line: &str) -> Option<(u64, u64)> {
    let line = line.trim_end();
    let has_no_name = line.ends_with("/dev/zero (deleted)") || line.contains(" [anon_shmem:");
    has_no_name.then(|| inode_and_end(line)).flatten()
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

    /// A test has all the time it needs, on a busy machine as well.
    const AMPLE: Duration = Duration::from_secs(60);

    #[test]
    fn sees_what_this_process_holds() {
        let pid = std::process::id().cast_signed();
        let look = || Watch::new(0, Output::Memory).look(pid, AMPLE, AMPLE).0.memory;
        // Other tests of this process take and give back memory meanwhile: once is enough.
        let mut seen = Vec::new();
        for _ in 0..20 {
            let before = look();
            let held = vec![1u8; 64 << 20];
            let after = look();
            drop(held);
            if after >= before + (60 << 20) {
                return;
            }
            seen.push((before, after));
        }
        panic!("{seen:?}");
    }

    #[test]
    fn a_process_that_is_gone_holds_nothing() {
        let mut watch = Watch::new(0, Output::Memory);
        let before = Instant::now();
        watch.next = before;
        assert!(!watch.is_over(i32::MAX));
        assert_eq!(watch.most, Seen::default());
        assert!(watch.next >= before + EVERY, "the next look comes later");
    }

    #[test]
    fn what_cannot_be_watched_is_over_the_limit() {
        let mut watch = Watch::new(10, Output::Memory);
        let seen = |memory| Seen {
            memory,
            ..Seen::default()
        };
        assert!(!watch.judge((seen(10), LookEnded::Whole)) && watch.judge((seen(11), LookEnded::Whole)));
        assert!(watch.judge((seen(0), LookEnded::OutOfBudget)));
        for _ in 1..MOST_GIVEN_UP {
            assert!(!watch.judge((seen(0), LookEnded::OutOfTime)));
        }
        assert!(
            !watch.judge((seen(0), LookEnded::Whole)),
            "a look that was whole ends the row"
        );
        for _ in 1..MOST_GIVEN_UP {
            assert!(!watch.judge((seen(0), LookEnded::OutOfTime)));
        }
        assert!(watch.judge((seen(0), LookEnded::OutOfTime)));
    }

    #[test]
    fn a_look_ends_with_its_budget() {
        let pid = std::process::id().cast_signed();
        let none = Duration::ZERO;
        assert_eq!(
            Watch::new(0, Output::Memory).look(pid, none, AMPLE).1,
            LookEnded::OutOfBudget
        );
        assert_eq!(
            Watch::new(0, Output::Memory).look(pid, AMPLE, none).1,
            LookEnded::OutOfTime
        );
        assert_eq!(
            Watch::new(0, Output::Memory).look(pid, AMPLE, AMPLE).1,
            LookEnded::Whole
        );
    }

    #[test]
    fn a_busy_machine_ends_no_run() {
        let second = Duration::from_secs(1);
        let held = Held::new(AMPLE, Duration::from_millis(300));
        let queued = held.queued;
        assert!(held.has_waited(second, queued), "the workload made us wait");
        assert!(!held.has_waited(second, queued + Duration::from_millis(700)));
        assert!(held.has_waited(second, queued + Duration::from_millis(699)));
        assert_eq!(queued_nanoseconds("547496 120786 1\n"), Some(120_786));
        assert_eq!(queued_nanoseconds(""), None);
    }

    #[test]
    fn shared_memory_without_a_name_is_remembered_until_nobody_maps_it() {
        let mut watch = Watch::new(0, Output::Memory);
        let mut sizes = |mapped: &[(u64, u64)], ended| {
            watch.remember(&mapped.iter().copied().collect(), ended);
            watch.nameless.values().sum::<u64>()
        };
        assert_eq!(sizes(&[(7, 100), (8, 1)], LookEnded::Whole), 101);
        assert_eq!(
            sizes(&[(7, 1), (8, 20)], LookEnded::Whole),
            120,
            "what was once mapped of it counts"
        );
        assert_eq!(sizes(&[], LookEnded::OutOfTime), 120, "not seen is not gone");
        assert_eq!(sizes(&[(8, 1)], LookEnded::Whole), 20);
        assert!(!watch.has_new);
        watch.remember(&BTreeMap::from([(8, 1), (9, 1)]), LookEnded::Whole);
        assert!(watch.has_new, "the next look comes soon");
    }

    #[test]
    fn shared_memory_without_a_name_counts_whole() {
        let line = |range: &str, offset: &str, inode: u64| {
            format!("{range} rw-s {offset} 00:01 {inode}   /dev/zero (deleted)")
        };
        assert_eq!(inode_and_end(&line("1000-3000", "00000000", 7)), Some((7, 0x2000)));
        assert_eq!(inode_and_end(&line("1000-3000", "00001000", 7)), Some((7, 0x3000)));
        let named = "1000-3000 rw-s 00000000 00:01 7   [anon_shmem:heap]\n";
        assert_eq!(nameless(named), Some((7, 0x2000)), "whatever it is called");
        assert_eq!(nameless("1000-3000 rw-s 00000000 00:01 7   /dev/shm/x\n"), None);
        let held = Held {
            private: 1,
            mapped: 0x3000,
            ..Held::new(BUDGET, PATIENCE)
        };
        assert_eq!(
            (held.bytes(0x1000, 0x1000), held.bytes(0x1000, 0x3000)),
            (0x3001, 0x4001)
        );
    }

    #[test]
    fn the_times_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 5 6 7 8 20 0 1 0 100 0 0";
        assert_eq!(ticks(stat), 26);
        assert_eq!(ticks(""), 0);
    }
}
