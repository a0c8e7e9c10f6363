//! The writable places of a workload, which say after its end whether they were full: what a program makes of that is
//! often no more than its own error.

use std::os::fd::OwnedFd;

use rustix::fs::{fstatvfs, open, Mode, OFlags};

/// A writable place of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// `/tmp`.
    Tmp(Lack),
    /// `/output`.
    Output(Lack),
    /// `/dev/shm`.
    Shm(Lack),
}

/// What a full place lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Room for bytes.
    Bytes,
    /// Room for another file.
    Files,
}

/// The places of one workload, held open: they outlive it for as long as we ask.
#[derive(Debug, Default)]
pub(super) struct Rooms(Vec<(Which, OwnedFd)>);

/// Which of the places is full.
type Which = fn(Lack) -> Full;

impl Rooms {
    /// Those that the init `pid` sees. One that cannot be opened is not asked later.
    pub(super) fn of(pid: i32) -> Self {
        const PLACES: [(Which, &str); 3] = [(Full::Tmp, "tmp"), (Full::Output, "output"), (Full::Shm, "dev/shm")];
        let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = PLACES.into_iter().filter_map(|(full, name)| {
            let path = format!("/proc/{pid}/root/{name}");
            Some((full, open(path, place, Mode::empty()).ok()?))
        });
        Self(opened.collect())
    }

    /// Those that are full.
    pub(super) fn full(&self) -> Vec<Full> {
        let lack = |place: &OwnedFd| {
            let found = fstatvfs(place).ok()?;
            match (found.f_bfree, found.f_ffree) {
                (0, _) => Some(Lack::Bytes),
                // Some file systems do not count files.
                (_, 0) if found.f_files > 0 => Some(Lack::Files),
                _ => None,
            }
        };
        self.0
            .iter()
            .filter_map(|(full, place)| Some(full(lack(place)?)))
            .collect()
    }
}
