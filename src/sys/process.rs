//! Making processes: `clone3` into namespaces followed by our own binary, `execve` and `wait4`.
#![allow(
    unsafe_code,
    reason = "clone3 and execve have no safe wrapper: the child must obey rules no type expresses"
)]

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::process::Pid;

use super::vfork::vfork_into;

/// `CLONE_INTO_CGROUP` (clone(2)); libc has it as a type that does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The session of `process`, by the number of its leader. None is one whose leader is outside of our pid namespace, for
/// which the kernel says 0: rustix takes that for a number (`rustix::process::getsid`).
pub(crate) fn session_of(process: Pid) -> io::Result<Option<Pid>> {
    // SAFETY: takes and returns plain numbers.
    let leader = unsafe { libc::getsid(process.as_raw_nonzero().get()) };
    match leader {
        -1 => Err(io::Error::last_os_error()),
        leader => Ok(Pid::from_raw(leader)),
    }
}

/// What the first process of a sandbox starts with.
#[derive(Debug)]
pub(crate) struct Init<'a> {
    /// Our own binary.
    pub executable: BorrowedFd<'a>,
    /// Its `argv[0]`, the only argument.
    pub name: &'a CStr,
    /// Becomes descriptors 0, 1 and 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Becomes descriptor 3.
    pub control: BorrowedFd<'a>,
    /// `uid_map` as written, such as `1000 501 1`.
    pub uid_map: &'a [u8],
    /// `gid_map` as written.
    pub gid_map: &'a [u8],
    /// Be born in this cgroup.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// What it may do in its user namespace, a bit for each capability (capabilities(7)).
    pub capabilities: u64,
}

/// A process we started.
#[derive(Debug)]
pub struct Child {
    /// Its number, ours until it is waited for.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

/// A step of the child before its `execve`; sent as [`SETUP_FAILED`], step, errno.
pub(crate) const SETUP_FAILED: u8 = b'E';
/// The names of the steps.
pub(crate) const SETUP_STEPS: [&str; 5] = [
    "write its uid and gid maps",
    "place its descriptors",
    "keep its capabilities",
    "set its death signal",
    "execute gantry",
];

/// Starts `init` as pid 1 of new user, mount, pid, ipc, uts and cgroup namespaces, with an empty environment; its network
/// namespace is made meanwhile (`net_namespace.rs`).
///
/// The child has the memory of its parent until it executes gantry again, and this thread waits until then.
///
/// The caller may have other threads: between the clone and the exec the child makes system calls only, touches no
/// lock and allocates nothing. A failure of the child arrives on the control socket as 6 bytes: [`SETUP_FAILED`],
/// the index in [`SETUP_STEPS`], errno in native order.
pub(crate) fn spawn_init(init: &Init<'_>) -> io::Result<Child> {
    // SAFETY: clone_args is plain numbers; all zeroes is its documented default.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    args.flags = u64::from(flags.cast_unsigned());
    if let Some(cgroup) = init.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    let (pid, pidfd) = vfork_into(args, &|| become_init(init))?;
    Ok(Child {
        pid,
        // SAFETY: the kernel stored a new descriptor there, and nobody else knows it.
        pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
    })
}

/// The child's way from clone3 to our binary. Never returns.
fn become_init(init: &Init<'_>) -> ! {
    let (step, errno) = match setup(init) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    let mut message = [SETUP_FAILED, step, 0, 0, 0, 0];
    message[2..].copy_from_slice(&errno.to_ne_bytes());
    // Once the descriptors are placed, the control socket is number 3.
    let control = if step > 1 { 3 } else { init.control.as_raw_fd() };
    // SAFETY: a write from a local buffer of that length, then the end of this process without running destructors.
    unsafe {
        libc::write(control, message.as_ptr().cast(), message.len());
        libc::_exit(125)
    }
}

fn setup(init: &Init<'_>) -> Result<Infallible, (u8, i32)> {
    let at = |step: u8| move |errno: i32| (step, errno);
    // Once more as the last step, where it is told that it failed.
    let _ = die_with_parent();
    write_file(c"/proc/self/setgroups", b"deny").map_err(at(0))?;
    write_file(c"/proc/self/uid_map", init.uid_map).map_err(at(0))?;
    write_file(c"/proc/self/gid_map", init.gid_map).map_err(at(0))?;
    let executable = place_descriptors(init).map_err(at(1))?;
    keep_capabilities(init.capabilities).map_err(at(2))?;
    reset_signals().map_err(at(3))?;
    let argv = [init.name.as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null::<libc::c_char>()];
    // SAFETY: both arrays are NULL-terminated and live; the empty path with AT_EMPTY_PATH names the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            executable,
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    Err((4, last_errno()))
}

fn write_file(path: &CStr, contents: &[u8]) -> Result<(), i32> {
    // SAFETY: system calls on a NUL-terminated path and a live buffer.
    unsafe {
        let fd = check(libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
        let written = libc::write(fd, contents.as_ptr().cast(), contents.len());
        let errno = last_errno();
        libc::close(fd);
        if written == contents.len().cast_signed() {
            Ok(())
        } else {
            Err(errno)
        }
    }
}

/// 0..=2 standard streams, 3 control, 4 our binary (closed by the exec); everything else is closed.
fn place_descriptors(init: &Init<'_>) -> Result<RawFd, i32> {
    let wanted = [
        init.stdio[0].as_raw_fd(),
        init.stdio[1].as_raw_fd(),
        init.stdio[2].as_raw_fd(),
        init.control.as_raw_fd(),
        init.executable.as_raw_fd(),
    ];
    let mut high = [-1; 5];
    // Out of the way first: a wanted descriptor may sit on a number that is about to be overwritten.
    for (target, source) in high.iter_mut().zip(wanted) {
        // SAFETY: fcntl on descriptors the caller borrows to us.
        *target = check(unsafe { libc::fcntl(source, libc::F_DUPFD_CLOEXEC, 10) })?;
    }
    for (number, source) in (0..).zip(high) {
        let flags = if number == 4 { libc::O_CLOEXEC } else { 0 };
        // SAFETY: dup3 between two numbers of this process; they differ, for the sources are 10 and up.
        check(unsafe { libc::dup3(source, number, flags) })?;
    }
    // SAFETY: closes by number; nothing in this process uses a descriptor above 4 any more.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, 5, libc::c_uint::MAX, 0) })?;
    Ok(4)
}

/// Puts capabilities into the ambient set: an exec as uid 1000 would drop them otherwise. They are those of the new user
/// namespace, worth nothing outside.
fn keep_capabilities(kept: u64) -> Result<(), i32> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // _LINUX_CAPABILITY_VERSION_3: two words per set.
    let mut header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let mut sets = [Sets {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: header and sets have the layout of capget(2), version 3.
    check_long(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    for (set, word) in sets.iter_mut().zip([kept, kept >> 32]) {
        // A word of the set is 32 bits.
        set.inheritable = set.permitted & (word & u64::from(u32::MAX)) as u32;
    }
    // SAFETY: as above.
    check_long(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) })?;
    for capability in (0..u64::BITS).filter(|capability| kept >> capability & 1 == 1) {
        let capability = libc::c_ulong::from(capability);
        // SAFETY: prctl with numbers only.
        check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) })?;
    }
    Ok(())
}

/// Dies with the thread that made us, from now on.
pub(crate) fn die_with_parent() -> Result<(), i32> {
    // SAFETY: prctl with numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }).map(drop)
}

/// Dies with the thread that made us, whatever has changed since, and starts with no signal blocked: both pass through the
/// exec.
fn reset_signals() -> Result<(), i32> {
    die_with_parent()?;
    // SAFETY: sigprocmask with numbers and a local set.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        check(libc::sigemptyset(&raw mut none))?;
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut(),
        ))?;
    }
    Ok(())
}

fn check(result: i32) -> Result<i32, i32> {
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(result)
    }
}

fn check_long(result: libc::c_long) -> Result<(), i32> {
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(())
    }
}

fn last_errno() -> i32 {
    // SAFETY: the C library's errno of this thread.
    unsafe { *libc::__errno_location() }
}

/// Arguments and environment of a program, as execve(2) wants them.
pub(crate) struct Execution<'a> {
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    strings: PhantomData<&'a CString>,
}

impl<'a> Execution<'a> {
    /// Of these strings.
    pub(crate) fn new(argv: &'a [CString], env: &'a [CString]) -> Self {
        let pointers = |strings: &[CString]| {
            let pointers = strings.iter().map(|string| string.as_ptr());
            pointers.chain([std::ptr::null()]).collect()
        };
        Self {
            argv: pointers(argv),
            env: pointers(env),
            strings: PhantomData,
        }
    }

    /// Replaces this process by the program at `path`; returns only with an error. A system call, and nothing else.
    pub(crate) fn exec(&self, path: &CStr) -> io::Error {
        // SAFETY: NULL-terminated arrays of NUL-terminated strings, which live as long as this.
        unsafe { libc::execve(path.as_ptr(), self.argv.as_ptr(), self.env.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// The default disposition for `signal`.
pub(crate) fn default_signal(signal: i32) {
    // SAFETY: installs no handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Ignores `signal`.
pub(crate) fn ignore_signal(signal: i32) {
    // SAFETY: installs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// The default disposition for every signal: what is ignored here (SIGPIPE, others by whoever started gantry)
/// would pass through an exec.
pub(crate) fn default_signals() {
    (1..=64).for_each(default_signal);
}

/// Whether `signal` is ignored in this process.
pub(crate) fn is_ignored(signal: i32) -> io::Result<bool> {
    // SAFETY: sigaction is plain data; zeroes are valid.
    let mut found: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action only asks; `found` is live.
    if unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(found.sa_sigaction == libc::SIG_IGN)
}

/// A descriptor of our own for what the caller of this process left open at `number`.
pub(crate) fn duplicate(number: u32) -> io::Result<OwnedFd> {
    let number = i32::try_from(number).map_err(io::Error::other)?;
    // SAFETY: fcntl by number; fails with EBADF when nothing is open there.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // What was left open for us came through an exec, so this one is our own.
    if number > 2 && flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: as above.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Ends this process at once: no destructors, no flushing of what a fork copied.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Sends SIGTERM to every process of this pid namespace but this one and pid 1.
pub(crate) fn terminate_all() {
    // SAFETY: kill with numbers only. It fails when there is nobody, which is fine.
    unsafe { libc::kill(-1, libc::SIGTERM) };
}

/// Keeps memory dumps, ptrace and `/proc/PID/{environ,mem,fd}` of this process from everyone without capabilities.
pub(crate) fn forbid_dumps() -> io::Result<()> {
    // SAFETY: prctl with numbers only.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// How a child ended and what it and its waited-for descendants used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// Exit code, when it exited.
    pub code: Option<i32>,
    /// User and system time.
    pub cpu: Duration,
    /// Largest resident set of one process, in bytes.
    pub largest_resident: u64,
    /// Bytes that were read from disks for it.
    pub read_bytes: u64,
}

/// Waits for a child of ours to end.
pub(crate) fn wait(pid: i32) -> io::Result<Ended> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers; zeroes are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live locals.
        let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
        if waited == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let time = |value: libc::timeval| {
        Duration::from_secs(u64::try_from(value.tv_sec).unwrap_or(0))
            + Duration::from_micros(u64::try_from(value.tv_usec).unwrap_or(0))
    };
    Ok(Ended {
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        // Linux counts in KiB (getrusage(2)).
        largest_resident: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        // In sectors.
        read_bytes: u64::try_from(usage.ru_inblock).unwrap_or(0) * 512,
    })
}

/// Largest resident set of this process so far, in bytes.
pub(crate) fn own_peak() -> u64 {
    // SAFETY: rusage is plain numbers; zeroes are valid, and the pointer is to a live local.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024
}

/// Closes every descriptor but the standard streams and the control socket, whoever opened it.
///
/// For a first process that has called a library which keeps some open and owns none that are above: whatever is closed here
/// must not be used, or closed, by anyone else.
#[cfg(feature = "libcontainer")]
pub(crate) fn close_all_but_control() -> io::Result<()> {
    // SAFETY: closes by number; by the contract above nobody uses these numbers any more.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, 4, libc::c_uint::MAX, 0) })
        .map_err(io::Error::from_raw_os_error)
}

/// Takes possession of the control socket that [`spawn_init`] left at descriptor 3; none when it is not open.
///
/// Call it once, first thing in a process that [`spawn_init`] made.
pub(crate) fn take_control() -> Option<OwnedFd> {
    // SAFETY: fcntl by number; fails with EBADF when nothing is open there.
    if unsafe { libc::fcntl(3, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return None;
    }
    // SAFETY: the descriptor is open (checked above), and this process was started with it for this purpose alone.
    Some(unsafe { OwnedFd::from_raw_fd(3) })
}

/// The control socket of a first process that [`spawn_init`] made, for as long as it lives.
///
/// Writing fails in a process that has none.
pub(crate) fn control_of_init() -> BorrowedFd<'static> {
    // SAFETY: whoever took it ([`take_control`]) holds it until the process ends.
    unsafe { BorrowedFd::borrow_raw(3) }
}

/// Calls `action` whenever `signal` arrives, until it is unregistered.
///
/// `action` runs in a signal handler: it may only make system calls such as a `write`, take no lock and allocate
/// nothing.
pub(crate) fn on_signal(signal: i32, action: impl Fn() + Send + Sync + 'static) -> io::Result<signal_hook::SigId> {
    // SAFETY: the caller's promise above is the function's requirement; both callers in this crate write one byte.
    unsafe { signal_hook::low_level::register(signal, action) }
}
