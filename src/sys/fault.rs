//! Fails a durable step on purpose, or ends the process there, in tests only: each step is failed in turn, and nothing may
//! be lost or left.
//!
//! A step is a change that another process sees: a file gets its name, loses it, or grows. Unit tests choose one for their
//! thread. Debug builds of the binary read `GANTRY_FAULT` once:
//!
//! ```text
//! GANTRY_FAULT=Blob:0:kill     SIGKILL at the first Blob
//! GANTRY_FAULT=Blob:2:28       the third Blob fails with error number 28, ENOSPC
//! GANTRY_FAULT=Blob:2+:28      as well as all that follow
//! GANTRY_FAULT=Blob:0:hold=P   the first Blob waits until somebody has opened the named pipe P for writing, and closed it
//! GANTRY_FAULT=trace:FILE      appends the name of each step to FILE when it is reached
//! ```
//!
//! A release build has none of this.

use std::io;

/// The steps that make something durable, or remove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The mark of a store, and that of an image layout, get their names.
    Version,
    /// The list of images for other tools gets its name.
    Index,
    /// It is noted that names are about to change, so that whoever finds the note lists them anew.
    IndexMark,
    /// A name of an image gets its place.
    Name,
    /// A name of an image goes.
    NameRemoved,
    /// An image without a name is noted.
    Unnamed,
    /// The note of an image without a name goes.
    UnnamedRemoved,
    /// What a run needs of an image gets its name.
    Snapshot,
    /// What is remembered of a step gets its name.
    Memo,
    /// A manifest or a configuration gets its name.
    Document,
    /// The stamp of a blob or a download gets its name.
    ContentStamp,
    /// The stamp of a layer is written again.
    LayerStamp,
    /// A blob is written and about to get its name.
    Blob,
    /// A blob that is damaged goes.
    DamagedBlob,
    /// A download is complete and about to get its name.
    Download,
    /// A part of a blob from elsewhere is about to be written.
    Bytes,
    /// A download that holds nothing, or wrong bytes, goes.
    PartialRemoved,
    /// A tree is written and about to get its name.
    Tree,
    /// A tree that is damaged leaves its place for another one.
    DamagedTree,
    /// It is noted that a blob inflates to a layer.
    Origin,
    /// A tree of several layers is about to get its name.
    Merged,
    /// The directories that sandboxes mount on get their name.
    Scaffold,
    /// A directory for scratch is made.
    Scratch,
    /// A directory of scratch goes.
    ScratchRemoved,
    /// Garbage leaves its place.
    Garbage,
    /// The stamp of something that is gone goes.
    StampRemoved,
    /// What is wrong leaves its place.
    Repair,
    /// What an eviction takes leaves its place.
    Evicted,
    /// An image is pinned.
    Pin,
    /// An image is pinned no longer.
    PinRemoved,
    /// It is noted that a registry has an image.
    ImageOrigin,
    /// The note of the registries of an image that is gone goes.
    ImageOriginRemoved,
    /// It is noted how much room a layer takes.
    RoomTaken,
    /// It is noted how much room is promised, or how much of it is still to come.
    Reservation,
    /// A line is about to be appended to the journal.
    JournalLine,
    /// What the journal comes to gets its name.
    JournalSums,
    /// A note, such as what is known of a registry, gets its name.
    Note,
    /// The note of the registry that is preferred goes.
    NoteRemoved,
}

#[cfg(test)]
thread_local! {
    /// Which step fails, after how many times.
    pub(crate) static FAIL: std::cell::Cell<Option<(Step, u32)>> = const { std::cell::Cell::new(None) };
    /// The error number it fails with; none for an error that the kernel never returns.
    pub(crate) static ERRNO: std::cell::Cell<Option<rustix::io::Errno>> = const { std::cell::Cell::new(None) };
}

/// Does nothing, or fails in a test that asked for it.
#[cfg_attr(not(any(test, debug_assertions)), inline(always))]
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
    #[cfg(debug_assertions)]
    injected::at(step)?;
    let _ = step;
    Ok(())
}

/// What `GANTRY_FAULT` asks for.
#[cfg(debug_assertions)]
mod injected {
    use std::fs::OpenOptions;
    use std::io::{self, Write};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::OnceLock;

    use rustix::process::{getpid, kill_process, Signal};

    use super::Step;

    enum Plan {
        Trace(String),
        Fail {
            step: String,
            after: u32,
            is_once: bool,
            how: String,
        },
    }

    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    static REACHED: AtomicU32 = AtomicU32::new(0);

    #[allow(
        clippy::disallowed_methods,
        reason = "it is no setting: release builds have none of this"
    )]
    fn plan() -> Option<Plan> {
        let text = std::env::var("GANTRY_FAULT").ok()?;
        if let Some(file) = text.strip_prefix("trace:") {
            return Some(Plan::Trace(file.to_owned()));
        }
        let mut parts = text.splitn(3, ':');
        let (step, after, how) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Plan::Fail {
            step: step.to_owned(),
            after: after.trim_end_matches('+').parse().ok()?,
            is_once: !after.ends_with('+'),
            how: how.to_owned(),
        })
    }

    pub(super) fn at(step: Step) -> io::Result<()> {
        let name = format!("{step:?}");
        match PLAN.get_or_init(plan) {
            Some(Plan::Trace(file)) => {
                let mut file = OpenOptions::new().append(true).create(true).open(file)?;
                file.write_all(format!("{name}\n").as_bytes())
            }
            Some(Plan::Fail {
                step,
                after,
                is_once,
                how,
            }) if *step == name => {
                let reached = REACHED.fetch_add(1, Ordering::Relaxed);
                if reached < *after || (reached > *after && *is_once) {
                    return Ok(());
                }
                if let Some(pipe) = how.strip_prefix("hold=") {
                    return std::fs::read(pipe).map(drop);
                }
                if how == "kill" {
                    kill_process(getpid(), Signal::KILL)?;
                    loop {
                        std::thread::park();
                    }
                }
                Err(io::Error::from_raw_os_error(how.parse().unwrap_or_default()))
            }
            _ => Ok(()),
        }
    }
}
