//! The limits that each process of a workload has from its first instruction on (getrlimit(2)), as data.
//!
//! RLIMIT_AS is not among them: numpy and every JIT reserve far more memory than they use.

use rustix::process::Resource;

use super::orders::RoomOrders;

/// Most open descriptors of a process of the workload: the number that programs are written for.
pub(super) const OPEN_FILES: u64 = 1024;
/// Bytes that a file may have beyond the largest place: a full `/tmp` answers ENOSPC before the limit on a file's size
/// kills (SIGXFSZ).
const FILE_SLACK: u64 = 64 << 10;

/// The limits of the workload of `room`, soft and hard alike.
pub(super) fn rlimits(room: &RoomOrders) -> [(Resource, u64); 11] {
    let largest = room.tmp_bytes.max(room.output_bytes).max(room.shm_bytes);
    [
        // 1, not 0: a program in core_pattern is started whatever the limit, but not at 1 (kernel, fs/coredump.c); and a
        // file of one byte is not written either.
        (Resource::Core, 1),
        (Resource::Nofile, OPEN_FILES),
        // Counted per user namespace since Linux 5.14; our init is one of them.
        (Resource::Nproc, u64::from(room.pids) + 1),
        (Resource::Fsize, largest + FILE_SLACK),
        (Resource::Memlock, 64 << 10),
        (Resource::Msgqueue, 0),
        (Resource::Sigpending, 256),
        (Resource::Stack, 8 << 20),
        (Resource::Rtprio, 0),
        (Resource::Nice, 0),
        (Resource::Locks, 0),
    ]
}
