//! The platform's list of its functions, as a document: which image of each is active, and when it ran last.
//!
//! ```text
//! {"schema": 1, "as_of": "2026-11-29T02:00:00Z", "count": 2, "functions": [
//!   {"id": "123", "user": "a1b2c3", "deleted": false, "active": "sha256:…", "versions": ["1.0.0"], "last_executed": "2026-11-28T09:30:00Z"},
//!   {"id": "124", "user": "a1b2c3", "deleted": true}]}
//! ```
//!
//! An empty or half-written list must not look like a platform without functions: the count has to be that of the list, and the
//! document must be of the last day.

use std::time::Duration;

use serde::Deserialize;

use super::naming::{function_naming, FunctionIds};
use crate::config::Config;
use crate::journal::days;
use crate::oci::{DiffId, Digest, NamingError, Reference};

/// Longest document that is read: a hundred thousand functions are a third of it.
pub const MAX_INVENTORY: u64 = 64 << 20;
/// An older document may say that a function is there which is gone.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// How far the clocks of the platform and of this machine may be apart.
const MAX_SKEW: Duration = Duration::from_secs(300);

/// Why a document is no inventory.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// No JSON, or a key that is missing, unknown or of another type.
    #[error("it is no inventory: {0}")]
    Json(#[from] serde_json::Error),
    /// Of another version.
    #[error("its schema is {schema}, want 1")]
    Schema {
        /// What it says.
        schema: u32,
    },
    /// Cut, or put together wrongly.
    #[error("it says that there are {count} functions, and has {listed}")]
    Count {
        /// What it says.
        count: u64,
        /// What it has.
        listed: usize,
    },
    /// A time that is none.
    #[error("{key} is {text:?}, want a time as in 2026-11-29T02:00:00Z")]
    Time {
        /// Which.
        key: &'static str,
        /// What it says.
        text: String,
    },
    /// Too old to be believed.
    #[error("it is of {as_of}, which is more than 24 hours ago")]
    Old {
        /// When it was made.
        as_of: String,
    },
    /// Of a time that is not yet.
    #[error("it is of {as_of}, which is more than 5 minutes from now: the clock here or there is wrong")]
    Future {
        /// When it was made.
        as_of: String,
    },
}

/// What the platform knows of its functions.
#[derive(Debug)]
pub struct FunctionInventory {
    functions: Vec<Function>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: u32,
    as_of: String,
    count: u64,
    functions: Vec<Function>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Function {
    id: String,
    user: String,
    #[serde(default)]
    deleted: bool,
    active: Option<Digest>,
    #[serde(default)]
    versions: Vec<String>,
    last_executed: Option<String>,
    #[serde(default, rename = "source")]
    _source: Option<Source>,
}

/// Where a function's code is; what builds read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    #[serde(rename = "dir")]
    _dir: String,
}

/// The image that a function has now.
#[derive(Debug, PartialEq, Eq)]
pub struct ActiveImage {
    /// Where it is in the registry, by its digest.
    pub reference: Reference,
    /// When it ran last, in seconds since 1970.
    pub last_executed: u64,
}

/// A function whose image has no name that anybody could ask for.
#[derive(Debug)]
pub struct NamelessFunction {
    /// As the document says.
    pub id: String,
    /// Why.
    pub error: NamingError,
}

impl FunctionInventory {
    /// Reads a document at the time `now`, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`InventoryError`] for one that is cut, old, or not understood.
    pub fn parse(json: &[u8], now: u64) -> Result<Self, InventoryError> {
        let document: Document = serde_json::from_slice(json)?;
        if document.schema != 1 {
            return Err(InventoryError::Schema {
                schema: document.schema,
            });
        }
        let listed = document.functions.len();
        if document.count != listed as u64 {
            let count = document.count;
            return Err(InventoryError::Count { count, listed });
        }
        let at = time("as_of", &document.as_of)?;
        let as_of = document.as_of;
        if at.saturating_add(MAX_AGE.as_secs()) <= now {
            return Err(InventoryError::Old { as_of });
        }
        if at > now.saturating_add(MAX_SKEW.as_secs()) {
            return Err(InventoryError::Future { as_of });
        }
        for function in &document.functions {
            function.time_of_run()?;
        }
        Ok(Self {
            functions: document.functions,
        })
    }

    /// The active images of the functions that ran since `since`, in seconds since 1970, the latest first, and those functions
    /// whose images this machine's `[naming]` cannot name. Functions that are deleted have none.
    pub fn active_since(&self, config: &Config, since: u64) -> (Vec<ActiveImage>, Vec<NamelessFunction>) {
        let (mut found, mut nameless) = (Vec::new(), Vec::new());
        for function in self.functions.iter().filter(|function| !function.deleted) {
            let (Some(digest), Ok(Some(at))) = (function.active, function.time_of_run()) else {
                continue;
            };
            if at >= since {
                match function.image(config, digest) {
                    Ok(image) => found.push((at, &function.id, image)),
                    Err(error) => nameless.push(NamelessFunction {
                        id: function.id.clone(),
                        error,
                    }),
                }
            }
        }
        found.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(other.1)));
        let image = |(last_executed, _, reference)| ActiveImage {
            reference,
            last_executed,
        };
        (found.into_iter().map(image).collect(), nameless)
    }
}

impl Function {
    fn time_of_run(&self) -> Result<Option<u64>, InventoryError> {
        self.last_executed
            .as_deref()
            .map(|text| time("last_executed", text))
            .transpose()
    }

    /// Where the image `digest` of this function is. Only its repository is asked of the template: the digest says which image.
    fn image(&self, config: &Config, digest: Digest) -> Result<Reference, NamingError> {
        let ids = FunctionIds {
            function: self.id.clone(),
            user: self.user.clone(),
            version: self.versions.last().cloned().unwrap_or_else(|| "0".to_owned()),
            commit: None,
        };
        let names = function_naming(config, ids)?.names(&DiffId::of(b""))?;
        let name = names.into_iter().next();
        Ok(match name {
            Some(Reference::Registry { host, repository, .. }) => Reference::Registry {
                host,
                repository,
                tag: None,
                digest: Some(digest),
            },
            _ => Reference::Digest {
                hex: digest.hex(),
                digest: Some(digest),
            },
        })
    }
}

/// Seconds since 1970 of a time such as `2026-11-29T02:00:00Z`, with or without a fraction, in UTC or with an offset (RFC 3339).
fn time(key: &'static str, text: &str) -> Result<u64, InventoryError> {
    parse_time(text).ok_or_else(|| InventoryError::Time {
        key,
        text: text.chars().take(100).collect(),
    })
}

fn parse_time(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse::<u64>().ok())?
    };
    let is = |at: usize, allowed: &[u8]| text.as_bytes().get(at).is_some_and(|byte| allowed.contains(byte));
    let separated = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !separated || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let day = days(number(0, 4)?, number(5, 7)?, number(8, 10)?)?;
    let at = day * 86_400 + hour * 3600 + minute * 60 + second;
    let rest = text.get(19..)?;
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|digit: char| digit.is_ascii_digit()),
        None => rest,
    };
    let sign = match zone.as_bytes().first()? {
        b'Z' | b'z' => return (zone.len() == 1).then_some(at),
        b'+' => -1,
        b'-' => 1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let (hours, minutes) = (hours.parse::<i64>().ok()?, minutes.parse::<i64>().ok()?);
    if zone.len() != 6 || !(0..24).contains(&hours) || !(0..60).contains(&minutes) {
        return None;
    }
    at.checked_add_signed(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_796_000_000;

    fn document(functions: &str, count: u64) -> String {
        let as_of = crate::sys::clock::rfc3339(NOW - 3600, "");
        format!(r#"{{"schema":1,"as_of":"{as_of}","count":{count},"functions":[{functions}]}}"#)
    }

    fn config() -> Config {
        let text = "[naming]\nregistry = \"rg.example.org\"\nnamespace = \"mecapy\"\n";
        toml_of(text)
    }

    fn toml_of(text: &str) -> Config {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()), &crate::config::Environment::default()).unwrap()
    }

    #[test]
    fn a_time_is_read_as_rfc_3339_has_it() {
        for (text, at) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-11-30T00:53:20Z", Some(1_796_000_000)),
            ("2026-11-30t00:53:20.123456z", Some(1_796_000_000)),
            ("2026-11-30 01:53:20+01:00", Some(1_796_000_000)),
            ("2026-11-29T22:23:20-02:30", Some(1_796_000_000)),
            ("2026-11-30T00:53:20", None),
            ("2026-11-30T00:53Z", None),
            ("2026-13-30T00:53:20Z", None),
            ("2026-11-30T24:53:20Z", None),
            ("2026-11-30T00:53:20+1:00", None),
            ("2026-11-30T00:53:20Zx", None),
            ("+026-11-30T00:53:20Z", None),
            ("1970-01-01T00:00:00+01:00", None),
            ("tomorrow", None),
            ("", None),
            ("äääääääääääääääääää", None),
        ] {
            assert_eq!(parse_time(text), at, "{text}");
        }
    }

    #[test]
    fn the_active_images_of_live_functions_come_the_latest_first() {
        let digest = |byte: char| format!("sha256:{}", byte.to_string().repeat(64));
        let function = |id: &str, rest: &str| format!(r#"{{"id":"{id}","user":"u1"{rest}}}"#);
        let (a, b) = (digest('a'), digest('b'));
        let all = [
            function(
                "1",
                &format!(
                    r#","active":"{a}","versions":["1.0.0"],"last_executed":"2026-11-29T00:00:00Z","source":{{"dir":"x"}}"#
                ),
            ),
            function(
                "2",
                &format!(r#","active":"{b}","last_executed":"2026-11-29T10:00:00Z""#),
            ),
            function(
                "3",
                &format!(r#","active":"{b}","last_executed":"2026-11-01T10:00:00Z""#),
            ),
            function(
                "4",
                &format!(r#","deleted":true,"active":"{b}","last_executed":"2026-11-29T10:00:00Z""#),
            ),
            function("5", r#","deleted":false"#),
        ];
        let inventory = FunctionInventory::parse(document(&all.join(","), 5).as_bytes(), NOW).unwrap();
        let (found, nameless) = inventory.active_since(&config(), NOW - 7 * 86_400);
        assert!(nameless.is_empty());
        let names: Vec<String> = found.iter().map(|one| one.reference.to_string()).collect();
        let place = "rg.example.org/mecapy/functions/user-u1-func";
        assert_eq!(names, [format!("{place}-2@{b}"), format!("{place}-1@{a}")]);
        // One that cannot be named is said, and stops none of the others.
        let some = [all[0].clone(), all[1].replace("u1", "U 1")];
        let bad = FunctionInventory::parse(document(&some.join(","), 2).as_bytes(), NOW).unwrap();
        let (found, nameless) = bad.active_since(&config(), 0);
        assert_eq!(found.len(), 1);
        assert_eq!(nameless[0].id, "2");
        assert!(matches!(nameless[0].error, NamingError::Value { .. }));
    }

    #[test]
    fn what_is_cut_old_or_not_understood_is_no_inventory() {
        let parse = |text: &str| FunctionInventory::parse(text.as_bytes(), NOW).unwrap_err();
        let whole = document(r#"{"id":"1","user":"u"}"#, 1);
        FunctionInventory::parse(whole.as_bytes(), NOW).unwrap();
        for cut in [1, whole.len() / 2, whole.len() - 1] {
            assert!(matches!(parse(&whole[..cut]), InventoryError::Json(_)));
        }
        assert!(matches!(parse(""), InventoryError::Json(_)));
        assert!(matches!(
            parse(&whole.replace(":1,\"as", ":2,\"as")),
            InventoryError::Schema { schema: 2 }
        ));
        assert!(matches!(
            parse(&document("", 1)),
            InventoryError::Count { count: 1, listed: 0 }
        ));
        for unknown in [
            r#"{"id":1,"user":"u"}"#,
            r#"{"id":"1","user":"u","x":1}"#,
            r#"{"user":"u"}"#,
            r#"{"id":"1","user":"u","active":"sha256:a"}"#,
        ] {
            assert!(
                matches!(parse(&document(unknown, 1)), InventoryError::Json(_)),
                "{unknown}"
            );
        }
        let error = parse(&document(r#"{"id":"1","user":"u","last_executed":"now"}"#, 1));
        assert!(matches!(
            error,
            InventoryError::Time {
                key: "last_executed",
                ..
            }
        ));
        let at = |at: u64| FunctionInventory::parse(whole.as_bytes(), at);
        assert!(matches!(at(NOW + 24 * 3600), Err(InventoryError::Old { .. })));
        assert!(matches!(at(NOW - 2 * 3600), Err(InventoryError::Future { .. })));
        let deep = document(&"[".repeat(100_000), 1);
        assert!(matches!(parse(&deep), InventoryError::Json(_)));
    }
}
