//! The network namespace of a sandbox: gantry makes it while the root is made, and sends it.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;

use rustix::thread::{move_into_link_name_space, LinkNameSpaceType};

use super::super::wire;
use super::failure::{at, step, Failure};

const OURS: &str = "/proc/self/ns/net";

/// Waits for the network namespace and makes it ours; what was ours before is the host's.
pub(super) fn join(control: &UnixStream) -> Result<(), Failure> {
    let namespace = wire::receive_network(control.as_fd()).map_err(at("receive the network namespace"))?;
    step(
        "join the network namespace",
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)),
    )?;
    let given = step("look at the network namespace", rustix::fs::fstat(&namespace))?;
    let ours = fs::metadata(OURS).map_err(at("look at the network namespace"))?;
    if ours.ino() == given.st_ino {
        return Ok(());
    }
    Err((
        "join the network namespace".to_owned(),
        io::Error::other("it is another one afterwards"),
    ))
}
