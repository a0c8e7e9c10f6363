//! Many files from the network into the store: several at a time, each once however many processes want it, resumed
//! after a cut, verified as a whole. The first failure ends the others.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::net::{Address, Client, NetError};
use crate::oci::Digest;
use crate::policy::Kind;
use crate::progress::Progress;
use crate::store::{Download, Partial, Reservation, RoomNeeded, Store, StoreError, Task};
use crate::sys::pool::{self, Stop};

/// Transfers at once: enough to fill a link, few enough to be polite.
const PARALLEL: usize = 6;
/// How many times its own size a package takes as a layer: packed again, and unpacked.
const AS_LAYERS: u64 = 4;
/// And how many times at least.
const AS_LAYERS_AT_LEAST: u64 = 2;
/// How often one file goes on after its connection broke without having brought much.
const RESUMES: u32 = 4;
/// A connection that brought this much before it broke was worth it: large files cross bad links, while a server that
/// sends a byte per connection is left after a few.
const WORTH_IT: u64 = 1 << 20;

/// A file that is wanted.
#[derive(Debug, Clone)]
pub struct FetchItem {
    /// For people.
    pub name: String,
    /// Where it is.
    pub url: Address,
    /// How long it is.
    pub size: u64,
    /// What it is.
    pub sha256: Digest,
}

/// Why a file is not there.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The network or the server.
    #[error("download {name}")]
    Net {
        /// Which file.
        name: String,
        source: NetError,
    },
    /// The connection broke again and again.
    #[error("download {name}: the connection broke {RESUMES} times in a row")]
    Broken {
        /// Which file.
        name: String,
        /// The last time.
        source: std::io::Error,
    },
    /// The store, or a file that is not what was promised.
    #[error("download {name}")]
    Store {
        /// Which file.
        name: String,
        source: StoreError,
    },
    /// Another file failed first.
    #[error("download {name}: stopped, for another download failed")]
    Stopped {
        /// Which file.
        name: String,
    },
}

impl FetchError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Net { source, .. } => source.kind(),
            Self::Broken { .. } => Kind::Unavailable,
            Self::Store { source, .. } => source.kind(),
            Self::Stopped { .. } => Kind::Failed,
        }
    }
}

/// Fetches `items`; returns their files in the same order. `connect` makes the client, once, when there is something to
/// fetch: asking for credentials may take a second, and of a hundred that want the same files one needs them.
///
/// # Errors
/// The first failure, which ends the others.
pub fn fetch<E: From<FetchError> + Send>(
    store: &Store,
    connect: impl Fn() -> Result<Client, E> + Sync,
    items: &[FetchItem],
    progress: &dyn Progress,
) -> Result<Vec<File>, E> {
    let _room = reserve(store, items)?;
    let fetcher = Fetcher {
        store,
        connect,
        client: Mutex::default(),
        progress,
        done: AtomicU64::new(0),
        total: items.iter().map(|item| item.size).sum(),
    };
    pool::each(PARALLEL, items, |item, stop| fetcher.fetch(item, stop))
}

/// Room for the files that are missing, and for the layers that become of them.
fn reserve(store: &Store, items: &[FetchItem]) -> Result<Option<Reservation>, FetchError> {
    let missing = items
        .iter()
        .filter(|item| store.downloads().find(&item.sha256, item.size).is_none());
    let missing: Vec<&FetchItem> = missing.collect();
    let Some(first) = missing.first() else {
        return Ok(None);
    };
    let certain = missing.iter().fold(0u64, |sum, item| sum.saturating_add(item.size));
    let needed = RoomNeeded {
        certain,
        least: certain.saturating_mul(1 + AS_LAYERS_AT_LEAST),
        likely: certain.saturating_mul(1 + AS_LAYERS),
        ..RoomNeeded::default()
    };
    let coming = missing.iter().map(|item| item.sha256.hex()).collect();
    let reserved = store.reserve(needed, &coming).map(Some);
    reserved.map_err(|source| FetchError::Store {
        name: first.name.clone(),
        source,
    })
}

struct Fetcher<'a, C> {
    store: &'a Store,
    connect: C,
    client: Mutex<Option<Client>>,
    progress: &'a dyn Progress,
    /// Bytes that are there.
    done: AtomicU64,
    total: u64,
}

impl<E: From<FetchError>, C: Fn() -> Result<Client, E>> Fetcher<'_, C> {
    fn client(&self) -> Result<Client, E> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        match &*client {
            Some(client) => Ok(client.clone()),
            None => Ok(client.insert((self.connect)()?).clone()),
        }
    }

    fn fetch(&self, item: &FetchItem, stop: &Stop) -> Result<File, E> {
        let store_error = |source| FetchError::Store {
            name: item.name.clone(),
            source,
        };
        let task = Task {
            does: &format!("downloads {}", item.name),
            progress: self.progress,
        };
        let download = self.store.downloads().claim(&item.sha256, item.size, task);
        let mut partial = match download.map_err(store_error)? {
            Download::Whole(file) => {
                self.advance(item.size);
                return Ok(file);
            }
            Download::Partial(partial) => *partial,
        };
        if partial.len() > item.size {
            partial.restart().map_err(store_error)?;
        }
        self.progress.step("Downloading", &item.name);
        self.advance(partial.len());
        let client = self.client()?;
        let mut broken = 0;
        while partial.len() < item.size {
            let net_error = |source| FetchError::Net {
                name: item.name.clone(),
                source,
            };
            let body = client.stream(item.url.as_str(), partial.len());
            let mut body = body.map_err(net_error)?;
            if !body.continues && !partial.is_empty() {
                self.done.fetch_sub(partial.len(), Ordering::Relaxed);
                partial.restart().map_err(store_error)?;
            }
            let before = partial.len();
            if let Err(source) = self.copy(item, &mut body, &mut partial, stop)? {
                broken = if partial.len() >= before + WORTH_IT {
                    1
                } else {
                    broken + 1
                };
                if broken >= RESUMES {
                    let name = item.name.clone();
                    return Err(FetchError::Broken { name, source }.into());
                }
            } else if partial.len() < item.size {
                // Ended in time but too early: the size is checked by the commit, which says what is wrong.
                break;
            }
        }
        Ok(partial.commit(item.size).map_err(store_error)?)
    }

    /// Copies what comes; the inner error is a broken connection.
    fn copy(
        &self,
        item: &FetchItem,
        body: &mut impl Read,
        partial: &mut Partial,
        stop: &Stop,
    ) -> Result<std::io::Result<()>, FetchError> {
        let mut chunk = vec![0; 256 << 10];
        loop {
            if stop.is_set() {
                return Err(FetchError::Stopped {
                    name: item.name.clone(),
                });
            }
            let bytes = match body.read(&mut chunk) {
                Ok(0) => return Ok(Ok(())),
                Ok(count) => chunk.get(..count).unwrap_or_default(),
                Err(error) => return Ok(Err(error)),
            };
            partial.append(bytes).map_err(|source| FetchError::Store {
                name: item.name.clone(),
                source,
            })?;
            self.advance(bytes.len() as u64);
            if partial.len() > item.size {
                // Longer than promised: stop here, the commit says so.
                return Ok(Ok(()));
            }
        }
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.progress.bytes(done.min(self.total), self.total);
    }
}

#[cfg(test)]
mod tests;
