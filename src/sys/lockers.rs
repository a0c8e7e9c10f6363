//! Who holds a lock that several may hold at once, and so nobody signs: what the kernel says of it (`proc_locks(5)`).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor};

/// A process that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Locker {
    /// Its number.
    pub process: u32,
    /// Its program, and the command that it was given, without options: those may hold what is secret.
    pub command: String,
}

/// Those that hold a lock of the file `path`, as far as this process may know: not in other namespaces of processes.
pub(crate) fn lockers(path: &Path) -> Vec<Locker> {
    let (Ok(found), Ok(table)) = (path.metadata(), fs::read_to_string("/proc/locks")) else {
        return Vec::new();
    };
    let device = found.dev();
    let file = format!("{:02x}:{:02x}:{}", major(device), minor(device), found.ino());
    let mut processes = holders_of(&table, &file);
    processes.sort_unstable();
    processes.dedup();
    // The kernel names who took the lock. One that ended has left it to its children.
    let locker = |process| command_of(process).map(|command| Locker { process, command });
    processes.into_iter().filter_map(locker).collect()
}

/// `1: FLOCK  ADVISORY  READ 29739 fe:00:11298137 0 EOF`; a line with `->` is of one that waits.
fn holders_of(table: &str, file: &str) -> Vec<u32> {
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, process, held, ..] = words.as_slice() else {
            return None;
        };
        let process = process.parse().ok().filter(|process| *process > 0);
        process.filter(|_| *held == file)
    };
    table.lines().filter_map(holder).collect()
}

/// `gantry pull`, of a process that is there.
fn command_of(process: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{process}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&line).into_owned();
    let mut words = text.split('\0');
    let program = Path::new(words.next()?).file_name()?.to_str()?.to_owned();
    let is_command =
        |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    match words.next().filter(|word| !word.starts_with('-')).filter(is_command) {
        Some(command) => Some(format!("{program} {command}")),
        None => Some(program),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_who_holds_a_lock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(lockers(file.path()).is_empty());
        rustix::fs::flock(file.as_file(), rustix::fs::FlockOperation::LockShared).unwrap();
        let found = lockers(file.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].process, std::process::id());
        assert!(found[0].command.starts_with("gantry"), "{found:?}");
    }

    #[test]
    fn who_waits_and_who_locks_another_file_holds_nothing() {
        let table = "1: FLOCK  ADVISORY  READ 7 fe:00:5 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 8 fe:00:5 0 EOF\n2: FLOCK  ADVISORY  READ 9 fe:00:6 0 EOF\n3: POSIX  ADVISORY  READ 10 fe:00:5 0 EOF\n4: FLOCK  ADVISORY  READ 0 fe:00:5 0 EOF\n";
        assert_eq!(holders_of(table, "fe:00:5"), [7]);
    }
}
