//! Durations as people write them: `60s`, `500ms`, `5m`, `5m30s`, `1.5h`, `5 min`.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// How long something is waited for: any time, and none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait(Duration);

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if ["0", "0s"].contains(&text) {
            return Ok(Self(Duration::ZERO));
        }
        parse_duration(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_duration(deserializer)
    }
}

impl From<Wait> for Duration {
    fn from(wait: Wait) -> Self {
        wait.0
    }
}

/// Longest time a run may be given: a week.
const MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// A number of more digits is no time that anybody means.
const MAX_DIGITS: usize = 12;

/// Parses numbers with `ms`, `s`, `m`, `h` or `d` (or longer words for them), the largest unit first; a bare number is
/// seconds. Zero and over a week are refused.
///
/// # Errors
///
/// The text says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text)
        .filter(|duration| !duration.is_zero() && *duration <= MAX)
        .ok_or_else(|| {
            let text: String = text.chars().take(100).collect();
            format!("parse time {text:?}: want a number with ms, s, m, h or d, such as 90s, 5m30s or 1.5h, more than 0 and at most 168h")
        })
}

/// Parses how old something is, as [`parse_duration`], up to ten years. A number without a unit is refused: who types 7 means
/// days.
///
/// # Errors
///
/// The text says what was expected.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    const MAX_AGE: Duration = Duration::from_secs(3653 * 24 * 3600);
    let has_unit = text.contains(|character: char| character.is_ascii_alphabetic());
    let age = parse(text).filter(|age| has_unit && !age.is_zero() && *age <= MAX_AGE);
    age.ok_or_else(|| {
        let text: String = text.chars().take(100).collect();
        format!(
            "parse age {text:?}: want a number with ms, s, m, h or d, such as 12h or 7d, more than 0 and at most 3653d"
        )
    })
}

/// Reads a time of a document: a text, or a number of seconds.
pub fn deserialize_duration<'de, T: FromStr<Err = String>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Written<T>(PhantomData<T>);
    impl<T: FromStr<Err = String>> Visitor<'_> for Written<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a time such as \"5m30s\" or a number of seconds")
        }
        fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
            self.visit_str(&value.to_string())
        }
        fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
            self.visit_str(&value.to_string())
        }
        fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
            self.visit_str(&value.to_string())
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Written(PhantomData))
}

/// What the units are called, the largest first, and their milliseconds.
const UNITS: [(&[&str], u64); 5] = [
    (&["d", "day", "days"], 86_400_000),
    (&["h", "hr", "hrs", "hour", "hours"], 3_600_000),
    (&["m", "min", "mins", "minute", "minutes"], 60_000),
    (&["s", "sec", "secs", "second", "seconds"], 1_000),
    (&["ms", "msec", "milliseconds"], 1),
];

fn parse(text: &str) -> Option<Duration> {
    let (mut rest, mut units, mut milliseconds) = (text, UNITS.as_slice(), 0u64);
    loop {
        let (number, after) = split_at(rest, |character| !character.is_ascii_digit() && character != '.');
        let (word, after) = split_at(after.strip_prefix(' ').unwrap_or(after), |character| {
            !character.is_ascii_alphabetic()
        });
        // A bare number stands alone.
        let word = if word.is_empty() && number == text { "s" } else { word };
        let at = units.iter().position(|(names, _)| names.contains(&word))?;
        let (_, factor) = units.get(at)?;
        milliseconds = milliseconds.checked_add(times(number, *factor)?)?;
        rest = after.trim_start_matches(' ');
        if rest.is_empty() {
            return Some(Duration::from_millis(milliseconds));
        }
        units = units.get(at + 1..)?;
    }
}

/// Splits before the first character that `ends` says something about.
fn split_at(text: &str, ends: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// A decimal `number` times `factor`.
fn times(number: &str, factor: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str| {
        !digits.is_empty() && digits.len() <= MAX_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !is_number(whole) || !is_number(part) {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(part.len()).ok()?);
    let part = u64::try_from(part.parse::<u128>().ok()? * u128::from(factor) / scale).ok()?;
    whole.parse::<u64>().ok()?.checked_mul(factor)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units_and_refuses_the_rest() {
        for (text, milliseconds) in [
            ("60s", 60_000),
            ("500ms", 500),
            ("5m", 300_000),
            ("5min", 300_000),
            ("5 min", 300_000),
            ("5m30s", 330_000),
            ("1h 30m", 5_400_000),
            ("1.5s", 1_500),
            ("1.5h", 5_400_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("7d", 604_800_000),
            ("7", 7_000),
            ("0.5", 500),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!("0s".parse().map(|Wait(time)| time), Ok(Duration::ZERO));
        assert_eq!("7s".parse().map(|Wait(time)| time), Ok(Duration::from_secs(7)));
        assert!("0x".parse::<Wait>().is_err());
        for text in [
            "",
            "0",
            "s",
            "-1s",
            "8d",
            "99999999999h",
            "169h",
            "30s5m",
            "5m5m",
            "5m30",
            "1..5s",
            "1.s",
            ".5s",
            "5x",
            "1e3s",
            "5 m i n",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_age_has_a_unit() {
        assert_eq!(parse_age("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(parse_age("3653d"), Ok(Duration::from_secs(3653 * 86_400)));
        for text in ["7", "0.5", "0d", "3654d", ""] {
            assert!(parse_age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_number_in_a_document_is_seconds() {
        let read = |text: &str| serde_json::from_str::<Wait>(text).ok().map(Duration::from);
        assert_eq!(read("5"), Some(Duration::from_secs(5)));
        assert_eq!(read("0"), Some(Duration::ZERO));
        assert_eq!(read("0.25"), Some(Duration::from_millis(250)));
        assert_eq!(read("\"5m30s\""), Some(Duration::from_secs(330)));
        for text in ["-1", "true", "[5]", "null", "1e30"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
