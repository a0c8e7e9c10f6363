//! Lists of plugins, file types and schemas that programs of the packages make of what is installed: what their scripts
//! would run is run here, in the sandbox, and only what it writes is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use super::error::SystemError;
use super::unpacking::Unpacked;
use crate::policy::{Bytes, Confinement, Promise};
use crate::sandbox::{self, collect, Bundle, CollectLimits, Collected, End, Purpose, Sink};

/// The script that runs the programs, with the base's own Python.
pub(super) const SCRIPT: &str = include_str!("set_up.py");
/// The lists of all that Debian has take 10 MB.
const OUTPUT: Bytes = Bytes(128 << 20);
/// The slowest takes two seconds.
const TIMEOUT: Duration = Duration::from_secs(300);
const MEMORY: Bytes = Bytes(1 << 30);
/// Files that may come out; the programs write some twenty.
const MOST: u64 = 1000;

/// Where the programs are run.
pub(super) struct Room<'a> {
    /// Directories to mount on, the topmost layer.
    pub scaffold: PathBuf,
    /// The unpacked layers of the base, top first.
    pub lowers: Vec<PathBuf>,
    /// The base's Python.
    pub python: &'a str,
    /// Promises whose loss is accepted, besides memory, cpu and processes.
    pub allow_degraded: &'a BTreeSet<Promise>,
}

/// Whether `unpacked` has something that a program makes a list of.
pub(super) fn is_needed(unpacked: &Unpacked) -> bool {
    unpacked.has(&|path| {
        path.starts_with("usr/share/mime/packages/")
            || path.starts_with("usr/share/glib-2.0/schemas/")
            || path.contains("/gdk-pixbuf-2.0/")
            || path.contains("/graphviz/libgvplugin_")
    })
}

/// The files that the programs make, by their paths in the image.
pub(super) fn set_up(unpacked: &Unpacked, room: &Room<'_>) -> Result<BTreeMap<String, Vec<u8>>, SystemError> {
    let mut lowers = vec![room.scaffold.clone(), unpacked.path()];
    lowers.extend(room.lowers.iter().cloned());
    let argv = [room.python, "-I", "-S", "-B", "-X", "utf8", "-c", SCRIPT];
    let environment = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/tmp"),
        ("LANG", "C.UTF-8"),
        ("SOURCE_DATE_EPOCH", "0"),
        // Of update-mime-database: nothing of it has to outlive a power loss.
        ("PKGSYSTEM_ENABLE_FSYNC", "0"),
    ];
    let confinement = Confinement {
        output_size: OUTPUT,
        timeout: TIMEOUT,
        memory: MEMORY,
        // The programs are Debian's, signed, as is the Python that compiles bytecode.
        allow_degraded: room.allow_degraded | &[Promise::Memory, Promise::Cpu, Promise::Processes].into(),
        ..Confinement::default()
    };
    let argv = argv.map(str::to_owned).to_vec();
    let bundle = Bundle::of_build(Purpose::Compilation, lowers, argv, &environment, confinement);
    let finished = sandbox::run(&bundle, Sink::Capture)?;
    if finished.end != End::Exited(0) {
        let said: String = String::from_utf8_lossy(&finished.stderr).chars().take(2000).collect();
        return Err(SystemError::SetUp {
            reason: format!("it ended with {:?}: {said}", finished.end),
        });
    }
    let mut made = BTreeMap::new();
    let Some(output) = &finished.output else {
        return Ok(made);
    };
    let limits = CollectLimits {
        entries: MOST,
        bytes: OUTPUT.0,
        depth: 16,
    };
    collect(output.as_fd(), limits, &mut |path, collected| {
        if let Collected::File { file, size } = collected {
            let mut contents = Vec::new();
            file.take(size).read_to_end(&mut contents)?;
            made.insert(path.to_owned(), contents);
        }
        Ok(())
    })?;
    Ok(made)
}
