//! `gantry completions` and `gantry man`: scripts and manual pages, made from the shape of the command line.

use std::io::{self, Write};

use clap::{Arg, Command, CommandFactory};
use clap_complete::aot::{generate, Bash, Fish, Zsh};

use super::args::{Cli, Shell};
use super::error::CommandError;
use super::output::{failed, standard_output};

/// Prints the completions of `shell`.
pub(super) fn completions(shell: Shell) -> Result<u8, CommandError> {
    print(&script(shell))
}

fn script(shell: Shell) -> Vec<u8> {
    // clap_complete completes hidden options as well.
    let mut cli = Cli::command().mut_subcommand("doctor", |doctor| {
        let shown: Vec<Arg> = doctor
            .get_arguments()
            .filter(|option| !option.is_hide_set())
            .cloned()
            .collect();
        Command::new("doctor")
            .about(doctor.get_about().cloned().unwrap_or_default())
            .args(shown)
    });
    let mut text = Vec::new();
    match shell {
        Shell::Bash => generate(Bash, &mut cli, "gantry", &mut text),
        Shell::Zsh => generate(Zsh, &mut cli, "gantry", &mut text),
        Shell::Fish => generate(Fish, &mut cli, "gantry", &mut text),
    }
    text
}

/// Prints the manual page of gantry, or of the command that `words` name, as roff.
pub(super) fn manual(words: &[String]) -> Result<u8, CommandError> {
    print(&page(words)?)
}

fn page(words: &[String]) -> Result<Vec<u8>, CommandError> {
    let mut cli = Cli::command();
    // Gives each command its whole name.
    cli.build();
    let mut command = &cli;
    for word in words {
        command = command.find_subcommand(word).ok_or_else(|| {
            CommandError::Usage(format!(
                "there is no command {:?}; `gantry help` lists them",
                words.join(" ")
            ))
        })?;
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut text)
        .map_err(failed)?;
    Ok(text)
}

/// A closed pipe is a quiet success.
fn print(text: &[u8]) -> Result<u8, CommandError> {
    match standard_output().and_then(|mut stdout| stdout.write_all(text)) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error)),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command, with the words that name it.
    fn commands() -> Vec<(Vec<String>, Command)> {
        let mut cli = Cli::command();
        cli.build();
        let mut pending = vec![(Vec::new(), cli)];
        let mut found = Vec::new();
        while let Some((words, command)) = pending.pop() {
            for sub in command.get_subcommands() {
                let mut words = words.clone();
                words.push(sub.get_name().to_owned());
                pending.push((words, sub.clone()));
            }
            found.push((words, command));
        }
        found
    }

    #[test]
    fn every_command_has_a_page_with_its_own_name_and_options() {
        let commands = commands();
        assert!(commands.len() > 15, "{}", commands.len());
        for (words, command) in commands {
            let page = String::from_utf8(page(&words).unwrap()).unwrap();
            let name = [&["gantry".to_owned()], words.as_slice()].concat().join("-");
            assert!(page.contains(&format!(".TH {name} 1")), "{page}");
            for section in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION"] {
                assert!(page.contains(section), "{name}: {section}: {page}");
            }
            for option in command.get_arguments().filter(|option| !option.is_hide_set()) {
                let Some(long) = option.get_long() else { continue };
                let roff = long.replace('-', "\\-");
                assert!(page.contains(&roff), "{name}: --{long}: {page}");
            }
        }
        let unknown = page(&["no-such".to_owned()]).unwrap_err();
        assert!(matches!(unknown, CommandError::Usage(_)));
    }

    #[test]
    fn every_shell_completes_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = String::from_utf8(script(shell)).unwrap();
            for (words, command) in commands() {
                assert!(words.iter().all(|word| text.contains(word)), "{shell:?}: {words:?}");
                for hidden in command.get_arguments().filter(|option| option.is_hide_set()) {
                    let long = hidden.get_long().unwrap();
                    let spellings = [format!("--{long}"), format!("-l {long}")];
                    assert!(
                        !spellings.iter().any(|spelling| text.contains(spelling)),
                        "{shell:?}: --{long}"
                    );
                }
            }
        }
    }
}
