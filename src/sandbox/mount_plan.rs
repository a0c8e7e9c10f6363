//! The mounts of a sandbox as data. The native launcher makes them, libcontainer is told of them, and a runtime
//! specification says them: there is no second list that could differ.
//!
//! The root is not among them: it is the overlay of the layers, which is mounted before (`inside/mounts.rs`) or, for
//! another runtime, a directory.

use rustix::mount::MountFlags;

use super::orders::RoomOrders;

/// What every writable mount has, but `/tmp` of a package that is built.
pub(super) const LOCKED: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// Where the nodes are, in memory that is there before they are.
pub(super) const DEV_AT: &str = "dev";
/// What `/dev` and each of its nodes have.
pub(super) const DEV: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);
/// Nodes of `/dev`: those that ordinary programs open.
pub(super) const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// Inodes of `/tmp`, `/output` and `/dev/shm` each: an inode costs 1 KiB of kernel memory.
const INODES: u64 = 16_384;
/// Inodes of `/tmp` while a package is built: sources and objects of the largest (scipy) are 20,000 files.
const BUILD_INODES: u64 = 65_536;
/// Directories above the files of the machine, and some.
const DIRECTORIES: u64 = 16;
/// What the kernel counts memory in.
const PAGE: u64 = 4096;

/// One mount, of which the order of the plan says after which others it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedMount {
    /// Its place, from the root of the sandbox on.
    pub at: &'static str,
    /// What is there.
    pub of: Content,
    /// How it is mounted.
    pub flags: MountFlags,
    /// It becomes read-only as soon as it is filled.
    pub is_sealed: bool,
}

impl PlannedMount {
    /// Whether libcontainer makes it, where libcontainer makes the container: `/proc`, the nodes of `/dev`, and directories of
    /// the host. Empty memory is mounted by our init in one call each, [`DEV_AT`] before libcontainer and the rest once it is
    /// done: libcontainer takes some eighty for each place, against an image that it does not know (docs/decisions.md).
    pub(super) fn is_for_libcontainer(&self) -> bool {
        !matches!(self.of, Content::Memory { .. })
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// Memory, empty and limited.
    Memory {
        /// Bytes.
        bytes: u64,
        /// Files and directories.
        inodes: u64,
        /// Permissions of its root.
        mode: &'static str,
    },
    /// The processes of the sandbox, and nothing else of `/proc`.
    Processes,
    /// All of `/proc`, to be covered in places and then restricted to processes.
    WholeProc,
    /// A directory of the host, without what is mounted below it.
    Directory(String),
}

/// Everything of `room` that is known before there is a job.
pub(super) fn of_room(room: &RoomOrders) -> Vec<PlannedMount> {
    let memory = |at, bytes, mode| PlannedMount {
        at,
        of: Content::Memory {
            bytes,
            inodes: INODES,
            mode,
        },
        flags: LOCKED,
        is_sealed: false,
    };
    let mut tmp = memory("tmp", room.tmp_bytes, "1777");
    if room.purpose.may_execute_tmp() {
        tmp.flags = MountFlags::NOSUID | MountFlags::NODEV;
        tmp.of = Content::Memory {
            bytes: room.tmp_bytes,
            inodes: BUILD_INODES,
            mode: "1777",
        };
    }
    let output = match &room.output_directory {
        None => memory("output", room.output_bytes, "0755"),
        Some(path) => PlannedMount {
            of: Content::Directory(path.clone()),
            ..memory("output", 0, "")
        },
    };
    vec![
        PlannedMount {
            at: DEV_AT,
            of: Content::Memory {
                bytes: 64 << 10,
                inodes: 32,
                mode: "0755",
            },
            flags: DEV,
            is_sealed: true,
        },
        memory("dev/shm", room.shm_bytes, "1777"),
        PlannedMount {
            at: "sys",
            of: machine_memory(room),
            flags: LOCKED,
            is_sealed: true,
        },
        PlannedMount {
            at: "proc",
            of: if room.machine.is_empty() {
                Content::Processes
            } else {
                Content::WholeProc
            },
            flags: LOCKED,
            is_sealed: false,
        },
        tmp,
        output,
    ]
}

/// The directory `path` of the host, read-only as `/input`.
pub(super) fn of_input(path: &str) -> PlannedMount {
    PlannedMount {
        at: "input",
        of: Content::Directory(path.to_owned()),
        flags: LOCKED.union(MountFlags::RDONLY),
        is_sealed: false,
    }
}

/// Room for the files that say what machine a run has.
fn machine_memory(room: &RoomOrders) -> Content {
    let files = room.machine.iter();
    let bytes: u64 = files.map(|file| (file.text.len() as u64).next_multiple_of(PAGE)).sum();
    Content::Memory {
        bytes: bytes + PAGE,
        inodes: room.machine.len() as u64 + DIRECTORIES,
        mode: "0755",
    }
}

impl Content {
    /// The type of its file system, as mount(2) takes it; none of a directory.
    pub(super) fn file_system(&self) -> Option<&'static str> {
        match self {
            Self::Memory { .. } => Some("tmpfs"),
            Self::Processes | Self::WholeProc => Some("proc"),
            Self::Directory(_) => None,
        }
    }

    /// What the file system is told, as mount(2) takes it.
    pub(super) fn data(&self) -> String {
        match self {
            Self::Memory { bytes, inodes, mode } => format!("size={bytes},nr_inodes={inodes},mode={mode}"),
            Self::Processes => "subset=pid,hidepid=invisible".to_owned(),
            Self::WholeProc => "hidepid=invisible".to_owned(),
            Self::Directory(_) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bundle::{Bundle, Purpose};
    use super::super::orders::{Given, MachineFile};
    use super::*;
    use crate::policy::{Confinement, Runtime};

    fn room(purpose: Purpose) -> RoomOrders {
        let bundle = Bundle::of_build(purpose, Vec::new(), Vec::new(), &[], Confinement::default());
        RoomOrders::of(&bundle, Runtime::Native, Given::new(), Vec::new())
    }

    #[test]
    fn programs_can_be_executed_from_one_place_alone_and_only_while_a_package_is_built() {
        let executable = |purpose| -> Vec<&str> {
            let plan = of_room(&room(purpose)).into_iter().chain([of_input("/in")]);
            let executable = plan.filter(|mount| !mount.flags.contains(MountFlags::NOEXEC));
            executable.map(|mount| mount.at).collect()
        };
        assert_eq!(executable(Purpose::Function), [""; 0]);
        assert_eq!(executable(Purpose::Compilation), [""; 0]);
        assert_eq!(executable(Purpose::PackageBuild), ["tmp"]);
    }

    #[test]
    fn all_of_proc_is_mounted_only_where_files_cover_it_next() {
        let mut room = room(Purpose::Function);
        let proc = |room: &RoomOrders| of_room(room).into_iter().find(|mount| mount.at == "proc");
        assert_eq!(proc(&room).map(|mount| mount.of), Some(Content::Processes));
        room.machine.push(MachineFile {
            path: "proc/meminfo".to_owned(),
            text: String::new(),
        });
        assert_eq!(proc(&room).map(|mount| mount.of), Some(Content::WholeProc));
    }
}
