//! Days: the file that a day's events are in, and the calendar that its name is of.

use std::time::{Duration, SystemTime};

/// How the file of a day ends.
const ENDING: &str = ".jsonl";
pub(crate) const SECONDS_A_DAY: u64 = 86_400;
/// Days of four centuries, after which the calendar repeats itself.
const DAYS_AN_ERA: u64 = 146_097;
/// Days from the first of March of the year 0.
const DAYS_TO_1970: u64 = 719_468;

/// The file of the day that `at`, in seconds since 1970, belongs to.
pub(super) fn file_name(at: u64) -> String {
    let (year, month, day) = date(at / SECONDS_A_DAY);
    format!("{year:04}-{month:02}-{day:02}{ENDING}")
}

/// The day, counted from 1970, whose file is called `name`: by its date, or by that very number, as earlier versions of
/// gantry did. None for any other name.
pub(crate) fn day_of(name: &str) -> Option<u64> {
    let day = name.strip_suffix(ENDING)?;
    if !day.contains('-') {
        return day.parse().ok();
    }
    let mut numbers = day.splitn(3, '-').map(|number| number.parse::<u64>().ok());
    let (year, month, day) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let days = days(year, month, day)?;
    (date(days) == (year, month, day)).then_some(days)
}

/// Year, month and day of a day counted from 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_TO_1970;
    let (era, day_of_era) = (days / DAYS_AN_ERA, days % DAYS_AN_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin in March here, so that a leap day is a year's last.
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// The days from 1970 to a date; none for a month or a day that no year has, or a time before 1970.
pub(crate) fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year > 9999 {
        return None;
    }
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * DAYS_AN_ERA + day_of_era).checked_sub(DAYS_TO_1970)
}

/// Seconds since 1970 of a time; 0 for earlier ones.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_found_by_its_date_and_by_its_number() {
        for (seconds, name) in [
            (0, "1970-01-01.jsonl"),
            (951_782_400, "2000-02-29.jsonl"),
            (951_868_800, "2000-03-01.jsonl"),
            (1_796_000_000, "2026-11-30.jsonl"),
            (4_102_444_799, "2099-12-31.jsonl"),
        ] {
            assert_eq!(file_name(seconds), name);
            assert_eq!(day_of(name), Some(seconds / SECONDS_A_DAY));
        }
        for day in 0..80_000 {
            let name = file_name(day * SECONDS_A_DAY);
            assert_eq!(day_of(&name), Some(day), "{name}");
        }
        assert_eq!(day_of("20786.jsonl"), Some(20_786));
        for name in [
            "2026-02-29.jsonl",
            "2026-13-01.jsonl",
            "2026-11.jsonl",
            "notes",
            "2026-11-29",
            "1969-12-31.jsonl",
        ] {
            assert_eq!(day_of(name), None, "{name}");
        }
    }
}
