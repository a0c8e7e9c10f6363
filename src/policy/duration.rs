//! Durations as people write them: `60s`, `500ms`, `5m`.

use std::str::FromStr;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

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
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl From<Wait> for Duration {
    fn from(wait: Wait) -> Self {
        wait.0
    }
}

/// Longest time a run may be given: a week.
const MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Parses a whole number with `ms`, `s`, `m` or `h`; a bare number is seconds. Zero and over a week are refused.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let error = || format!("parse time {text:?}: want a whole number with ms, s, m or h, more than 0 and at most 168h");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| error())?;
    let milliseconds = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(error()),
    };
    let duration = number
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
        .ok_or_else(error)?;
    if duration.is_zero() || duration > MAX {
        return Err(error());
    }
    Ok(duration)
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
            ("1h", 3_600_000),
            ("7", 7_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!("0s".parse().map(|Wait(time)| time), Ok(Duration::ZERO));
        assert_eq!("7s".parse().map(|Wait(time)| time), Ok(Duration::from_secs(7)));
        assert!("0x".parse::<Wait>().is_err());
        for text in ["", "0", "s", "-1s", "1.5s", "1d", "99999999999h", "169h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
