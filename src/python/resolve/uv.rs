//! The resolver's program: found on this machine, else fetched once as its own pinned wheel.
//!
//! Fetching asks the machine's pip, which knows the index, the certificates and the proxies; the wheel is verified by
//! hash, and its one program is placed under `tools/` of the store by rename. Nothing of it is installed or executed
//! here.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ask::out_of_space;
use super::locked::LockError;
use super::programs::{Deadlines, MAX_MESSAGE};
use crate::archive::zip::Zip;
use crate::oci::Digest;
use crate::policy::ExtractionLimits;
use crate::progress::Progress;
use crate::store::{io_error, Flight, Store, Task};
use crate::sys::program::{Program, ProgramError};
use crate::sys::replace::Replacement;
use crate::sys::space;

/// version, file, size, sha256 of the uv that is fetched when there is none.
const UV_LOCK: &str = include_str!("../../../rootfs/uv.lock");

/// The first version that has every option it is called with (`--system-certs`).
const OLDEST: [u32; 2] = [0, 11];

/// Where uv may be, and what it takes to fetch it. Not `Debug`: variables may hold credentials.
#[derive(Clone, Copy)]
pub(crate) struct UvPlaces<'a> {
    /// The program of the configuration: no other is looked for when it is there.
    pub configured: Option<&'a Path>,
    /// The `PATH`.
    pub path: Option<&'a OsString>,
    /// What reaching the network takes; may hold credentials.
    pub network: &'a [(String, OsString)],
    /// How long uv and pip may run.
    pub deadlines: Deadlines,
}

/// uv: the configured one, else the first on `path` that is new enough, else the one fetched before, else fetched now
/// with the machine's pip. Runs those it looks at, to ask for their versions.
pub(crate) fn find_uv(store: &Store, places: &UvPlaces<'_>, progress: &dyn Progress) -> Result<PathBuf, LockError> {
    let version = |uv: &Path| version(uv, places.deadlines.words);
    if let Some(uv) = places.configured {
        // One that cannot be run is an error when it is.
        return match version(uv)? {
            Some((parts, text)) if parts < OLDEST => Err(LockError::OldUv {
                program: uv.to_owned(),
                version: text,
                oldest: OLDEST.map(|part| part.to_string()).join("."),
            }),
            _ => Ok(uv.to_owned()),
        };
    }
    let mut on_path = places
        .path
        .into_iter()
        .flat_map(std::env::split_paths)
        .map(|directory| directory.join("uv"))
        .filter(|uv| fs::metadata(uv).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0));
    // One that does not even say its version is none.
    let is_new = |uv: &PathBuf| matches!(version(uv), Ok(Some((parts, _))) if parts >= OLDEST);
    if let Some(uv) = on_path.find(is_new) {
        return Ok(uv);
    }
    let folder = folder();
    let target = store.tool(&folder).join("uv");
    if target.exists() {
        return Ok(target);
    }
    let task = Task {
        does: "fetches uv",
        progress,
    };
    let mut single = Some(store.locks().exclusive(Flight::Tool(&folder), task)?);
    if target.exists() {
        return Ok(target);
    }
    // The one we waited for failed. All that waited for it try at once, rather than to fail one after the other.
    single.take_if(|single| single.has_waited());
    let object = format!(
        "{}, which resolves requirements, with pip",
        folder.replacen('-', " ", 1)
    );
    progress.step("Downloading", &object);
    fetch_uv(store, places, &target)?;
    Ok(target)
}

/// The folder of `tools/` that holds the uv this version of gantry fetches.
pub(crate) fn folder() -> String {
    format!("uv-{}", UV_LOCK.split(' ').next().unwrap_or_default())
}

/// What `uv --version` says, as numbers and as text: `uv 0.11.0 (x86_64-unknown-linux-gnu)`. None when it cannot be run or
/// says something else.
fn version(uv: &Path, deadline: Duration) -> Result<Option<([u32; 2], String)>, ProgramError> {
    let done = match Program::new(uv, deadline).arg("--version").run() {
        Err(error @ ProgramError::Deadline { .. }) => return Err(error),
        Err(_) => return Ok(None),
        Ok(done) => done,
    };
    let parse = || {
        let said = String::from_utf8(done.stdout).ok()?;
        let text = said.strip_prefix("uv ")?.split_whitespace().next()?;
        let mut parts = text.split('.').map(|part| part.parse().ok());
        Some(([parts.next()??, parts.next()??], text.to_owned()))
    };
    Ok(parse())
}

fn fetch_uv(store: &Store, places: &UvPlaces<'_>, target: &Path) -> Result<(), LockError> {
    let reason = |reason: String| LockError::NoUv { reason };
    let failed = |doing: &str, source: io::Error| match space::is_full(&source) {
        true => io_error("fetch uv into", target)(source).into(),
        false => reason(format!("{doing}: {source}")),
    };
    let mut fields = UV_LOCK.split_whitespace();
    let (version, file_name, size, hash) = (fields.next(), fields.next(), fields.next(), fields.next());
    let (Some(version), Some(file_name), Some(size), Some(hash)) = (version, file_name, size, hash) else {
        return Err(reason("rootfs/uv.lock is damaged".to_owned()));
    };
    let scratch = store.scratch()?;
    let requirement = scratch.path().join("uv.txt");
    fs::write(&requirement, format!("uv=={version} --hash=sha256:{hash}\n"))
        .map_err(|error| failed("ask for uv", error))?;
    // pip knows this machine's index, certificates and proxies, in part by variables; nothing is installed or executed.
    let mut pip = Program::with_our_environment("python3", places.deadlines.answer).args([
        "-I",
        "-m",
        "pip",
        "download",
        // Without it, that nobody answers looks like that there is no uv.
        "-vv",
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "--dest",
    ]);
    pip = pip
        .arg(scratch.path())
        .arg("-r")
        .arg(&requirement)
        .envs(places.network.iter().map(|(name, value)| (name, value)))
        // What it leaves when it is killed goes with the directory.
        .env("TMPDIR", scratch.path());
    if let Some(path) = places.path {
        pip = pip.env("PATH", path);
    }
    let done = match pip.run() {
        Ok(done) => done,
        Err(ProgramError::Start { source, .. }) => return Err(reason(format!("run python3: {source}"))),
        Err(other) => return Err(LockError::Run(other)),
    };
    if !done.status.success() {
        let (said, complaint) = (
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr),
        );
        let explanation: String = complaint.chars().take(MAX_MESSAGE).collect();
        if let Some(full) = out_of_space(&complaint) {
            return Err(failed("download uv", full));
        }
        if is_network_failure(&said) || is_network_failure(&complaint) {
            return Err(LockError::UvUnavailable { explanation });
        }
        return Err(reason(explanation));
    }
    let wheel =
        fs::File::open(scratch.path().join(file_name)).map_err(|error| reason(format!("open {file_name}: {error}")))?;
    let mut bytes = Vec::new();
    (&wheel)
        .read_to_end(&mut bytes)
        .map_err(|error| reason(error.to_string()))?;
    if bytes.len().to_string() != size || Digest::of(&bytes).hex() != hash {
        return Err(reason(format!("{file_name} is not the pinned one")));
    }
    let zip = Zip::open(wheel, &ExtractionLimits::default()).map_err(|error| reason(error.to_string()))?;
    let entry = zip
        .entries()
        .iter()
        .find(|entry| entry.name.ends_with(".data/scripts/uv"));
    let entry = entry.ok_or_else(|| reason(format!("{file_name} holds no uv")))?;
    let mut contents = Vec::new();
    zip.read(entry, &mut Vec::new(), &mut contents)
        .map_err(|error| reason(error.to_string()))?;
    let place = || {
        target.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mut file = Replacement::create(scratch.path().join("uv"))?;
        file.write_all(&contents)?;
        file.file().set_permissions(fs::Permissions::from_mode(0o755))?;
        file.place(target)
    };
    place().map_err(|error| failed("place uv", error))
}

/// Whether a later try of pip may work, from what it says.
fn is_network_failure(said: &str) -> bool {
    let signs = [
        "connection error:",
        "connection broken by",
        "Max retries exceeded",
        "timed out",
        "Server Error",
    ];
    // A certificate that is not accepted today will not be later.
    signs.iter().any(|sign| said.contains(sign)) && !said.contains("CERTIFICATE_VERIFY_FAILED")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Kind;
    use crate::progress::Silent;

    /// What answers here does so at once, as far as the machine lets it.
    const AMPLE: Duration = Duration::from_secs(300);
    /// For what never ends.
    const SHORT: Duration = Duration::from_millis(300);

    fn places<'a>(configured: Option<&'a Path>, path: &'a OsString) -> UvPlaces<'a> {
        UvPlaces {
            configured,
            path: Some(path),
            network: &[],
            deadlines: Deadlines {
                words: AMPLE,
                answer: AMPLE,
            },
        }
    }

    fn hurried<'a>(configured: Option<&'a Path>, path: &'a OsString, words: Duration) -> UvPlaces<'a> {
        let answer = SHORT;
        UvPlaces {
            deadlines: Deadlines { words, answer },
            ..places(configured, path)
        }
    }

    /// A directory with a program called `name` that runs `script`.
    fn program(name: &str, script: &str) -> tempfile::TempDir {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        scratch
    }

    #[test]
    fn a_uv_that_does_not_say_its_version_is_ended_by_the_deadline() {
        let store = tempfile::tempdir().unwrap();
        let store = Store::open(&store.path().join("store")).unwrap();
        let silent = program("uv", "/bin/sleep 1000");
        let uv = silent.path().join("uv");
        let error = find_uv(&store, &hurried(Some(&uv), &OsString::new(), SHORT), &Silent).unwrap_err();
        assert!(
            matches!(error, LockError::Run(ProgramError::Deadline { .. })),
            "{error:?}"
        );
        assert_eq!(error.kind(), Kind::Unavailable);
        assert_eq!(
            error.to_string(),
            format!("run {}: it has not ended after 0.3 seconds", uv.display())
        );
        // On the PATH, the next one is taken, however long a machine under load needs to run it.
        let answers = program("uv", "echo uv 0.11.0");
        let path = std::env::join_paths([silent.path(), answers.path()]).unwrap();
        let found = [1, 4, 16, 64]
            .iter()
            .find_map(|times| find_uv(&store, &hurried(None, &path, *times * SHORT), &Silent).ok());
        assert_eq!(found, Some(answers.path().join("uv")));
    }

    #[test]
    fn a_pip_that_does_not_end_is_ended_by_the_deadline() {
        let store = tempfile::tempdir().unwrap();
        let store = Store::open(&store.path().join("store")).unwrap();
        let silent = program("python3", "/bin/sleep 1000");
        let path = silent.path().as_os_str().to_owned();
        let error = find_uv(&store, &hurried(None, &path, SHORT), &Silent).unwrap_err();
        assert!(
            matches!(error, LockError::Run(ProgramError::Deadline { .. })),
            "{error:?}"
        );
        assert_eq!(error.kind(), Kind::Unavailable);
    }

    #[test]
    fn a_uv_on_the_path_must_know_the_options_it_is_called_with() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::open(&scratch.path().join("store")).unwrap();
        let place = |name: &str, says: &str| {
            let folder = scratch.path().join(name);
            fs::create_dir(&folder).unwrap();
            let uv = folder.join("uv");
            fs::write(&uv, format!("#!/bin/sh\n[ \"$1\" = --version ] && echo '{says}'\n")).unwrap();
            fs::set_permissions(&uv, fs::Permissions::from_mode(0o755)).unwrap();
            uv
        };
        let old = place("old", "uv 0.10.12 (x86_64-unknown-linux-gnu)");
        let strange = place("strange", "something else");
        let new = place("new", "uv 0.11.0 (x86_64-unknown-linux-gnu)");
        let all = std::env::join_paths([&old, &strange, &new].map(|uv| uv.parent().unwrap())).unwrap();
        assert_eq!(find_uv(&store, &places(None, &all), &Silent).unwrap(), new);

        let fetched = store
            .root()
            .join("tools")
            .join(format!("uv-{}", UV_LOCK.split(' ').next().unwrap()));
        fs::create_dir_all(&fetched).unwrap();
        fs::write(fetched.join("uv"), "").unwrap();
        let outdated = std::env::join_paths([&old, &strange].map(|uv| uv.parent().unwrap())).unwrap();
        assert_eq!(
            find_uv(&store, &places(None, &outdated), &Silent).unwrap(),
            fetched.join("uv")
        );

        let refused = find_uv(&store, &places(Some(&old), &all), &Silent)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("0.10.12") && refused.contains("0.11"), "{refused}");
        let missing = Path::new("/nonexistent/uv");
        assert_eq!(find_uv(&store, &places(Some(missing), &all), &Silent).unwrap(), missing);
    }

    #[test]
    fn a_network_that_is_down_is_told_from_an_index_that_lacks_uv() {
        for said in [
            "Could not fetch URL http://127.0.0.1:1/simple/uv/: connection error: HTTPConnectionPool(host='127.0.0.1', port=1)",
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('refused')': /simple/uv/",
            "Could not fetch URL https://index.example/simple/uv/: 502 Server Error: Bad Gateway",
        ] {
            assert!(is_network_failure(said), "{said}");
        }
        for said in [
            "ERROR: Could not find a version that satisfies the requirement uv==1 (from versions: none)",
            "/usr/bin/python3: No module named pip",
            "WARNING: after connection broken by 'SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]",
        ] {
            assert!(!is_network_failure(said), "{said}");
        }
    }
}
