//! What was to be executed, and why it was not, for a person.

use rustix::io::Errno;

use crate::policy::{Bytes, Code};
use crate::sandbox::{Bundle, Obstacle, Place};

/// So much the kernel takes of an argument or a variable, with the zero at its end: 32 pages (execve(2), MAX_ARG_STRLEN).
const MOST_OF_ONE: u64 = 128 << 10;

/// Characters of a variable's name that are shown.
const MOST_OF_A_NAME: usize = 64;
/// What the kernel counts for each of them besides its bytes.
const POINTER: u64 = 8;

/// What was to be executed.
#[derive(Debug, Clone, Default)]
pub(super) struct Command {
    /// The program as the image or the caller names it.
    pub program: String,
    /// The directories it is looked for in, unless it has a slash.
    pub path: String,
    /// The directory it begins in.
    pub directory: String,
    /// How long all that it is given is, as the kernel counts it.
    pub bytes: u64,
    /// The longest of it: the name of a variable, none of an argument, and how long it is.
    pub longest: (Option<String>, u64),
}

impl Command {
    /// What `bundle` executes.
    pub(super) fn of(bundle: &Bundle) -> Self {
        let path = bundle.env.iter().find(|(name, _)| name == "PATH");
        let arguments = bundle.argv.iter().map(|text| (None, text.len()));
        let variable = |name, value: usize| (Some(name), value);
        let env = bundle.env.iter().map(|(name, value)| variable(name, value.len()));
        let secrets = bundle.secrets.iter().filter(|secret| secret.place == Place::Variable);
        let secrets = secrets.map(|secret| variable(&secret.name, secret.value.len()));
        let all = arguments.chain(env).chain(secrets);
        let all = all.map(|(name, length): (Option<&String>, usize)| {
            let length = length + name.map_or(0, |name| name.len() + "=".len()) + "\0".len();
            (name, length as u64)
        });
        let longest = all.clone().max_by_key(|(_, length)| *length);
        Self {
            program: bundle.argv.first().cloned().unwrap_or_default(),
            path: path.map(|(_, path)| path.clone()).unwrap_or_default(),
            directory: bundle.cwd.clone(),
            bytes: all.map(|(_, length)| length + POINTER).sum(),
            longest: longest
                .map(|(name, length)| (name.cloned(), length))
                .unwrap_or_default(),
        }
    }

    /// Why it was not executed.
    pub(super) fn not_executed(&self, obstacle: Obstacle, errno: i32) -> (Code, String) {
        let Self {
            program,
            path,
            directory,
            ..
        } = self;
        let answer = std::io::Error::from_raw_os_error(errno);
        match obstacle {
            Obstacle::Missing if program.contains('/') => {
                (Code::CommandNotFound, format!("{program:?} is not in the image"))
            }
            Obstacle::Missing => {
                let why = format!("{program:?} is not in the image's PATH ({path})");
                (Code::CommandNotFound, why)
            }
            Obstacle::Interpreter => {
                let why = format!("{program:?} is in the image, but the program is not that its first line or its header names to run it with");
                (Code::CommandNotFound, why)
            }
            Obstacle::Refused if errno == Errno::TOOBIG.raw_os_error() => (Code::CommandNotExecutable, self.too_long()),
            Obstacle::Refused => (
                Code::CommandNotExecutable,
                format!("{program:?} cannot be executed: {answer}"),
            ),
            Obstacle::Preparation => {
                let why = format!("{program:?} cannot begin in {directory:?}, the image's working directory: {answer}");
                (Code::WorkingDirectory, why)
            }
        }
    }

    fn too_long(&self) -> String {
        let (name, length) = &self.longest;
        // The name may be of an image, and as long as the rest.
        let name = name
            .as_ref()
            .map(|name| name.chars().take(MOST_OF_A_NAME).collect::<String>());
        let what = name.map_or_else(|| "an argument".to_owned(), |name| format!("variable {name:?}"));
        let reason = match *length > MOST_OF_ONE {
            true => format!(
                "{what} has {} bytes, and the kernel takes at most {} of each",
                length - 1,
                MOST_OF_ONE - 1
            ),
            false => format!(
                "the arguments and the variables have {} together, and the kernel takes a quarter of the limit on the stack",
                Bytes(self.bytes)
            ),
        };
        format!("{reason}: what is long goes into a file of --input (/input), or to standard input")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_obstacle_names_the_program_and_what_is_in_the_way() {
        let command = |program: &str| Command {
            program: program.to_owned(),
            path: "/usr/bin:/bin".to_owned(),
            directory: "/app".to_owned(),
            bytes: 3_000_000,
            longest: (None, 100_000),
        };
        for (obstacle, errno, program, code, says) in [
            (
                Obstacle::Missing,
                2,
                "python",
                Code::CommandNotFound,
                "\"python\" is not in the image's PATH (/usr/bin:/bin)",
            ),
            (
                Obstacle::Missing,
                2,
                "/x",
                Code::CommandNotFound,
                "\"/x\" is not in the image",
            ),
            (
                Obstacle::Interpreter,
                2,
                "/x",
                Code::CommandNotFound,
                "\"/x\" is in the image, but",
            ),
            (
                Obstacle::Refused,
                13,
                "/x",
                Code::CommandNotExecutable,
                "\"/x\" cannot be executed: Permission denied",
            ),
            (
                Obstacle::Refused,
                7,
                "/x",
                Code::CommandNotExecutable,
                "the arguments and the variables have 3.0 MB together, and",
            ),
            (
                Obstacle::Preparation,
                2,
                "/x",
                Code::WorkingDirectory,
                "\"/x\" cannot begin in \"/app\"",
            ),
        ] {
            let (found, why) = command(program).not_executed(obstacle, errno);
            assert!(found == code && why.starts_with(says), "{found:?} {why}");
        }
    }

    #[test]
    fn the_name_of_a_variable_that_is_too_long_is_one_short_line() {
        let mut bundle = Bundle::of_build(
            crate::sandbox::Purpose::Function,
            Vec::new(),
            Vec::new(),
            &[],
            crate::policy::Confinement::default(),
        );
        let name = format!("A\nerror: b{}", "c".repeat(200_000));
        bundle.env.push((name, String::new()));
        let (_, why) = Command::of(&bundle).not_executed(Obstacle::Refused, 7);
        assert!(
            why.starts_with("variable \"A\\nerror: bccc") && why.len() < 300,
            "{why}"
        );
    }
}
