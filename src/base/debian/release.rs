//! The signed index of a suite: `InRelease`, which names the suite, when it was made, and the hash of every list.
//!
//! What is read here is only ever the text that the signature covers. The suite has to be the one that was asked for:
//! whoever answers can sign nothing, but could serve another suite's index.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::oci::Digest;

/// How much a clock may be behind that of the archive.
const CLOCK: Duration = Duration::from_secs(24 * 3600);

/// What an index says that matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Release {
    /// Whether lists are there by their hash, too: no update of the archive comes between an index and its lists then.
    pub by_hash: bool,
    files: BTreeMap<String, Listed>,
}

/// A list of packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Path below the suite.
    pub path: String,
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

impl Release {
    /// Reads the signed text of the index of `suite`.
    pub(crate) fn parse(text: &str, suite: &str, now: SystemTime) -> Result<Self, String> {
        let (fields, files) = read(text)?;
        let field = |name: &str| fields.get(name).copied();
        let codename = field("Codename").unwrap_or_default();
        if codename != suite {
            return Err(format!("it is the index of {codename:?}, not of {suite:?}"));
        }
        let date = |name: &str| {
            let parse = |text: &str| parse_date(text).ok_or_else(|| format!("its {name} {text:?} is no date"));
            field(name).map(parse).transpose()
        };
        let made = date("Date")?.ok_or("it has no Date")?;
        if made > now + CLOCK {
            return Err("it is from the future, or the clock of this machine is wrong".to_owned());
        }
        if date("Valid-Until")?.is_some_and(|until| until < now) {
            let until = field("Valid-Until").unwrap_or_default();
            return Err(format!("it was valid until {until}"));
        }
        Ok(Self {
            by_hash: field("Acquire-By-Hash") == Some("yes"),
            files,
        })
    }

    /// The list of the packages of `main` for amd64, in the smallest form that can be read.
    pub(crate) fn packages(&self) -> Option<&Listed> {
        let forms = ["main/binary-amd64/Packages.xz", "main/binary-amd64/Packages.gz"];
        forms.into_iter().find_map(|path| self.files.get(path))
    }
}

type Fields<'a> = BTreeMap<&'a str, &'a str>;

/// One paragraph of fields, and the files of `SHA256`.
fn read(text: &str) -> Result<(Fields<'_>, BTreeMap<String, Listed>), String> {
    let (mut fields, mut files, mut current) = (Fields::new(), BTreeMap::new(), "");
    for line in text.trim_end().lines() {
        if let Some(more) = line.strip_prefix([' ', '\t']) {
            if current == "SHA256" {
                let listed = listed(more).ok_or_else(|| format!("it has a damaged line {line:?}"))?;
                if files.insert(listed.path.clone(), listed).is_some() {
                    return Err(format!("it lists a file twice: {line:?}"));
                }
            }
            continue;
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| format!("it has a damaged line {line:?}"))?;
        if fields.insert(name, value.trim()).is_some() {
            return Err(format!("it has {name:?} twice"));
        }
        current = name;
    }
    Ok((fields, files))
}

/// `hash size path`.
fn listed(line: &str) -> Option<Listed> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [hash, size, path] = words.as_slice() else {
        return None;
    };
    let sha256 = format!("sha256:{hash}").parse().ok()?;
    let (path, size) = ((*path).to_owned(), size.parse().ok()?);
    Some(Listed { path, size, sha256 })
}

/// `Sat, 11 Jul 2026 10:16:37 UTC` (RFC 2822 as the archive writes it).
fn parse_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "UTC" | "GMT" | "Z" | "+0000"] = words.as_slice() else {
        return None;
    };
    let month = MONTHS.iter().position(|name| name == month)? as u64 + 1;
    let (day, year) = (day.parse::<u64>().ok()?, year.parse::<u64>().ok()?);
    let clock: Vec<u64> = time.split(':').filter_map(|part| part.parse().ok()).collect();
    let [hour, minute, second] = clock.as_slice() else {
        return None;
    };
    let fits = (1..=31).contains(&day) && (1970..=9999).contains(&year) && *hour < 24 && *minute < 60 && *second <= 60;
    let days = fits.then(|| days_before(year, month, day))?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400 + hour * 3600 + minute * 60 + second))
}

/// Days from 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_before(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn text(lines: &str) -> String {
        let hash = "0".repeat(64);
        format!(
            "Origin: Debian\nCodename: bookworm\nDate: Sat, 11 Jul 2026 10:16:37 UTC\nAcquire-By-Hash: yes\n{lines}MD5Sum:\n 00 1 main/binary-amd64/Packages.xz\nSHA256:\n {hash}  9 main/binary-amd64/Packages.gz\n {hash}  7 main/binary-amd64/Packages.xz\n"
        )
    }

    const MADE: u64 = 1_783_764_997;

    #[test]
    fn reads_what_the_archive_writes() {
        let release = Release::parse(&text(""), "bookworm", at(MADE + 5)).unwrap();
        assert!(release.by_hash);
        let packages = release.packages().unwrap();
        assert_eq!(
            (packages.path.as_str(), packages.size),
            ("main/binary-amd64/Packages.xz", 7)
        );
        for (date, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 UTC", Some(0)),
            ("Tue, 29 Feb 2000 00:00:00 GMT", Some(951_782_400)),
            ("Sat, 11 Jul 2026 10:16:37 UTC", Some(MADE)),
            ("Sat, 11 Jul 2026 10:16:37 CEST", None),
            ("Sat, 11 Jul 2026 10:16 UTC", None),
            ("Sat, 41 Jul 2026 10:16:37 UTC", None),
            ("soon", None),
        ] {
            assert_eq!(parse_date(date), seconds.map(at), "{date}");
        }
    }

    #[test]
    fn refuses_another_suite_and_other_times() {
        let until = |day: &str| text(&format!("Valid-Until: Sun, {day} Jul 2026 10:16:37 UTC\n"));
        assert!(Release::parse(&until("12"), "bookworm", at(MADE + 5)).is_ok());
        let refused = |text: &str, suite: &str, now: u64| Release::parse(text, suite, at(now)).unwrap_err();
        assert!(refused(&text(""), "bookworm-security", MADE).contains("\"bookworm\", not"));
        assert!(refused(&until("12"), "bookworm", MADE + 90_000).contains("valid until"));
        assert!(refused(&text(""), "bookworm", MADE - 90_000).contains("future"));
    }

    #[test]
    fn refuses_damage() {
        for damaged in [
            text("Codename: bookworm\n"),
            text("rubbish\n"),
            text("\n"),
            text("Valid-Until: never\n"),
            text("").replace(" 7 ", " seven "),
            text("").replace("Packages.gz", "Packages.xz"),
            text("").replace("Date:", "Dated:"),
            String::new(),
        ] {
            assert!(Release::parse(&damaged, "bookworm", at(MADE)).is_err(), "{damaged}");
        }
    }
}
