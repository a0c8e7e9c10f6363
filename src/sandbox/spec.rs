//! A sandbox as an OCI runtime specification: what libcontainer is told, and what another runtime can be given.
//!
//! Pure: the same bundle gives the same bytes ([`canonical_json`]). Nothing of it is left to the defaults of oci-spec, which
//! are permissive and silent (capabilities, mounts, masked paths); `tests/golden/runtime-spec-*.json` hold every byte.
//!
//! It does not say all that a sandbox is. A specification has no words for Landlock, for locked securebits, for a first
//! process that is not the workload, for the time limit or for what happens when gantry dies; and it holds no secret.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilitiesBuilder, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, Mount, MountBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
    Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use oci_spec::OciSpecError;
use rustix::mount::MountFlags;
use rustix::process::Resource;
use serde_json::Value;

use super::bundle::Bundle;
use super::mount_plan::{self, Content, PlannedMount};
use super::orders::{Given, RoomOrders, WorkOrders, INIT_NAME};
use super::rlimits::rlimits;

/// The version of the runtime specification that is written: the first with mount options as we use them.
const VERSION: &str = "1.0.2";
/// What our init still needs when libcontainer is done: mounts, securebits and the bounding set, the loopback interface,
/// listeners below port 1024. It gives them up next, and reads back that it did.
pub(super) const KEPT: [Capability; 4] = [
    Capability::SysAdmin,
    Capability::Setpcap,
    Capability::NetAdmin,
    Capability::NetBindService,
];
/// A home, or libcontainer asks the C library for one when the root is the image's already: its `/etc/nsswitch.conf` then
/// says which of the image's libraries our privileged process loads.
const HOME: &str = "HOME=/";
/// A cgroup that nobody makes: the init is born in its own, and libcontainer's init does not look at it.
const NO_CGROUP: &str = "/gantry-is-placed-already";
/// The mount namespace that the init is in. libcontainer changes the root by `pivot_root` only when it is told of one.
const OWN_MOUNTS: &str = "/proc/self/ns/mnt";

/// Who makes a container of a specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// libcontainer's init inside our own first process, which is in all its namespaces: the root is mounted, the workload
    /// is not its business, and what it leaves in place is given up by us.
    OurInit,
    /// Another runtime, as a user without privileges: `id` is the user inside, `owner` the user and group outside.
    Runtime {
        /// User and group inside.
        id: u32,
        /// User and group of the caller.
        owner: (u32, u32),
    },
}

/// The specification of `bundle` for `guest`, with its root at `root`.
///
/// # Errors
///
/// That of oci-spec, which has none for what is built here.
pub fn specification(bundle: &Bundle, root: &Path, guest: Guest) -> Result<Spec, OciSpecError> {
    // What is kept from outside, and what the machine is said to be, belongs to a run and not to its description.
    let room = RoomOrders::of(bundle, bundle.confinement.runtime, Given::new(), Vec::new());
    of_orders(&room, &WorkOrders::of(bundle), root, guest)
}

/// The specification of a sandbox with these orders.
pub(super) fn of_orders(room: &RoomOrders, work: &WorkOrders, root: &Path, guest: Guest) -> Result<Spec, OciSpecError> {
    let input = work.input.as_deref().map(mount_plan::of_input);
    let plan = mount_plan::of_room(room).into_iter().chain(input);
    let plan = plan.filter(|planned| guest != Guest::OurInit || planned.is_for_libcontainer());
    let mounts: Vec<Mount> = plan.map(|planned| mount(&planned, guest)).collect::<Result<_, _>>()?;
    let mut spec = SpecBuilder::default()
        .version(VERSION)
        .root(RootBuilder::default().path(root).readonly(true).build()?)
        .hostname(room.hostname.clone())
        .process(process(room, work, guest)?)
        .mounts(mounts)
        .linux(linux(guest)?)
        .build()?;
    spec.set_annotations(None);
    Ok(spec)
}

/// The bytes of `spec` as `config.json`: keys and sets in the order of their names, because a set of capabilities comes in
/// another order each time.
///
/// # Errors
///
/// None for what [`specification`] makes.
pub fn canonical_json(spec: &Spec) -> serde_json::Result<Vec<u8>> {
    let mut value = serde_json::to_value(spec)?;
    let sets = value
        .pointer_mut("/process/capabilities")
        .and_then(Value::as_object_mut);
    for set in sets
        .into_iter()
        .flat_map(|sets| sets.values_mut())
        .filter_map(Value::as_array_mut)
    {
        set.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
    }
    let mut bytes = serde_json::to_vec_pretty(&value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn process(room: &RoomOrders, work: &WorkOrders, guest: Guest) -> Result<Process, OciSpecError> {
    let none = Capabilities::new();
    let kept: Capabilities = match guest {
        Guest::OurInit => KEPT.into_iter().collect(),
        Guest::Runtime { .. } => none.clone(),
    };
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(none.clone())
        .effective(kept.clone())
        .permitted(kept)
        .inheritable(none.clone())
        .ambient(none)
        .build()?;
    let (id, args, env, cwd) = match guest {
        // Nothing is executed, so nothing of the workload is in the memory of whoever reads this.
        Guest::OurInit => {
            let name = INIT_NAME.to_string_lossy().into_owned();
            (1000, vec![name], vec![HOME.to_owned()], "/")
        }
        Guest::Runtime { id, .. } => (id, work.argv.clone(), environment(work), work.cwd.as_str()),
    };
    let mut process = ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(id).gid(id).build()?)
        .args(args)
        .env(env)
        .cwd(cwd)
        .capabilities(capabilities)
        .no_new_privileges(true)
        .build()?;
    process.set_rlimits(match guest {
        // libcontainer sets them in a process of its own that there is none of here: they would be lost without a word.
        Guest::OurInit => None,
        Guest::Runtime { .. } => Some(rlimits(room).into_iter().map(limit).collect::<Result<_, _>>()?),
    });
    Ok(process)
}

fn environment(work: &WorkOrders) -> Vec<String> {
    let mut env: Vec<String> = work.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(HOME.to_owned());
    }
    env
}

fn limit((resource, value): (Resource, u64)) -> Result<PosixRlimit, OciSpecError> {
    let kind = match resource {
        Resource::Cpu => PosixRlimitType::RlimitCpu,
        Resource::Fsize => PosixRlimitType::RlimitFsize,
        Resource::Data => PosixRlimitType::RlimitData,
        Resource::Stack => PosixRlimitType::RlimitStack,
        Resource::Core => PosixRlimitType::RlimitCore,
        Resource::Rss => PosixRlimitType::RlimitRss,
        Resource::Nproc => PosixRlimitType::RlimitNproc,
        Resource::Nofile => PosixRlimitType::RlimitNofile,
        Resource::Memlock => PosixRlimitType::RlimitMemlock,
        Resource::As => PosixRlimitType::RlimitAs,
        Resource::Locks => PosixRlimitType::RlimitLocks,
        Resource::Sigpending => PosixRlimitType::RlimitSigpending,
        Resource::Msgqueue => PosixRlimitType::RlimitMsgqueue,
        Resource::Nice => PosixRlimitType::RlimitNice,
        Resource::Rtprio => PosixRlimitType::RlimitRtprio,
        Resource::Rttime => PosixRlimitType::RlimitRttime,
        other => unreachable!("{other:?} is in no table of ours"),
    };
    PosixRlimitBuilder::default().typ(kind).soft(value).hard(value).build()
}

fn mount(planned: &PlannedMount, guest: Guest) -> Result<Mount, OciSpecError> {
    // Our init fills what is sealed once libcontainer is done; another runtime fills it by itself, or leaves it empty.
    let is_sealed = planned.is_sealed && guest != Guest::OurInit;
    let words = [
        ("bind", matches!(planned.of, Content::Directory(_))),
        ("ro", planned.flags.contains(MountFlags::RDONLY) || is_sealed),
        ("nosuid", planned.flags.contains(MountFlags::NOSUID)),
        ("nodev", planned.flags.contains(MountFlags::NODEV)),
        ("noexec", planned.flags.contains(MountFlags::NOEXEC)),
    ];
    let words = words
        .into_iter()
        .filter(|(_, is_set)| *is_set)
        .map(|(word, _)| word.to_owned());
    let data = planned.of.data();
    let data = data.split(',').filter(|option| !option.is_empty()).map(str::to_owned);
    let kind = planned.of.file_system().unwrap_or("bind");
    let destination = Path::new("/").join(planned.at);
    let source = match (&planned.of, guest) {
        // Our init takes it along to that place, and leaves the host's paths.
        (Content::Directory(_), Guest::OurInit) => destination.clone(),
        (Content::Directory(path), Guest::Runtime { .. }) => path.into(),
        _ => kind.into(),
    };
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(words.chain(data).collect::<Vec<String>>())
        .build()
}

fn linux(guest: Guest) -> Result<Linux, OciSpecError> {
    let mut linux = Linux::default();
    linux.set_resources(None);
    linux.set_masked_paths(None);
    linux.set_readonly_paths(None);
    let namespace = |kind, path: Option<&str>| {
        let builder = LinuxNamespaceBuilder::default().typ(kind);
        match path {
            Some(path) => builder.path(path).build(),
            None => builder.build(),
        }
    };
    let namespaces: Vec<LinuxNamespace> = match guest {
        Guest::OurInit => {
            linux.set_cgroups_path(Some(PathBuf::from(NO_CGROUP)));
            linux.set_rootfs_propagation(Some("private".to_owned()));
            vec![namespace(LinuxNamespaceType::Mount, Some(OWN_MOUNTS))?]
        }
        Guest::Runtime { id, owner: (uid, gid) } => {
            linux.set_uid_mappings(Some(vec![map(id, uid)?]));
            linux.set_gid_mappings(Some(vec![map(id, gid)?]));
            let kinds = [
                LinuxNamespaceType::User,
                LinuxNamespaceType::Mount,
                LinuxNamespaceType::Pid,
                LinuxNamespaceType::Ipc,
                LinuxNamespaceType::Uts,
                LinuxNamespaceType::Network,
                LinuxNamespaceType::Cgroup,
            ];
            kinds
                .into_iter()
                .map(|kind| namespace(kind, None))
                .collect::<Result<_, _>>()?
        }
    };
    linux.set_namespaces(Some(namespaces));
    Ok(linux)
}

fn map(inside: u32, outside: u32) -> Result<LinuxIdMapping, OciSpecError> {
    let map = LinuxIdMappingBuilder::default().container_id(inside).host_id(outside);
    map.size(1u32).build()
}

#[cfg(test)]
mod tests;
