//! What a failure calls for: the same registry again, a new token, the next registry, or the end. One table, and how long
//! to wait before another try.

use std::time::Duration;

use crate::journal;
use crate::sys::clock;

/// A sort of failure. Every [`RegistryError`](super::RegistryError) is of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Unreachable,
    Unresolved,
    Silent,
    Broken,
    ServerError,
    Elsewhere,
    Busy,
    Unauthorized,
    Denied,
    NotFound,
    WrongBytes,
    NotARegistry,
    Untrusted,
    Plain,
    Redirect,
    Login,
    TooLarge,
    Refused,
    Setup,
}

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// This registry is asked again, after a pause; in the end the next one.
    Retry,
    /// A new token is fetched, once, and the request is made again at once.
    Refresh,
    /// The next registry is asked.
    Next,
    /// No registry can be asked.
    Fatal,
}

/// Every sort of failure, what it calls for, and why.
const TABLE: [(Failure, Step, &str); 19] = [
    (
        Failure::Unreachable,
        Step::Retry,
        "nobody accepts a connection: a restart takes a second, an outage longer",
    ),
    (
        Failure::Unresolved,
        Step::Next,
        "its name has no address: it is mistyped, or the name servers here do not know it, and will not in a second",
    ),
    (Failure::Silent, Step::Retry, "accepted, and no answer in time"),
    (
        Failure::Broken,
        Step::Retry,
        "a connection broke, or a body ended early",
    ),
    (
        Failure::ServerError,
        Step::Retry,
        "5xx but 501 and 505, and what proxies make of them",
    ),
    (
        Failure::Elsewhere,
        Step::Retry,
        "the storage that it sends us to refuses: a link ends after some minutes, or one object is damaged",
    ),
    (
        Failure::Busy,
        Step::Retry,
        "408, 425, 429: it says itself that another time is better",
    ),
    (
        Failure::Unauthorized,
        Step::Refresh,
        "401: a token ends in mid-transfer",
    ),
    (
        Failure::Denied,
        Step::Next,
        "403, or no token for these credentials: another registry knows other ones",
    ),
    (Failure::NotFound, Step::Next, "404: another registry may have it"),
    (
        Failure::WrongBytes,
        Step::Retry,
        "other bytes than were promised: a cache between us may be at fault, once",
    ),
    (
        Failure::NotARegistry,
        Step::Retry,
        "a page, or half a manifest: a portal or a proxy answers in its place, or it is ill; once it may be an accident",
    ),
    (
        Failure::Untrusted,
        Step::Next,
        "nobody vouches for its certificate, and will not in a second",
    ),
    (
        Failure::Plain,
        Step::Next,
        "it does not speak TLS, and will not in a second",
    ),
    (Failure::Redirect, Step::Next, "it sends us where we do not go"),
    (
        Failure::Login,
        Step::Next,
        "our own credentials for it cannot be had: those of the next one may",
    ),
    (
        Failure::TooLarge,
        Step::Next,
        "an answer without end: another registry has the one that was meant",
    ),
    (
        Failure::Refused,
        Step::Next,
        "400, 402, 405, 451 and all others: what stands before one registry stands before no other",
    ),
    (Failure::Setup, Step::Fatal, "this machine cannot do TLS"),
];

impl Failure {
    /// What it calls for.
    pub(crate) fn step(self) -> Step {
        let row = TABLE.iter().find(|(failure, ..)| *failure == self);
        row.map_or(Step::Fatal, |(_, step, _)| *step)
    }

    /// What a status of 400 or more is.
    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            401 => Self::Unauthorized,
            403 => Self::Denied,
            404 | 410 => Self::NotFound,
            408 | 425 | 429 => Self::Busy,
            // 499 and 52x are what proxies say of a server behind them; 501 and 505 are about the request.
            499 | 500 | 502..=504 | 506..=508 | 520..=599 => Self::ServerError,
            _ => Self::Refused,
        }
    }

    /// Whether another registry may say what a tag means when this one fails so. A path may be somebody else's there, so one
    /// that answers counts, whatever it answers: only one that does not leads on. What is called by its digest is the same
    /// everywhere.
    pub(crate) fn leads_on_by_tag(self) -> bool {
        self.is_outage() || matches!(self, Self::Busy | Self::Unresolved)
    }

    /// Whether it says that the registry is there for nobody of this machine, or not for us, without costing any time: what it
    /// was asked for does not matter.
    pub(crate) fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Unresolved | Self::Unauthorized | Self::Denied | Self::Untrusted | Self::Plain | Self::Login
        )
    }

    /// Whether it says that the registry is away, and not something about the request, or about its name: that costs no time
    /// to find out again, and the host may be one that is not there at all.
    pub(crate) fn is_outage(self) -> bool {
        match self {
            Self::Unreachable | Self::Silent | Self::Broken | Self::ServerError | Self::NotARegistry => true,
            Self::Busy
            | Self::Unresolved
            | Self::Elsewhere
            | Self::Unauthorized
            | Self::Denied
            | Self::NotFound
            | Self::WrongBytes
            | Self::Untrusted
            | Self::Plain
            | Self::Redirect
            | Self::Login
            | Self::TooLarge
            | Self::Refused
            | Self::Setup => false,
        }
    }
}

/// Before the second try; doubled each time.
const FIRST: Duration = Duration::from_millis(200);
/// Longest pause that is not asked for.
const LONGEST: Duration = Duration::from_secs(10);

/// The pause after the `tried`th try: anything up to the double of the one before (full jitter), and at least half of
/// it, so that those that a busy registry turned away together do not come back together.
pub(crate) fn pause(tried: u32) -> Duration {
    let whole = FIRST
        .saturating_mul(2u32.saturating_pow(tried.saturating_sub(1)))
        .min(LONGEST);
    let mut random = [0];
    // Without randomness the pause is still right, only less polite.
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::NONBLOCK);
    whole / 2 + whole / 2 * u32::from(random[0]) / 255
}

/// The pause after the `tried`th try of a request whose answer asks to wait: not less than that, not less than it would be
/// otherwise, and not the same for all that were turned away together.
pub(crate) fn asked_pause(asked: Duration, tried: u32) -> Duration {
    let own = pause(tried);
    if asked <= own {
        return own;
    }
    asked + own
}

/// How long an answer asks to wait: its header in seconds or as a date, else what its body says.
pub(super) fn retry_after(header: Option<&str>, body: &str) -> Option<Duration> {
    let of_header = header.and_then(|text| {
        let text = text.trim();
        let seconds = text
            .parse::<f64>()
            .ok()
            .filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
        seconds
            .map(|seconds| Duration::from_secs_f64(seconds.min(86_400.0)))
            .or_else(|| until(text))
    });
    of_header.or_else(|| in_body(body))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that is sent (RFC 9110 section 5.6.7).
fn until(date: &str) -> Option<Duration> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = date.split_once(", ")?.1.split(' ');
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = MONTHS.find(month).filter(|at| at % 3 == 0 && month.len() == 3)? / 3 + 1;
    let (day, year) = (day.parse::<u64>().ok()?, year.parse::<u64>().ok()?);
    let mut clock_of = time.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock_of.next()??, clock_of.next()??, clock_of.next()??);
    let days = journal::days(year, u64::try_from(month).ok()?, day)?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let then = days * 86_400 + hour * 3600 + minute * 60 + second;
    let now = clock::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(then).saturating_sub(now))
}

/// `retry-after: 880.092µs`, in the words of Go, as one registry says it in the text of an error.
fn in_body(body: &str) -> Option<Duration> {
    let text = body.split_once("retry-after: ")?.1;
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.')?;
    let (number, rest) = text.split_at(end);
    let seconds = match rest {
        _ if rest.starts_with("ms") => 1e-3,
        _ if rest.starts_with("µs") || rest.starts_with("us") => 1e-6,
        _ if rest.starts_with("ns") => 1e-9,
        _ if rest.starts_with('s') => 1.0,
        _ if rest.starts_with('m') => 60.0,
        _ => return None,
    };
    let number = number.parse::<f64>().ok()?;
    Some(Duration::from_secs_f64((number * seconds).clamp(0.0, 86_400.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_one_row() {
        let of = |step: Step| -> Vec<Failure> {
            let rows = TABLE.iter().filter(|row| row.1 == step);
            rows.map(|(failure, ..)| *failure).collect()
        };
        let tried_again = [
            Failure::Unreachable,
            Failure::Silent,
            Failure::Broken,
            Failure::ServerError,
            Failure::Elsewhere,
            Failure::Busy,
            Failure::WrongBytes,
            Failure::NotARegistry,
        ];
        let left = [
            Failure::Unresolved,
            Failure::Denied,
            Failure::NotFound,
            Failure::Untrusted,
            Failure::Plain,
            Failure::Redirect,
            Failure::Login,
            Failure::TooLarge,
            Failure::Refused,
        ];
        assert_eq!(of(Step::Retry), tried_again);
        assert_eq!(of(Step::Refresh), [Failure::Unauthorized]);
        assert_eq!(of(Step::Next), left);
        assert_eq!(of(Step::Fatal), [Failure::Setup]);
        let by_tag = TABLE.iter().filter(|row| row.0.leads_on_by_tag());
        let (first, others) = (&tried_again[..1], &tried_again[1..4]);
        let last = [Failure::Busy, Failure::NotARegistry];
        let outages = [first, &[Failure::Unresolved], others, &last].concat();
        assert_eq!(by_tag.map(|row| row.0).collect::<Vec<_>>(), outages);
    }

    #[test]
    fn a_status_is_of_one_sort() {
        for (status, failure, step) in [
            (400, Failure::Refused, Step::Next),
            (402, Failure::Refused, Step::Next),
            (401, Failure::Unauthorized, Step::Refresh),
            (403, Failure::Denied, Step::Next),
            (404, Failure::NotFound, Step::Next),
            (405, Failure::Refused, Step::Next),
            (406, Failure::Refused, Step::Next),
            (408, Failure::Busy, Step::Retry),
            (410, Failure::NotFound, Step::Next),
            (413, Failure::Refused, Step::Next),
            (416, Failure::Refused, Step::Next),
            (425, Failure::Busy, Step::Retry),
            (429, Failure::Busy, Step::Retry),
            (500, Failure::ServerError, Step::Retry),
            (451, Failure::Refused, Step::Next),
            (501, Failure::Refused, Step::Next),
            (502, Failure::ServerError, Step::Retry),
            (503, Failure::ServerError, Step::Retry),
            (504, Failure::ServerError, Step::Retry),
            (505, Failure::Refused, Step::Next),
            (507, Failure::ServerError, Step::Retry),
            (522, Failure::ServerError, Step::Retry),
        ] {
            assert_eq!(
                (Failure::of_status(status), failure.step()),
                (failure, step),
                "{status}"
            );
        }
    }

    #[test]
    fn a_registry_is_taken_at_its_word_about_another_try() {
        let ms = |milliseconds| Some(Duration::from_millis(milliseconds));
        for (header, body, expected) in [
            (Some("2"), "", ms(2000)),
            (Some(" 0.5 "), "", ms(500)),
            (Some("-1"), "", None),
            (Some("soon"), "", None),
            (Some("Sun, 06 Nov 1994 08:49:37 GMT"), "", ms(0)),
            (Some("Sun, 31 Foo 1994 08:49:37 GMT"), "", None),
            (
                None,
                "toomanyrequests: retry-after: 250ms, allowed: 44000/minute",
                ms(250),
            ),
            (None, "retry-after: 1.5s", ms(1500)),
            (None, "retry-after: 2m1s", ms(120_000)),
            (None, "retry-after: soon", None),
            (None, "", None),
        ] {
            assert_eq!(retry_after(header, body), expected, "{header:?} {body:?}");
        }
        let micro = retry_after(None, "retry-after: 880.092µs, allowed").unwrap();
        assert!(
            micro > Duration::from_micros(800) && micro < Duration::from_micros(900),
            "{micro:?}"
        );
        let future = retry_after(Some("Fri, 31 Dec 2999 00:00:00 GMT"), "").unwrap();
        assert!(future > Duration::from_secs(1 << 30));
    }

    #[test]
    fn a_pause_that_is_asked_for_shortens_none() {
        for tried in 1..8 {
            let least = FIRST.saturating_mul(1 << (tried - 1)).min(LONGEST) / 2 - Duration::from_nanos(9);
            for asked in [Duration::ZERO, Duration::from_micros(880), Duration::from_secs(15)] {
                let pause = asked_pause(asked, tried);
                assert!(
                    pause >= asked.max(least) && pause <= asked + LONGEST,
                    "{tried} {asked:?}: {pause:?}"
                );
            }
        }
        let second = Duration::from_secs(15);
        let different: std::collections::BTreeSet<_> = (0..50).map(|_| asked_pause(second, 3)).collect();
        assert!(different.len() > 1, "not all come back in the same instant");
    }

    #[test]
    fn pauses_grow_and_differ() {
        for tried in 1..8 {
            let whole = FIRST.saturating_mul(1 << (tried - 1)).min(LONGEST);
            for _ in 0..50 {
                let pause = pause(tried);
                assert!(
                    pause >= whole / 2 - Duration::from_nanos(9) && pause <= whole,
                    "{tried}: {pause:?}"
                );
            }
        }
    }
}
