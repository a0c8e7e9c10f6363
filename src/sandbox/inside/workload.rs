//! The workload's first steps, in the init's child: its own session, limits, directory, and the exec. Until then it is in the
//! init's memory, where it leaves word of what it could not do.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::io;

use super::super::bundle::Place;
use super::super::orders::{is_not_found, Obstacle, RoomOrders, WorkOrders};
use super::restrict;
use crate::sys::process::{self, Execution};
use crate::sys::vfork::vfork;

/// What became of the workload's exec.
#[derive(Debug)]
pub(super) enum Begun {
    /// It runs, under this number.
    Running(i32),
    /// Because of this, and with this errno.
    NotExecuted(Obstacle, i32),
}

/// Starts the workload of `orders` with the values of its secrets, under the limits of `room`.
pub(super) fn begin(room: &RoomOrders, orders: &WorkOrders, secrets: &[Vec<u8>]) -> io::Result<Begun> {
    let argv = strings(&orders.argv)?;
    let env = orders.env.iter().map(|(name, value)| variable(name, value.as_bytes()));
    let secret = orders.secrets.iter().zip(secrets);
    let secret = secret.filter(|((_, place), _)| *place == Place::Variable);
    let env = env.chain(secret.map(|((name, _), value)| variable(name, value)));
    let env = env.collect::<io::Result<Vec<_>>>()?;
    let (candidates, cwd) = (candidates(orders)?, string(&orders.cwd)?);
    let execution = Execution::new(&argv, &env);
    let failed = Cell::new(None);
    let pid = vfork(&|| {
        failed.set(Some(become_workload(room, &cwd, &candidates, &execution)));
        process::exit_now(126)
    })?;
    match failed.get() {
        Some((obstacle, errno)) => {
            process::wait(pid)?;
            Ok(Begun::NotExecuted(obstacle, errno))
        }
        None => Ok(Begun::Running(pid)),
    }
}

/// In the init's memory: it makes system calls, and allocates nothing that the init would keep.
fn become_workload(
    room: &RoomOrders,
    cwd: &CStr,
    candidates: &[CString],
    execution: &Execution<'_>,
) -> (Obstacle, i32) {
    let errno = |error: io::Error| error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error());
    let prepared = rustix::process::setsid()
        .map_err(io::Error::from)
        .and_then(|_| restrict::limit(room))
        .and_then(|()| Ok(rustix::process::chdir(cwd)?));
    if let Err(error) = prepared {
        return (Obstacle::Preparation, errno(error));
    }
    process::default_signals();
    let mut failed = (Obstacle::Missing, rustix::io::Errno::NOENT.raw_os_error());
    for path in candidates {
        let error = errno(execution.exec(path));
        // As execvp(3) does: something that is there but cannot be executed is the better answer.
        if is_not_found(failed.1) && !is_not_found(error) {
            failed = (Obstacle::Refused, error);
        } else if failed.0 == Obstacle::Missing && rustix::fs::stat(path).is_ok() {
            failed = (Obstacle::Interpreter, error);
        }
    }
    failed
}

/// The paths to try: the command itself when it has a slash, else it in each directory of the workload's PATH.
fn candidates(orders: &WorkOrders) -> io::Result<Vec<CString>> {
    let command = orders
        .argv
        .first()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    if command.contains('/') {
        return strings(std::slice::from_ref(command));
    }
    let path = orders
        .env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or("/usr/bin:/bin", |(_, value)| value.as_str());
    let paths: Vec<String> = path
        .split(':')
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| format!("{directory}/{command}"))
        .collect();
    strings(&paths)
}

fn variable(name: &str, value: &[u8]) -> io::Result<CString> {
    let nul = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("variable {name} holds a NUL"));
    CString::new([name.as_bytes(), b"=", value].concat()).map_err(nul)
}

fn string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "an argument holds a NUL"))
}

fn strings(texts: &[String]) -> io::Result<Vec<CString>> {
    texts.iter().map(|text| string(text)).collect()
}
