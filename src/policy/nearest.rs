//! What a mistyped word was meant for.

/// The word of `words` that is at most three changes of a letter away from `word`, and at most a quarter of it; the nearest.
pub fn nearest<'w>(word: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let most = (word.len() / 4).min(3);
    let found = words
        .map(|other| (strsim::osa_distance(word, other), other))
        .min_by_key(|(count, _)| *count)?;
    (found.0 <= most).then_some(found.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_mistyped_is_near_the_one_that_was_meant() {
        let hosts = ["registry.example.org", "backup.example.net", "localhost:5000"];
        for (typed, meant) in [
            ("registry.exmaple.org", Some("registry.example.org")),
            ("regstry.example.org", Some("registry.example.org")),
            ("backup.example.org", Some("backup.example.net")),
            ("localhost:5001", Some("localhost:5000")),
            ("quay.example", None),
            ("a.b", None),
        ] {
            assert_eq!(nearest(typed, hosts.into_iter()), meant, "{typed}");
        }
    }
}
