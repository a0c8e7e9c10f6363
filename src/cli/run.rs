//! `gantry run`: options or a job document -> a request.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::args::RunArgs;
use super::error::CommandError;
use crate::config::Config;
use crate::ops::{RunRequest, SecretWanted};
use crate::policy::{parse_duration, Bytes, HostPort, NetworkMode, Promise};
use crate::sandbox::Place;

/// A job holds names and numbers; inputs come as directories.
const MAX_JOB: u64 = 4 << 20;

/// One run as a JSON document: the options' names with `_` for `-`. Unknown keys are errors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    image: String,
    #[serde(default)]
    args: Vec<String>,
    input: Option<PathBuf>,
    output: Option<PathBuf>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    secrets: BTreeMap<String, String>,
    #[serde(default)]
    secret_env: BTreeMap<String, String>,
    memory: Option<Bytes>,
    cpus: Option<f64>,
    pids: Option<u32>,
    timeout: Option<String>,
    grace: Option<String>,
    tmp_size: Option<Bytes>,
    output_size: Option<Bytes>,
    output_limit: Option<Bytes>,
    network: Option<NetworkMode>,
    #[serde(default)]
    egress: Vec<HostPort>,
    allow_degraded: Option<Vec<Promise>>,
    pull: Option<Pull>,
}

/// When to pull; so far an image is run only from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Pull {
    Missing,
    Always,
    Never,
}

/// What `args` ask for, on top of `job`, on top of the defaults of `config`.
pub fn request(args: &RunArgs, job: Option<Job>, config: &Config) -> Result<RunRequest, CommandError> {
    if args.pull == "always" {
        return Err(pull_always());
    }
    let (mut network, mut egress) = (None, Vec::new());
    let mut request = match job {
        Some(job) => from_job(args, job, config, &mut network, &mut egress)?,
        None => {
            let reference = args
                .reference
                .clone()
                .ok_or_else(|| CommandError::RunUsage("run needs an image".to_owned()))?;
            let confinement = config.run.confinement();
            RunRequest {
                reference,
                input: None,
                output: None,
                env: Vec::new(),
                secrets: Vec::new(),
                confinement,
                args: Vec::new(),
            }
        }
    };
    request.input = args.input.clone().or(request.input);
    request.output = args.output.clone().or(request.output);
    request.env.extend(args.env.iter().cloned());
    let places = [(Place::File, &args.secrets), (Place::Variable, &args.secret_variables)];
    for (place, secrets) in places {
        let wanted = secrets.iter().map(|(name, source)| SecretWanted {
            name: name.clone(),
            place,
            source: source.clone(),
        });
        request.secrets.extend(wanted);
    }
    request.args.extend(args.args.iter().cloned());
    let confinement = &mut request.confinement;
    confinement.memory = args.memory.unwrap_or(confinement.memory);
    confinement.cpus = args.cpus.unwrap_or(confinement.cpus);
    confinement.pids = args.pids.unwrap_or(confinement.pids);
    confinement.timeout = args.timeout.unwrap_or(confinement.timeout);
    confinement.grace = args.grace.unwrap_or(confinement.grace);
    confinement.tmp_size = args.tmp_size.unwrap_or(confinement.tmp_size);
    confinement.output_size = args.output_size.unwrap_or(confinement.output_size);
    confinement.output_limit = args.output_limit.unwrap_or(confinement.output_limit);
    egress.extend(args.egress.iter().cloned());
    let network = config.run.network(args.network.or(network), egress);
    confinement.network = network.map_err(CommandError::RunUsage)?;
    confinement.allow_degraded.extend(args.allow_degraded.iter().copied());
    check(&request)?;
    Ok(request)
}

fn pull_always() -> CommandError {
    let reason =
        "pull always: this version runs images of the store; `gantry pull oci:DIR:TAG` or `gantry load` brings one in";
    CommandError::RunUsage(reason.to_owned())
}

/// The job document at `path`; - is standard input.
pub fn read_job(path: &Path) -> Result<Job, CommandError> {
    let usage = |reason: String| usage(path, &reason);
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(MAX_JOB + 1).read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(MAX_JOB + 1).read_to_string(&mut text))
    };
    read.map_err(|error| usage(error.to_string()))?;
    if text.len() as u64 > MAX_JOB {
        return Err(usage(format!("it is over {MAX_JOB} bytes")));
    }
    serde_json::from_str(&text).map_err(|error| usage(error.to_string()))
}

fn usage(path: &Path, reason: &str) -> CommandError {
    CommandError::RunUsage(format!("read job {}: {reason}", path.display()))
}

/// The request of a job document, but for its network, which options may still change.
fn from_job(
    args: &RunArgs,
    job: Job,
    config: &Config,
    network: &mut Option<NetworkMode>,
    egress: &mut Vec<HostPort>,
) -> Result<RunRequest, CommandError> {
    let usage = |reason: String| usage(args.job.as_deref().unwrap_or(Path::new("-")), &reason);
    if job.pull == Some(Pull::Always) {
        return Err(pull_always());
    }
    let mut confinement = config.run.confinement();
    confinement.memory = job.memory.unwrap_or(confinement.memory);
    confinement.cpus = job.cpus.unwrap_or(confinement.cpus);
    confinement.pids = job.pids.unwrap_or(confinement.pids);
    if let Some(timeout) = &job.timeout {
        confinement.timeout = parse_duration(timeout).map_err(usage)?;
    }
    if let Some(grace) = &job.grace {
        confinement.grace = parse_duration(grace).map_err(usage)?;
    }
    let mut secrets = Vec::new();
    for (place, wanted) in [(Place::File, job.secrets), (Place::Variable, job.secret_env)] {
        for (name, source) in wanted {
            let source = source
                .parse()
                .map_err(|reason| usage(format!("secret {name:?}: {reason}")))?;
            secrets.push(SecretWanted { name, place, source });
        }
    }
    confinement.tmp_size = job.tmp_size.unwrap_or(confinement.tmp_size);
    confinement.output_size = job.output_size.unwrap_or(confinement.output_size);
    confinement.output_limit = job.output_limit.unwrap_or(confinement.output_limit);
    (*network, *egress) = (job.network, job.egress);
    confinement
        .allow_degraded
        .extend(job.allow_degraded.unwrap_or_default());
    Ok(RunRequest {
        reference: job.image.parse().map_err(|error| usage(format!("image: {error}")))?,
        input: job.input,
        output: job.output,
        env: job.env.into_iter().collect(),
        secrets,
        confinement,
        args: job.args,
    })
}

/// Sizes of zero mean "unlimited" to tmpfs: exactly what nobody may get.
fn check(request: &RunRequest) -> Result<(), CommandError> {
    const LEAST: Bytes = Bytes(64 << 10);
    let confinement = &request.confinement;
    for (name, size) in [
        ("tmp-size", confinement.tmp_size),
        ("output-size", confinement.output_size),
        ("memory", confinement.memory),
    ] {
        if size < LEAST {
            return Err(CommandError::RunUsage(format!(
                "{name} is {size}, at least {LEAST} is needed"
            )));
        }
    }
    for (at, secret) in request.secrets.iter().enumerate() {
        let mut earlier = request.secrets.iter().take(at);
        if earlier.any(|other| other.name == secret.name && other.place == secret.place) {
            return Err(CommandError::RunUsage(format!(
                "secret {:?} is given twice",
                secret.name
            )));
        }
    }
    if !(0.01..=1024.0).contains(&confinement.cpus) || !(1..=4096).contains(&confinement.pids) {
        return Err(CommandError::RunUsage(
            "cpus must be from 0.01 to 1024 and pids from 1 to 4096".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_job_has_every_key_and_is_read() {
        let document = include_str!("../../docs/formats.md");
        let example = document
            .split("```json")
            .nth(1)
            .and_then(|rest| rest.split("```").next());
        let value: serde_json::Value = serde_json::from_str(example.unwrap()).unwrap();
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        let unknown = serde_json::from_str::<Job>(r#"{"image": "a:1", "no such key": 1}"#).unwrap_err();
        for known in unknown.to_string().split('`').skip(3).step_by(2) {
            assert!(keys.iter().any(|key| *key == known), "{known} is not documented");
        }
        let job: Job = serde_json::from_value(value).unwrap();
        assert_eq!((job.image.as_str(), job.pull), ("series:1", Some(Pull::Missing)));
    }
}
