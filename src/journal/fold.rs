//! The fold of the journal: sums up what was appended since it was folded last, and remembers how far that was.
//!
//! ```text
//! journal/fold.json    {"version": 1, "files": {"2026-11-29.jsonl": {"offset": 81234, "head": "9f…"}}, "counts": …}
//! ```
//!
//! **Commit.** The state gets its place by a rename, with the counts and the offsets that belong together in one file. Killed
//! before that, the same lines are read again; nothing is counted twice. One process at a time writes it. Others, and those
//! that may not write, sum up for themselves.
//!
//! **What is survived.** A state that cannot be read, or of another version, counts as absent: all 35 days are read again. Of a file that became
//! shorter what is left was counted; a file that begins otherwise than before is another one, and is read from its
//! beginning. What a file that is gone said stays counted until it is 35 days old.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::count::{Counts, DAYS};
use super::day::{day_of, seconds, SECONDS_A_DAY};
use super::line::Line;
use super::read::lines;
use super::FOLDER;
use crate::oci::Digest;
use crate::sys::fault::{self, Step};
use crate::sys::replace::Replacement;

/// Raised when what is counted changes: then the whole journal is read again.
const VERSION: u32 = 1;
const STATE: &str = "fold.json";
/// The next state while it is written.
const NEXT: &str = ".fold.json";
/// Longest state that is read: ten thousand images that were used on each of 35 days are less.
const MAX_STATE: u64 = 64 << 20;
/// Files of days that are looked at: a store has one for each of 35 days, under two sorts of names.
const MAX_FILES: usize = 1000;
/// What tells a file from another one of its name: bytes of its first line.
const HEAD: u64 = 64;
/// How long another process is waited for that folds: as long as reading 35 days takes.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a fold of the journal came to.
#[derive(Debug)]
pub(crate) struct Folded {
    /// The counts of the last 35 days.
    pub counts: Counts,
    /// Bytes of whole lines that were not read before.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests see by it that nothing is read twice"))]
    pub new_bytes: u64,
    /// Lines among them that were no events.
    pub garbage: u64,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    version: u32,
    files: BTreeMap<String, Known>,
    counts: Counts,
}

/// How much of a file was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    offset: u64,
    /// The digest of its first bytes.
    head: String,
}

/// Sums up the journal of the store at `root` at the time `now`. A store without a journal has nothing to count.
///
/// # Errors
/// When a file of the journal cannot be listed or read. That the result cannot be kept is no error: it is made again.
pub(crate) fn fold(root: &Path, now: SystemTime) -> io::Result<Folded> {
    let (folder, now) = (root.join(FOLDER), seconds(now));
    // Before the files are listed: one that came while another process was waited for is in the sums of that.
    let alone = Replacement::create_alone(folder.join(NEXT), PATIENCE).ok();
    let names = match day_files(&folder, now) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names?,
    };
    let mut state = read_state(&folder.join(STATE)).unwrap_or_default();
    let (mut files, mut new_bytes, mut garbage) = (BTreeMap::new(), 0, 0);
    let before = state.files.clone();
    for name in names {
        let known = state.files.remove(&name);
        let mut file = match open(&folder.join(&name)) {
            // What cannot be read now goes on where it stood. Removed meanwhile, or nothing of ours: no more.
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    files.extend(known.map(|known| (name, known)));
                }
                continue;
            }
            Ok(file) => file,
        };
        let from = begin(&file, known.as_ref())?;
        let end = lines(&mut file, from, |line| match Line::read(line) {
            Some(line) => state.counts.add(&line, now),
            None => garbage += 1,
        })?;
        new_bytes += end - from;
        let head = match known {
            // Still as short as it was when its head was taken.
            Some(known) if end == from && known.offset == end => known.head,
            _ => head(&file, end)?,
        };
        files.insert(name, Known { offset: end, head });
    }
    let has_changed = state.counts.forget_old(now) || files != before;
    (state.files, state.version) = (files, VERSION);
    if let Some(next) = alone.filter(|_| has_changed) {
        // Lost, it is made again.
        let _ = commit(next, &folder.join(STATE), &state);
    }
    Ok(Folded {
        counts: state.counts,
        new_bytes,
        garbage,
    })
}

/// The files of days that count at `now`, the oldest first.
pub(super) fn day_files(folder: &Path, now: u64) -> io::Result<Vec<String>> {
    let first = (now / SECONDS_A_DAY).saturating_sub(DAYS);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)?.take(MAX_FILES) {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        if let Some(day) = day_of(&name).filter(|day| *day >= first) {
            found.push((day, name));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

/// Opens a regular file; a link, or a pipe that nobody writes to, is none.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Where reading goes on in a file of which `known` was read.
fn begin(file: &File, known: Option<&Known>) -> io::Result<u64> {
    let Some(known) = known else { return Ok(0) };
    let length = file.metadata()?.len();
    let is_same = length >= known.offset.min(HEAD) && head(file, known.offset)? == known.head;
    Ok(if is_same { known.offset.min(length) } else { 0 })
}

/// The digest of the first bytes of a file of which `offset` bytes were read.
fn head(file: &File, offset: u64) -> io::Result<String> {
    let mut bytes = [0; HEAD as usize];
    let want = bytes.get_mut(..offset.min(HEAD) as usize).unwrap_or_default();
    match file.read_exact_at(want, 0) {
        // It became shorter since: another one.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(String::new()),
        read => read?,
    }
    Ok(Digest::of(want).hex())
}

fn read_state(path: &Path) -> Option<State> {
    let mut json = Vec::new();
    open(path).ok()?.take(MAX_STATE + 1).read_to_end(&mut json).ok()?;
    if json.len() as u64 > MAX_STATE {
        return None;
    }
    let state: State = serde_json::from_slice(&json).ok()?;
    (state.version == VERSION).then_some(state)
}

fn commit(mut next: Replacement, place: &Path, state: &State) -> io::Result<()> {
    next.write_all(&serde_json::to_vec(state)?)?;
    fault::point(Step::JournalSums)?;
    next.place(place)
}

#[cfg(test)]
mod tests;
