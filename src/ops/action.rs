//! What a queue is to do with a run that is over, derived here and nowhere else: no adapter has to know statuses.

use serde::Serialize;

use super::status::Status;

/// What is away comes back in seconds or in minutes; a queue's own back-off grows from here.
const AWAY: u64 = 10;
/// Another host may have what this one lacks; this one will not have it sooner.
const ELSEWHERE: u64 = 30;

/// What a queue is to do with its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Nothing more: the outcome is the job's result, good or bad.
    Done,
    /// To give it to somebody again.
    Retry,
    /// To put it away: another try would end in the same way.
    Dead,
}

/// The [`Action`], and what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What to do with the job.
    pub action: Action,
    /// Seconds to wait before; none unless it is to be tried again.
    pub retry_after: Option<u64>,
    /// Whether a person should look at it.
    pub alert: bool,
}

/// What to do with a job whose run ended in `status`, at its `attempt`, which counts from 1.
pub(super) fn advise(status: Status, attempt: Option<u32>) -> Advice {
    let (action, retry_after, alert) = match status {
        Status::Ok | Status::Failed | Status::Timeout | Status::Oom => (Action::Done, None, false),
        Status::Refused => (Action::Done, None, true),
        Status::Unavailable => (Action::Retry, Some(AWAY), false),
        // It says nothing about the job.
        Status::Killed => (Action::Retry, Some(0), false),
        Status::Error if attempt.is_some_and(|attempt| attempt > 1) => (Action::Dead, None, true),
        Status::Error => (Action::Retry, Some(ELSEWHERE), false),
    };
    Advice {
        action,
        retry_after,
        alert,
    }
}

/// The exit code of `--exit-by-status`, for engines that see nothing else of a run.
pub(super) fn exit_code(status: Status) -> u8 {
    match status {
        Status::Ok => 0,
        Status::Refused => 3,
        Status::Unavailable => 4,
        Status::Killed => 5,
        Status::Error => 6,
        Status::Failed => 10,
        Status::Timeout => 11,
        Status::Oom => 12,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Status; 8] = [
        Status::Ok,
        Status::Failed,
        Status::Timeout,
        Status::Oom,
        Status::Refused,
        Status::Unavailable,
        Status::Killed,
        Status::Error,
    ];

    /// The rows of the table in `docs/formats.md`: status, action, exit code.
    fn documented() -> Vec<(String, String, u8)> {
        let document = include_str!("../../docs/formats.md");
        let table = document.split("| `status` | `action` |").nth(1).unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let cells = rows.map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
        let rows = cells.map(|cells| (cells[1].replace('`', ""), cells[2].clone(), cells[3].parse().unwrap()));
        rows.collect()
    }

    #[test]
    fn the_documented_table_is_what_is_advised() {
        let rows = documented();
        assert_eq!(rows.len(), ALL.len());
        for status in ALL {
            let name = serde_json::to_value(status).unwrap();
            let (_, action, code) = rows.iter().find(|row| name == row.0.as_str()).unwrap();
            let advice = advise(status, None);
            let word = serde_json::to_value(advice.action).unwrap();
            assert!(
                action.starts_with(&format!("`{}`", word.as_str().unwrap())),
                "{status:?}: {action}"
            );
            assert_eq!(advice.alert, action.contains("`alert`"), "{status:?}");
            assert_eq!(
                advice.retry_after.is_some(),
                advice.action == Action::Retry,
                "{status:?}"
            );
            assert_eq!(exit_code(status), *code, "{status:?}");
        }
    }

    #[test]
    fn only_gantrys_own_errors_are_given_up_and_only_at_the_second_try() {
        for status in ALL {
            for attempt in [None, Some(0), Some(1), Some(2), Some(9)] {
                let is_dead = advise(status, attempt).action == Action::Dead;
                assert_eq!(
                    is_dead,
                    status == Status::Error && attempt >= Some(2),
                    "{status:?} {attempt:?}"
                );
            }
        }
    }
}
