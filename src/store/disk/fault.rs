//! Fails a durable step on purpose, in tests only: each step is failed in turn, and nothing may be lost or left.

use std::io;

/// The steps that make something durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A small file is written and about to get its name.
    File,
    /// A blob is written and about to get its name.
    Blob,
    /// A tree is written and about to get its name.
    Tree,
    /// A download is complete and about to get its name.
    Download,
    /// A part of a blob from elsewhere is about to be written.
    Bytes,
}

#[cfg(test)]
thread_local! {
    /// Which step fails, after how many times.
    pub static FAIL: std::cell::Cell<Option<(Step, u32)>> = const { std::cell::Cell::new(None) };
    /// The error number it fails with; none for an error that the kernel never returns.
    pub static ERRNO: std::cell::Cell<Option<rustix::io::Errno>> = const { std::cell::Cell::new(None) };
}

/// Does nothing, or fails in a test that asked for it.
#[cfg_attr(not(test), inline(always))]
pub(crate) fn point(step: Step) -> io::Result<()> {
    #[cfg(test)]
    if let Some((wanted, left)) = FAIL.get() {
        if wanted == step {
            FAIL.set(Some((wanted, left.wrapping_sub(1))));
            if left == 0 {
                return Err(ERRNO
                    .get()
                    .map_or_else(|| io::Error::other("fault injected"), io::Error::from));
            }
        }
    }
    let _ = step;
    Ok(())
}
