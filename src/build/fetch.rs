//! Many files from the network into the store: several at a time, each once however many processes want it, resumed
//! after a cut, verified as a whole. The first failure ends the others.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::Mutex;

use crate::net::{Client, NetError};
use crate::oci::Digest;
use crate::policy::Kind;
use crate::progress::Progress;
use crate::store::{Store, StoreError};

/// Transfers at once: enough to fill a link, few enough to be polite.
const PARALLEL: usize = 6;
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
    pub url: String,
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
        /// Why.
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
        /// Why.
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

/// Fetches `items`; returns their files in the same order.
pub fn fetch(
    store: &Store,
    client: &Client,
    items: &[FetchItem],
    progress: &dyn Progress,
) -> Result<Vec<File>, FetchError> {
    let state = State {
        next: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
        done: AtomicU64::new(0),
        total: items.iter().map(|item| item.size).sum(),
        files: Mutex::new(items.iter().map(|_| None).collect()),
        error: Mutex::new(None),
    };
    let fetcher = Fetcher {
        store,
        client,
        progress,
        state: &state,
    };
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL.min(items.len()) {
            scope.spawn(|| fetcher.work(items));
        }
    });
    if let Some(error) = state.error.into_inner().unwrap_or_default() {
        return Err(error);
    }
    Ok(state
        .files
        .into_inner()
        .unwrap_or_default()
        .into_iter()
        .flatten()
        .collect())
}

struct State {
    next: AtomicUsize,
    stopped: AtomicBool,
    done: AtomicU64,
    total: u64,
    files: Mutex<Vec<Option<File>>>,
    error: Mutex<Option<FetchError>>,
}

struct Fetcher<'a> {
    store: &'a Store,
    client: &'a Client,
    progress: &'a dyn Progress,
    state: &'a State,
}

impl Fetcher<'_> {
    fn work(&self, items: &[FetchItem]) {
        loop {
            let number = self.state.next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { return };
            if self.state.stopped.load(Ordering::Relaxed) {
                return;
            }
            match self.one(item) {
                Ok(file) => {
                    if let Some(slot) = self
                        .state
                        .files
                        .lock()
                        .ok()
                        .as_mut()
                        .and_then(|files| files.get_mut(number))
                    {
                        *slot = Some(file);
                    }
                }
                Err(error) => {
                    if !self.state.stopped.swap(true, Ordering::Relaxed) {
                        if let Ok(mut first) = self.state.error.lock() {
                            *first = Some(error);
                        }
                    }
                    return;
                }
            }
        }
    }

    fn one(&self, item: &FetchItem) -> Result<File, FetchError> {
        let store_error = |source| FetchError::Store {
            name: item.name.clone(),
            source,
        };
        if let Some(file) = self.store.find_download(&item.sha256, item.size) {
            self.advance(item.size);
            return Ok(file);
        }
        let mut waiting = || {
            self.progress
                .step("Waiting for", &format!("another process that downloads {}", item.name))
        };
        let mut partial = self.store.partial(&item.sha256, &mut waiting).map_err(store_error)?;
        if let Some(file) = self.store.find_download(&item.sha256, item.size) {
            self.advance(item.size);
            return Ok(file);
        }
        if partial.len() > item.size {
            partial.restart().map_err(store_error)?;
        }
        self.progress.step("Downloading", &item.name);
        self.advance(partial.len());
        let mut broken = 0;
        while partial.len() < item.size {
            let net_error = |source| FetchError::Net {
                name: item.name.clone(),
                source,
            };
            let mut body = self.client.stream(&item.url, partial.len()).map_err(net_error)?;
            if !body.continues && !partial.is_empty() {
                self.state.done.fetch_sub(partial.len(), Ordering::Relaxed);
                partial.restart().map_err(store_error)?;
            }
            let before = partial.len();
            if let Err(source) = self.copy(item, &mut body, &mut partial)? {
                broken = if partial.len() >= before + WORTH_IT {
                    1
                } else {
                    broken + 1
                };
                if broken >= RESUMES {
                    return Err(FetchError::Broken {
                        name: item.name.clone(),
                        source,
                    });
                }
            } else if partial.len() < item.size {
                // Ended in time but too early: the size is checked by the commit, which says what is wrong.
                break;
            }
        }
        partial.commit(item.size).map_err(store_error)
    }

    /// Copies what comes; the inner error is a broken connection.
    fn copy(
        &self,
        item: &FetchItem,
        body: &mut impl Read,
        partial: &mut crate::store::Partial,
    ) -> Result<std::io::Result<()>, FetchError> {
        let mut chunk = vec![0; 256 << 10];
        loop {
            if self.state.stopped.load(Ordering::Relaxed) {
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
        let done = self.state.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.progress.bytes(done.min(self.state.total), self.state.total);
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
