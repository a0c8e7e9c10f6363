//! Reads the command lines of `run` and `build`, which are called thousands of times a day, without the shapes of the other
//! commands: hundreds of arguments and texts, half a millisecond and seventy page faults (docs/decisions.md).

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use super::args::{BuildArgs, Cli, Command, Globals, RunArgs, StoreCommand};
use super::words::separated;

/// The part of [`Cli`] that such a command needs.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, disable_help_subcommand = true)]
struct Line<C: Subcommand> {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: C,
}

#[derive(Debug, Subcommand)]
enum OnlyRun {
    Run(Box<RunArgs>),
}

#[derive(Debug, Subcommand)]
enum OnlyBuild {
    Build(BuildArgs),
}

/// The command line of such a command, if it is right. None for every other one: whoever mistypes or asks for help hears of
/// all commands.
pub(super) fn read(arguments: &[OsString]) -> Option<Cli> {
    match arguments.get(1)?.to_str()? {
        "run" => {
            let (globals, OnlyRun::Run(args)) = parse(arguments)?;
            let command = Command::Run(args);
            Some(Cli { globals, command })
        }
        "build" => {
            let (globals, OnlyBuild::Build(args)) = parse(arguments)?;
            let command = Command::Store(Box::new(StoreCommand::Build(args)));
            Some(Cli { globals, command })
        }
        _ => None,
    }
}

fn parse<C: Subcommand>(arguments: &[OsString]) -> Option<(Globals, C)> {
    let shape = Line::<C>::command();
    let arguments = separated(&shape, arguments.to_vec());
    let matches = shape.try_get_matches_from(arguments).ok()?;
    let line = Line::<C>::from_arg_matches(&matches).ok()?;
    Some((line.globals, line.command))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> Vec<OsString> {
        format!("gantry {text}").split(' ').map(OsString::from).collect()
    }

    #[test]
    fn they_are_read_as_with_all_commands() {
        for text in [
            "run x:1",
            "run -q x:1 a --memory b",
            "run --config c --job - -- a -b",
            "run x:1 -m 1G -e A=1 --env B=2 --secret S=env:V --network=none -o out -i --exit-by-status -- a",
            "run --allow-degraded memory,cpu --runtime native --timeout 5m --pull never -v x:1 build",
            "run help",
            "build",
            "build a -t x:1 --python 3.13 --label a=b --label c=d --allow-sdist -v",
            "build --from pyproject --base python-3.11-slim --report r.json dir",
        ] {
            let whole = separated(&Cli::command(), arguments(text));
            let whole = Cli::try_parse_from(whole).unwrap();
            let read = read(&arguments(text)).unwrap();
            assert_eq!(format!("{read:?}"), format!("{whole:?}"), "{text}");
        }
    }

    #[test]
    fn others_and_wrong_ones_are_for_all_commands_to_answer() {
        for text in [
            "images ls",
            "build a b",
            "build --help",
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
