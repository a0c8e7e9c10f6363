//! Answers arguments that clap refuses, and those that ask for help, which are refused to clap as well: exit code and report are those of the command that was typed, as far as its words
//! can be understood.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::CommandFactory;

use super::args::Cli;
use super::commands::run;
use super::error::CommandError;
use super::escape::escape;
use super::outlet;
use super::output::{narrate, print_error, print_line};
use super::report::Report;
use super::words::{values_of, words, Word};
use crate::oci::Reference;
use crate::ops::{ExitCodes, CANNOT_RUN};

/// The command line, as far as it can be understood when clap refuses it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Typed {
    /// The words that name the command, such as `base` and `build`.
    command: Vec<String>,
    /// The value of the command's `--report`.
    report: Option<PathBuf>,
    /// Whether the exit code is to tell the status of a run.
    by_status: bool,
    /// Whether a number below 0 stands where an option wants its value.
    has_negative_value: bool,
    /// The options behind the image of `run`, as they were typed, and the image.
    behind_image: Vec<OsString>,
    image: OsString,
}

/// Prints `error`, writes the report of a command that has one, and returns the exit code. Help that was asked for is an
/// error to clap as well: it is printed to standard output, and nothing is written.
pub(super) fn answer(error: clap::Error, arguments: &[OsString]) -> u8 {
    answer_as(error, &Typed::read(arguments))
}

fn answer_as(error: clap::Error, typed: &Typed) -> u8 {
    let is_run = typed.command == ["run"];
    let error = &with_own_tip(without_tip(error), typed);
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    if !error.use_stderr() {
        return print_help(error).unwrap_or_else(|error| {
            print_error(&error);
            error.kind().exit_code()
        });
    }
    narrate(&escape(&error.render().to_string()));
    // A report that is one of the mistakes is no place to write to.
    if let Some(path) = typed.report.as_ref().filter(|path| outlet::checked(path).is_ok()) {
        let reason = one_line(error);
        let written = Report::begin(path).and_then(|report| {
            if is_run {
                report.write(&run::refused(reason))
            } else {
                report.fail(&CommandError::Usage(reason))
            }
        });
        if let Err(error) = written {
            print_error(&error);
        }
    }
    // The codes below 124 are the workload's own: a mistake in the arguments of `run` is 125.
    match (is_run, typed.by_status) {
        (true, false) => CANNOT_RUN,
        (true, true) => run::refused(String::new()).code(ExitCodes::ByStatus),
        (false, _) => code,
    }
}

/// Prints the help of the command that `words` name, as `--help` behind them does. A name that is none is a mistake like any
/// other, with clap's suggestion; it is not one of the command that the words lead to, so no report is written.
pub(super) fn help(words: &[String]) -> u8 {
    let asked = ["gantry"]
        .into_iter()
        .chain(words.iter().map(String::as_str))
        .chain(["--help"]);
    let asked: Vec<OsString> = asked.map(OsString::from).collect();
    match Cli::command().try_get_matches_from(&asked) {
        // Words that are values of options, such as `--`: the help of gantry has the commands.
        Ok(_) => help(&[]),
        Err(error) => answer_as(error, &Typed::for_help(&asked)),
    }
}

/// The error without the tip to put `--` before a mistyped option: only the words of a function begin with `-`.
fn without_tip(mut error: clap::Error) -> clap::Error {
    if let Some(ContextValue::StyledStrs(mut tips)) = error.remove(ContextKind::Suggested) {
        tips.retain(|tip| !tip.to_string().contains("as a value"));
        if !tips.is_empty() {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
    }
    error
}

/// Commands of other tools that people type, and ours for it.
const ELSEWHERE: [(&str, &str); 12] = [
    ("ls", "images ls"),
    ("list", "images ls"),
    ("ps", "cache ls"),
    ("rm", "images rm"),
    ("rmi", "images rm"),
    ("tag", "copy"),
    ("inspect", "images show"),
    ("history", "images show"),
    ("exec", "run"),
    ("info", "doctor"),
    ("df", "cache stats"),
    ("prune", "cache gc"),
];

/// The error with a tip where clap knows none: what a command of another tool is called here, and that no value of an option is
/// negative.
fn with_own_tip(mut error: clap::Error, typed: &Typed) -> clap::Error {
    let find = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    let ours = find(ContextKind::InvalidSubcommand).filter(|_| typed.command.is_empty());
    let ours = ours.and_then(|word| ELSEWHERE.iter().find(|(theirs, _)| *theirs == word));
    let negative =
        find(ContextKind::InvalidArg).filter(|word| typed.has_negative_value && is_negative(word.as_bytes()));
    let is_unknown = error.kind() == ErrorKind::UnknownArgument;
    let meant = find(ContextKind::InvalidArg).filter(|_| is_unknown);
    let meant = meant.filter(|option| typed.is_behind_image(option)).map(str::to_owned);
    let tip = match (ours, negative, meant) {
        (Some((_, ours)), ..) => format!("here that is `gantry {ours}`"),
        (None, Some(_), _) => "no size, number or time is less than 0".to_owned(),
        (None, None, Some(option)) => {
            // Never its value: that may be a secret.
            let image = typed.image.to_str().filter(|image| image.parse::<Reference>().is_ok());
            let image = image.unwrap_or("IMAGE");
            let text = format!("what is for the function stands behind --: `gantry run {image} -- {option}`");
            let mut tips = match error.remove(ContextKind::Suggested) {
                Some(ContextValue::StyledStrs(tips)) => tips,
                _ => Vec::new(),
            };
            tips.push(text.into());
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
            return error;
        }
        (None, None, None) => return error,
    };
    // It says more than a command that is spelled almost so.
    error.remove(ContextKind::SuggestedSubcommand);
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    error
}

/// Whether a word looks like a number below 0, or a size or time.
fn is_negative(word: &[u8]) -> bool {
    matches!(word, [b'-', first, ..] if first.is_ascii_digit())
}

/// Prints the help that was asked for. It may quote the arguments, which may be a stranger's words, so it is escaped.
fn print_help(error: &clap::Error) -> Result<u8, CommandError> {
    print_line(escape(&error.render().to_string()).trim_end_matches('\n'))
}

/// The first paragraph of what clap says, on one line: the mistake without the advice.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    first.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Typed {
    /// Whether what clap calls `option` stands behind the image. Clap leaves the value out, and takes short ones apart.
    fn is_behind_image(&self, option: &str) -> bool {
        let name = |word: &[u8]| word.split(|byte| *byte == b'=').next() == Some(option.as_bytes());
        let is_short = option.len() == 2;
        self.behind_image.iter().any(|word| {
            let word = word.as_bytes();
            name(word) || (is_short && !word.starts_with(b"--") && word.starts_with(option.as_bytes()))
        })
    }

    /// Walks over `arguments` as clap does: the command is the first word that is neither an option nor its value.
    fn read(arguments: &[OsString]) -> Self {
        let root = Cli::command();
        let (mut typed, mut command) = (Self::default(), &root);
        for (at, word) in words(&root, arguments) {
            if let Word::Option(name, values) = &word {
                let mut known = command.get_arguments().chain(root.get_arguments());
                let option = known.find(|known| known.get_long().is_some_and(|long| long.as_bytes() == *name));
                let lacks_value = values.is_empty() && option.is_some_and(|option| values_of(option) > 0);
                let follows = arguments.get(at + 1).filter(|_| lacks_value);
                typed.has_negative_value |= follows.is_some_and(|word| is_negative(word.as_bytes()));
            }
            match word {
                Word::Command(name) => {
                    command = command.find_subcommand(name).unwrap_or(command);
                    typed.command.push(name.to_owned());
                }
                Word::Option(b"report", values) => {
                    typed.report = typed.report.or(values.first().map(PathBuf::from));
                }
                Word::Option(b"exit-by-status", _) => typed.by_status = true,
                Word::Argument if typed.command == ["run"] && typed.image.is_empty() => {
                    typed.image = arguments.get(at).cloned().unwrap_or_default();
                }
                Word::Option(..) if !typed.image.is_empty() => typed.behind_image.extend(arguments.get(at).cloned()),
                Word::Option(..) | Word::Argument => {}
            }
        }
        typed
    }

    /// That help was asked for: the words that name a command lead to it, and nothing of it is done.
    fn for_help(asked: &[OsString]) -> Self {
        let mut command = Self::read(asked).command;
        if !command.is_empty() {
            command.insert(0, "help".to_owned());
        }
        Self {
            command,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use clap::Parser;

    use super::*;

    fn typed(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_command_is_the_first_word_that_is_no_option_and_no_options_value() {
        for (text, command, report) in [
            ("gantry run --memory lots --report a x:1", "run", Some("a")),
            ("gantry run --report=b x:1", "run", Some("b")),
            ("gantry run x:1 -- --report c", "run", None),
            ("gantry run x:1 --report", "run", None),
            ("gantry build run --oops", "build", None),
            ("gantry build run --oops --report r", "build", Some("r")),
            ("gantry build --tag run --report run --oops", "build", Some("run")),
            ("gantry build --report=run --oops", "build", Some("run")),
            ("gantry build --oops run --report r", "build", Some("r")),
            ("gantry build d --tag --report r", "build", Some("r")),
            ("gantry build d -x --report - --report other", "build", Some("-")),
            ("gantry base build --report r --oops", "base build", Some("r")),
            ("gantry base build --report=r run", "base build", Some("r")),
            ("gantry base run --report r", "base", None),
            ("gantry --config run build --report r --oops", "build", Some("r")),
            ("gantry --config=run images", "images", None),
            ("gantry --oops run --report r", "run", Some("r")),
            ("gantry build --config run --report r", "build", Some("r")),
            ("gantry help run --report r", "help", None),
            ("gantry -- run --report r", "", None),
            ("gantry images ls --report r", "images ls", None),
            ("gantry doctor --hold a b c run --report r", "doctor", None),
            ("gantry", "", None),
        ] {
            let found = Typed::read(&typed(text));
            assert_eq!(found.command.join(" "), command, "{text}");
            assert_eq!(found.report, report.map(PathBuf::from), "{text}");
        }
        let raw = [b"gantry".as_slice(), b"run", b"--report=\xff"].map(|word| OsStr::from_bytes(word).to_owned());
        assert_eq!(
            Typed::read(&raw).report,
            Some(PathBuf::from(OsStr::from_bytes(b"\xff")))
        );
    }

    #[test]
    fn a_report_says_which_argument_on_one_line() {
        for (text, reason) in [
            ("gantry run --oops x:1", "unexpected argument '--oops' found"),
            (
                "gantry run x:1 --memory lots",
                "invalid value 'lots' for '--memory <SIZE>': parse size \"lots\"",
            ),
            (
                "gantry run x:1 --pull perhaps",
                "invalid value 'perhaps' for '--pull <WHEN>' [possible values: missing, always, never]",
            ),
            (
                "gantry save x:1",
                "the following required arguments were not provided: <FILE>",
            ),
            ("gantry no-such", "unrecognized subcommand 'no-such'"),
        ] {
            let error = Cli::try_parse_from(typed(text)).unwrap_err();
            let line = one_line(&error);
            assert!(line.starts_with(reason) && !line.contains('\n'), "{text}: {line}");
        }
    }
}
