//! The bytes of a blob that is uploaded: in memory, or as they come from another place.

use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver, SyncSender};

use super::peer::Incoming;
use super::TransferError;
use crate::oci::Descriptor;
use crate::registry::RegistryError;

/// What is read of a source at a time, and how many of that wait for the network.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

/// Opens the bytes of one request anew each time it is made.
pub(super) type OpenBytes<'a> = dyn FnMut() -> Box<dyn Read + Send> + 'a;
/// Makes a request whose body `OpenBytes` gives.
pub(super) type Sending<'a> = dyn FnMut(&mut OpenBytes<'_>) -> Result<(), RegistryError> + Send + 'a;

/// The bytes of a blob that is uploaded.
pub(super) trait Bytes {
    /// Has `sending` make a request with `size` bytes from `at` on.
    fn pour(&mut self, at: u64, size: u64, sending: &mut Sending<'_>) -> Result<(), RegistryError>;

    /// Why the bytes cannot be had, when that is what went wrong.
    fn failure(&mut self) -> Option<TransferError>;
}

/// A document that is in memory.
pub(super) struct Held<'a>(pub &'a [u8]);

impl Bytes for Held<'_> {
    fn pour(&mut self, at: u64, size: u64, sending: &mut Sending<'_>) -> Result<(), RegistryError> {
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        let to = usize::try_from(at.saturating_add(size)).unwrap_or(usize::MAX);
        let part = self.0.get(from..to).unwrap_or_default();
        sending(&mut || Box::new(io::Cursor::new(part.to_vec())))
    }

    fn failure(&mut self) -> Option<TransferError> {
        None
    }
}

/// A layer that comes from another place, read by this thread while another one sends it.
pub(super) struct Poured<'a, 'b> {
    pub incoming: &'a mut Incoming<'b>,
    pub blob: &'a Descriptor,
    pub failure: Option<TransferError>,
}

impl Bytes for Poured<'_, '_> {
    fn pour(&mut self, at: u64, size: u64, sending: &mut Sending<'_>) -> Result<(), RegistryError> {
        let (orders, wanted) = mpsc::channel::<SyncSender<Vec<u8>>>();
        std::thread::scope(|scope| {
            let sender = scope.spawn(move || {
                // Dropped with the closure: then nobody wants any more.
                sending(&mut || {
                    let (tell, told) = mpsc::sync_channel(PIECES);
                    let _ = orders.send(tell);
                    Box::new(Pipe::new(told))
                })
            });
            for out in wanted {
                self.failure = self.feed(at, size, out).err();
            }
            sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn failure(&mut self) -> Option<TransferError> {
        self.failure.take()
    }
}

impl Poured<'_, '_> {
    /// Reads `size` bytes from `at` on into `out`, until nobody reads there any more.
    fn feed(&mut self, at: u64, size: u64, out: SyncSender<Vec<u8>>) -> Result<(), TransferError> {
        let mut out = Pieces {
            out,
            left: size,
            is_closed: false,
        };
        // Never shown: who closed it knows better.
        let closed = |source| TransferError::Io {
            action: "upload",
            path: self.blob.digest.to_string().into(),
            source,
        };
        self.incoming.start_at(at)?;
        let copied = match at == 0 && size == self.blob.size {
            true => self.incoming.verify_into(&mut out, &closed),
            // What it is in the end is the registry's to find out. The source stays open for the next part.
            false => self.incoming.copy_part_into(size, &mut out, &closed),
        };
        if out.is_closed {
            Ok(())
        } else {
            copied
        }
    }
}

/// Hands bytes over to the thread that sends them.
struct Pieces {
    out: SyncSender<Vec<u8>>,
    left: u64,
    is_closed: bool,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(PIECE)
            .min(bytes.len());
        if most == 0 && self.left == 0 {
            // More than is wanted: of a part the rest is another one's, of a whole it is too long.
            self.is_closed = true;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let piece = bytes.get(..most).unwrap_or_default();
        if self.out.send(piece.to_vec()).is_err() {
            self.is_closed = true;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        crate::sys::lock::beat();
        self.left -= most as u64;
        Ok(most)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what is handed over.
struct Pipe {
    told: Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Pipe {
    fn new(told: Receiver<Vec<u8>>) -> Self {
        Self {
            told,
            piece: io::Cursor::new(Vec::new()),
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.told.recv() {
                Ok(piece) => self.piece = io::Cursor::new(piece),
                // All of it, or the source failed: then the request ends too early, and the source says why.
                Err(_) => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_arrives_and_no_more_than_is_wanted() {
        let (tell, told) = mpsc::sync_channel(PIECES);
        let mut pieces = Pieces {
            out: tell,
            left: 5,
            is_closed: false,
        };
        assert!(pieces.write_all(b"abcdefg").is_err());
        assert!(pieces.is_closed);
        drop(pieces);
        let mut text = String::new();
        Pipe::new(told).read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcde");
    }

    #[test]
    fn whoever_does_not_read_any_more_ends_the_feeding() {
        let (tell, told) = mpsc::sync_channel(PIECES);
        drop(told);
        let mut pieces = Pieces {
            out: tell,
            left: 5,
            is_closed: false,
        };
        assert!(pieces.write_all(b"a").is_err());
        assert!(pieces.is_closed);
    }
}
