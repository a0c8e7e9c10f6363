//! The mounts of a sandbox as data. The native launcher makes them, libcontainer is told of them, and a runtime
//! specification says them: there is no second list that could differ.
//!
//! The root is not among them: it is the overlay of the layers, which is mounted before (`inside/mounts.rs`) or, for
//! another runtime, a directory.

use rustix::mount::MountFlags;

use super::orders::RoomOrders;

/// What every writable mount has, but `/tmp` of a package that is built.
pub(super) const LOCKED: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// Where the files are that say what machine it is.
pub(super) const SYS_AT: &str = "sys";
/// Where processes are: the kernel lets a user mount them only while there is a `/proc` that hides nothing.
const PROC_AT: &str = "proc";
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
    /// It becomes read-only as soon as it is filled. Such memory is one file system ([`ground`]), bound in places.
    pub is_sealed: bool,
}

impl PlannedMount {
    /// Whether libcontainer makes it, where libcontainer makes the container: directories of the host, besides the nodes of
    /// `/dev`. A file system of its own is mounted by our init in one call, [`PROC_AT`] and what is sealed before libcontainer
    /// and the rest once it is done: libcontainer takes some eighty for each place, against an image that it does not know
    /// (docs/decisions.md).
    pub(super) fn is_for_libcontainer(&self) -> bool {
        matches!(self.of, Content::Directory(_))
    }

    /// Whether it is there before libcontainer works.
    #[cfg(feature = "libcontainer")]
    pub(super) fn is_before_libcontainer(&self) -> bool {
        self.is_sealed || self.at == PROC_AT
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
            at: "dev",
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
            at: SYS_AT,
            of: machine_memory(room),
            flags: LOCKED,
            is_sealed: true,
        },
        PlannedMount {
            at: PROC_AT,
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

/// The memory that a sandbox is made on: what is sealed of it is bound in its root, and the rest is gone when that is `/`.
pub(super) fn ground(plan: &[PlannedMount]) -> Content {
    // For /etc/hosts, the places of mounts, and what libcontainer asks for.
    let (mut all_bytes, mut all_inodes) = (64 << 10, 32);
    for planned in plan.iter().filter(|planned| planned.is_sealed) {
        if let Content::Memory { bytes, inodes, .. } = planned.of {
            all_bytes += bytes;
            all_inodes += inodes;
        }
    }
    Content::Memory {
        bytes: all_bytes,
        inodes: all_inodes,
        mode: "0755",
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
    fn what_is_sealed_has_room_in_one_memory() {
        let plan = of_room(&room(Purpose::Function));
        let sealed = plan.iter().filter(|mount| mount.is_sealed);
        let sealed: Vec<_> = sealed.map(|mount| (mount.at, mount.of.clone())).collect();
        assert_eq!(sealed.iter().map(|(at, _)| *at).collect::<Vec<_>>(), ["dev", "sys"]);
        let of = |content: &Content| match content {
            Content::Memory { bytes, inodes, .. } => (*bytes, *inodes),
            other => panic!("{other:?}"),
        };
        let (bytes, inodes) = of(&ground(&plan));
        assert!(bytes > sealed.iter().map(|(_, content)| of(content).0).sum::<u64>());
        assert!(inodes > sealed.iter().map(|(_, content)| of(content).1).sum::<u64>());
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
