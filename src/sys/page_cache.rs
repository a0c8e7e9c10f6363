//! Which pages of a file are in memory, and asking for them.
#![allow(unsafe_code, reason = "mincore(2) has no safe wrapper, and maps what it asks for")]

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{fadvise, Advice};

/// Bytes of a page, on amd64.
pub(crate) const PAGE: u64 = 4096;
/// The kernel reads no more for one word of advice than it would read ahead (`force_page_cache_ra`), which is 128 KiB at least.
const ADVISED: u64 = 128 << 10;

/// Whether each page of `length` bytes of a file from `offset` on, the first of a page, is in memory. Behind the end of the file none is.
///
/// # Errors
/// Those of mmap(2) and mincore(2). Of a file that is not ours, and that we may not write, the kernel says that all is there.
pub(crate) fn resident(file: &impl AsFd, offset: u64, length: u64) -> io::Result<Vec<bool>> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let (length, offset) = (
        usize::try_from(length).map_err(invalid)?,
        libc::off_t::try_from(offset).map_err(invalid)?,
    );
    if length == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: a new mapping at a place that the kernel chooses, of a descriptor that is open; nothing may read or write it.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_NONE,
            libc::MAP_SHARED,
            file.as_fd().as_raw_fd(),
            offset,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mut pages = vec![0u8; length.div_ceil(PAGE as usize)];
    // SAFETY: the mapping above has `length` bytes and is there until munmap below; the vector has a byte for each page of it.
    let asked = unsafe { libc::mincore(at, length, pages.as_mut_ptr()) };
    let error = io::Error::last_os_error();
    // SAFETY: the mapping above, which nothing refers to any more.
    unsafe { libc::munmap(at, length) };
    if asked != 0 {
        return Err(error);
    }
    // The other bits are reserved (mincore(2)).
    Ok(pages.iter().map(|page| page & 1 != 0).collect())
}

/// Has the kernel begin to read `length` bytes from `offset` on that are not in memory; does not wait for them.
pub(crate) fn ask_for(file: &impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let end = offset.saturating_add(length);
    let mut at = offset;
    while at < end {
        let part = (end - at).min(ADVISED);
        fadvise(file.as_fd(), at, NonZeroU64::new(part), Advice::WillNeed)?;
        at += part;
    }
    Ok(())
}

/// Reads `length` bytes from `offset` on, so that they are in memory then; returns how many there are.
pub(crate) fn read_through(file: &File, offset: u64, length: u64) -> io::Result<u64> {
    let mut buffer = vec![0; ADVISED as usize];
    let mut read = 0;
    while read < length {
        let most = usize::try_from(length - read).unwrap_or(usize::MAX).min(buffer.len());
        match file.read_at(buffer.get_mut(..most).unwrap_or_default(), offset + read) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(0) => break,
            Ok(count) => read += count as u64,
        }
    }
    Ok(read)
}

/// Lets go of what is in memory of a file, as far as nobody has changed or mapped it.
#[cfg(test)]
pub(crate) fn let_go(file: &impl AsFd) -> io::Result<()> {
    Ok(fadvise(file.as_fd(), 0, None, Advice::DontNeed)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file whose pages can be let go of: on a disk, and written there.
    fn on_disk(pages: usize) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; pages * PAGE as usize - 100]).unwrap();
        file.sync_all().unwrap();
        file
    }

    #[test]
    fn what_is_let_go_of_is_not_there_and_what_is_asked_for_comes() {
        let file = on_disk(300);
        let all = 300 * PAGE;
        assert!(resident(&file, 0, all).unwrap().iter().all(|page| *page));
        let_go(&file).unwrap();
        assert!(
            !resident(&file, 0, all).unwrap().contains(&true),
            "is this file system in memory?"
        );
        assert_eq!(read_through(&file, 100 * PAGE, 10 * PAGE).unwrap(), 10 * PAGE);
        let pages = resident(&file, 100 * PAGE, 10 * PAGE).unwrap();
        assert_eq!(pages, [true; 10]);
        ask_for(&file, 0, all).unwrap();
        assert_eq!(read_through(&file, 0, u64::MAX).unwrap(), all - 100);
        assert!(resident(&file, 0, all).unwrap().iter().all(|page| *page));
        assert!(resident(&file, 0, 0).unwrap().is_empty());
        assert!(!resident(&file, 400 * PAGE, PAGE).unwrap()[0]);
        assert!(resident(&file, 1, PAGE).is_err());
    }
}
