//! Errors at the edge: kind, exit code and hint in one place, and how they are printed.

use std::error::Error;
use std::io::Write;

use super::escape::escape;
use crate::base::{BaseError, RelockError, SignatureError};
use crate::build::BuildError;
use crate::config::ConfigError;
use crate::ops::{DoctorError, ImagesError, RunError, CANNOT_RUN};
use crate::policy::Promise;
use crate::python::resolve::LockError;
use crate::python::sdist::SdistError;
use crate::python::PythonError;
use crate::sandbox::SandboxError;
use crate::store::{ArchiveError, LayoutError, StoreError};
use crate::transfer::FetchError;

/// Anything a command can end in.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Configuration or environment.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A build.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The doctor.
    #[error(transparent)]
    Doctor(#[from] DoctorError),
    /// An image operation.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// What was typed.
    #[error("{0}")]
    Usage(String),
    /// What was typed, or the job document, of a run.
    #[error("{0}")]
    RunUsage(String),
    /// A file of the caller.
    #[error("{action} {path}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// 1 failed, 2 usage, 3 refused by policy, 4 unavailable, 125 gantry could not run it.
pub fn exit_code(error: &CommandError) -> u8 {
    match error {
        CommandError::Usage(_) | CommandError::Config(_) => 2,
        CommandError::Run(_) | CommandError::RunUsage(_) => CANNOT_RUN,
        CommandError::Build(error) => error.kind().exit_code(),
        CommandError::Store(error) => error.kind().exit_code(),
        _ => 1,
    }
}

/// The sandbox's error that `error` is about.
fn find_sandbox_error(error: &CommandError) -> Option<&SandboxError> {
    // A transparent variant leaves itself out of the chain.
    if let CommandError::Run(RunError::Sandbox(found)) = error {
        return Some(found);
    }
    let mut cause = error.source();
    while let Some(source) = cause {
        if let Some(found) = source.downcast_ref() {
            return Some(found);
        }
        cause = source.source();
    }
    None
}

const NO_USER_NAMESPACE: &str = "this machine does not let you make a user namespace: check `sysctl user.max_user_namespaces`, kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns";

const CGROUP: &str = "run gantry in a cgroup that is delegated to you: `systemd-run --user --scope -p Delegate=yes gantry run ...`, or a unit like examples/systemd/gantry-worker.service; `gantry doctor` says what holds here; --allow-degraded NAME,... (or allow_degraded under [run] in the configuration) runs without the promises it names";
const DEGRADED: &str = "`gantry doctor` says what holds here; --allow-degraded NAME,... (or allow_degraded under [run] in the configuration) goes on without the promises it names";

fn hint(error: &CommandError) -> Option<&'static str> {
    match find_sandbox_error(error) {
        Some(SandboxError::UserNamespace { .. }) => return Some(NO_USER_NAMESPACE),
        Some(SandboxError::Refused { lost, .. }) => {
            let cgroup = |(promise, _): &(Promise, _)| matches!(promise, Promise::Memory | Promise::Cpu);
            return Some(if lost.iter().any(cgroup) { CGROUP } else { DEGRADED });
        }
        _ => {}
    }
    match error {
        CommandError::Build(BuildError::Secrets { .. }) => {
            Some("pass secrets at run time with `gantry run --secret NAME=FILE`; --allow-file PATH lets a file pass that is none")
        }
        CommandError::Build(BuildError::Python(PythonError::Lock(LockError::NoWheel { .. }))) => {
            Some("ask for a version that has a wheel, or have its source distribution built in the sandbox: --allow-sdist")
        }
        CommandError::Build(BuildError::Python(PythonError::Sdist(SdistError::Failed { .. }))) => {
            Some("it is built without network, with gcc, make and what its pyproject.toml asks for; a version with a wheel needs none of that")
        }
        CommandError::Build(BuildError::Python(PythonError::Sdist(SdistError::Base { .. }))) => {
            Some("leave out --base, or name a base of `gantry base ls`")
        }
        CommandError::Build(BuildError::Python(PythonError::Lock(LockError::Index(_)))) => {
            Some("set `url` under [index] in the configuration to the index to ask; nothing else counts then")
        }
        CommandError::Build(BuildError::Python(PythonError::Lock(LockError::NoUv { .. }))) => {
            Some("install uv, or pip for python3, or set `uv` under [index] in the configuration")
        }
        CommandError::Build(
            BuildError::Python(PythonError::Lock(LockError::TooLarge { .. })) | BuildError::TooLarge { .. },
        ) => {
            Some("leave out packages, or use a variant without GPU libraries")
        }
        CommandError::Build(BuildError::Base(BaseError::Mirror(_))) => {
            Some("set `mirror` and `security_mirror` under [base] in the configuration")
        }
        CommandError::Build(BuildError::Base(BaseError::Relock(RelockError::Signature { source, .. }))) => {
            Some(match source {
                SignatureError::Run(_) => "install gpgv (Debian package gpgv), which checks the archive's signature",
                _ => "`keyring` under [base] in the configuration names the keys that may sign the archive's index",
            })
        }
        CommandError::Build(BuildError::Base(BaseError::Fetch(FetchError::Net { source, .. })))
            if source.is_not_found() =>
        {
            Some("the archive's index still lists this package: try again later; --base takes any other image")
        }
        CommandError::Run(RunError::UnknownImage { .. }) | CommandError::Images(ImagesError::Unknown { .. }) => {
            Some("`gantry images ls` lists the images; `gantry build DIR --tag NAME` makes one")
        }
        CommandError::Config(ConfigError::NoHome) => Some("set GANTRY_ROOT to a directory for the store"),
        CommandError::Store(StoreError::Busy { .. }) => Some("try again when they are done"),
        CommandError::Store(StoreError::Stalled { .. }) => Some("end that process if it hangs, and try again"),
        _ if store_is_full(error) => {
            Some("`gantry cache gc` removes what no image and no later build needs; `gantry cache gc --all` all but what images need")
        }
        _ => None,
    }
}

/// Whether a full disk is at the end of it, and not that of a file or directory of the caller's. Transparent errors pass
/// on their source's source, so the kinds in between cannot be asked.
fn store_is_full(error: &CommandError) -> bool {
    let is_elsewhere = matches!(
        error,
        CommandError::File { .. }
            | CommandError::Run(RunError::Collect(_) | RunError::Directory { .. })
            | CommandError::Images(
                ImagesError::File { .. }
                    | ImagesError::Layout(LayoutError::Io { .. })
                    | ImagesError::Archive(ArchiveError::Io { .. })
            )
    );
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut is_full = false;
    while let Some(source) = cause {
        is_full |= source
            .downcast_ref::<std::io::Error>()
            .is_some_and(crate::sys::disk::is_full);
        cause = source.source();
    }
    is_full && !is_elsewhere
}

/// Prints `error:`, its causes and a hint to standard error.
pub fn print(error: &CommandError) {
    let mut text = format!("error: {}\n", indented(&error.to_string()));
    let mut last = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let message = source.to_string();
        // Transparent variants repeat their source.
        if message != last {
            text.push_str(&format!("caused by: {}\n", indented(&message)));
        }
        last = message;
        cause = source.source();
    }
    if let Some(hint) = hint(error) {
        text.push_str(&format!("\nhint: {hint}\n"));
    }
    // Nobody is there to hear that nobody is there.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn indented(text: &str) -> String {
    escape(text.trim_end()).replace('\n', "\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_names_the_way_out_wherever_it_strikes() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let no_space = || StoreError::NoSpace {
            action: "write",
            path: "blob".into(),
            source: full(),
        };
        let layer = || crate::archive::layer::LayerError::Io {
            path: "a".to_owned(),
            source: full(),
        };
        let fetch = || FetchError::Store {
            name: "wheel".to_owned(),
            source: no_space(),
        };
        for error in [
            CommandError::Store(no_space()),
            CommandError::Build(BuildError::Store(no_space())),
            CommandError::Build(BuildError::Base(BaseError::Store(no_space()))),
            CommandError::Build(BuildError::Python(fetch().into())),
            CommandError::Build(BuildError::Base(BaseError::Fetch(fetch()))),
            CommandError::Build(BuildError::Python(LockError::Store(no_space()).into())),
            CommandError::Build(BuildError::Layer(layer())),
            CommandError::Images(ImagesError::Store(no_space())),
            CommandError::Images(ImagesError::Layout(LayoutError::Store(no_space()))),
            CommandError::Run(RunError::Store(no_space())),
        ] {
            assert!(
                hint(&error).is_some_and(|hint| hint.contains("gantry cache gc --all")),
                "{error:?}"
            );
        }
        let elsewhere = CommandError::File {
            action: "write",
            path: "image.tar".to_owned(),
            source: full(),
        };
        assert_eq!(hint(&elsewhere), None);
    }

    #[test]
    fn a_busy_store_is_4() {
        let error = CommandError::Store(StoreError::Busy { path: "store".into() });
        assert_eq!(exit_code(&error), 4);
    }
}
