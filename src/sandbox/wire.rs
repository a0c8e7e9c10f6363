//! The frames of the control socket between gantry and an init; [`super::orders`] has what is in them.
//!
//! ```text
//! gantry -> init   J room orders | N | J work orders | S secret ... | T (send everything SIGTERM; at most once)
//! init -> gantry   J report ...                     or, before it is our binary, E step errno
//! ```
//!
//! `J` and `S` are followed by a length (u32, native order) and that many bytes, `J` of JSON, `S` of a secret's value.
//! `E` is [`crate::sys::process::SETUP_FAILED`]. `N` comes with the descriptor of a network namespace, or with none where the
//! init shall make one, and a report may come with some. Nothing of the workload ever holds this socket: it is closed by the
//! workload's exec.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use serde::Serialize;

use crate::policy::MOST_EGRESS;
use crate::sys::process::SETUP_FAILED;

/// Orders hold an environment; a megabyte is the kernel's own order of magnitude for one.
const MAX_FRAME: u32 = 16 << 20;
/// Descriptors that come with one frame: `/output` and the listeners.
const MOST_DESCRIPTORS: usize = 1 + MOST_EGRESS;
const JSON: u8 = b'J';
const SECRET: u8 = b'S';
const NETWORK: u8 = b'N';
/// One thing read from the socket.
#[derive(Debug)]
pub(crate) enum Frame {
    /// A JSON text.
    Json(Vec<u8>),
    /// A secret's value.
    Secret(Vec<u8>),
    /// The child failed before it was our binary.
    SetupFailed(u8, i32),
    /// The other side is gone.
    End,
}

/// Sends a value.
pub(crate) fn send<T: Serialize>(socket: &mut impl Write, value: &T) -> io::Result<()> {
    send_raw(socket, JSON, &serde_json::to_vec(value)?)
}

/// Sends a secret's value.
pub(crate) fn send_secret(socket: &mut impl Write, value: &[u8]) -> io::Result<()> {
    send_raw(socket, SECRET, value)
}

fn send_raw(socket: &mut impl Write, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MAX_FRAME);
    let length = length.ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut frame = Vec::with_capacity(bytes.len() + 5);
    frame.push(kind);
    frame.extend(length.to_ne_bytes());
    frame.extend(bytes);
    socket.write_all(&frame)
}

/// Receives one frame; blocks until it is whole.
pub(crate) fn receive(socket: &mut impl Read) -> io::Result<Frame> {
    let mut kind = [0u8];
    if socket.read(&mut kind)? == 0 {
        return Ok(Frame::End);
    }
    let mut number = [0u8; 4];
    if kind == [SETUP_FAILED] {
        let mut step = [0u8];
        socket.read_exact(&mut step)?;
        socket.read_exact(&mut number)?;
        return Ok(Frame::SetupFailed(step[0], i32::from_ne_bytes(number)));
    }
    socket.read_exact(&mut number)?;
    let mut bytes = vec![0; checked_length(number)? as usize];
    socket.read_exact(&mut bytes)?;
    match kind {
        [JSON] => Ok(Frame::Json(bytes)),
        [SECRET] => Ok(Frame::Secret(bytes)),
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

fn checked_length(number: [u8; 4]) -> io::Result<u32> {
    let length = u32::from_ne_bytes(number);
    if length > MAX_FRAME {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    Ok(length)
}

/// The reading end of gantry: frames and the descriptors that come with them, without ever blocking on half a frame.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    ended: bool,
}

impl Inbox {
    /// Reads once from `socket`; call when it is readable.
    pub(crate) fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut chunk = [0u8; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let buffers = &mut [IoSliceMut::new(&mut chunk)];
        let received = match recvmsg(socket, buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            // Its end, with something of ours unread.
            Err(rustix::io::Errno::CONNRESET) => {
                self.ended = true;
                return Ok(());
            }
            other => other?,
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        self.ended = received.bytes == 0;
        self.bytes.extend(chunk.iter().take(received.bytes));
        Ok(())
    }

    /// The next whole frame, if there is one; [`Frame::End`] once after the last.
    pub(crate) fn next(&mut self) -> io::Result<Option<Frame>> {
        let needed = match self.bytes.first() {
            None => return Ok(std::mem::take(&mut self.ended).then_some(Frame::End)),
            Some(&SETUP_FAILED) => 6,
            Some(&(JSON | SECRET)) => match self.bytes.get(1..5).and_then(|length| length.try_into().ok()) {
                Some(length) => 5 + checked_length(length)? as usize,
                None => usize::MAX,
            },
            // At once: whoever waited for the rest of it would wait for ever.
            Some(_) => return Err(io::Error::from(io::ErrorKind::InvalidData)),
        };
        if self.bytes.len() < needed {
            return if std::mem::take(&mut self.ended) {
                Ok(Some(Frame::End))
            } else {
                Ok(None)
            };
        }
        let frame: Vec<u8> = self.bytes.drain(..needed).collect();
        receive(&mut frame.as_slice()).map(Some)
    }

    /// The descriptors that came with a frame.
    pub(crate) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }
}

/// Sends a value together with descriptors, at most as many as an [`Inbox`] takes.
pub(crate) fn send_with<T: Serialize>(
    socket: BorrowedFd<'_>,
    value: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut frame = Vec::new();
    send(&mut frame, value)?;
    send_raw_with(socket, &frame, descriptors)
}

/// Sends the network namespace that an init shall join; with none it shall make one.
pub(crate) fn send_network(mut socket: impl Write + AsFd, namespace: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let Some(namespace) = namespace else {
        return socket.write_all(&[NETWORK]);
    };
    let send = || send_raw_with(socket.as_fd(), &[NETWORK], &[namespace]);
    match send() {
        Err(error) if error.raw_os_error() == Some(Errno::TOOMANYREFS.raw_os_error()) => {
            raise_open_files()?;
            send()
        }
        sent => sent,
    }
}

/// Raises the soft limit on open files to the hard one. The kernel refuses to send a descriptor (ETOOMANYREFS) when those under
/// way between all processes of this user, other sandboxes' too, are more than the sender's soft limit.
pub(crate) fn raise_open_files() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current, maximum })?)
}

/// Receives the network namespace, or the order to make one; blocks until it is there.
pub(crate) fn receive_network(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut kind = [0u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let buffers = &mut [IoSliceMut::new(&mut kind)];
    let received = recvmsg(socket, buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    match kind {
        [NETWORK] => Ok(descriptors.next()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn send_raw_with(socket: BorrowedFd<'_>, frame: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let pushed = control.push(SendAncillaryMessage::ScmRights(descriptors));
    // The space is rounded up: it may hold one more than an inbox takes.
    if descriptors.len() > MOST_DESCRIPTORS || !pushed {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let sent = sendmsg(socket, &[IoSlice::new(frame)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == frame.len() {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::WriteZero))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::super::orders::Report;
    use super::*;

    #[test]
    fn a_frame_brings_as_many_descriptors_as_a_run_can_need_in_order() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let files: Vec<std::fs::File> = (0..MOST_DESCRIPTORS).map(|_| tempfile::tempfile().unwrap()).collect();
        let borrowed: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        send_with(theirs.as_fd(), &Report::Mounted, &borrowed).unwrap();
        send(&mut &theirs, &Report::Started).unwrap();
        let mut inbox = Inbox::default();
        inbox.fill(ours.as_fd()).unwrap();
        let inode = |descriptor: BorrowedFd<'_>| rustix::fs::fstat(descriptor).unwrap().st_ino;
        let received: Vec<u64> = inbox.take_descriptors().iter().map(|one| inode(one.as_fd())).collect();
        let sent: Vec<u64> = files.iter().map(|one| inode(one.as_fd())).collect();
        assert_eq!(received, sent);
        assert!(matches!(inbox.next().unwrap(), Some(Frame::Json(_))));
        let one_more = tempfile::tempfile().unwrap();
        let too_many: Vec<BorrowedFd<'_>> = borrowed.iter().copied().chain([one_more.as_fd()]).collect();
        assert!(send_with(theirs.as_fd(), &Report::Mounted, &too_many).is_err());
    }

    #[test]
    fn a_network_namespace_is_a_descriptor_or_the_order_to_make_one() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let namespace = tempfile::tempfile().unwrap();
        let inode = |descriptor: BorrowedFd<'_>| rustix::fs::fstat(descriptor).unwrap().st_ino;
        send_network(&ours, Some(namespace.as_fd())).unwrap();
        let received = receive_network(theirs.as_fd()).unwrap().unwrap();
        assert_eq!(inode(received.as_fd()), inode(namespace.as_fd()));
        send_network(&ours, None).unwrap();
        assert!(receive_network(theirs.as_fd()).unwrap().is_none());
        send_with(ours.as_fd(), &Report::Mounted, &[namespace.as_fd()]).unwrap();
        let another = receive_network(theirs.as_fd()).unwrap_err();
        assert_eq!(another.kind(), io::ErrorKind::InvalidData);
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        let ended = receive_network(theirs.as_fd()).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_frame_is_refused_at_its_first_bytes() {
        for nonsense in [&b"?"[..], b"J\xff\xff\xff\xff", b"S\x01\0\0\x01"] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(nonsense).unwrap();
            let mut inbox = Inbox::default();
            inbox.fill(ours.as_fd()).unwrap();
            assert!(inbox.next().is_err(), "{nonsense:?}");
        }
    }
}
