//! The network namespace of a sandbox: gantry makes it while the root is made, and sends it.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;

use rustix::thread::{move_into_link_name_space, LinkNameSpaceType};

use super::super::wire;
use super::failure::{at, step, Failure};
use crate::sys::net_namespace::unshare_net;

const OURS: &str = "/proc/self/ns/net";

/// Waits for the network namespace and makes it ours, or makes one where gantry could not; what was ours before is the host's.
pub(super) fn join(control: &UnixStream) -> Result<(), Failure> {
    let inode = || fs::metadata(OURS).map_err(at("look at the network namespace"));
    let what = "join the network namespace";
    let namespace = wire::receive_network(control.as_fd()).map_err(at("receive the network namespace"))?;
    let is_joined = match namespace {
        Some(namespace) => {
            let joined = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            step(what, joined)?;
            let given = step("look at the network namespace", rustix::fs::fstat(&namespace))?;
            inode()?.ino() == given.st_ino
        }
        None => {
            let host = inode()?.ino();
            unshare_net().map_err(at("make a network namespace"))?;
            inode()?.ino() != host
        }
    };
    match is_joined {
        true => Ok(()),
        false => Err((what.to_owned(), io::Error::other("it is another one afterwards"))),
    }
}
