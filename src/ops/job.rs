//! What is asked of a run: a job document, the command line on top of it, this machine's configuration below both.
//!
//! Each source says what it [wants](Wanted); one merge and one validation make the [`RunRequest`] of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::image_fetch::{Fetch, Pull};
use super::output_place::OutputPlace;
use super::run::{RunRequest, Take};
use super::secret::SecretWanted;
use super::slots::{Admission, Slots};
use super::ticket::Ticket;
use crate::config::{Exceeded, LimitsSection, RunSection};
use crate::oci::Reference;
use crate::policy::{
    in_plain_words, with_limits, Code, GivenLimits, HostPort, Kind, NetworkMode, Promise, Runtime, Time, Wait,
};
use crate::sandbox::{Place, Stdin, Stdout};
use crate::sys::streams;

/// The version of the document.
const SCHEMA: u64 = 1;
/// A job holds names and numbers; inputs come as directories.
const MAX_JOB: u64 = 4 << 20;

/// Why no run can be made of what was asked.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The document cannot be read.
    #[error("read job {path}")]
    Read {
        /// The document, or `-`.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The document says something unknown or impossible.
    #[error("read job {path}: {reason}")]
    Document {
        /// The document, or `-`.
        path: PathBuf,
        /// What, and where in it.
        reason: String,
        /// The caller's words for it, as far as they can be read: it shall find its job again.
        ticket: Box<Ticket>,
    },
    /// Nobody says which image.
    #[error("run needs an image")]
    NoImage,
    /// There is no registry to pull it from.
    #[error(
        "pull always: {reference} is an image of this store alone; one of a registry is called HOST/REPOSITORY[:TAG]"
    )]
    PullAlways {
        /// As typed.
        reference: String,
    },
    /// The network cannot be as it was asked for.
    #[error("{reason}")]
    Network {
        /// Which entry, and which rule.
        reason: String,
    },
    /// This machine's configuration does not allow it.
    #[error("{}: {} is over what this machine's configuration allows under [limits] ({})", .0.limit, .0.got, .0.bound)]
    NotAllowed(Exceeded),
    /// This machine's configuration does not let a job accept that loss.
    #[error("allow_degraded: {promise} is not among what this machine's configuration lets a job accept under [run] ({})", allowed.iter().map(|promise| promise.name()).collect::<Vec<_>>().join(", "))]
    Degraded {
        /// The promise.
        promise: Promise,
        /// What it lets a job accept.
        allowed: Vec<Promise>,
    },
    /// Two secrets would stand in one place.
    #[error("secret {name:?} is given twice")]
    SecretTwice {
        /// The name of both.
        name: String,
    },
}

impl JobError {
    /// What a run that ended in it says.
    pub fn code(&self) -> Code {
        match self {
            Self::Read { .. }
            | Self::Document { .. }
            | Self::NoImage
            | Self::PullAlways { .. }
            | Self::Network { .. }
            | Self::SecretTwice { .. } => Code::BadJob,
            Self::NotAllowed(_) | Self::Degraded { .. } => Code::NotAllowed,
        }
    }

    /// What was asked is wrong, or not allowed here.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Read { .. }
            | Self::Document { .. }
            | Self::NoImage
            | Self::PullAlways { .. }
            | Self::Network { .. }
            | Self::SecretTwice { .. } => Kind::Usage,
            Self::NotAllowed(_) | Self::Degraded { .. } => Kind::Refused,
        }
    }
}

/// Whether a run ends with the process that called gantry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallerMode {
    /// It does.
    Watch,
    /// It goes on.
    Detached,
}

/// What one source asks of a run; all of it may be left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// Which image.
    pub reference: Option<Reference>,
    /// Directory shown as `/input`.
    pub input: Option<PathBuf>,
    /// Directory that receives `/output`.
    pub output: Option<PathBuf>,
    /// Whether it does so after every end.
    pub output_partial: Option<bool>,
    /// Whether `/output` is on disk.
    pub output_on_disk: Option<bool>,
    /// What the function's standard input is.
    pub stdin: Option<Stdin>,
    /// Variables on top of the image's; of two with one name the later counts.
    pub env: Vec<(String, String)>,
    /// Secrets.
    pub secrets: Vec<SecretWanted>,
    /// Limits.
    pub limits: GivenLimits,
    /// Which network.
    pub network: Option<NetworkMode>,
    /// Hosts that can be reached.
    pub egress: Vec<HostPort>,
    /// Promises whose loss does not refuse the run, on top of others.
    pub allow_degraded: Vec<Promise>,
    /// Promises of that kind in place of this machine's, and within them: what a job says.
    pub only_degraded: Option<Vec<Promise>>,
    /// What makes its container.
    pub runtime: Option<Runtime>,
    /// When to pull.
    pub pull: Option<Pull>,
    /// Program in place of the image's entry point and command.
    pub entrypoint: Option<String>,
    /// Arguments of the image's command.
    pub args: Vec<String>,
    /// Whether the run ends with its caller.
    pub caller: Option<CallerMode>,
    /// The time for everything together.
    pub deadline: Option<Time>,
    /// How long a run slot is waited for.
    pub wait: Option<Wait>,
    /// What the caller calls the job.
    pub ticket: Option<Ticket>,
}

impl Wanted {
    /// What both want: of single values that of `self`, of lists those of `below` first.
    pub fn over(self, below: Self) -> Self {
        fn joined<T>(mut first: Vec<T>, then: Vec<T>) -> Vec<T> {
            first.extend(then);
            first
        }
        Self {
            reference: self.reference.or(below.reference),
            input: self.input.or(below.input),
            output: self.output.or(below.output),
            output_partial: self.output_partial.or(below.output_partial),
            output_on_disk: self.output_on_disk.or(below.output_on_disk),
            stdin: self.stdin.or(below.stdin),
            env: joined(below.env, self.env),
            secrets: joined(below.secrets, self.secrets),
            limits: self.limits.over(below.limits),
            network: self.network.or(below.network),
            egress: joined(below.egress, self.egress),
            allow_degraded: joined(below.allow_degraded, self.allow_degraded),
            only_degraded: self.only_degraded.or(below.only_degraded),
            runtime: self.runtime.or(below.runtime),
            pull: self.pull.or(below.pull),
            entrypoint: self.entrypoint.or(below.entrypoint),
            args: joined(below.args, self.args),
            caller: self.caller.or(below.caller),
            deadline: self.deadline.or(below.deadline),
            wait: self.wait.or(below.wait),
            ticket: self.ticket.or(below.ticket),
        }
    }

    /// The run that is wanted, with the defaults of this `machine`'s configuration and within its `bounds`.
    ///
    /// # Errors
    ///
    /// [`JobError`] names the key that this machine does not allow, or that contradicts another.
    pub fn request(self, machine: &RunSection, bounds: &LimitsSection) -> Result<RunRequest, JobError> {
        let reference = self.reference.ok_or(JobError::NoImage)?;
        if self.pull == Some(Pull::Always) && !matches!(reference, Reference::Registry { .. }) {
            let reference = reference.to_string();
            return Err(JobError::PullAlways { reference });
        }
        for (at, secret) in self.secrets.iter().enumerate() {
            let mut earlier = self.secrets.iter().take(at);
            if earlier.any(|other| other.name == secret.name && other.place == secret.place) {
                return Err(JobError::SecretTwice {
                    name: secret.name.clone(),
                });
            }
        }
        let network = machine.network(self.network, self.egress);
        let mut confinement = bounds.lower(machine.confinement()).limited(&self.limits);
        confinement.network = network.map_err(|reason| JobError::Network { reason })?;
        if let Some(only) = self.only_degraded {
            if let Some((promise, allowed)) = machine.beyond(&only) {
                let allowed = allowed.to_vec();
                return Err(JobError::Degraded { promise, allowed });
            }
            confinement.allow_degraded = only.into_iter().collect();
        }
        confinement.allow_degraded.extend(self.allow_degraded);
        confinement.runtime = self.runtime.unwrap_or(confinement.runtime);
        let (most, memory, directory) = machine.slots();
        let admission = Admission {
            slots: Slots {
                most,
                memory,
                directory,
            },
            patience: machine.wait(self.wait),
            ..Admission::default()
        };
        let of_secrets = self.secrets.iter().filter(|secret| secret.place == Place::Variable);
        let variables = self.env.iter().map(|(name, _)| name.as_str());
        let variables = variables.chain(of_secrets.map(|secret| secret.name.as_str()));
        // One that is not there is said as that, by the run.
        let absolute = |path: PathBuf| {
            path.canonicalize()
                .or_else(|_| std::path::absolute(&path))
                .unwrap_or(path)
        };
        let input = self.input.map(absolute);
        let exceeded = bounds.exceeded(&confinement).or_else(|| bounds.forbidden(variables));
        let exceeded = exceeded.or_else(|| bounds.outside(input.as_deref()?));
        if let Some(exceeded) = exceeded {
            return Err(JobError::NotAllowed(exceeded));
        }
        Ok(RunRequest {
            reference,
            input,
            output: self.output,
            output_place: match self.output_on_disk {
                Some(true) => OutputPlace::Disk,
                Some(false) | None => OutputPlace::Memory,
            },
            take: match self.output_partial {
                Some(true) => Take::Partial,
                Some(false) | None => Take::Whole,
            },
            stdin: self.stdin.unwrap_or(Stdin::Empty),
            env: self.env,
            secrets: self.secrets,
            confinement,
            scope: machine.scope(),
            entrypoint: self.entrypoint,
            args: self.args,
            ticket: self.ticket.unwrap_or_default(),
            admission,
            fetch: Fetch {
                when: self.pull.unwrap_or(Pull::Missing),
                ..Fetch::default()
            },
            stdout: Stdout::Own,
        })
    }
}

macro_rules! job {
    ($($(#[$doc:meta])* $name:ident: $given:ty => $value:ty = $default:expr, $word:literal;)*) => {
        /// One run as a JSON document: the options' names with `_` for `-`. Unknown keys are errors.
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Job {
            #[allow(dead_code, reason = "looked at before the rest; known, so that it is no unknown key")]
            schema: Option<serde_json::Value>,
            image: String,
            entrypoint: Option<String>,
            #[serde(default)]
            args: Vec<String>,
            input: Option<PathBuf>,
            output: Option<PathBuf>,
            output_partial: Option<bool>,
            output_on_disk: Option<bool>,
            #[serde(default)]
            env: BTreeMap<String, String>,
            #[serde(default)]
            secrets: BTreeMap<String, String>,
            #[serde(default)]
            secret_env: BTreeMap<String, String>,
            $($name: Option<$given>,)*
            network: Option<NetworkMode>,
            #[serde(default)]
            egress: Vec<HostPort>,
            #[serde(default)]
            allow_degraded: Option<Vec<Promise>>,
            runtime: Option<Runtime>,
            pull: Option<Pull>,
            caller: Option<CallerMode>,
            deadline: Option<Time>,
            wait: Option<Wait>,
            id: Option<String>,
            attempt: Option<u32>,
            #[serde(default)]
            labels: BTreeMap<String, String>,
        }

        impl Job {
            fn limits(&self) -> GivenLimits {
                GivenLimits { $($name: self.$name,)* }
            }
        }
    };
}
with_limits!(job);

/// Reads the job document at `path`; - is standard input.
///
/// # Errors
///
/// [`JobError`] names the key that is wrong; the caller gets it as the outcome of a run that was not begun.
pub fn read_job(path: &Path) -> Result<Wanted, JobError> {
    let document = |reason: String, ticket: Ticket| JobError::Document {
        path: path.to_owned(),
        reason,
        ticket: Box::new(ticket),
    };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        streams::standard_input().and_then(|stdin| stdin.take(MAX_JOB + 1).read_to_string(&mut text))
    } else {
        fs::File::open(path).and_then(|file| file.take(MAX_JOB + 1).read_to_string(&mut text))
    };
    read.map_err(|source| JobError::Read {
        path: path.to_owned(),
        source,
    })?;
    if text.len() as u64 > MAX_JOB {
        return Err(document(format!("it is over {MAX_JOB} bytes"), Ticket::default()));
    }
    parse(&text).map_err(|reason| document(reason, Ticket::of_broken(&text)))
}

/// What is wrong with the document `text`, which `error` refused: which key, what it may be and what it is.
fn at_fault(text: &str, error: &serde_json::Error) -> String {
    let keys = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).unwrap_or_default();
    let whole = in_plain_words(&error.to_string());
    for (key, value) in keys {
        let mut alone = serde_json::Map::from_iter([("image".to_owned(), "a:1".into())]);
        alone.insert(key.clone(), value);
        let Err(refused) = serde_json::from_value::<Job>(alone.into()) else {
            continue;
        };
        let reason = refused.to_string();
        if reason.starts_with("unknown field") {
            return whole;
        }
        return format!("{key}: {} (line {})", in_plain_words(&reason), error.line());
    }
    whole
}

/// The one key that says how to read the others.
#[derive(Debug, Deserialize)]
struct Schema {
    schema: Option<serde_json::Value>,
}

fn parse(text: &str) -> Result<Wanted, String> {
    // serde would take a list for an object whose keys are left out.
    if !text.trim_start().starts_with('{') {
        return Err("it is no JSON object; the least is {\"image\": \"NAME:TAG\"}".to_owned());
    }
    // First: what a document of another version has beside it means nothing here.
    if let Ok(Schema { schema: Some(found) }) = serde_json::from_str(text) {
        if found != SCHEMA {
            return Err(format!("schema: got {found}, this version of gantry reads {SCHEMA}"));
        }
    }
    let job: Job = serde_json::from_str(text).map_err(|error| at_fault(text, &error))?;
    let limits = job.limits();
    let mut secrets = Vec::new();
    for (place, wanted) in [(Place::File, job.secrets), (Place::Variable, job.secret_env)] {
        for (name, source) in wanted {
            let source = source.parse().map_err(|reason| format!("secret {name:?}: {reason}"))?;
            secrets.push(SecretWanted { name, place, source });
        }
    }
    Ok(Wanted {
        reference: Some(job.image.parse().map_err(|error| format!("image: {error}"))?),
        input: job.input,
        output: job.output,
        output_partial: job.output_partial,
        output_on_disk: job.output_on_disk,
        // A document is no command line: what is piped to gantry may be the document.
        stdin: None,
        env: job.env.into_iter().collect(),
        secrets,
        limits,
        network: job.network,
        egress: job.egress,
        allow_degraded: Vec::new(),
        only_degraded: job.allow_degraded,
        runtime: job.runtime,
        pull: job.pull,
        entrypoint: job.entrypoint,
        args: job.args,
        caller: job.caller,
        deadline: job.deadline,
        wait: job.wait,
        ticket: Some(Ticket::new(job.id, job.attempt, job.labels)?),
    })
}

#[cfg(test)]
mod tests;
