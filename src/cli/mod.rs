//! The command line: arguments -> requests, results -> text and exit codes. The only module that prints.

mod args;
mod doctor;
mod error;
mod escape;
mod execute;
mod mistake;
mod progress;
mod report;
mod run;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use serde::Serialize;

use args::{BaseCommand, BuildArgs, CacheCommand, Cli, Command, ImagesCommand};
use error::CommandError;
use progress::Narrator;
use report::Report;

use crate::base::{default_python, default_variant, variant_names, BaseSettings};
use crate::build::image::Created;
use crate::config::{secret_variable, Config, ConfigError, Environment};
use crate::journal::{self, Event};
use crate::net::{Address, Credentials};
use crate::ops::{self, unless_signalled, BaseRequest, BuildRequest, Worked};
use crate::policy::{Bytes, Promise};
use crate::python::resolve::{LockError, Resolver, LOCK_AGE};
use crate::sandbox::{self, Signals};
use crate::store::{Keep, Patience, Store};
use crate::sys;

/// Runs gantry; returns its exit code.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if sandbox::is_init(arguments.first().map(OsString::as_os_str)) {
        sandbox::init_main()
    }
    if ops::doctor::is_probe(arguments.first().map(OsString::as_os_str)) {
        return ExitCode::from(ops::doctor::probe_main(&arguments));
    }
    // First of all: from here on no signal ends a command that has not said so in its report.
    let signals = Signals::watch();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is half done, and whoever reads the help may never come to its end.
            drop(signals);
            return ExitCode::from(mistake::answer(&error, &arguments));
        }
    };
    match &cli.command {
        Command::Run(args) => ExitCode::from(execute::execute(cli.config.as_deref(), args, signals)),
        // It waits to be killed.
        Command::Doctor { hold: Some(words), .. } => {
            drop(signals);
            ended(doctor::hold(words), None)
        }
        _ => carry_out(cli, signals),
    }
}

/// Carries out any command but `run`, until a signal comes.
fn carry_out(cli: Cli, signals: io::Result<Signals>) -> ExitCode {
    let begun = signals
        .map_err(no_signals)
        .and_then(|signals| Ok((begin_report(&cli)?.map(Arc::new), signals)));
    let (report, signals) = match begun {
        Ok(begun) => begun,
        Err(error) => return ended(Err(error), None),
    };
    let of_command = report.clone();
    let worked = unless_signalled(&signals, move || dispatch(&cli, of_command.as_deref()));
    // Whoever sends a second one means it.
    drop(signals);
    match worked.map_err(no_signals) {
        Ok(Worked::Done(result)) => ended(result, report.as_deref()),
        // Done before the signal could end it.
        Ok(Worked::Signalled {
            result: Some(Ok(code)), ..
        }) => ExitCode::from(code),
        Ok(Worked::Signalled { signal, .. }) => {
            let signal = signal.number();
            let code = u8::try_from(128 + signal).unwrap_or(u8::MAX);
            if let Some(Err(error)) = report.map(|report| report.stop(signal, code)) {
                error::print(&error);
            }
            // Without destructors, which the command's threads could wait for.
            sys::process::exit_now(i32::from(code))
        }
        Err(error) => ended(Err(error), report.as_deref()),
    }
}

/// Prints and reports the error that a command ended in.
fn ended(result: Result<u8, CommandError>, report: Option<&Report>) -> ExitCode {
    let error = match result {
        Ok(code) => return ExitCode::from(code),
        Err(error) => error,
    };
    if let Some(report) = report {
        // The command's own error is the one to hear of.
        let _ = report.fail(&error);
    }
    error::print(&error);
    ExitCode::from(error::exit_code(&error))
}

fn no_signals(source: io::Error) -> CommandError {
    CommandError::File {
        action: "watch for",
        path: "signals".to_owned(),
        source,
    }
}

/// The report of a build; that of a run is an outcome, whose place `run` knows.
fn begin_report(cli: &Cli) -> Result<Option<Report>, CommandError> {
    let path = match &cli.command {
        Command::Build(args) => args.report.as_deref(),
        Command::Base(BaseCommand::Build { report, .. }) => report.as_deref(),
        _ => None,
    };
    path.map(Report::begin).transpose()
}

/// What every command has at hand.
struct Session {
    environment: Environment,
    config: Config,
    store: Store,
}

fn dispatch(cli: &Cli, report: Option<&Report>) -> Result<u8, CommandError> {
    let session = Session::open(cli.config.as_deref())?;
    // What cannot be swept now is swept later; no command fails for it.
    let _ = session.store.sweep();
    let _ = session.store.mend_index();
    sandbox::sweep();
    let collects = matches!(cli.command, Command::Cache(_));
    let _kept_out = if collects {
        None
    } else {
        Some(session.store.keep_collector_out()?)
    };
    match &cli.command {
        Command::Build(args) => session.build(args, report),
        Command::Run(_) => Ok(0),
        Command::Pull { reference } => print_line(&ops::copy(&session.store, reference, None)?),
        Command::Push { reference, destination }
        | Command::Copy {
            source: reference,
            destination,
        } => print_line(&ops::copy(&session.store, reference, Some(destination))?),
        Command::Save { reference, file } => session.save(reference, file),
        Command::Load { file, tag } => session.load(file, tag.as_ref()),
        Command::Images(command) => session.images(command),
        Command::Cache(CacheCommand::Gc { all, dry_run, json }) => session.gc(*all, *dry_run, *json),
        Command::Base(command) => session.base(command, report),
        Command::Doctor { json, .. } => doctor::examine(&session.store, *json),
    }
}

impl Session {
    fn open(config: Option<&Path>) -> Result<Self, CommandError> {
        let environment = Environment::read();
        let config = Config::load(config, &environment)?;
        let root = environment.store_root().ok_or(ConfigError::NoHome)?;
        let root = std::path::absolute(&root).unwrap_or(root);
        Ok(Self {
            environment,
            config,
            store: Store::open(&root)?.telling(progress::tell_wait),
        })
    }

    /// What `given` and the configuration accept the loss of.
    fn allow_degraded(&self, given: &[Promise]) -> BTreeSet<Promise> {
        let mut allowed = self.config.run.confinement().allow_degraded;
        allowed.extend(given);
        allowed
    }

    fn base_settings(&self) -> BaseSettings {
        let base = &self.config.base;
        BaseSettings {
            mirror: base.mirror.clone().map(Address::new),
            security_mirror: base.security_mirror.clone().map(Address::new),
            keyring: base.keyring.clone(),
        }
    }

    /// The configured index, with the user and the password that the configuration names.
    fn index(&self) -> Result<Option<String>, LockError> {
        let index = &self.config.index;
        let (Some(url), Some(user), Some(variable)) = (&index.url, &index.user, &index.password_env) else {
            return Ok(index.url.clone());
        };
        let problem = |problem| LockError::Password {
            variable: variable.clone(),
            problem,
        };
        let password = secret_variable(variable).ok_or_else(|| problem("is not set"))?;
        let password = String::from_utf8(password).map_err(|_| problem("is no UTF-8"))?;
        let url = Credentials::join(url, user, &password);
        url.ok_or_else(|| problem("has no address to go with")).map(Some)
    }

    fn resolver(&self, python: &str) -> Result<Resolver, LockError> {
        let (index, environment) = (&self.config.index, &self.environment);
        Ok(Resolver {
            uv: index.uv.clone(),
            python: python.to_owned(),
            index: self.index()?.map(Address::new),
            path: environment.path.clone(),
            network: environment.network.clone(),
            files: environment.uv_configurations(),
            pip_files: environment.pip_configurations(),
            ..Resolver::default()
        })
    }

    fn build(&self, args: &BuildArgs, report: Option<&Report>) -> Result<u8, CommandError> {
        let started = Instant::now();
        let request = BuildRequest {
            directory: args.dir.clone(),
            tag: args.tag.clone(),
            base: args.base.clone().unwrap_or_else(|| default_variant().to_owned()),
            python: args.python.clone(),
            labels: args.labels.clone(),
            allow_files: args.allow_files.clone(),
            allows_sdists: args.allow_sdist,
            allow_degraded: self.allow_degraded(&args.allow_degraded),
            lock_age: match args.upgrade {
                true => Duration::ZERO,
                false => self.config.index.max_age.unwrap_or(LOCK_AGE),
            },
            created: created(&self.environment)?,
            base_settings: self.base_settings(),
        };
        let resolver = || self.resolver(&args.python);
        let narrator = Narrator::new();
        let built = ops::build(&self.store, &request, &resolver, &narrator);
        narrator.finish();
        let name = args.tag.as_ref().map(ToString::to_string).unwrap_or_default();
        let (digest, status) = match &built {
            Ok(report) => (Some(report.digest.to_string()), "ok"),
            Err(_) => (None, "failed"),
        };
        self.note("build", &name, digest, status, started);
        let built = built?;
        report.map_or(Ok(()), |report| report.write(&built))?;
        print_line(&built.digest)
    }

    fn save(&self, reference: &crate::oci::Reference, file: &Path) -> Result<u8, CommandError> {
        let digest = if file == Path::new("-") {
            ops::save(&self.store, reference, io::stdout().lock())?
        } else {
            // Complete or not there, and nothing beside it when we are stopped.
            let temporary = self.store.beside(file)?;
            let error = |source| CommandError::File {
                action: "write",
                path: file.display().to_string(),
                source,
            };
            let out = io::BufWriter::new(fs::File::create_new(temporary.path()).map_err(error)?);
            let digest = ops::save(&self.store, reference, out)?;
            fs::rename(temporary.path(), file).map_err(error)?;
            digest
        };
        let _ = writeln!(io::stderr(), "Saved {digest}");
        Ok(0)
    }

    fn load(&self, file: &Path, tag: Option<&crate::oci::Reference>) -> Result<u8, CommandError> {
        let loaded = if file == Path::new("-") {
            ops::load(&self.store, io::stdin().lock(), tag)?
        } else {
            let error = |source| CommandError::File {
                action: "open",
                path: file.display().to_string(),
                source,
            };
            ops::load(
                &self.store,
                io::BufReader::new(fs::File::open(file).map_err(error)?),
                tag,
            )?
        };
        for (name, digest) in loaded {
            print_line(&format!("{digest} {}", escape::escape(&name)))?;
        }
        Ok(0)
    }

    fn images(&self, command: &ImagesCommand) -> Result<u8, CommandError> {
        match command {
            ImagesCommand::Ls { json: true } => print_json(&ops::list(&self.store)?),
            ImagesCommand::Ls { json: false } => {
                for image in ops::list(&self.store)? {
                    let digest = image.digest.map_or("-".to_owned(), |digest| digest.to_string());
                    let size = image.size.map_or("-".to_owned(), |size| Bytes(size).to_string());
                    let rest = match image.damaged {
                        Some(reason) => format!("damaged: {reason}"),
                        None => image.created.unwrap_or_default(),
                    };
                    print_line(&escape::escape(&format!(
                        "{:40} {digest} {size:>10} {rest}",
                        image.reference
                    )))?;
                }
                Ok(0)
            }
            ImagesCommand::Show { reference, json } => {
                let image = ops::show(&self.store, reference)?;
                let value =
                    serde_json::json!({"digest": image.digest, "manifest": image.manifest, "config": image.config});
                if *json {
                    return print_json(&value);
                }
                let pretty = serde_json::to_string_pretty(&value).unwrap_or_default();
                print_line(&escape::escape(&pretty))
            }
            ImagesCommand::Rm { references, dry_run } => {
                for reference in references {
                    ops::remove(&self.store, reference, *dry_run)?;
                    let verb = if *dry_run { "Would remove" } else { "Removed" };
                    let _ = writeln!(io::stderr(), "{verb} {reference}");
                }
                Ok(0)
            }
        }
    }

    fn gc(&self, all: bool, dry_run: bool, json: bool) -> Result<u8, CommandError> {
        let keep = if all { Keep::ImagesOnly } else { Keep::Memoised };
        let mut waiting = || {
            let _ = writeln!(io::stderr(), "Waiting for builds and other commands that use the store");
        };
        let report = self
            .store
            .collect_garbage(keep, dry_run, Patience::default(), &mut waiting)?;
        if json {
            return print_json(&report);
        }
        let verb = if dry_run { "Would remove" } else { "Removed" };
        print_line(&format!(
            "{verb} {}: {} blobs, {} layers, {} snapshots, {} downloads, {} unfinished downloads",
            Bytes(report.bytes),
            report.blobs,
            report.layers,
            report.snapshots,
            report.downloads,
            report.partials
        ))
    }

    fn base(&self, command: &BaseCommand, report: Option<&Report>) -> Result<u8, CommandError> {
        match command {
            BaseCommand::Ls { json: true } => print_json(&variant_names()),
            BaseCommand::Ls { json: false } => {
                for name in variant_names() {
                    print_line(&name)?;
                }
                Ok(0)
            }
            BaseCommand::Build {
                variant,
                allow_degraded,
                ..
            } => {
                let narrator = Narrator::new();
                let request = BaseRequest {
                    name: variant.clone(),
                    settings: self.base_settings(),
                    allow_degraded: self.allow_degraded(allow_degraded),
                };
                let resolver = || self.resolver(default_python());
                let made = ops::build_base(&self.store, &request, &resolver, &narrator);
                narrator.finish();
                let base = made?;
                report.map_or(Ok(()), |report| report.write(&base))?;
                print_line(&base.digest)
            }
        }
    }

    /// Losing a journal line never fails a command.
    fn note(&self, kind: &str, reference: &str, digest: Option<String>, status: &str, started: Instant) {
        let at = journal::seconds(sys::clock::now());
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let _ = journal::append(
            &self.store.root().join("journal"),
            &Event {
                at,
                kind,
                reference,
                digest,
                status,
                ms,
            },
        );
    }
}

/// The image's time: `SOURCE_DATE_EPOCH`, else now.
fn created(environment: &Environment) -> Result<Created, CommandError> {
    let Some(text) = &environment.source_date_epoch else {
        return Ok(Created::Now(sys::clock::now()));
    };
    let seconds = text.parse::<u64>().ok().filter(|seconds| *seconds < 253_402_300_800);
    let seconds = seconds
        .ok_or_else(|| CommandError::Usage(format!("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds")))?;
    Ok(Created::Fixed(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
}

fn print_json<T: Serialize>(value: &T) -> Result<u8, CommandError> {
    let json = serde_json::to_string(value);
    print_line(&json.map_err(|source| CommandError::File {
        action: "write",
        path: "standard output".to_owned(),
        source: source.into(),
    })?)
}

/// A line of data. A closed pipe is a quiet success: the reader has what it wanted.
fn print_line<T: std::fmt::Display + ?Sized>(line: &T) -> Result<u8, CommandError> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(source) => Err(CommandError::File {
            action: "write",
            path: "standard output".to_owned(),
            source,
        }),
        Ok(()) => Ok(0),
    }
}
