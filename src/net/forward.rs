//! gantry's side of a run with egress: accepts what the sandbox connects to, and carries bytes to the real host.
//!
//! The name is resolved here, for each connection, and the connection goes to an address that was checked, so neither
//! a name server nor a second answer can lead it elsewhere. One thread, started by [`Forwarder::start`] and gone when
//! [`Forwarder::stop`] returns, with every connection; what the workload sent but nobody has taken by then is dropped.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener as Listener, TcpStream};
use tokio::sync::{oneshot, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::world::World;
use crate::policy::{canonical, Host, HostPort};

/// Connections at once: each is two descriptors (of usually 1024) and two buffers. Further ones wait.
const MOST_CONNECTIONS: usize = 64;
/// Bytes under way per connection and direction: the kernel's own buffers are larger.
const BUFFER: usize = 16 << 10;
/// For the answer of the name servers: the resolver asks twice, 5 s each.
const RESOLVE: Duration = Duration::from_secs(11);
/// For a connection to one address.
const CONNECT: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried: with 10 s each, more only make a dead host look alive.
const MOST_ADDRESSES: usize = 4;
/// New connections a second, and as many at once before that: a client that loops over requests makes fewer.
const CONNECTIONS_A_SECOND: u32 = 200;
/// After a failure to accept, such as too many open files: half of it would busy a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves listeners until it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    /// Dropped to stop the thread.
    running: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    notes: Arc<Notes>,
}

/// The first thing that went wrong with each host; at most one line for each entry of the list.
#[derive(Debug, Default)]
struct Notes(Mutex<BTreeMap<HostPort, String>>);

impl Notes {
    fn add(&self, to: &HostPort, what: &Unreached) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes
            .entry(to.clone())
            .or_insert_with(|| format!("egress to {to}: {what}"));
    }

    fn take(&self) -> Vec<String> {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *notes).into_values().collect()
    }
}

/// Why a host was not reached.
#[derive(Debug, thiserror::Error)]
enum Unreached {
    #[error("refused, for its address {address} is {reason}")]
    Refused { address: IpAddr, reason: String },
    #[error("its name has no address: {0}")]
    Unknown(io::Error),
    #[error("no connection to {address}: {source}")]
    Silent { address: IpAddr, source: io::Error },
}

impl Forwarder {
    /// Starts serving `doors`: each a listener and whom it stands for.
    pub(crate) fn start<W: World>(doors: Vec<(HostPort, TcpListener)>, world: Arc<W>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let entered = runtime.enter();
        let listen = |(to, listener): (HostPort, TcpListener)| {
            listener.set_nonblocking(true)?;
            Ok((to, Listener::from_std(listener)?))
        };
        let doors = doors.into_iter().map(listen).collect::<io::Result<Vec<_>>>()?;
        drop(entered);
        let notes = Arc::new(Notes::default());
        let (running, stopped) = oneshot::channel::<()>();
        let thread_notes = Arc::clone(&notes);
        let serve = move || {
            runtime.block_on(async {
                let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
                let pace = Arc::new(Mutex::new(Pace::default()));
                for (to, listener) in doors {
                    let service = Service {
                        to,
                        world: Arc::clone(&world),
                        notes: Arc::clone(&thread_notes),
                    };
                    tokio::spawn(accept(listener, service, Arc::clone(&slots), Arc::clone(&pace)));
                }
                // Ends with an error when the sender is dropped, which is its purpose.
                let _ = stopped.await;
            });
            // Drops every task, with its sockets, without waiting for anything.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("egress".to_owned()).spawn(serve)?;
        Ok(Self {
            running: Some(running),
            thread: Some(thread),
            notes,
        })
    }

    /// Closes every connection, waits for the thread, and returns what went wrong, one line per host.
    pub(crate) fn stop(mut self) -> Vec<String> {
        self.end();
        self.notes.take()
    }

    fn end(&mut self) {
        drop(self.running.take());
        if let Some(thread) = self.thread.take() {
            // It only panics by a mistake of ours, which the test of its end would show.
            let _ = thread.join();
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.end();
    }
}

/// One door's part of every connection.
struct Service<W> {
    to: HostPort,
    world: Arc<W>,
    notes: Arc<Notes>,
}

impl<W> Clone for Service<W> {
    fn clone(&self) -> Self {
        Self {
            to: self.to.clone(),
            world: Arc::clone(&self.world),
            notes: Arc::clone(&self.notes),
        }
    }
}

/// Holds the doors of one run together to [`CONNECTIONS_A_SECOND`].
#[derive(Debug, Default)]
struct Pace {
    /// When a connection would be in time had there been no more than that from the beginning.
    due: Option<Instant>,
}

impl Pace {
    /// How long the connection that comes `now` has to wait.
    fn delay(&mut self, now: Instant) -> Duration {
        let due = self.due.map_or(now, |due| due.max(now)) + Duration::from_secs(1) / CONNECTIONS_A_SECOND;
        self.due = Some(due);
        due.saturating_duration_since(now + Duration::from_secs(1))
    }
}

async fn accept<W: World>(listener: Listener, service: Service<W>, slots: Arc<Semaphore>, pace: Arc<Mutex<Pace>>) {
    loop {
        match listener.accept().await {
            Ok((inside, _)) => {
                // Waiting for a slot, we accept nothing more: the kernel's queue holds the rest.
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                    return;
                };
                let delay = pace
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .delay(Instant::now());
                if !delay.is_zero() {
                    sleep(delay).await;
                }
                tokio::spawn(carry(inside, service.clone(), slot));
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Carries one connection to its end. The workload sees a failure as a reset connection.
async fn carry<W: World>(mut inside: TcpStream, service: Service<W>, _slot: OwnedSemaphorePermit) {
    match reach(&service.to, &*service.world).await {
        Ok(mut outside) => {
            // Small pieces are passed on as they come: the workload's own stack has waited already if it wants to.
            for stream in [&inside, &outside] {
                let _ = stream.set_nodelay(true);
            }
            // An error is a broken connection; both ends see it break when the streams are dropped.
            let _ = copy_bidirectional_with_sizes(&mut inside, &mut outside, BUFFER, BUFFER).await;
        }
        Err(unreached) => {
            service.notes.add(&service.to, &unreached);
            let _ = inside.set_zero_linger();
        }
    }
}

/// Connects to the first address of `to` that may be reached and answers.
async fn reach<W: World>(to: &HostPort, world: &W) -> Result<TcpStream, Unreached> {
    let addresses = match &to.host {
        Host::Address(address) => vec![IpAddr::V4(*address)],
        Host::Name(name) => match timeout(RESOLVE, world.resolve(name)).await {
            Ok(found) => found.map_err(Unreached::Unknown)?,
            Err(_) => return Err(Unreached::Unknown(io::ErrorKind::TimedOut.into())),
        },
    };
    let mut last = Unreached::Unknown(io::ErrorKind::NotFound.into());
    for address in addresses.into_iter().map(canonical).take(MOST_ADDRESSES) {
        if let Some(reason) = world.refusal(address) {
            last = Unreached::Refused { address, reason };
            continue;
        }
        let connected = timeout(CONNECT, TcpStream::connect(SocketAddr::new(address, to.port))).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => return Ok(stream),
            Err(source) => last = Unreached::Silent { address, source },
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests;
