//! The shape of the command line: every command with its options and their help texts, as clap reads them.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "documentation here is the help text: brackets say what is optional"
)]

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::{NonEmptyStringValueParser, PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::bundle_args::BundleArgs;
use super::cache_args::CacheCommand;
use super::format_args::FormatArgs;
use super::key_value::{key_value, label};
use super::limit_args::LimitArgs;
use super::moving_args::{CopyArgs, MovingArgs, RemoveArgs};
use super::outlet::outlet;
use crate::oci::{archive_file, Place, Reference};
use crate::ops::Source;
use crate::policy::{HostPort, NetworkMode, Promise, Runtime, Time, Verbosity, Wait};
use crate::python::project::Origin;

/// Builds OCI images for Python functions and runs them in a sandbox: no daemon, no root.
#[derive(Debug, Parser)]
#[command(
    name = "gantry",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

/// Behind the options of the command itself, and before --help.
const LAST: usize = 900;

/// The options of every command.
#[derive(Debug, Clone, Args)]
pub(super) struct Globals {
    /// Configuration file above /etc/gantry/config.toml [default: $GANTRY_CONFIG, else $XDG_CONFIG_HOME/gantry/config.toml]
    #[arg(long, global = true, value_name = "FILE", display_order = LAST)]
    pub config: Option<PathBuf>,
    /// Say more on standard error: files in use, times, what a run was held by [$GANTRY_LOG: verbose]
    #[arg(long, short, global = true, display_order = LAST, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Say errors and warnings only, and in lists names only [$GANTRY_LOG: quiet]
    #[arg(long, short, global = true, display_order = LAST)]
    pub quiet: bool,
}

impl Globals {
    /// How much is said, when the options say so.
    pub(super) fn verbosity(&self) -> Option<Verbosity> {
        match (self.verbose, self.quiet) {
            (true, _) => Some(Verbosity::Verbose),
            (_, true) => Some(Verbosity::Quiet),
            (false, false) => None,
        }
    }
}

/// Every command.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run an image in the sandbox
    Run(Box<RunArgs>),
    #[command(flatten)]
    Store(Box<StoreCommand>),
    /// The configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the version, and what this gantry was made for
    Version {
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Print the completions of a shell
    Completions {
        /// Whose
        shell: Shell,
    },
    /// Print the help of gantry, or of one of its commands
    Help {
        /// The command's words, such as: images rm
        command: Vec<String>,
    },
    /// Print the manual page of gantry, or of one of its commands
    Man {
        /// The command's words, such as: base build
        command: Vec<String>,
    },
}

/// The commands that use the store and report what they come to.
#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Build a function's directory into an image and print its digest
    Build(BuildArgs),
    /// Copy an image from a registry, an image layout or an archive into the store
    Pull {
        /// HOST/REPOSITORY[:TAG][@DIGEST], oci:DIR[:NAME] or oci-archive:FILE[:NAME]
        reference: Place,
        /// Name of the image in the store; by default the one that it has there
        #[arg(short, long, value_parser = name)]
        tag: Option<Reference>,
        #[command(flatten)]
        moving: MovingArgs,
    },
    /// Copy an image of the store to a registry, an image layout or an archive
    Push {
        /// The image
        reference: Reference,
        /// HOST/REPOSITORY[:TAG], oci:DIR[:NAME] or oci-archive:FILE[:NAME] [default: the registry that the image's name is of]
        destination: Option<Place>,
        /// Write a JSON report
        #[arg(long, value_name = "FILE", value_parser = outlet())]
        report: Option<PathBuf>,
    },
    /// Copy an image between the store, registries, image layouts and archives
    Copy(CopyArgs),
    /// Try a password at a registry and keep it where docker keeps it; the password comes from standard input
    Login {
        /// Its host, as it begins the names of its images
        host: String,
        /// User name there
        #[arg(long, short)]
        username: String,
    },
    /// List the registries in the order in which they are asked, and how each did lately
    #[command(args_conflicts_with_subcommands = true)]
    Registries {
        #[command(subcommand)]
        command: Option<RegistriesCommand>,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Write an image to an OCI archive
    Save {
        reference: Reference,
        /// The archive; - for standard output
        #[arg(value_parser = PathBufValueParser::new().try_map(archive_file))]
        file: PathBuf,
    },
    /// Read the images of an archive into the store: of `gantry save`, `podman save` or `docker save`
    Load {
        /// The archive; - for standard input
        #[arg(value_parser = PathBufValueParser::new().try_map(archive_file))]
        file: PathBuf,
        /// Name the image instead of the names in the archive
        #[arg(long, short, value_name = "REF", value_parser = name)]
        tag: Option<Reference>,
    },
    /// Make an OCI runtime bundle of an image, for another runtime such as crun or runc
    Bundle(Box<BundleArgs>),
    /// Images of the store
    #[command(subcommand)]
    Images(ImagesCommand),
    /// Disk use of the store
    #[command(subcommand)]
    Cache(CacheCommand),
    /// The base images functions are built on
    #[command(subcommand)]
    Base(BaseCommand),
    /// Try what the sandbox promises on this machine; exits with 0 all enforced, 3 degraded, 4 unusable
    Doctor(DoctorArgs),
}

impl StoreCommand {
    /// Where the command writes its report.
    pub(super) fn report(&self) -> Option<&Path> {
        match self {
            Self::Build(args) => args.report.as_deref(),
            Self::Bundle(args) => args.report.as_deref(),
            Self::Base(BaseCommand::Build(args)) => args.report.as_deref(),
            Self::Push { report, .. } => report.as_deref(),
            Self::Pull { moving, .. } | Self::Copy(CopyArgs { moving, .. }) => moving.report.as_deref(),
            Self::Registries {
                command: Some(RegistriesCommand::Rm(args)),
                ..
            } => args.report.as_deref(),
            Self::Cache(command) => command.report(),
            Self::Base(BaseCommand::Ls { .. })
            | Self::Login { .. }
            | Self::Registries { .. }
            | Self::Save { .. }
            | Self::Load { .. }
            | Self::Images(_)
            | Self::Doctor(_) => None,
        }
    }
}

/// The commands about registries.
#[derive(Debug, Subcommand)]
pub(super) enum RegistriesCommand {
    /// Prefer a registry while another one is away: pulls ask it first, pushes go there alone
    Prefer {
        /// Its host, one of [[registry]] of the configuration
        #[arg(required_unless_present = "off", requires = "time")]
        host: Option<String>,
        /// For how long, such as 24h; a week at most
        #[arg(long = "for", value_name = "TIME")]
        time: Option<Time>,
        /// Prefer none any more
        #[arg(long, conflicts_with_all = ["host", "time"])]
        off: bool,
    },
    /// List the tags of a repository
    Tags {
        /// HOST/REPOSITORY
        repository: Reference,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// List the repositories of a registry, where it has such a list
    Ls {
        /// Its host
        host: String,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Delete images of registries with all their tags, and what belongs to them; refused when another tag would go along
    Rm(RemoveArgs),
}

/// The commands about the configuration; none opens the store.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print every key, its value, and where that comes from
    Show {
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Check a configuration file, or those in use
    Check {
        /// The file
        file: Option<PathBuf>,
    },
    /// Write a file with every key and its default, all of them comments
    Init {
        /// Where; - for standard output [default: what --config or $GANTRY_CONFIG says, else the user's own]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    pub format: FormatArgs,
    /// Run a sandbox that waits to be killed with us
    #[arg(long, hide = true, num_args = 4, value_names = ["SCAFFOLD", "LAYER", "MARKER", "RUNTIME"])]
    pub hold: Option<Vec<PathBuf>>,
}

/// What says which packages a function needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum From {
    /// requirements.txt
    Requirements,
    /// The dependencies of the [project] table in pyproject.toml
    Pyproject,
}

impl std::convert::From<From> for Origin {
    fn from(from: From) -> Self {
        match from {
            From::Requirements => Self::Requirements,
            From::Pyproject => Self::Pyproject,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// Directory with user_function.py and requirements.txt
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Name the image
    #[arg(long, short, value_name = "REF", value_parser = name)]
    pub tag: Option<Reference>,
    /// Build on this image of the store, or HOST/REPOSITORY[:TAG], or oci:DIR[:NAME], or a variant of `gantry base ls`
    #[arg(long, value_name = "REF")]
    pub base: Option<String>,
    /// Python version: chooses the variant that has it, and what is taken of another base [default: that of the base]
    #[arg(long, value_name = "VERSION")]
    pub python: Option<String>,
    /// Name the image as [naming] of the configuration says, with the labels of the platform: the function's id
    #[arg(long, value_name = "ID", requires_all = ["user", "function_version"])]
    pub function: Option<String>,
    /// Whose function it is
    #[arg(long, value_name = "ID", requires = "function")]
    pub user: Option<String>,
    /// Version of the function
    #[arg(long, value_name = "VERSION", requires = "function")]
    pub function_version: Option<String>,
    /// Commit that the function's code is of
    #[arg(long, value_name = "HEX", requires = "function")]
    pub commit: Option<String>,
    /// Label of the image; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Allow a file the secret check refuses (path inside DIR); repeatable
    #[arg(long = "allow-file", value_name = "PATH")]
    pub allow_files: Vec<String>,
    /// Build packages that have no wheel, in the sandbox
    #[arg(long)]
    pub allow_sdist: bool,
    /// What says which packages the function needs
    #[arg(long, value_enum, value_name = "FILE", default_value = "requirements")]
    pub from: From,
    /// Promises whose loss does not refuse what a build runs in the sandbox, such as landlock
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = Promise::from_str)]
    pub allow_degraded: Vec<Promise>,
    /// Resolve the requirements anew, however young their versions are
    #[arg(long)]
    pub upgrade: bool,
    /// Write a JSON report
    #[arg(long, value_name = "FILE", value_parser = outlet())]
    pub report: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "gantry run [OPTIONS] <IMAGE> [ARG]...\n       gantry run [OPTIONS] --job <FILE> [-- <ARG>...]",
    after_help = "Defaults are those of a machine whose configuration says nothing: `gantry config show` has this machine's."
)]
pub(super) struct RunArgs {
    /// Image to run
    #[arg(value_name = "IMAGE", required_unless_present = "job", conflicts_with = "job")]
    pub reference: Option<Reference>,
    /// Everything as one JSON document; - for standard input
    #[arg(long, value_name = "FILE")]
    pub job: Option<PathBuf>,
    /// Directory shown read-only as /input
    #[arg(long, value_name = "DIR")]
    pub input: Option<PathBuf>,
    /// Directory that receives the files of /output
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Pass standard input on to the function; without it, the function's is empty
    #[arg(short = 'i', long)]
    pub interactive: bool,
    /// Take the files of /output after every end; without it, after ok and failed only
    #[arg(long)]
    pub output_partial: bool,
    /// Keep /output on disk while the function runs, for results larger than memory; its size is watched, not enforced
    #[arg(long)]
    pub output_on_disk: bool,
    /// Environment variable; repeatable
    #[arg(long = "env", short, value_name = "NAME=VALUE", value_parser = key_value)]
    pub env: Vec<(String, String)>,
    /// Value that appears as the file /run/secrets/NAME; from FILE, env:VARIABLE or fd:NUMBER; repeatable
    #[arg(long = "secret", value_name = "NAME=SOURCE", value_parser = secret)]
    pub secrets: Vec<(String, Source)>,
    /// Value of the variable NAME of the environment, which everything the function starts can read; repeatable
    #[arg(long = "secret-env", value_name = "NAME=SOURCE", value_parser = secret)]
    pub secret_variables: Vec<(String, Source)>,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// What can be reached: none, with loopback the run's own servers on 127.0.0.1 and ::1, or with egress what --egress lists
    #[arg(long, value_name = "none|loopback|egress", value_parser = network)]
    pub network: Option<NetworkMode>,
    /// Host the run may connect to by TCP; repeatable
    #[arg(long, value_name = "HOST:PORT")]
    pub egress: Vec<HostPort>,
    /// Promises whose loss does not refuse the run, such as memory,cpu
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = Promise::from_str)]
    pub allow_degraded: Vec<Promise>,
    /// What makes the container, with the same promises either way [default: libcontainer]
    #[arg(long, value_name = "libcontainer|native", value_parser = Runtime::from_str)]
    pub runtime: Option<Runtime>,
    /// Most time from the start of gantry to the outcome, with all that is waited for, such as 50m
    #[arg(long, value_name = "TIME")]
    pub deadline: Option<Time>,
    /// Longest wait for a run slot of this machine [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub wait: Option<Wait>,
    /// With --job: go on when the process that started gantry ends
    #[arg(long, conflicts_with = "reference")]
    pub detached: bool,
    /// Program to run instead of the image's entry point and command; arguments follow it
    #[arg(long, value_name = "PROGRAM", value_parser = NonEmptyStringValueParser::new())]
    pub entrypoint: Option<String>,
    /// When to pull an image of a registry: when the store has not got it, whatever the store has, or not at all
    #[arg(long, value_name = "WHEN", default_value = "missing", value_parser = ["missing", "always", "never"])]
    pub pull: String,
    /// Pull from the registry that is named and from no other, whatever becomes of it
    #[arg(long)]
    pub no_failover: bool,
    /// Write the outcome as JSON; - for standard output, which the function's then leaves for standard error; fd:N
    #[arg(long, value_name = "FILE", value_parser = outlet())]
    pub report: Option<PathBuf>,
    /// Write a JSON line at each step, and every 5 seconds; the number of an open descriptor, - or a file
    #[arg(long, value_name = "FD|FILE", value_parser = outlet())]
    pub progress: Option<PathBuf>,
    /// Exit with 0 ok, 3 refused, 4 unavailable, 5 killed, 6 error, 10 failed, 11 timeout, 12 oom
    #[arg(long)]
    pub exit_by_status: bool,
    /// Arguments for the image's command; `--` before them only if the first begins with -
    #[arg(last = true, value_name = "ARG")]
    pub args: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ImagesCommand {
    /// List the images
    Ls {
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Show one image; JSON unless a table is asked for
    Show {
        reference: Reference,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Forget names of images; their bytes go with the next `gantry cache gc`
    Rm {
        #[arg(required = true)]
        references: Vec<Reference>,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum BaseCommand {
    /// Fetch, verify and assemble a base image
    Build(BaseBuildArgs),
    /// List the variants
    Ls {
        #[command(flatten)]
        format: FormatArgs,
    },
}

#[derive(Debug, Args)]
pub(super) struct BaseBuildArgs {
    /// Variant
    #[arg(default_value = crate::base::default_variant())]
    pub variant: String,
    /// Promises whose loss does not refuse what a build runs in the sandbox, such as landlock
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = Promise::from_str)]
    pub allow_degraded: Vec<Promise>,
    /// Write a JSON report
    #[arg(long, value_name = "FILE", value_parser = outlet())]
    pub report: Option<PathBuf>,
}

/// A shell that gantry writes completions for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Parses a reference that can name an image of the store.
fn name(text: &str) -> Result<Reference, String> {
    let reference: Reference = text.parse().map_err(|error| format!("{error}"))?;
    crate::store::check_name(&reference).map_err(|error| error.to_string())?;
    Ok(reference)
}

fn secret(text: &str) -> Result<(String, Source), String> {
    const WANTED: &str = "want NAME=FILE, NAME=env:VARIABLE or NAME=fd:N; the value itself is never an argument";
    let (name, source) = key_value(text).map_err(|_| WANTED)?;
    Ok((name, source.parse()?))
}

fn network(text: &str) -> Result<NetworkMode, String> {
    match text {
        "none" => Ok(NetworkMode::None),
        "loopback" => Ok(NetworkMode::Loopback),
        "egress" => Ok(NetworkMode::Egress),
        _ => Err("want none, loopback or egress".to_owned()),
    }
}
