//! The command line: arguments -> requests, results -> text and exit codes. The only module that prints.

mod args;
mod doctor;
mod error;
mod escape;
mod execute;
mod progress;
mod report;
mod run;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use serde::Serialize;

use args::{BaseCommand, BuildArgs, CacheCommand, Cli, Command, ImagesCommand};
use error::CommandError;
use progress::Narrator;
use report::Report;

use crate::build::base::variant_names;
use crate::build::lock::{Found, LockError, Resolver};
use crate::config::{secret_variable, Config, ConfigError, Environment};
use crate::journal::{self, Event};
use crate::net::Credentials;
use crate::ops::{self, BaseSettings, BuildRequest, SandboxCompiler, CANNOT_RUN};
use crate::policy::{Bytes, Promise};
use crate::progress::Progress;
use crate::sandbox;
use crate::store::{self, Keep, Patience, Store, StoreError};
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
    let is_run = arguments.iter().skip(1).any(|argument| argument == "run");
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            error::print_usage(&error);
            // `run` has the workload's codes below 124; its own mistakes are all 125.
            let code = if error.use_stderr() && is_run {
                execute::refuse_arguments(&arguments, &error.kind().to_string());
                CANNOT_RUN
            } else {
                u8::try_from(error.exit_code()).unwrap_or(2)
            };
            return ExitCode::from(code);
        }
    };
    if let Command::Run(args) = &cli.command {
        return ExitCode::from(execute::execute(cli.config.as_deref(), args));
    }
    match begin_report(&cli).and_then(|report| reported(&cli, report.as_ref())) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            error::print(&error);
            ExitCode::from(error::exit_code(&error))
        }
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

/// [`dispatch`]; a failure is reported as well.
fn reported(cli: &Cli, report: Option<&Report>) -> Result<u8, CommandError> {
    let result = dispatch(cli, report);
    if let (Err(error), Some(report)) = (&result, report) {
        // The command's own error is the one to hear of.
        let _ = report.fail(error);
    }
    result
}

/// What every command has at hand.
struct Session {
    environment: Environment,
    config: Config,
    store: Store,
}

fn dispatch(cli: &Cli, report: Option<&Report>) -> Result<u8, CommandError> {
    if let Command::Doctor { hold: Some(words), .. } = &cli.command {
        return doctor::hold(words);
    }
    let session = Session::open(cli.config.as_deref())?;
    // What cannot be swept now is swept later; no command fails for it.
    let _ = session.store.sweep();
    let _ = session.store.mend_index();
    sandbox::sweep();
    watch_signals();
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

/// On Ctrl-C and the like: nothing half-written stays, and the exit code says which signal it was.
fn watch_signals() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) else {
        return;
    };
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            store::abandon();
            sys::process::exit_now(128 + signal)
        }
    });
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
            store: Store::open(&root)?,
        })
    }

    fn compiler(&self, allow_degraded: BTreeSet<Promise>) -> Result<SandboxCompiler, StoreError> {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        Ok(SandboxCompiler {
            scaffold: self.store.scaffold_tree()?,
            jobs,
            allow_degraded,
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
            mirror: base.mirror.clone(),
            security_mirror: base.security_mirror.clone(),
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
            index: self.index()?,
            path: environment.path.clone(),
            network: environment.network.clone(),
            files: environment.uv_configurations(),
            pip_files: environment.pip_configurations(),
            found: Found::default(),
        })
    }

    fn build(&self, args: &BuildArgs, report: Option<&Report>) -> Result<u8, CommandError> {
        let started = Instant::now();
        let request = BuildRequest {
            directory: args.dir.clone(),
            tag: args.tag.clone(),
            base: args.base.clone().unwrap_or_else(|| ops::DEFAULT_BASE.to_owned()),
            python: args.python.clone(),
            labels: args.labels.clone(),
            allow_files: args.allow_files.clone(),
            allows_sdists: args.allow_sdist,
            allow_degraded: self.allow_degraded(&args.allow_degraded),
            lock_age: match args.upgrade {
                true => Duration::ZERO,
                false => self.config.index.max_age.unwrap_or(ops::LOCK_AGE),
            },
            created: created(&self.environment)?,
            base_settings: self.base_settings(),
        };
        let resolver = || self.resolver(&args.python);
        let narrator = Narrator::new();
        let compiler = self.compiler(request.allow_degraded.clone())?;
        let built = ops::build(&self.store, &request, &resolver, &compiler, &narrator);
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
                let settings = self.base_settings();
                let resolver = || self.resolver(ops::BASE_PYTHON);
                let compiler = self.compiler(self.allow_degraded(allow_degraded))?;
                let made = ops::build_base(&self.store, variant, &settings, &resolver, &compiler, &narrator);
                if let Ok(base) = &made {
                    base.warnings.iter().for_each(|warning| narrator.warn(warning));
                }
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
fn created(environment: &Environment) -> Result<SystemTime, CommandError> {
    let Some(text) = &environment.source_date_epoch else {
        return Ok(sys::clock::now());
    };
    let seconds = text.parse::<u64>().ok().filter(|seconds| *seconds < 253_402_300_800);
    let seconds = seconds
        .ok_or_else(|| CommandError::Usage(format!("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds")))?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
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
