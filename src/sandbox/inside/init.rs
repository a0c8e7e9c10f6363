//! pid 1 of the sandbox: our own binary again, with an empty environment and nothing of us in its memory.
//!
//! This is the order of everything that happens behind the wall. [`enter_room`] makes the file system in namespaces that
//! are ours alone, by the way that the orders name; [`guard`] is the rest and the same for all. The end of this process is the end of every process in its pid namespace.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::fs::Mode;
use rustix::process::Signal;

#[cfg(feature = "libcontainer")]
use super::super::mount_plan;
use super::super::orders::{Report, RoomOrders, WorkOrders, INIT_NAME};
use super::super::wire::{self, Frame};
use super::failure::{at, step, Failure};
use super::guard::{self, Work};
use super::mounts;
use super::network;
#[cfg(feature = "libcontainer")]
use super::youki;
use crate::policy::Runtime;
use crate::sys::process;

/// How much sooner than others (0) the kernel ends a sandbox when the machine runs out of memory; up to 1000.
const OOM_SCORE: i32 = 500;

/// Whether this process is meant to be an init.
pub fn is_init(name: Option<&OsStr>) -> bool {
    name.is_some_and(|name| name.as_encoded_bytes() == INIT_NAME.to_bytes()) && rustix::process::getpid().is_init()
}

/// Runs the init; the process ends with it.
pub fn init_main() -> ! {
    let Some(control) = process::take_control() else {
        process::exit_now(125)
    };
    let mut control = UnixStream::from(control);
    report_panics();
    let reported = match serve(&mut control) {
        Ok(report) => wire::send(&mut control, &report),
        Err((what, error)) => wire::send(&mut control, &Report::Failed(format!("{what}: {error}"))),
    };
    process::exit_now(i32::from(reported.is_err()))
}

/// Has a panic, of whatever library, be the last word of this process. It would be printed into the function's own standard
/// error otherwise, and then this process would be gone.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let report = Report::Failed(panic.to_string().replace('\n', " "));
        let mut frame = Vec::new();
        let reported = wire::send(&mut frame, &report)
            .is_ok_and(|()| rustix::io::write(process::control_of_init(), &frame).is_ok());
        process::exit_now(i32::from(!reported))
    }));
}

/// Does everything; returns the last word.
fn serve(control: &mut UnixStream) -> Result<Report, Failure> {
    become_first()?;
    let room = receive_room(control).map_err(at("receive orders"))?;
    let (work, output) = enter_room(&room, control)?;
    guard::guard(control, &room, work, output)
}

/// What a first process is before it hears anything: it dies with gantry, first when memory is short, and nobody can look
/// into it. Gantry's working directory, which may be gone or closed to its user, is not its own, and neither is the mask of
/// modes of whoever started gantry.
fn become_first() -> Result<(), Failure> {
    // Both are set again here: the exec kept the first, but the second is a property of the new memory.
    step(
        "set the death signal",
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)),
    )?;
    step("enter /", rustix::process::chdir("/"))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    be_first_to_go()?;
    process::forbid_dumps().map_err(at("forbid dumps"))?;
    wire::raise_open_files().map_err(at("raise the limit on open files"))
}

/// Makes the file system of `room`, waits for the work, adds what comes with it, and makes that file system ours; returns
/// the work and the root of `/output`.
fn enter_room(room: &RoomOrders, control: &mut UnixStream) -> Result<(Work, OwnedFd), Failure> {
    step(
        "set the host name",
        rustix::system::sethostname(room.hostname.as_bytes()),
    )?;
    match room.runtime {
        Runtime::Native => enter_own(room, control),
        Runtime::Libcontainer => enter_container(room, control),
    }
}

fn enter_own(room: &RoomOrders, control: &mut UnixStream) -> Result<(Work, OwnedFd), Failure> {
    step("start a session", rustix::process::setsid())?;
    let root = mounts::make_root(room)?;
    network::join(control)?;
    let work = receive_work(control).map_err(at("receive orders"))?;
    let output = root.enter(&work.orders, &work.secrets)?;
    Ok((work, output))
}

/// libcontainer makes everything at once, so it can begin when the work is there.
#[cfg(feature = "libcontainer")]
fn enter_container(room: &RoomOrders, control: &mut UnixStream) -> Result<(Work, OwnedFd), Failure> {
    let layers = youki::Layers::mount(room)?;
    network::join(control)?;
    let work = receive_work(control).map_err(at("receive orders"))?;
    let covered = layers.build(room, &work.orders)?;
    let plan = mount_plan::of_room(room).into_iter();
    for planned in plan.filter(|planned| !planned.is_for_libcontainer() && !planned.is_before_libcontainer()) {
        mounts::mount_planned(&planned)?;
    }
    mounts::finish_room(room, Some(&covered))?;
    mounts::write_secrets(&work.orders.secrets, &work.secrets)?;
    Ok((work, mounts::open_output()?))
}

#[cfg(not(feature = "libcontainer"))]
fn enter_container(_: &RoomOrders, _: &mut UnixStream) -> Result<(Work, OwnedFd), Failure> {
    let error = io::Error::from(io::ErrorKind::Unsupported);
    Err(("make the container with libcontainer".to_owned(), error))
}

/// A worker that the kernel spares (OOMScoreAdjust=-1000) must not pass that on to a stranger's code: the memory limit
/// would not strike, and a machine out of memory would end everyone else. Landlock keeps it from being undone.
fn be_first_to_go() -> Result<(), Failure> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let failed = |error: io::Error| (format!("raise {FILE}"), error);
    let found = std::fs::read_to_string(FILE).map_err(failed)?;
    if found.trim().parse::<i32>().is_ok_and(|found| found >= OOM_SCORE) {
        return Ok(());
    }
    std::fs::write(FILE, OOM_SCORE.to_string()).map_err(failed)
}

fn receive_room(control: &mut UnixStream) -> io::Result<RoomOrders> {
    Ok(serde_json::from_slice(&receive_json(control)?)?)
}

/// Waits for the work for as long as gantry likes; the end of the socket is gantry's end and an error.
fn receive_work(control: &mut UnixStream) -> io::Result<Work> {
    let orders: WorkOrders = serde_json::from_slice(&receive_json(control)?)?;
    let secrets = orders.secrets.iter().map(|_| match wire::receive(control)? {
        Frame::Secret(value) => Ok(value),
        _ => Err(io::ErrorKind::InvalidData.into()),
    });
    let secrets = secrets.collect::<io::Result<Vec<_>>>()?;
    Ok(Work { orders, secrets })
}

fn receive_json(control: &mut UnixStream) -> io::Result<Vec<u8>> {
    match wire::receive(control)? {
        Frame::Json(json) => Ok(json),
        Frame::End => Err(io::ErrorKind::UnexpectedEof.into()),
        Frame::Secret(_) | Frame::SetupFailed(..) => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::bundle::Place;
    use super::*;

    #[test]
    fn only_a_first_process_of_that_name_is_an_init() {
        assert!(!is_init(Some(OsStr::new("gantry-init"))), "this test is not pid 1");
        assert!(!is_init(Some(OsStr::new("gantry"))));
        assert!(!is_init(None));
    }

    /// The process that panics is this test once more, with the control socket where an init has it.
    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "the environment says which of the two processes this is"
    )]
    fn a_panic_is_a_report_and_nothing_is_printed() {
        const NAME: &str = "GANTRY_TEST_PANICS";
        if std::env::var_os(NAME).is_some() {
            report_panics();
            panic!("first\nsecond");
        }
        let (mut gantry, control) = UnixStream::pair().unwrap();
        let test = "sandbox::inside::init::tests::a_panic_is_a_report_and_nothing_is_printed";
        let mut panics = std::process::Command::new("sh");
        panics.args(["-c", "exec \"$0\" --exact \"$1\" --nocapture 3<&0"]);
        panics.arg(std::env::current_exe().unwrap()).arg(test).env(NAME, "1");
        let ended = panics.stdin(OwnedFd::from(control)).output().unwrap();
        assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
        let report: Report = serde_json::from_slice(&receive_json(&mut gantry).unwrap()).unwrap();
        let Report::Failed(reason) = report else {
            panic!("{report:?}")
        };
        assert!(reason.starts_with("panicked at src/sandbox/inside/init.rs"), "{reason}");
        assert!(reason.ends_with(": first second"), "{reason}");
    }

    #[test]
    fn the_end_of_gantry_ends_the_wait_for_work() {
        let (gantry, mut control) = UnixStream::pair().unwrap();
        let wait = std::thread::spawn(move || receive_work(&mut control).map(drop));
        drop(gantry);
        let ended = wait.join().unwrap().unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn work_comes_with_one_value_for_each_secret() {
        let (mut gantry, mut control) = UnixStream::pair().unwrap();
        let orders = WorkOrders {
            argv: vec!["true".to_owned()],
            env: Vec::new(),
            cwd: "/".to_owned(),
            input: None,
            secrets: vec![("A".to_owned(), Place::File), ("B".to_owned(), Place::Variable)],
        };
        wire::send(&mut gantry, &orders).unwrap();
        wire::send_secret(&mut gantry, b"one").unwrap();
        wire::send_secret(&mut gantry, b"two").unwrap();
        let work = receive_work(&mut control).unwrap();
        assert_eq!(work.secrets, [b"one", b"two"]);
        wire::send(&mut gantry, &orders).unwrap();
        wire::send(&mut gantry, &Report::Started).unwrap();
        assert!(receive_work(&mut control).is_err(), "a document is no secret");
    }
}
