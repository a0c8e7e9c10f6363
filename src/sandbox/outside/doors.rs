//! gantry's half of the egress: the listeners that the init made and passed. What gantry connects to behind them is not
//! decided here.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use super::super::addresses::addresses;
use crate::policy::HostPort;

/// A listener inside the sandbox and the host it stands for.
#[derive(Debug)]
pub struct Door {
    /// The host and port that the workload connects to.
    pub to: HostPort,
    /// Where its connections arrive.
    pub listener: TcpListener,
}

/// Takes the doors of a sandbox; called once, while the workload is not running yet. Must not block.
pub type OpenDoors<'a> = &'a mut dyn FnMut(Vec<Door>) -> io::Result<()>;

/// Makes doors of the listeners that the init passed, which must be those of `egress`, in its order.
pub(super) fn doors(egress: &[HostPort], passed: Vec<OwnedFd>) -> io::Result<Vec<Door>> {
    let wrong = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the init passed other listeners than ordered",
        )
    };
    if passed.len() != egress.len() {
        return Err(wrong());
    }
    let entries = egress.iter().zip(addresses(egress)).zip(passed);
    let doors = entries.map(|((to, address), descriptor)| {
        let listener = TcpListener::from(descriptor);
        if listener.local_addr()? != SocketAddr::V4(address) {
            return Err(wrong());
        }
        Ok(Door {
            to: to.clone(),
            listener,
        })
    });
    doors.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_listeners_than_ordered_are_refused() {
        let egress = ["a.example:80".parse().unwrap()];
        let other = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        assert!(doors(&egress, vec![other()]).is_err());
        assert!(doors(&egress, Vec::new()).is_err());
        assert!(doors(&[], vec![other()]).is_err());
        assert!(doors(&[], Vec::new()).unwrap().is_empty());
    }
}
