//! How many there are of something, as people say it: `1 image`, `2 images`.

/// `count` and the word for so many.
pub fn counted(count: impl TryInto<u64>, one: &str, many: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    }
}

/// How long something was, in its largest unit that is not too rough: `90 s`, `5 min`, `30 h`, `3 days`.
pub fn rough_time(time: std::time::Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_is_no_plural() {
        let said = [0u64, 1, 2].map(|count| counted(count, "image", "images"));
        assert_eq!(said, ["0 images", "1 image", "2 images"]);
        let said = [119, 120, 7200, 172_800].map(|seconds| rough_time(Duration::from_secs(seconds)));
        assert_eq!(said, ["119 s", "2 min", "2 h", "2 days"]);
    }
}
