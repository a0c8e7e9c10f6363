//! Says what to do about an error, on one line, where there is something to do.
//!
//! Each type of error has its function here, which finds its own wherever it stands in the chain of causes. The matches
//! name every variant: whoever adds one decides what it says.

use std::borrow::Cow;
use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;

use super::error::CommandError;
use super::image_hint::{of_image, of_users};
use super::place_hint::of_gone_directory;
use super::requirement_hint::{of_lock, of_name, SMALLER};
use super::store_hint::{of_config, of_store};
use crate::base::{BaseError, SignatureError, SystemError};
use crate::build::function::FunctionError;
use crate::build::BuildError;
use crate::config::Environment;
use crate::oci::NamingError;
use crate::ops::doctor::find_remedy;
use crate::ops::{BundleError, ImagesError, JobError, RunError, SecretError, SlotError};
use crate::policy::{causes, Promise};
use crate::python::project::{Lists, ProjectError};
use crate::python::resolve::LockError;
use crate::python::sdist::SdistError;
use crate::python::wheel::WheelError;
use crate::sandbox::{NoCaller, SandboxError};
use crate::sys::space;
use crate::transfer::{FetchError, TransferError};

const NO_USER_NAMESPACE: &str = "this machine does not let you make a user namespace: check `sysctl user.max_user_namespaces user.max_net_namespaces`, kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns";
const NO_IMAGE: &str = "`gantry images ls` lists the images; `gantry build DIR --tag NAME` makes one";
const ENTRYPOINT: &str = "--entrypoint PROGRAM runs a program of the image; arguments follow the image";
const NO_FUNCTION: &str = "a function is a directory with user_function.py; name another: `gantry build DIR`";
const NO_DIRECTORY: &str = "the directory of the file has to be there: `mkdir -p` makes it";
const FULL: &str = "`gantry cache gc` removes what no image and no later build needs; `gantry cache gc --all` all but what images need";

pub(super) type Cause<'a> = &'a (dyn Error + 'static);

/// What to do about `error`.
pub(super) fn hint(error: &CommandError) -> Option<Cow<'static, str>> {
    hint_of(error)
}

/// As [`hint`], of an error that ends no command.
pub(super) fn hint_of(error: Cause<'_>) -> Option<Cow<'static, str>> {
    let refused = causes(error).find_map(|cause| match cause.downcast_ref()? {
        SandboxError::Refused { lost, .. } => Some(of_lost(lost)),
        SandboxError::UserNamespace { .. }
        | SandboxError::Setup { .. }
        | SandboxError::InitDied { .. }
        | SandboxError::Bundle { .. }
        | SandboxError::Io { .. }
        | SandboxError::Lost { .. } => None,
    });
    let meant = || causes(error).find_map(|cause| of_name(cause.downcast_ref()?));
    let of_where = || causes(error).find_map(of_image);
    let of_others = || causes(error).find_map(|cause| of_users(cause.downcast_ref()?));
    let full = || causes(error).find_map(|cause| of_full_build(cause.downcast_ref()?));
    refused
        .or_else(|| of_gone_directory(error))
        .or_else(full)
        .or_else(meant)
        .or_else(of_where)
        .or_else(of_others)
        .or_else(|| causes(error).find_map(|cause| of_function(cause.downcast_ref()?)))
        .map(Cow::Owned)
        .or_else(|| of_all(error).map(Cow::Borrowed))
        .or_else(|| store_is_full(error).then(of_full).map(Cow::Owned))
}

/// The directory of a function of which a file was named.
fn of_function(error: &FunctionError) -> Option<String> {
    let (path, source) = match error {
        FunctionError::Io { path, source } => (path, source),
        FunctionError::NoEntryPoint { path } => return of_script(path),
        _ => return None,
    };
    let is_file = source.kind() == io::ErrorKind::NotADirectory && path.is_file();
    let directory = is_file.then(|| path.parent()).flatten()?.display().to_string();
    let directory = if directory.is_empty() { "." } else { &directory };
    Some(format!(
        "a function is the directory that its user_function.py is in: `gantry build {directory}`"
    ))
}

/// The only script of a directory that has no entry point.
fn of_script(directory: &Path) -> Option<String> {
    let names = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.file_name());
    let mut scripts = names.filter_map(|name| name.into_string().ok().filter(|name| name.ends_with(".py")));
    let (script, None) = (scripts.next()?, scripts.next()) else {
        return None;
    };
    Some(format!(
        "what a function runs is called user_function.py: if it is {script}, rename that file"
    ))
}

/// Of a build that found the disk full nothing else is to be done, whatever came upon it.
fn of_full_build(error: &BuildError) -> Option<String> {
    matches!(error, BuildError::Full { .. }).then(of_full)
}

/// Which disk is full. Not how much of it is free: what was being made is gone by now, and its room would seem to have been enough.
fn of_full() -> String {
    match Environment::read().store_root() {
        Some(root) => format!(
            "the disk of the store, {}, has too little room for this; {FULL}",
            root.display()
        ),
        None => FULL.to_owned(),
    }
}

/// The literal option that goes on without the promises that are `lost`, and what would keep them on this machine.
fn of_lost(lost: &[(Promise, String)]) -> String {
    let names: Vec<&str> = lost.iter().map(|(promise, _)| promise.name()).collect();
    let names = names.join(",");
    let quoted = names.replace(',', "\", \"");
    let accept = format!(
        "--allow-degraded {names} (or allow_degraded = [\"{quoted}\"] under [run] in the configuration) goes on without, beside what is accepted already; `gantry doctor` says what that means"
    );
    let needs_cgroup = |(promise, _): &(Promise, _)| matches!(promise, Promise::Memory | Promise::Cpu);
    let remedy = lost.iter().any(needs_cgroup).then(find_remedy).flatten();
    match remedy {
        Some(remedy) => format!("{accept}; to have it enforced, {remedy}"),
        None => accept,
    }
}

fn of_all(error: Cause<'_>) -> Option<&'static str> {
    // Whatever the sandbox was for, what keeps it from working is the thing to mend.
    causes(error)
        .find_map(|cause| of_sandbox(cause.downcast_ref()?))
        .or_else(|| causes(error).find_map(of))
}

fn of(cause: Cause<'_>) -> Option<&'static str> {
    let build = || of_build(cause.downcast_ref()?);
    build()
        .or_else(|| of_wheel(cause.downcast_ref()?))
        .or_else(|| of_sdist(cause.downcast_ref()?))
        .or_else(|| of_lock(cause.downcast_ref()?))
        .or_else(|| of_base(cause.downcast_ref()?))
        .or_else(|| of_signature(cause.downcast_ref()?))
        .or_else(|| of_run(cause.downcast_ref()?))
        .or_else(|| of_bundle(cause.downcast_ref()?))
        .or_else(|| of_images(cause.downcast_ref()?))
        .or_else(|| of_config(cause.downcast_ref()?))
        .or_else(|| of_store(cause.downcast_ref()?))
        .or_else(|| of_caller(cause.downcast_ref()?))
        .or_else(|| of_job(cause.downcast_ref()?))
        .or_else(|| of_file(cause.downcast_ref()?))
}

fn of_file(error: &CommandError) -> Option<&'static str> {
    match error {
        CommandError::File {
            action: "write",
            source,
            ..
        } if source.kind() == io::ErrorKind::NotFound => Some(NO_DIRECTORY),
        CommandError::File { source, .. } => of_naming(source.get_ref()?.downcast_ref()?),
        CommandError::Config(_)
        | CommandError::Store(_)
        | CommandError::Build(_)
        | CommandError::Run(_)
        | CommandError::Doctor(_)
        | CommandError::Images(_)
        | CommandError::Bundle(_)
        | CommandError::Usage(_)
        | CommandError::Caller(_)
        | CommandError::Job(_) => None,
    }
}

fn of_job(error: &JobError) -> Option<&'static str> {
    match error {
        JobError::Read { .. } => {
            Some("--job takes a file, or - for standard input; docs/formats.md has what stands in it")
        }
        JobError::NotAllowed(_) => {
            Some("ask for less; whoever runs this machine raises the bound under [limits] in its configuration")
        }
        JobError::Document { .. }
        | JobError::NoImage
        | JobError::PullAlways { .. }
        | JobError::Network { .. }
        | JobError::Degraded { .. }
        | JobError::SecretTwice { .. } => None,
    }
}

fn of_caller(error: &NoCaller) -> Option<&'static str> {
    match error {
        NoCaller::Ended { .. } | NoCaller::Outside => Some(
            "`--detached`, or `\"caller\": \"detached\"` in the job, runs it without a caller, also where the first process of a container calls",
        ),
        NoCaller::Io { .. } => None,
    }
}

fn of_sandbox(error: &SandboxError) -> Option<&'static str> {
    match error {
        SandboxError::UserNamespace { .. } => Some(NO_USER_NAMESPACE),
        // What to say of it depends on the machine.
        SandboxError::Refused { .. }
        | SandboxError::Setup { .. }
        | SandboxError::InitDied { .. }
        | SandboxError::Bundle { .. }
        | SandboxError::Io { .. }
        | SandboxError::Lost { .. } => None,
    }
}

fn of_build(error: &BuildError) -> Option<&'static str> {
    match error {
        BuildError::Secrets { .. } => Some(
            "pass secrets at run time with `gantry run --secret NAME=FILE`; --allow-file PATH lets a file pass that is none",
        ),
        BuildError::TooLarge { .. } | BuildError::System(SystemError::TooLarge { .. }) => Some(SMALLER),
        BuildError::System(SystemError::NotAllowed { .. }) => Some(
            "docs/system-packages.md lists what functions may ask for; whoever runs this machine allows more by `allowed = [...]` or `allow_all = true` under [system]",
        ),
        BuildError::System(SystemError::Unmet { .. }) => {
            Some("a base whose packages are older than the archive's is made anew with the next version of gantry, or by scripts/lock-base")
        }
        BuildError::Function(FunctionError::NoEntryPoint { .. }) => Some(NO_FUNCTION),
        BuildError::Function(FunctionError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Some(NO_FUNCTION)
        }
        BuildError::Function(FunctionError::Link { .. }) => Some(
            "put a copy of the file into the function's directory, or show its directory to the run with --input",
        ),
        BuildError::Requirements(ProjectError::Elsewhere { lists, .. }) => Some(match lists {
            Lists::Project => "`gantry build --from pyproject` installs what it lists; an empty requirements.txt says that nothing is needed",
            Lists::Poetry => "`poetry export --output requirements.txt` writes it there; an empty requirements.txt says that nothing is needed",
            Lists::Pipenv => "`pipenv requirements > requirements.txt` writes it there; an empty requirements.txt says that nothing is needed",
            Lists::Other => "write what comes from the package index into requirements.txt; an empty one says that nothing is needed",
        }),
        BuildError::Function(FunctionError::Directory { .. }) => Some("requirements.txt lists packages, one a line; `-r DIRECTORY/FILE` in it includes another file"),
        BuildError::Naming(error) => of_naming(error),
        BuildError::Function(_)
        | BuildError::Requirements(_)
        | BuildError::Syntax { .. }
        | BuildError::Python(_)
        | BuildError::Base(_)
        | BuildError::System(_)
        | BuildError::Layer(_)
        | BuildError::Full { .. }
        | BuildError::Store(_) => None,
    }
}

fn of_naming(error: &NamingError) -> Option<&'static str> {
    match error {
        NamingError::Value { field: "registry", .. } => Some(
            "`registry` under [naming] of the configuration, or a [[registry]] that may be pushed to, says where images of functions go",
        ),
        NamingError::Value { field: "namespace", .. } => {
            Some("`namespace` under [naming] of the configuration says it, such as namespace = \"mecapy\"")
        }
        NamingError::Value { field: "commit", .. } => Some("--commit says it"),
        NamingError::Value { .. }
        | NamingError::Template { .. }
        | NamingError::Ambiguous { .. }
        | NamingError::Reference { .. } => None,
    }
}

fn of_wheel(error: &WheelError) -> Option<&'static str> {
    match error {
        WheelError::Clash { .. } | WheelError::FileAndDirectory { .. } => Some(
            "one of the two has to go; when another package requires it, the line `NAME ; python_version < \"3\"` in overrides.txt, beside requirements.txt, leaves it out",
        ),
        WheelError::Zip { .. } | WheelError::Contents { .. } | WheelError::Layer(_) => None,
    }
}

fn of_sdist(error: &SdistError) -> Option<&'static str> {
    match error {
        SdistError::Failed { .. } => Some(
            "it is built without network, with gcc, make and what its pyproject.toml asks for; a version with a wheel needs none of that",
        ),
        SdistError::Base { .. } => Some("leave out --base, or name a base of `gantry base ls`"),
        SdistError::Requirements { source: LockError::NoWheel { .. }, .. } => {
            Some("what its pyproject.toml asks for needs a wheel; a version with a wheel of its own needs none of that")
        }
        SdistError::Requirements { .. }
        | SdistError::Requirement { .. }
        | SdistError::Result { .. }
        | SdistError::Collect { .. }
        | SdistError::Wheel { .. }
        | SdistError::Sandbox { .. }
        | SdistError::Archive { .. }
        | SdistError::Specs { .. }
        | SdistError::Toolchain(_)
        | SdistError::TooMany { .. } => None,
    }
}

fn of_base(error: &BaseError) -> Option<&'static str> {
    match error {
        BaseError::Mirror(_) => Some("set `mirror` and `security_mirror` under [base] in the configuration"),
        BaseError::Interpreter { .. } | BaseError::OtherInterpreter { .. } => {
            Some("set `interpreter_mirror` under [base] in the configuration to a place that has this very file; bases with a Python of Debian's need none")
        }
        BaseError::Fetch(FetchError::Net { source, .. }) if source.is_not_found() => {
            Some("the archive's index still lists this package: try again later; --base takes any other image")
        }
        BaseError::Fetch(_)
        | BaseError::Name { .. }
        | BaseError::Unknown { .. }
        | BaseError::NoPython { .. }
        | BaseError::NoGlibc { .. }
        | BaseError::Refused { .. }
        | BaseError::Read { .. }
        | BaseError::NoToolchain { .. }
        | BaseError::NoneLikeIt { .. }
        | BaseError::UnknownPython { .. }
        | BaseError::Variant(_)
        | BaseError::Net(_)
        | BaseError::Relock(_)
        | BaseError::Assemble(_)
        | BaseError::Layer(_)
        | BaseError::Layout(_)
        | BaseError::Store(_) => None,
    }
}

fn of_signature(error: &SignatureError) -> Option<&'static str> {
    Some(match error {
        SignatureError::Run(_) => "install gpgv (Debian package gpgv), which checks the archive's signature",
        SignatureError::File { .. }
        | SignatureError::Keyring { .. }
        | SignatureError::Shape
        | SignatureError::Refused { .. } => {
            "`keyring` under [base] in the configuration names the keys that may sign the archive's index"
        }
    })
}

fn of_run(error: &RunError) -> Option<&'static str> {
    match error {
        RunError::UnknownImage { .. } => Some(NO_IMAGE),
        RunError::Secret(error) => of_secret(error),
        RunError::Slot(SlotError::Full { .. }) => {
            Some("try again later, wait longer with --wait TIME, or raise `slots` or `memory_total` under [run] in the configuration")
        }
        RunError::Slot(SlotError::TooLarge { .. }) => {
            Some("ask for less with --memory, or raise `memory_total` under [run] in the configuration")
        }
        RunError::Slot(SlotError::Io { .. }) => {
            Some("`slots_dir` under [run] in the configuration names a directory that gantry can write")
        }
        RunError::NoCommand { .. } => Some(ENTRYPOINT),
        RunError::Input { .. } => Some("--input (`input` of a job) takes a directory that is there and that you may read"),
        RunError::Output { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => Some(
            "a file of that name is there: --output (`output` of a job) takes a directory; one that is not there is made",
        ),
        RunError::Output { .. } => {
            Some("--output (`output` of a job) takes a directory that you may write; one that is not there is made")
        }
        RunError::Slot(SlotError::Stopped { .. })
        | RunError::Stream { .. }
        | RunError::Environment { .. }
        | RunError::Pull(_)
        | RunError::Store(_)
        | RunError::Sandbox(_)
        | RunError::Collect(_)
        | RunError::Wait { .. }
        | RunError::Stopped { .. } => None,
    }
}

fn of_bundle(error: &BundleError) -> Option<&'static str> {
    match error {
        BundleError::Unknown { .. } => Some(NO_IMAGE),
        BundleError::NoCommand { .. } => Some(ENTRYPOINT),
        BundleError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Some("the directory above it has to be there: `mkdir -p` makes it")
        }
        BundleError::NotEmpty { .. }
        | BundleError::InStore { .. }
        | BundleError::Busy { .. }
        | BundleError::Run(_)
        | BundleError::File { .. } => None,
    }
}

fn of_secret(error: &SecretError) -> Option<&'static str> {
    match error {
        SecretError::Read { .. } => Some(
            "the source of a secret is a file, env:VARIABLE or fd:N; its value itself is never an argument, where others on this machine could read it",
        ),
        SecretError::NotSet { .. } => Some("set it, or take the value from a file or a descriptor: NAME=FILE, NAME=fd:N"),
        SecretError::Name { .. } | SecretError::TooLarge { .. } => None,
    }
}

fn of_images(error: &ImagesError) -> Option<&'static str> {
    match error {
        ImagesError::Unknown { .. } => Some(NO_IMAGE),
        ImagesError::File {
            action: "write",
            source,
            ..
        } if source.kind() == io::ErrorKind::NotFound => Some(NO_DIRECTORY),
        ImagesError::Archive { .. }
        | ImagesError::Transfer(_)
        | ImagesError::NoRepository { .. }
        | ImagesError::HasNames { .. }
        | ImagesError::Pinned { .. }
        | ImagesError::NothingToPull { .. }
        | ImagesError::NotAPlace { .. }
        | ImagesError::NoDestination { .. }
        | ImagesError::Name { .. }
        | ImagesError::Unnamed { .. }
        | ImagesError::File { .. }
        | ImagesError::Store(_) => None,
    }
}

/// Whether a full disk is at the end of it, and not that of a file or directory of the caller's.
fn store_is_full(error: Cause<'_>) -> bool {
    let is_callers = |cause: Cause<'_>| {
        matches!(cause.downcast_ref(), Some(CommandError::File { .. }))
            || matches!(
                cause.downcast_ref(),
                Some(RunError::Collect(_) | RunError::Input { .. } | RunError::Output { .. } | RunError::Stream { .. })
            )
            || matches!(cause.downcast_ref(), Some(ImagesError::File { .. }))
            || matches!(cause.downcast_ref(), Some(TransferError::Io { .. }))
    };
    let is_full = causes(error).any(|cause| cause.downcast_ref::<io::Error>().is_some_and(space::is_full));
    is_full && !causes(error).any(is_callers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RelockError;
    use crate::config::ConfigError;
    use crate::python::PythonError;
    use crate::store::StoreError;
    use crate::sys::program::ProgramError;

    fn python(error: PythonError) -> CommandError {
        CommandError::Build(BuildError::Python(error))
    }

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
            python(fetch().into()),
            CommandError::Build(BuildError::Base(BaseError::Fetch(fetch()))),
            python(LockError::Store(no_space()).into()),
            CommandError::Build(BuildError::Layer(layer())),
            CommandError::Images(ImagesError::Store(no_space())),
            CommandError::Images(ImagesError::Transfer(TransferError::Store(no_space()))),
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
    fn a_hint_is_found_however_deep_its_error_stands() {
        let no_wheel = || LockError::NoWheel {
            package: "a".to_owned(),
            python: "3.11".to_owned(),
            newest: String::new(),
        };
        let requirements = |source| SdistError::Requirements {
            package: "a".to_owned(),
            source,
        };
        let refused = |promise| SandboxError::Refused {
            levels: Default::default(),
            lost: vec![(promise, String::new())],
        };
        let no_gpgv = || RelockError::Signature {
            suite: "bookworm".to_owned(),
            source: SignatureError::Run(ProgramError::Start {
                program: "gpgv".into(),
                source: io::ErrorKind::NotFound.into(),
            }),
        };
        let too_large = || LockError::TooLarge {
            size: 3 << 30,
            largest: String::new(),
        };
        let no_namespace = || SandboxError::UserNamespace {
            step: "unshare",
            source: io::ErrorKind::PermissionDenied.into(),
        };
        for (error, says) in [
            (python(no_wheel().into()), "--allow-sdist"),
            (python(requirements(no_wheel()).into()), "a wheel of its own"),
            (python(requirements(too_large()).into()), "GPU"),
            (BuildError::Base(BaseError::Relock(no_gpgv())).into(), "install gpgv"),
            (
                RunError::Sandbox(refused(Promise::Memory)).into(),
                "--allow-degraded memory (or allow_degraded = [\"memory\"] under",
            ),
            (
                RunError::Sandbox(refused(Promise::Landlock)).into(),
                "--allow-degraded landlock ",
            ),
            (RunError::Sandbox(no_namespace()).into(), "max_user_namespaces"),
            (StoreError::Busy { path: "s".into() }.into(), "try again"),
            (ConfigError::NoHome.into(), "GANTRY_ROOT"),
        ] {
            assert!(
                hint(&error).is_some_and(|hint| hint.contains(says)),
                "{says}: {:?}",
                hint(&error)
            );
        }
        assert_eq!(hint(&CommandError::Usage(String::new())), None);
    }
}
