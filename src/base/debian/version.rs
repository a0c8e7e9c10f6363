//! Debian's version numbers and their order (deb-version(7)).

use std::cmp::Ordering;

/// Whether `text` is a version: `[epoch:]upstream[-revision]`, the upstream part beginning with a digit.
pub(super) fn is_version(text: &str) -> bool {
    let (epoch, rest) = text.split_once(':').unwrap_or(("0", text));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".+-~:".contains(&byte);
    epoch.len() < 10
        && !epoch.is_empty()
        && epoch.bytes().all(|byte| byte.is_ascii_digit())
        && rest.bytes().next().is_some_and(|byte| byte.is_ascii_digit())
        && rest.bytes().all(plain)
}

/// Which of two versions is newer.
pub(crate) fn compare(one: &str, other: &str) -> Ordering {
    let (one, other) = (parts(one), parts(other));
    let epochs = one.0.cmp(&other.0);
    epochs
        .then_with(|| compare_part(one.1, other.1))
        .then_with(|| compare_part(one.2, other.2))
}

/// Epoch, upstream version, revision; a revision that is not there is as good as `0`.
fn parts(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
    (epoch.parse().unwrap_or(0), upstream, revision)
}

/// Alternately a run without digits, by [`weight`], and a number.
fn compare_part(mut one: &str, mut other: &str) -> Ordering {
    while !one.is_empty() || !other.is_empty() {
        let (text, rest) = split(one, |byte| !byte.is_ascii_digit());
        let (other_text, other_rest) = split(other, |byte| !byte.is_ascii_digit());
        let order = compare_text(text, other_text);
        let (number, rest) = split(rest, |byte| byte.is_ascii_digit());
        let (other_number, other_rest) = split(other_rest, |byte| byte.is_ascii_digit());
        let order = order.then_with(|| compare_number(number, other_number));
        if order != Ordering::Equal {
            return order;
        }
        (one, other) = (rest, other_rest);
    }
    Ordering::Equal
}

fn split(text: &str, belongs: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|byte| !belongs(byte)).unwrap_or(text.len());
    text.split_at(end)
}

/// Of any length: versions hold dates and hashes.
fn compare_number(one: &str, other: &str) -> Ordering {
    let (one, other) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

fn compare_text(one: &str, other: &str) -> Ordering {
    let longest = one.len().max(other.len());
    let weights = |text: &str| {
        let known = text.bytes().map(weight).chain(std::iter::repeat(END)).take(longest);
        known.collect::<Vec<u32>>()
    };
    weights(one).cmp(&weights(other))
}

/// Of the end of a run.
const END: u32 = 1;

/// A tilde sorts before the end, letters before everything else.
fn weight(byte: u8) -> u32 {
    match byte {
        b'~' => 0,
        byte if byte.is_ascii_alphabetic() => 2 + u32::from(byte),
        byte => 258 + u32::from(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_versions_as_dpkg_does() {
        let sorted = [
            "1.0~~",
            "1.0~~a",
            "1.0~",
            "1.0",
            "1.0-0.1",
            "1.0-1~bpo12+1",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1+b13",
            "1.0-2",
            "1.0a",
            "1.0+dfsg",
            "1.00.1",
            "1.2",
            "1.10",
            "2.36-9+deb12u7",
            "2.36-9+deb12u14",
            "20240203",
            "20250419~deb12u2",
            "20250419",
            "1:0.1",
            "1:2.5.1-4",
            "10:0",
        ];
        for (number, one) in sorted.iter().enumerate() {
            assert!(is_version(one), "{one}");
            for (other_number, other) in sorted.iter().enumerate() {
                assert_eq!(compare(one, other), number.cmp(&other_number), "{one} and {other}");
            }
        }
        for (one, other) in [("1.0", "1.0-0"), ("1.01", "1.1"), ("0:1", "1"), ("1.0-00", "1.0")] {
            assert_eq!(compare(one, other), Ordering::Equal, "{one} and {other}");
        }
    }

    #[test]
    fn agrees_with_dpkg_itself() {
        let versions = [
            "1.0~rc1-1",
            "1.0-1",
            "1.0.-1",
            "1.0a-1",
            "1.0+a-1",
            "1.0-1.1",
            "1.0-1a",
            "1:0",
            "0.9-9~z",
        ];
        for one in versions {
            for other in versions {
                let mut dpkg = std::process::Command::new("dpkg");
                let less = dpkg.args(["--compare-versions", one, "lt", other]).status().unwrap();
                assert_eq!(
                    compare(one, other) == Ordering::Less,
                    less.success(),
                    "{one} and {other}"
                );
            }
        }
    }

    #[test]
    fn knows_what_is_no_version() {
        for text in ["", "a", "a:1", ":1", "1 2", "1/2", "99999999999:1", "-1", "1\n"] {
            assert!(!is_version(text), "{text:?}");
        }
    }
}
