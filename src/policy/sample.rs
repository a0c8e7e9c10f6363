//! How much of something is looked at: all, a share, or a number.

use std::fmt;
use std::str::FromStr;

/// How many of several things are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    /// So many of a hundred, from 1 to 100.
    Percent(u8),
    /// So many.
    Count(usize),
}

/// Why a text is no sample.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read {text:?}: expected a share from 1% to 100%, or a number from 1 on")]
pub struct ParseSampleError {
    text: String,
}

impl Sample {
    /// How many that are of `all`: at least one where there is one.
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Percent(percent) => all.saturating_mul(usize::from(percent)).div_ceil(100),
            Self::Count(count) => count.min(all),
        }
    }
}

impl FromStr for Sample {
    type Err = ParseSampleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseSampleError { text: text.to_owned() };
        let sample = match text.strip_suffix('%') {
            Some(share) => share
                .parse()
                .ok()
                .filter(|share| (1..=100).contains(share))
                .map(Self::Percent),
            None => text.parse().ok().filter(|count| *count > 0).map(Self::Count),
        };
        sample.ok_or_else(refused)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_up_and_a_number_is_at_most_all() {
        for (text, all, some) in [
            ("1%", 10, 1),
            ("50%", 3, 2),
            ("100%", 7, 7),
            ("5", 3, 3),
            ("5", 9, 5),
            ("1%", 0, 0),
        ] {
            let sample: Sample = text.parse().unwrap();
            assert_eq!(sample.of(all), some, "{text} of {all}");
            assert_eq!(sample.to_string(), text);
        }
        for text in ["", "%", "0", "0%", "101%", "-1", "1.5%", "ten"] {
            assert!(text.parse::<Sample>().is_err(), "{text}");
        }
    }
}
