//! The reasons a run can end for, as words that programs can rely on: the `code` of an outcome (`docs/formats.md`).
//!
//! A text may be worded better tomorrow; a code stays. Each error type says its own by an exhaustive match, in
//! `fn code(&self) -> Code`, beside its [`Kind`](super::Kind).

use serde::{Serialize, Serializer};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// Why a run did not end well, in one word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

codes! {
    /// The function ended with another exit code than 0.
    NonzeroExit = "nonzero_exit";
    /// A signal ended the function that gantry did not send.
    Signal = "signal";
    /// The function made a system call that the filter ends a process for (SIGSYS).
    BadSystemCall = "bad_system_call";
    /// A file in memory that the function had mapped could not grow, or was cut short (SIGBUS).
    BusError = "bus_error";
    /// The image's command is not there.
    CommandNotFound = "command_not_found";
    /// The image's command is there and cannot be executed.
    CommandNotExecutable = "command_not_executable";
    /// The image's working directory cannot be entered.
    WorkingDirectory = "working_directory";
    /// The time limit struck.
    Timeout = "timeout";
    /// The memory limit struck.
    Oom = "oom";
    /// The function left something in `/output` that is not taken.
    OutputRefused = "output_refused";
    /// What the function wrote to an `/output` on disk was over its limit.
    OutputTooLarge = "output_too_large";
    /// gantry was told to stop by a signal.
    Stopped = "stopped";
    /// The caller ended, so that nobody wants the result.
    CallerEnded = "caller_ended";
    /// The deadline passed.
    Deadline = "deadline";
    /// Somebody else killed the sandbox.
    KilledFromOutside = "killed_from_outside";
    /// A promise would not be kept, and its loss is not accepted.
    PromiseLost = "promise_lost";
    /// This machine's configuration does not allow what was asked for.
    NotAllowed = "not_allowed";
    /// All run slots of this machine were taken for as long as the run would wait.
    NoSlot = "no_slot";
    /// The run asks for more memory than all runs of this machine get together.
    OverMemoryTotal = "over_memory_total";
    /// The arguments are wrong.
    BadArguments = "bad_arguments";
    /// The caller cannot be watched, or was gone before the run began.
    NoCaller = "no_caller";
    /// The job document, or what it and the arguments ask for together, is wrong.
    BadJob = "bad_job";
    /// The configuration or the environment is wrong.
    BadConfiguration = "bad_configuration";
    /// The store has no such image.
    UnknownImage = "unknown_image";
    /// No registry could be reached, or each was too busy.
    RegistryUnavailable = "registry_unavailable";
    /// A registry refused: it does not know us, its certificate is not accepted, or its answers are not to be used.
    RegistryRefused = "registry_refused";
    /// The image cannot be run: it has no command, or is made as no sandbox can use it.
    BadImage = "bad_image";
    /// The directory for `/input` cannot be used.
    InputUnusable = "input_unusable";
    /// The directory for the files of `/output` cannot be written.
    OutputUnwritable = "output_unwritable";
    /// gantry's standard output or standard error cannot be written.
    StreamUnwritable = "stream_unwritable";
    /// There is more on gantry's standard input than may be passed on.
    InputTooLarge = "input_too_large";
    /// The value of a secret cannot be had.
    SecretUnavailable = "secret_unavailable";
    /// The disk of the store is full.
    StoreFull = "store_full";
    /// Another process holds what is needed of the store.
    StoreBusy = "store_busy";
    /// Something in the store is not what it should be.
    StoreDamaged = "store_damaged";
    /// The store is of another version of gantry.
    StoreVersion = "store_version";
    /// The store cannot be read or written.
    StoreUnusable = "store_unusable";
    /// This machine does not let gantry make a user namespace.
    NoUserNamespace = "no_user_namespace";
    /// Something else failed on the way to a sandbox, or while it was watched.
    SandboxFailed = "sandbox_failed";
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words in the first column of the table of codes in `docs/formats.md`.
    fn documented() -> Vec<&'static str> {
        let document = include_str!("../../docs/formats.md");
        let table = document.split("| `code` | `status` |").nth(1).unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        rows.map(|row| row.split('`').nth(1).unwrap()).collect()
    }

    #[test]
    fn the_documented_codes_are_the_codes() {
        let codes: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(documented(), codes);
        assert_eq!(serde_json::to_value(Code::StoreFull).unwrap(), "store_full");
    }

    #[test]
    fn a_code_is_one_word_and_means_one_thing() {
        for (at, code) in Code::ALL.iter().enumerate() {
            let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(code.name().bytes().all(is_word), "{code:?}");
            assert!(Code::ALL.iter().skip(at + 1).all(|other| other.name() != code.name()));
        }
    }
}
