//! Looks at an `/output` that is a directory on disk, where no file system of its own limits it: watched, never enforced.
//!
//! What counts is what the disk gives: allocated blocks, each file once, whatever names it has; and files without a name
//! as long as a process has them open or mapped. Between two looks a function may write any amount, one file up to its
//! own limit (RLIMIT_FSIZE). As with memory a look has a budget, and what cannot be looked at within it is over the limit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{fstat, makedev, openat, stat, unlinkat, AtFlags, Dev, FileType, Mode, OFlags, Stat, CWD};
use rustix::io::Errno;
use rustix::time::{clock_gettime, ClockId};

use crate::policy::Bytes;
use crate::sys::tree;

/// Time between two looks: a disk takes some 100 MB meanwhile.
const EVERY: Duration = Duration::from_millis(50);
/// After a long look the next one waits this many times as long: we take a quarter of a processor at most.
const REST: u32 = 3;
/// Most processor time of a look: the most files that there may be, and 60 processes with 1000 descriptors each.
const BUDGET: Duration = Duration::from_millis(300);
/// Files and directories: as many as in memory.
pub(super) const MOST_FILES: u64 = 16_384;
/// Directories inside each other: as many as are taken out.
const MOST_DEPTH: u64 = 64;
/// Most processes and threads of a look: the limit on them is 4096.
const MOST_TASKS: usize = 5000;
/// A line of `/proc/PID/maps`: a path of 4096 bytes, each escaped as four.
const LONGEST_LINE: u64 = 20 << 10;
/// `st_blocks` counts these (stat(2)).
const BLOCK: u64 = 512;

/// What of `/output` is over its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// So many bytes, with those of files that have no name any more.
    Bytes(Bytes),
    /// More files and directories than this.
    Files(u64),
    /// Directories deeper inside each other than this.
    Depth(u64),
    /// It cannot be looked at: a directory is closed to its owner, or there are too many descriptors and mappings.
    Unwatchable,
}

/// Looks at one directory again and again.
#[derive(Debug)]
pub(super) struct OutputWatch {
    root: OwnedFd,
    /// Where its files are, as `stat` says it.
    device: Dev,
    limit: u64,
    next: Instant,
    /// By inode, the bytes of each file at the last look: one that loses its name keeps them as long as it is mapped.
    known: BTreeMap<u64, u64>,
}

impl OutputWatch {
    /// Watches `directory`, which is empty, for more than `limit` bytes.
    pub(super) fn new(directory: &Path, limit: u64) -> io::Result<Self> {
        let root = tree::open_directory(CWD, directory)?;
        // Of a file, as a file system of layers gives files another device than directories.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let probe = openat(&root, "probe", flags, Mode::RUSR)?;
        unlinkat(&root, "probe", AtFlags::empty())?;
        Ok(Self {
            device: fstat(&probe)?.st_dev,
            root,
            limit,
            next: Instant::now(),
            known: BTreeMap::new(),
        })
    }

    /// Time until the next look.
    pub(super) fn due(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Looks, when it is time to, with what the init `pid` and its descendants hold; what is over the limit.
    pub(super) fn excess(&mut self, pid: i32) -> Option<Excess> {
        if !self.due().is_zero() {
            return None;
        }
        let began = processor_time();
        let excess = self.look(pid, began).err();
        self.next = Instant::now() + EVERY.max(processor_time().saturating_sub(began) * REST);
        excess
    }

    fn look(&mut self, pid: i32, began: Duration) -> Result<u64, Excess> {
        let mut named = Named {
            began,
            entries: 0,
            files: BTreeMap::new(),
        };
        named.add_all(&self.root)?;
        let mut nameless = BTreeMap::new();
        for task in tasks(pid)? {
            in_budget(began)?;
            self.add_open(&task, &mut nameless);
            self.add_mapped(&task, &mut nameless);
        }
        // One that lost its name since it was counted by it.
        nameless.retain(|inode, _| !named.files.contains_key(inode));
        let bytes = named.files.values().chain(nameless.values()).sum();
        self.known = named.files;
        self.known.append(&mut nameless);
        if bytes > self.limit {
            return Err(Excess::Bytes(Bytes(bytes)));
        }
        Ok(bytes)
    }

    /// Adds the files without a name that the process or thread at `task` has open.
    fn add_open(&self, task: &Path, nameless: &mut BTreeMap<u64, u64>) {
        for entry in fs::read_dir(task.join("fd")).into_iter().flatten().flatten() {
            let Ok(found) = stat(entry.path()) else { continue };
            let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
            if is_file && found.st_nlink == 0 && found.st_dev == self.device {
                nameless.insert(found.st_ino, allocated(&found));
            }
        }
    }

    /// Adds the files without a name that it has mapped: all that was known of one, else as far as it is mapped.
    fn add_mapped(&self, task: &Path, nameless: &mut BTreeMap<u64, u64>) {
        let Ok(maps) = File::open(task.join("maps")) else {
            return;
        };
        let mut maps = BufReader::new(maps);
        let mut line = Vec::new();
        loop {
            line.clear();
            match maps.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let mapping = std::str::from_utf8(&line).ok().and_then(Mapping::of_line);
            let Some(mapping) = mapping.filter(|mapping| mapping.is_deleted) else {
                continue;
            };
            let known = self.known.get(&mapping.inode).copied();
            if known.is_some() || mapping.device == self.device {
                let bytes = nameless.entry(mapping.inode).or_default();
                *bytes = (*bytes).max(known.unwrap_or(mapping.end));
            }
        }
    }
}

/// The files that have a name.
struct Named {
    began: Duration,
    entries: u64,
    files: BTreeMap<u64, u64>,
}

impl Named {
    fn add_all(&mut self, root: &OwnedFd) -> Result<(), Excess> {
        let top = tree::open_directory(root, ".").map_err(|_| Excess::Unwatchable)?;
        let mut pending = vec![(top, 0)];
        while let Some((directory, depth)) = pending.pop() {
            if depth > MOST_DEPTH {
                return Err(Excess::Depth(MOST_DEPTH));
            }
            let left = usize::try_from(MOST_FILES - self.entries).unwrap_or(usize::MAX);
            let names = tree::names(&directory, left).unwrap_or_default();
            for name in names {
                self.entries += 1;
                if self.entries > MOST_FILES {
                    return Err(Excess::Files(MOST_FILES));
                }
                in_budget(self.began)?;
                match tree::look(&directory, name.as_os_str()) {
                    Ok((FileType::Directory, _)) => match tree::open_directory(&directory, name.as_os_str()) {
                        Ok(child) => pending.push((child, depth + 1)),
                        // It has gone, or something else has its name.
                        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                        // Closed to its owner, or more at once than there are descriptors.
                        Err(_) => return Err(Excess::Unwatchable),
                    },
                    Ok((_, stat)) => drop(self.files.insert(stat.st_ino, allocated(&stat))),
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }
}

/// A line of `/proc/PID/maps` (proc_pid_maps(5)).
struct Mapping {
    device: Dev,
    inode: u64,
    /// How far into its file it reaches.
    end: u64,
    is_deleted: bool,
}

impl Mapping {
    fn of_line(line: &str) -> Option<Self> {
        let line = line.trim_end();
        let mut fields = line.split_whitespace();
        let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
        let (from, to) = fields.next()?.split_once('-')?;
        let offset = hexadecimal(fields.nth(1)?)?;
        let (high, low) = fields.next()?.split_once(':')?;
        let number = |text: &str| u32::from_str_radix(text, 16).ok();
        Some(Self {
            device: makedev(number(high)?, number(low)?),
            inode: fields.next()?.parse().ok()?,
            end: offset.checked_add(hexadecimal(to)?.checked_sub(hexadecimal(from)?)?)?,
            is_deleted: line.ends_with(" (deleted)"),
        })
    }
}

/// The directories in `/proc` of all threads of `pid` and its descendants: each may have descriptors of its own.
fn tasks(pid: i32) -> Result<Vec<PathBuf>, Excess> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut pending = vec![pid.to_string()];
    while let Some(pid) = pending.pop() {
        if !seen.insert(pid.clone()) {
            continue;
        }
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            if found.len() >= MOST_TASKS {
                return Err(Excess::Unwatchable);
            }
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pending.extend(children.split_whitespace().map(str::to_owned));
            found.push(task.path());
        }
    }
    Ok(found)
}

fn in_budget(began: Duration) -> Result<(), Excess> {
    if processor_time().saturating_sub(began) > BUDGET {
        return Err(Excess::Unwatchable);
    }
    Ok(())
}

fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK)
}

/// Processor time of this thread, so that a busy machine ends no run.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Child, Command};

    use rustix::fs::{major, minor};

    use super::*;

    const LIMIT: u64 = 1 << 20;

    /// Looks with what `holder` has open; this process has what other tests have open.
    fn look(watch: &mut OutputWatch, holder: Option<&Child>) -> Result<u64, Excess> {
        let pid = holder.map_or(i32::MAX, |holder| holder.id().cast_signed());
        watch.look(pid, processor_time())
    }

    #[test]
    fn files_count_once_with_or_without_a_name() {
        let scratch = tempfile::tempdir().unwrap();
        let mut watch = OutputWatch::new(scratch.path(), LIMIT).unwrap();
        assert_eq!(look(&mut watch, None), Ok(0), "the probe has gone");
        let path = scratch.path().join("file");
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![1; 600 << 10]).unwrap();
        fs::hard_link(&path, scratch.path().join("other")).unwrap();
        let mut holder = Command::new("sleep").arg("1000").stdout(file).spawn().unwrap();
        let once = look(&mut watch, Some(&holder)).unwrap();
        assert!((600 << 10..LIMIT).contains(&once), "{once}");
        fs::remove_file(&path).unwrap();
        fs::remove_file(scratch.path().join("other")).unwrap();
        assert_eq!(look(&mut watch, Some(&holder)), Ok(once), "it is open");
        fs::write(&path, vec![1; 600 << 10]).unwrap();
        let twice = look(&mut watch, Some(&holder));
        assert!(
            matches!(twice, Err(Excess::Bytes(Bytes(bytes))) if bytes >= 1200 << 10),
            "{twice:?}"
        );
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!(
            look(&mut watch, Some(&holder)),
            Ok(once),
            "nobody has the other any more"
        );
    }

    #[test]
    fn crowds_depth_and_closed_directories_are_over_the_limit() {
        let scratch = tempfile::tempdir().unwrap();
        let mut watch = OutputWatch::new(scratch.path(), LIMIT).unwrap();
        let closed = scratch.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(look(&mut watch, None).is_err(), !is_root);
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let deep = vec!["d"; 66].join("/");
        fs::create_dir_all(scratch.path().join(deep)).unwrap();
        assert_eq!(look(&mut watch, None), Err(Excess::Depth(64)));
        fs::remove_dir_all(scratch.path().join("d")).unwrap();
        for number in 0..MOST_FILES {
            File::create(scratch.path().join(number.to_string())).unwrap();
        }
        assert_eq!(look(&mut watch, None), Err(Excess::Files(MOST_FILES)));
    }

    #[test]
    fn a_mapping_is_read_whatever_its_file_is_called() {
        let line = "7f00-9f00 rw-s 00001000 fe:01 77                 /a b (deleted)\n";
        let found = Mapping::of_line(line).unwrap();
        assert_eq!((found.inode, found.end, found.is_deleted), (77, 0x3000, true));
        assert_eq!((major(found.device), minor(found.device)), (0xfe, 1));
        assert!(Mapping::of_line("7f00-9f00 rw-p 00000000 00:00 0").is_some_and(|found| !found.is_deleted));
        assert!(Mapping::of_line("").is_none());
    }
}
