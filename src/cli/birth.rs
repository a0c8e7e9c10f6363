//! The first moments of a run: when gantry was started, and by whom, looked at before anything else is done.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use super::error::CommandError;
use crate::config::is_started_by_systemd;
use crate::ops::CallerMode;
use crate::sandbox::{Caller, NoCaller, Signals};

/// When this process began, and who called it.
#[derive(Debug)]
pub(super) struct Birth {
    /// Deadlines count from here.
    pub at: Instant,
    caller: Option<Result<Option<Caller>, NoCaller>>,
}

impl Birth {
    /// Looks at this process; at its caller when `arguments` name a job.
    pub(super) fn of_this_process(arguments: &[OsString]) -> Self {
        let at = Instant::now();
        let words = arguments
            .iter()
            .map(|word| word.as_bytes())
            .take_while(|word| *word != b"--");
        let mut words = words.filter(|word| *word == b"--job" || word.starts_with(b"--job="));
        let has_job = words.next().is_some();
        let caller = has_job.then(|| Caller::find(is_started_by_systemd));
        Self { at, caller }
    }

    /// This birth when no job is run: nobody is watched. A function's own argument may look like ours.
    pub(super) fn without_job(self) -> Self {
        Self { caller: None, ..self }
    }

    /// Makes the end of the caller end the run from now on. Whether there is one that can be waited for is said later, by
    /// [`Watched::go_on`]: the job itself may say that nobody is.
    pub(super) fn watch(mut self, signals: &mut Signals) -> Result<Watched, NoCaller> {
        let refused = match self.caller.take() {
            None | Some(Ok(None)) => None,
            Some(Err(error)) => Some(error),
            Some(Ok(Some(caller))) => match caller.own() {
                Ok(caller) => {
                    signals.end_with(caller)?;
                    None
                }
                Err(error) => Some(error),
            },
        };
        Ok(Watched { refused })
    }
}

/// Whether the end of the caller is waited for.
#[derive(Debug, Default)]
pub(super) struct Watched {
    refused: Option<NoCaller>,
}

impl Watched {
    /// Fails when nobody can be waited for, whatever the job may say.
    ///
    /// # Errors
    ///
    /// As [`go_on`](Self::go_on).
    pub(super) fn expect_caller(&mut self) -> Result<(), CommandError> {
        self.refused.take().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Goes on in the way that `mode` says: with the caller unless it is to be detached.
    ///
    /// # Errors
    ///
    /// Nobody can be waited for, and somebody should.
    pub(super) fn go_on(self, mode: Option<CallerMode>, signals: &mut Signals) -> Result<(), CommandError> {
        match (mode, self.refused) {
            (Some(CallerMode::Detached), _) => Ok(signals.let_caller_go().map_err(NoCaller::from)?),
            (Some(CallerMode::Watch) | None, Some(error)) => Err(error.into()),
            (Some(CallerMode::Watch) | None, None) => Ok(()),
        }
    }
}
