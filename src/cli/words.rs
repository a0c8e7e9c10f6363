//! Walks over the arguments as clap does, before clap does: which word is the command, an option with its values, or an
//! argument.
//!
//! The words that follow an image are its command's, as everywhere else containers are run; clap cannot say "from the
//! second argument on", so [`separated`] puts the `--` there that a careful person would type.

use std::ffi::{OsStr, OsString};
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt;

use clap::{Arg, Command};

/// What one word is, or several that belong together.
#[derive(Debug)]
pub(super) enum Word<'a> {
    /// The name of a command.
    Command(&'a str),
    /// An option by its long name, known or not, and its values.
    Option(&'a [u8], Vec<&'a OsStr>),
    /// Something else that is no option.
    Argument,
}

/// Walks over the arguments behind the program's name, up to `--`; each word comes with its place among them.
pub(super) struct Words<'a, I: Iterator<Item = (usize, &'a OsStr)>> {
    root: &'a Command,
    command: &'a Command,
    rest: Peekable<I>,
}

/// The words of `arguments`, which begin with the program's name.
pub(super) fn words<'a>(root: &'a Command, arguments: &'a [OsString]) -> impl Iterator<Item = (usize, Word<'a>)> {
    Words {
        root,
        command: root,
        rest: arguments.iter().map(OsString::as_os_str).enumerate().skip(1).peekable(),
    }
}

impl<'a, I: Iterator<Item = (usize, &'a OsStr)>> Iterator for Words<'a, I> {
    type Item = (usize, Word<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (at, word) = self.rest.next().filter(|(_, word)| *word != "--")?;
        if let Some(option) = word.as_bytes().strip_prefix(b"--") {
            let mut halves = option.splitn(2, |byte| *byte == b'=');
            let name = halves.next().unwrap_or_default();
            let found = self.option(|argument| argument.get_long().is_some_and(|long| long.as_bytes() == name));
            let given = halves.next().map(OsStr::from_bytes);
            return Some((at, Word::Option(name, self.values(found, given))));
        }
        if is_option(word) {
            return Some((at, self.short_options(word)));
        }
        if let Some(found) = self.command.find_subcommand(word) {
            self.command = found;
            return Some((at, Word::Command(found.get_name())));
        }
        // A word that could only name a command, and names none: the rest means nothing.
        if self.command.has_subcommands() {
            return None;
        }
        Some((at, Word::Argument))
    }
}

impl<'a, I: Iterator<Item = (usize, &'a OsStr)>> Words<'a, I> {
    /// The option of the command, or of all commands, for which `is_it` holds.
    fn option(&self, is_it: impl Fn(&Arg) -> bool) -> Option<&'a Arg> {
        let mut arguments = self.command.get_arguments().chain(self.root.get_arguments());
        arguments.find(|argument| is_it(argument))
    }

    /// The values of `option`: the one behind `=`, else as many words as it takes.
    fn values(&mut self, option: Option<&Arg>, given: Option<&'a OsStr>) -> Vec<&'a OsStr> {
        let mut values: Vec<&OsStr> = given.into_iter().collect();
        while values.len() < option.map_or(0, values_of) {
            match self.rest.next_if(|(_, word)| !is_option(word)) {
                Some((_, value)) => values.push(value),
                None => break,
            }
        }
        values
    }

    /// `-vq`, `-m 1G` or `-m1G`: the last one, with its value.
    fn short_options(&mut self, word: &'a OsStr) -> Word<'a> {
        let text = word.to_str().unwrap_or_default();
        for (at, letter) in text.char_indices().skip(1) {
            let found = self.option(|argument| argument.get_short() == Some(letter));
            let Some(option) = found.filter(|option| values_of(option) > 0) else {
                continue;
            };
            let after = text.get(at + letter.len_utf8()..).unwrap_or_default();
            let given = after.strip_prefix('=').unwrap_or(after);
            let name = option.get_long().unwrap_or_default().as_bytes();
            return Word::Option(name, self.values(found, (!after.is_empty()).then(|| given.as_ref())));
        }
        Word::Option(b"", Vec::new())
    }
}

/// How many words follow an option.
pub(super) fn values_of(option: &Arg) -> usize {
    let unless_said = usize::from(option.get_action().takes_values());
    option.get_num_args().map_or(unless_said, |values| values.min_values())
}

/// A single `-` is a value: standard input or output.
fn is_option(word: &OsStr) -> bool {
    word.len() > 1 && word.as_bytes().starts_with(b"-")
}

/// The arguments with `--` before the second argument of `run`: it and what follows are for the image's command.
pub(super) fn separated(root: &Command, mut arguments: Vec<OsString>) -> Vec<OsString> {
    if let Some(at) = second_argument(root, &arguments) {
        arguments.insert(at, "--".into());
    }
    arguments
}

/// Where the word stands that follows the image of `run`.
fn second_argument(root: &Command, arguments: &[OsString]) -> Option<usize> {
    let (mut is_run, mut has_image) = (false, false);
    for (at, word) in words(root, arguments) {
        match word {
            Word::Command("run") if !is_run => is_run = true,
            // Not the words of another command, nor a job's: its arguments come behind `--`.
            Word::Command(_) | Word::Option(b"job", _) => return None,
            Word::Option(..) => {}
            Word::Argument if has_image => return is_run.then_some(at),
            Word::Argument => has_image = true,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::args::Cli;

    #[test]
    fn what_follows_the_image_is_its_commands() {
        for (typed, meant) in [
            ("run x:1 a b", "run x:1 -- a b"),
            ("run x:1 a --memory 1G -- b", "run x:1 -- a --memory 1G -- b"),
            ("run -m 1G x:1 a -m", "run -m 1G x:1 -- a -m"),
            ("run -m1G -q x:1 a", "run -m1G -q x:1 -- a"),
            ("run -qm 1G x:1 a", "run -qm 1G x:1 -- a"),
            (
                "--config c run -e A=1 --network=none x:1 a",
                "--config c run -e A=1 --network=none x:1 -- a",
            ),
            ("run x:1 --memory 1G a", "run x:1 --memory 1G -- a"),
            ("run x:1 - a", "run x:1 -- - a"),
            ("run x:1", "run x:1"),
            ("run x:1 --memory 1G", "run x:1 --memory 1G"),
            ("run x:1 -- a b", "run x:1 -- a b"),
            ("run --job j x:1 a", "run --job j x:1 a"),
            ("build a b", "build a b"),
            ("images rm a b", "images rm a b"),
            ("copy run a", "copy run a"),
            ("nonsense run x:1 a", "nonsense run x:1 a"),
        ] {
            let arguments = |text: &str| {
                format!("gantry {text}")
                    .split(' ')
                    .map(OsString::from)
                    .collect::<Vec<_>>()
            };
            assert_eq!(
                separated(&Cli::command(), arguments(typed)),
                arguments(meant),
                "{typed}"
            );
        }
    }
}
