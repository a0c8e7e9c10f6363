//! The command line: arguments -> requests, results -> text and exit codes. The only module that prints.
//!
//! A file per command in `commands`; `args` has the shapes of all of them, `error` and `hint` say how one fails.

mod args;
mod birth;
mod bundle_args;
mod cache_args;
mod commands;
mod error;
mod escape;
mod format_args;
mod frequent;
mod gone_images;
mod heartbeat;
mod hint;
mod image_hint;
mod key_value;
mod limit_args;
mod mistake;
mod movement;
mod moving_args;
mod outlet;
mod output;
mod place_hint;
mod progress;
mod proxy;
mod registry_hint;
mod report;
mod requirement_hint;
mod session;
mod shell;
mod store_hint;
mod table;
mod warm_args;
mod words;

use std::ffi::OsString;
use std::io;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command, DoctorArgs, Globals, StoreCommand};
use error::{no_signals, CommandError};
use output::print_error;
use report::Report;

use crate::ops::{self, unless_signalled, Worked};
use crate::sandbox::{self, Signals, Stop};
use crate::sys;

/// Runs gantry; returns its exit code. Call it first of all, in a program with one thread.
pub fn main() -> u8 {
    sys::streams::prepare();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if sandbox::is_init(arguments.first().map(OsString::as_os_str)) {
        sandbox::init_main()
    }
    if ops::doctor::is_probe(arguments.first().map(OsString::as_os_str)) {
        return ops::doctor::probe_main(&arguments);
    }
    // A caller that ends from now on is missed, not one that ended while arguments were read.
    let birth = birth::Birth::of_this_process(&arguments);
    // First of all: from here on no signal ends a command that has not said so in its report.
    let signals = Signals::watch();
    let cli = match frequent::read(&arguments).map_or_else(|| parse(arguments), Ok) {
        Ok(cli) => cli,
        Err((error, arguments)) => {
            // Nothing is half done, and whoever reads the help may never come to its end.
            drop(signals);
            return mistake::answer(error, &arguments);
        }
    };
    match cli.command {
        Command::Run(args) => commands::run::execute(&cli.globals, &args, signals, birth),
        Command::Store(command) => match *command {
            // It waits to be killed.
            StoreCommand::Doctor(DoctorArgs { hold: Some(words), .. }) => {
                drop(signals);
                ended(commands::hold(&words), None)
            }
            command => carry_out(cli.globals, command, signals),
        },
        Command::Config(command) => {
            drop(signals);
            ended(commands::configuration(&cli.globals, &command), None)
        }
        Command::Version { format } => {
            drop(signals);
            ended(commands::version(&format), None)
        }
        Command::Help { command } => {
            drop(signals);
            mistake::help(&command)
        }
        Command::Completions { shell } => {
            drop(signals);
            ended(shell::completions(shell), None)
        }
        Command::Man { command } => {
            drop(signals);
            ended(shell::manual(&command), None)
        }
    }
}

/// Reads any command line; an error comes with the arguments as clap was given them.
fn parse(arguments: Vec<OsString>) -> Result<Cli, (clap::Error, Vec<OsString>)> {
    let shape = Cli::command();
    let arguments = words::separated(&shape, arguments);
    let matches = shape.try_get_matches_from(&arguments);
    let cli =
        matches.and_then(|matches| Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut Cli::command())));
    cli.map_err(|error| (error, arguments))
}

/// Carries out a command that uses the store, until a signal comes.
fn carry_out(globals: Globals, command: StoreCommand, signals: io::Result<Signals>) -> u8 {
    let begun = signals.map_err(no_signals).and_then(|signals| {
        let report = command.report().map(|path| report::begin(path, &signals)).transpose()?;
        Ok((report, signals))
    });
    let (report, signals) = match begun {
        Ok((Some(Worked::Stopped { stop, .. }), _)) => return stopped(stop, None),
        Ok((Some(Worked::Done(report)), signals)) => (Some(Arc::new(report)), signals),
        Ok((None, signals)) => (None, signals),
        Err(error) => return ended(Err(error), None),
    };
    let of_command = report.clone();
    let work = move || commands::dispatch(&globals, &command, of_command.as_deref());
    let worked = unless_signalled(&signals, work);
    // Whoever sends a second one means it.
    drop(signals);
    match worked.map_err(no_signals) {
        Ok(Worked::Done(result)) => ended(result, report.as_deref()),
        // Done before the signal could end it. What failed may have failed of that.
        Ok(Worked::Stopped {
            result: Some(Ok(0)), ..
        }) => 0,
        Ok(Worked::Stopped { stop, .. }) => stopped(stop, report.as_deref()),
        Err(error) => ended(Err(error), report.as_deref()),
    }
}

/// Reports that `stop` ended the command, and ends.
fn stopped(stop: Stop, report: Option<&Report>) -> u8 {
    // Nothing but signals is waited for here.
    let signal = stop.signal().unwrap_or_default();
    let code = u8::try_from(128 + signal).unwrap_or(u8::MAX);
    progress::end();
    if let Some(Err(error)) = report.map(|report| report.stop(signal, code)) {
        print_error(&error);
    }
    // Without destructors, which the command's threads could wait for.
    sys::process::exit_now(i32::from(code))
}

/// Prints and reports the error that a command ended in.
fn ended(result: Result<u8, CommandError>, report: Option<&Report>) -> u8 {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    if let Some(report) = report {
        // The command's own error is the one to hear of.
        let _ = report.fail(&error);
    }
    print_error(&error);
    error.kind().exit_code()
}
