//! Errors at the edge: kind, exit code and hint in one place, and how they are printed.

use std::error::Error;
use std::io::Write;

use super::escape::escape;
use crate::build::base::{RelockError, SignatureError};
use crate::build::fetch::FetchError;
use crate::build::lock::LockError;
use crate::config::ConfigError;
use crate::ops::{BaseError, BuildError, DoctorError, ImagesError, RunError, SdistError, CANNOT_RUN};
use crate::policy::Promise;
use crate::sandbox::SandboxError;
use crate::store::StoreError;

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
        CommandError::Build(
            BuildError::Secrets { .. } | BuildError::TooLarge { .. } | BuildError::Lock(LockError::TooLarge { .. }),
        ) => 3,
        CommandError::Build(_) if matches!(find_sandbox_error(error), Some(SandboxError::Refused { .. })) => 3,
        CommandError::Build(error) if build_is_unavailable(error) => 4,
        _ => 1,
    }
}

fn build_is_unavailable(error: &BuildError) -> bool {
    match error {
        BuildError::Lock(LockError::Unavailable { .. } | LockError::UvUnavailable { .. })
        | BuildError::Sdist(SdistError::Requirements {
            source: LockError::Unavailable { .. } | LockError::UvUnavailable { .. },
            ..
        }) => true,
        BuildError::Net(error) => error.is_unavailable(),
        BuildError::Fetch(error) => fetch_is_unavailable(error),
        BuildError::Base(error) => base_is_unavailable(error),
        _ => false,
    }
}

fn base_is_unavailable(error: &BaseError) -> bool {
    match error {
        BaseError::Net(error) => error.is_unavailable(),
        BaseError::Fetch(error) => fetch_is_unavailable(error),
        BaseError::Relock(RelockError::Net { source, .. }) => source.is_unavailable(),
        _ => false,
    }
}

fn fetch_is_unavailable(error: &FetchError) -> bool {
    match error {
        FetchError::Net { source, .. } => source.is_unavailable(),
        FetchError::Broken { .. } => true,
        _ => false,
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
        CommandError::Build(BuildError::Lock(LockError::NoWheel { .. })) => {
            Some("ask for a version that has a wheel, or have its source distribution built in the sandbox: --allow-sdist")
        }
        CommandError::Build(BuildError::Sdist(SdistError::Failed { .. })) => {
            Some("it is built without network, with gcc, make and what its pyproject.toml asks for; a version with a wheel needs none of that")
        }
        CommandError::Build(BuildError::Sdist(SdistError::Base { .. })) => {
            Some("leave out --base, or name a base of `gantry base ls`")
        }
        CommandError::Build(BuildError::Lock(LockError::NoUv { .. })) => {
            Some("install uv, or pip for python3, or set `uv` under [index] in the configuration")
        }
        CommandError::Build(BuildError::Lock(LockError::TooLarge { .. }) | BuildError::TooLarge { .. }) => {
            Some("leave out packages, or use a variant without GPU libraries")
        }
        CommandError::Build(BuildError::Base(BaseError::Mirror(_))) => {
            Some("set `mirror` and `security_mirror` under [base] in the configuration")
        }
        CommandError::Build(BuildError::Base(BaseError::Relock(RelockError::Signature { source, .. }))) => {
            Some(match source {
                SignatureError::Run { .. } => "install gpgv (Debian package gpgv), which checks the archive's signature",
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
        CommandError::Store(StoreError::NoSpace { .. }) => Some("`gantry cache gc` removes what no image needs"),
        CommandError::Config(ConfigError::NoHome) => Some("set GANTRY_ROOT to a directory for the store"),
        _ => None,
    }
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

/// Prints a mistake in the arguments to standard error, or the help that was asked for to standard output.
///
/// A mistake is quoted, and the arguments of a worker's call may be a stranger's words.
pub fn print_usage(error: &clap::Error) {
    let text = escape(&error.render().to_string());
    // As above.
    let _ = if error.use_stderr() {
        std::io::stderr().write_all(text.as_bytes())
    } else {
        std::io::stdout().write_all(text.as_bytes())
    };
}

fn indented(text: &str) -> String {
    escape(text.trim_end()).replace('\n', "\n  ")
}
