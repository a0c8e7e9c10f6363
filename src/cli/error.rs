//! The errors that a command can end in, and their kinds.

use crate::build::BuildError;
use crate::config::ConfigError;
use crate::ops::{code_of_store, BundleError, DoctorError, ImagesError, JobError, RunError};
use crate::policy::{Code, Kind};
use crate::sandbox::NoCaller;
use crate::store::StoreError;

/// An error that ends a command.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// The configuration or the environment is wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A build failed.
    #[error("{0}")]
    Build(#[from] BuildError),
    /// A run did not happen, or its files could not be had.
    #[error("{0}")]
    Run(#[from] RunError),
    /// The doctor could not examine this machine.
    #[error("{0}")]
    Doctor(#[from] DoctorError),
    /// An image could not be listed, moved or removed.
    #[error("{0}")]
    Images(#[from] ImagesError),
    /// No bundle could be made.
    #[error("{0}")]
    Bundle(#[from] BundleError),
    /// The arguments are wrong.
    #[error("{0}")]
    Usage(String),
    /// There is nobody to end with.
    #[error("{0}")]
    Caller(#[from] NoCaller),
    /// No run can be made of the job document and the arguments.
    #[error("{0}")]
    Job(#[from] JobError),
    /// A file of the caller could not be used.
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

impl CommandError {
    /// What sort of failure it is. Exit code and report status follow from it.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Config(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Build(error) => error.kind(),
            Self::Run(error) => error.kind(),
            Self::Doctor(error) => error.kind(),
            Self::Images(error) => error.kind(),
            Self::Bundle(error) => error.kind(),
            Self::Job(error) => error.kind(),
            Self::Caller(NoCaller::Io { .. }) => Kind::Failed,
            Self::Usage(_) | Self::Caller(NoCaller::Ended { .. } | NoCaller::Outside) => Kind::Usage,
            Self::File { .. } => Kind::Failed,
        }
    }
}

/// What a run that ended in `error` says.
pub(super) fn code_of_run(error: &CommandError) -> Code {
    match error {
        CommandError::Config(_) => Code::BadConfiguration,
        CommandError::Store(error) => code_of_store(error),
        CommandError::Run(error) => error.code(),
        CommandError::Job(error) => error.code(),
        CommandError::Usage(_) => Code::BadArguments,
        CommandError::Caller(_) => Code::NoCaller,
        // None of these is an error of a run.
        CommandError::Build(_) | CommandError::Bundle(_) | CommandError::Doctor(_) | CommandError::Images(_) => {
            Code::BadArguments
        }
        // Signals, or a file that was named in the arguments.
        CommandError::File { .. } => Code::SandboxFailed,
    }
}

/// The error of a process that cannot watch for signals.
pub(super) fn no_signals(source: std::io::Error) -> CommandError {
    CommandError::File {
        action: "watch for",
        path: "signals".to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::base::BaseError;
    use crate::net::NetError;
    use crate::python::resolve::LockError;
    use crate::python::sdist::SdistError;
    use crate::python::PythonError;
    use crate::sandbox::SandboxError;

    fn full() -> io::Error {
        io::ErrorKind::StorageFull.into()
    }

    fn away() -> NetError {
        NetError::Transport {
            url: "https://a.example".to_owned(),
            phase: "connect",
            source: io::ErrorKind::ConnectionRefused.into(),
        }
    }

    fn too_large() -> LockError {
        LockError::TooLarge {
            size: 3 << 30,
            largest: "torch".to_owned(),
        }
    }

    fn unreachable() -> LockError {
        LockError::Unavailable {
            explanation: String::new(),
        }
    }

    fn python(error: PythonError) -> CommandError {
        CommandError::Build(BuildError::Python(error))
    }

    fn requirements(source: LockError) -> CommandError {
        let package = "a".to_owned();
        python(SdistError::Requirements { package, source }.into())
    }

    fn refused() -> SandboxError {
        SandboxError::Refused {
            levels: Default::default(),
            lost: Vec::new(),
        }
    }

    fn busy() -> StoreError {
        StoreError::Busy { path: "store".into() }
    }

    /// One error of each sort, at each depth it comes from: the kind is what it is at the bottom.
    fn each() -> Vec<(CommandError, Kind)> {
        let sdist_sandbox = SdistError::Sandbox {
            package: "a".to_owned(),
            source: refused(),
        };
        vec![
            (CommandError::Usage("no".to_owned()), Kind::Usage),
            (ConfigError::NoHome.into(), Kind::Usage),
            (JobError::NoImage.into(), Kind::Usage),
            (RunError::Environment { name: "A=".to_owned() }.into(), Kind::Usage),
            (
                CommandError::File {
                    action: "write",
                    path: "image.tar".to_owned(),
                    source: full(),
                },
                Kind::Failed,
            ),
            (
                ImagesError::Unknown {
                    reference: "a:1".to_owned(),
                }
                .into(),
                Kind::Failed,
            ),
            (BuildError::Secrets { findings: Vec::new() }.into(), Kind::Refused),
            (BuildError::TooLarge { size: 3 << 30 }.into(), Kind::Refused),
            (python(too_large().into()), Kind::Refused),
            (requirements(too_large()), Kind::Refused),
            (python(sdist_sandbox.into()), Kind::Refused),
            (RunError::Sandbox(refused()).into(), Kind::Refused),
            (python(away().into()), Kind::Unavailable),
            (python(unreachable().into()), Kind::Unavailable),
            (requirements(unreachable()), Kind::Unavailable),
            (BuildError::Base(BaseError::Net(away())).into(), Kind::Unavailable),
            (busy().into(), Kind::Busy),
            (BuildError::Store(busy()).into(), Kind::Busy),
            (BuildError::Base(BaseError::Store(busy())).into(), Kind::Busy),
            (python(LockError::Store(busy()).into()), Kind::Busy),
            (requirements(LockError::Store(busy())), Kind::Busy),
            (ImagesError::Store(busy()).into(), Kind::Busy),
            (RunError::Store(busy()).into(), Kind::Busy),
            (DoctorError::Store(busy()).into(), Kind::Busy),
        ]
    }

    #[test]
    fn an_error_keeps_its_kind_however_deep_it_stands() {
        let each = each();
        for (error, kind) in &each {
            assert_eq!(error.kind(), *kind, "{error:?}");
        }
        for kind in Kind::ALL {
            assert!(each.iter().any(|(_, found)| *found == kind), "none is {kind:?}");
        }
    }

    #[test]
    fn the_exit_code_and_the_status_of_each_kind_are_the_documented_ones() {
        for (kind, code, status) in [
            (Kind::Failed, 1, "failed"),
            (Kind::Usage, 2, "failed"),
            (Kind::Refused, 3, "refused"),
            (Kind::Unavailable, 4, "unavailable"),
            (Kind::Busy, 4, "unavailable"),
        ] {
            assert_eq!((kind.exit_code(), kind.status()), (code, status), "{kind:?}");
            let document = include_str!("../../docs/formats.md");
            let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| | ")).collect();
            let word = match kind {
                Kind::Failed => "failed",
                Kind::Usage => "the arguments",
                Kind::Refused => "refused",
                Kind::Unavailable => "network",
                Kind::Busy => "another process",
            };
            let row = rows
                .iter()
                .find(|row| row.starts_with(&format!("| | {code} |")))
                .unwrap();
            assert!(row.contains(word), "{row}");
        }
    }
}
