//! youki's libcontainer makes the file system of a sandbox, in our own first process.
//!
//! Its init is an internal function that changes from release to release: the version is exact, this is the only file that
//! names it, and nothing that it does is believed (`verify.rs`). It is called with a specification in memory ([`spec`]), in
//! namespaces that exist, and calls us back where it would execute the workload; that is where [`Layers::build`] returns.
//!
//! | what it does to others | and here |
//! |---|---|
//! | makes, joins or kills a cgroup | its init does not; the process that does is not started |
//! | sets the limits of the specification (rlimits) | neither: `workload.rs` sets all, and reads them back |
//! | loads the filter of the specification, if it has the C library | there is none in it: `seccomp.rs` loads ours |
//! | keeps descriptors for who is named in `LISTEN_FDS` | the init has no environment |
//! | opens `/dev/null` anew, read-only, where it is a standard stream | ours are pipes, always |
//! | looks its home up with the image's own modules | the specification names one |
//! | leaves the nodes of `/dev` writable, and adds a terminal and names of what is not there | [`Layers::build`] takes those away, `mounts.rs` mounts `/dev` and locks the rest |
//! | says nothing but "failed to prepare rootfs" | what people can get wrong is tried before, in our words |
//! | reads the mount table as UTF-8, however long it is | the host's is left before (`staging_root.rs`) |
//! | goes to the socket by `chdir`, and back by the name of the directory | the init stands in `/` |
//! | panics, in places that should not be reached | the init reports it (`init.rs`) |
//! | logs | nobody listens |

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcgroups::common::CgroupConfig;
use libcontainer::notify_socket::{NotifyListener, NotifySocket};
use libcontainer::process::args::{ContainerArgs, ContainerType};
use libcontainer::process::channel;
use libcontainer::process::init::process::container_init_process;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use oci_spec::runtime::Spec;
use rustix::fs::CWD;
use rustix::mount::{move_mount, MoveMountFlags};
use rustix::process::Signal;

use super::super::mount_plan::{self, PlannedMount};
use super::super::orders::{RoomOrders, WorkOrders};
use super::super::spec::{self, Guest};
use super::failure::{at, step, Failure};
use super::mounts::{self, Ground};
use super::staging_root::{Staging, UNWANTED};
use crate::policy::one_line;
use crate::sys::process;

/// Its name in the memory of this mount namespace; only libcontainer's code ever sees it.
const SOCKET: &str = "start";
/// The layers of a sandbox, mounted in the root where libcontainer will work: what can be made before there is a job.
pub(super) struct Layers {
    staging: Staging,
    listener: NotifyListener,
    /// The file of `/proc` that what libcontainer binds in excess will cover.
    cover: String,
}

impl Layers {
    /// Mounts the layers of `room`, and of the rest what libcontainer is not told of and has to be there.
    pub(super) fn mount(room: &RoomOrders) -> Result<Self, Failure> {
        let mut covers = room.machine.iter().map(|file| &file.path);
        let cover = covers.find(|path| path.starts_with("proc/")).cloned();
        let cover = cover.ok_or_else(|| ("find a file of /proc".to_owned(), io::ErrorKind::NotFound.into()))?;
        let ground = Ground::prepare(room)?;
        let listener = told_to_start(ground.memory())?;
        let staging = Staging::make(ground.memory(), &mounts::sealed_file(&cover))?;
        ground.enter_layers()?;
        let before = mount_plan::of_room(room).into_iter();
        ground.mount_all(before.filter(PlannedMount::is_before_libcontainer))?;
        staging.show_processes()?;
        Ok(Self {
            staging,
            listener,
            cover,
        })
    }

    /// Has libcontainer mount everything else and make this root `/`, in which this process then stands; returns the file of
    /// the machine that covers one of `/proc` already.
    ///
    /// Afterwards this process has the capabilities of the specification alone.
    pub(super) fn build(self, room: &RoomOrders, work: &WorkOrders) -> Result<String, Failure> {
        for (at, path) in [("output", &room.output_directory), ("input", &work.input)] {
            if let Some(path) = path {
                self.staging.take(at, path)?;
            }
        }
        self.staging.enter()?;
        let rootfs = Path::new("/").join(mounts::LAYERS);
        let spec = spec::of_orders(room, work, &rootfs, Guest::OurInit);
        let spec = spec.map_err(failed("write the specification"))?;
        let channels = || Ok::<_, channel::ChannelError>((channel::main_channel()?, channel::init_channel()?));
        let ((mut main_sender, _main_receiver), (_init_sender, mut init_receiver)) =
            channels().map_err(failed("make libcontainer's channels"))?;
        let stop = Stop::default();
        // Never dropped: the number of its listener, which libcontainer closes, may be somebody else's by then.
        let arguments = ManuallyDrop::new(ContainerArgs {
            container_type: ContainerType::InitContainer,
            syscall: SyscallType::Linux,
            spec: Rc::new(spec),
            rootfs,
            console_socket: None,
            notify_listener: self.listener,
            // The control socket.
            preserve_fds: 1,
            container: None,
            user_ns_config: None,
            cgroup_config: CgroupConfig {
                cgroup_path: PathBuf::new(),
                systemd_cgroup: false,
                container_name: String::new(),
            },
            detached: false,
            executor: Box::new(stop.clone()),
            no_pivot: false,
            stdin: None,
            stdout: None,
            stderr: None,
            as_sibling: true,
            pid_file: None,
        });
        let ended = container_init_process(&arguments, &mut main_sender, &mut init_receiver);
        if !stop.0.get() {
            return Err(match ended {
                Ok(()) => failed("run libcontainer's init")(io::Error::other("it returned")),
                Err(error) => failed("run libcontainer's init")(error),
            });
        }
        // Its channels, and a view of /proc that it keeps for as long as the process lives.
        process::close_all_but_control().map_err(at("close libcontainer's descriptors"))?;
        // Changes of credentials clear it.
        step(
            "set the death signal",
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL)),
        )?;
        place_extras(&self.cover)?;
        Ok(self.cover)
    }
}

/// A listener that has been told to start: whoever waits on it goes on at once.
fn told_to_start(memory: &Path) -> Result<NotifyListener, Failure> {
    let path = memory.join(SOCKET);
    let listener = NotifyListener::new(&path).map_err(failed("make libcontainer's socket"))?;
    let told = NotifySocket::new(&path).notify_container_start();
    told.map_err(failed("speak on libcontainer's socket"))?;
    fs::remove_file(&path).map_err(|error| ("remove libcontainer's socket".to_owned(), error))?;
    Ok(listener)
}

/// Moves what is mounted on a node that nobody asked for to where it belongs, which takes less than to unmount it: the kernel
/// waits for that. It is the text for `cover`. And removes the names.
fn place_extras(cover: &str) -> Result<(), Failure> {
    let moved = move_mount(CWD, UNWANTED, CWD, cover, MoveMountFlags::empty());
    step(&format!("move /{UNWANTED} to /{cover}"), moved)?;
    for extra in [UNWANTED, "dev/ptmx", "dev/kcore"] {
        match fs::remove_file(extra) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((format!("remove /{extra}"), error)),
            _ => {}
        }
    }
    Ok(())
}

fn failed<E: std::error::Error + 'static>(what: &str) -> impl Fn(E) -> Failure + '_ {
    move |error| (what.to_owned(), io::Error::other(one_line(&error)))
}

/// Ends libcontainer's init where it would execute the workload: all it does is done by then.
#[derive(Clone, Default)]
struct Stop(Rc<Cell<bool>>);

impl Executor for Stop {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        self.0.set(true);
        Err(ExecutorError::CantHandle("our init goes on here: no"))
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}
