//! Values as people type them, for help texts and for the configuration file that is written: `512M`, `60s`, `5m`.

use std::time::Duration;

use super::Bytes;

/// A value that can be typed.
pub trait Typed {
    /// The shortest text that means this very value.
    fn typed(&self) -> String;
}

impl Typed for Bytes {
    fn typed(&self) -> String {
        let units = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
        let fits = |(_, shift): &&(&str, u32)| self.0 > 0 && self.0.trailing_zeros() >= *shift;
        match units.iter().find(fits) {
            Some((unit, shift)) => format!("{}{unit}", self.0 >> shift),
            None => self.0.to_string(),
        }
    }
}

/// A size that somebody gave, as it may have been typed: `64K`, `200.0 MB`, `1999 B`.
pub fn as_given(bytes: Bytes) -> String {
    let binary = Some(bytes.typed()).filter(|text| text.ends_with(|last: char| last.is_ascii_alphabetic()));
    let decimal = Some(bytes.to_string()).filter(|text| text.parse() == Ok(bytes));
    // Who could have typed both has typed the shorter one.
    let texts = binary.into_iter().chain(decimal);
    texts
        .min_by_key(String::len)
        .unwrap_or_else(|| format!("{} B", bytes.0))
}

/// A limit beside what was measured: as it may have been typed, and in the units of what was measured: `64K (65.5 KB)`, `200.0 MB`.
pub fn as_limit(bytes: Bytes) -> String {
    let (given, decimal) = (as_given(bytes), bytes.to_string());
    match given == decimal {
        true => decimal,
        false => format!("{given} ({decimal})"),
    }
}

impl Typed for Duration {
    /// Zero is "none": no time can be typed that is nothing.
    fn typed(&self) -> String {
        let (seconds, rest) = (self.as_secs(), self.subsec_millis());
        match seconds {
            0 if rest == 0 => "none".to_owned(),
            _ if rest > 0 => format!("{}ms", self.as_millis()),
            _ if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
            // A minute is said in seconds by most.
            _ if seconds % 60 == 0 && seconds > 60 => format!("{}m", seconds / 60),
            _ => format!("{seconds}s"),
        }
    }
}

impl Typed for f64 {
    fn typed(&self) -> String {
        self.to_string()
    }
}

impl Typed for u32 {
    fn typed(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parse_duration;

    #[test]
    fn a_limit_is_said_in_the_units_that_it_was_given_in() {
        for (text, alone, beside) in [
            ("64K", "64K", "64K (65.5 KB)"),
            ("1G", "1G", "1G (1.1 GB)"),
            ("200MB", "200.0 MB", "200.0 MB"),
            ("40GB", "40.0 GB", "40.0 GB"),
            ("777", "777 B", "777 B"),
            ("1999", "1999 B", "1999 B (2.0 KB)"),
            ("1000K", "1000K", "1000K (1.0 MB)"),
            ("100K", "100K", "100K (102.4 KB)"),
            ("0", "0 B", "0 B"),
        ] {
            let bytes = text.parse().unwrap();
            assert_eq!((&*as_given(bytes), &*as_limit(bytes)), (alone, beside));
        }
    }

    #[test]
    fn what_is_shown_means_the_value_when_it_is_typed() {
        for (bytes, text) in [
            (512 << 20, "512M"),
            (3 << 29, "1536M"),
            (0, "0"),
            (1000, "1000"),
            (1 << 30, "1G"),
        ] {
            assert_eq!(Bytes(bytes).typed(), text);
            assert_eq!(text.parse(), Ok(Bytes(bytes)));
        }
        for (milliseconds, text) in [(60_000, "60s"), (300_000, "5m"), (500, "500ms"), (86_400_000, "24h")] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(duration.typed(), text);
            assert_eq!(parse_duration(text), Ok(duration));
        }
        assert_eq!(
            (Duration::ZERO.typed(), 1.0.typed(), 64u32.typed()),
            ("none".into(), "1".into(), "64".into())
        );
    }
}
