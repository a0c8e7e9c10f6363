//! Reads the command line of `run` without the shapes of the other commands, which are half of what a start spends before it has
//! the image: hundreds of arguments and texts that are made for nothing.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use super::args::{Cli, Command, Globals, RunArgs};
use super::words::separated;

/// The part of [`Cli`] that `run` needs.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, disable_help_subcommand = true)]
struct RunLine {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: OnlyRun,
}

#[derive(Debug, Subcommand)]
enum OnlyRun {
    Run(Box<RunArgs>),
}

/// The command line of a `run` that is right. None for every other one: whoever mistypes or asks for help hears of all commands.
pub(super) fn read(arguments: &[OsString]) -> Option<Cli> {
    if arguments.get(1).is_none_or(|first| first != "run") {
        return None;
    }
    let shape = RunLine::command();
    let arguments = separated(&shape, arguments.to_vec());
    let matches = shape.try_get_matches_from(arguments).ok()?;
    let RunLine { globals, command } = RunLine::from_arg_matches(&matches).ok()?;
    let OnlyRun::Run(args) = command;
    Some(Cli {
        globals,
        command: Command::Run(args),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> Vec<OsString> {
        format!("gantry {text}").split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_run_is_read_as_with_all_commands() {
        for text in [
            "run x:1",
            "run -q x:1 a --memory b",
            "run --config c --job - -- a -b",
            "run x:1 -m 1G -e A=1 --env B=2 --secret S=env:V --network=none -o out -i --exit-by-status -- a",
            "run --allow-degraded memory,cpu --runtime native --timeout 5m --pull never -v x:1 build",
            "run help",
        ] {
            let whole = separated(&Cli::command(), arguments(text));
            let whole = Cli::try_parse_from(whole).unwrap();
            let read = read(&arguments(text)).unwrap();
            assert_eq!(format!("{read:?}"), format!("{whole:?}"), "{text}");
        }
    }

    #[test]
    fn what_is_no_run_or_a_wrong_one_is_for_all_commands_to_answer() {
        for text in [
            "build x",
            "-q run x:1",
            "run",
            "run --help",
            "run --version x:1",
            "run x:1 --nothing",
            "run -m lots x:1",
            "ru x:1",
            "help run",
        ] {
            assert!(read(&arguments(text)).is_none(), "{text}");
        }
        assert!(read(&[]).is_none());
    }
}
