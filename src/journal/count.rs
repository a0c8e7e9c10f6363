//! What the events of the journal come to: how often images were used and were there, and how registries did.
//!
//! Use is what somebody waits for: runs, and pulls that a person asked for. What is fetched ahead, mirrored or looked at is none,
//! so that an image that nobody runs is not kept by it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::{EventKind, Purpose};
use super::line::Line;
use crate::oci::Digest;

/// Days that counts go back, as the journal does.
pub(super) const DAYS: u64 = 35;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// Images that are counted: with more, the longest unused are forgotten. A worker keeps some hundred.
const MAX_IMAGES: usize = 10_000;
/// Registries that are counted. A platform has two.
const MAX_REGISTRIES: usize = 64;
/// The longest reference and host that are kept.
const MAX_NAME: usize = 1 << 10;

/// How often something was used, and whether it was there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Uses(u64, HitRate);

/// How many uses found all that they needed in the store, and how many did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HitRate {
    /// Nothing had to be fetched or unpacked.
    pub hits: u64,
    /// Something had to be.
    pub misses: u64,
}

impl HitRate {
    /// Between 0 and 1; none when nothing was used.
    pub(crate) fn share(self) -> Option<f64> {
        let all = self.hits.saturating_add(self.misses);
        (all > 0).then(|| self.hits as f64 / all as f64)
    }
}

/// How one registry did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RegistryUse {
    /// Images that it gave, to runs as well.
    pub pulls: u64,
    /// Images that it took.
    pub pushes: u64,
    /// Pulls and pushes that failed there.
    pub failures: u64,
    /// Times that it did in place of another one.
    pub failovers: u64,
    /// Bytes that went between it and us.
    pub bytes: u64,
}

/// What is known of the use of one image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ImageUse {
    /// As it was called last.
    reference: String,
    /// Seconds since 1970.
    last_use: u64,
    /// By the day, counted from 1970.
    days: BTreeMap<u64, Uses>,
}

/// An image that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Used {
    /// As it was called last.
    pub reference: String,
    /// Its manifest.
    pub digest: Digest,
    /// How often.
    pub uses: u64,
    /// When last, in seconds since 1970.
    pub last_use: u64,
}

/// What the journal of the last 35 days comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// By the hour, counted from 1970.
    hours: BTreeMap<u64, HitRate>,
    images: BTreeMap<Digest, ImageUse>,
    /// By the day, counted from 1970.
    registries: BTreeMap<String, BTreeMap<u64, RegistryUse>>,
}

impl Counts {
    /// How many of the uses since `since`, in seconds since 1970 and to the hour, found their image in the store.
    pub(crate) fn hit_rate(&self, since: u64) -> HitRate {
        let hours = self.hours.range(since / HOUR..);
        hours.fold(HitRate::default(), |all, (_, hour)| all.and(*hour))
    }

    /// How many of the uses of one image since `since`, to the day, found it in the store.
    pub(crate) fn hit_rate_of(&self, image: &Digest, since: u64) -> HitRate {
        let days = self
            .images
            .get(image)
            .into_iter()
            .flat_map(|used| used.days.range(since / DAY..));
        days.fold(HitRate::default(), |all, (_, day)| all.and(day.1))
    }

    /// When the image was used last, in seconds since 1970; none when that is more than 35 days ago, or never.
    pub(crate) fn last_use(&self, image: &Digest) -> Option<u64> {
        self.images.get(image).map(|used| used.last_use)
    }

    /// The images that were used since `since`, the most used first: by the uses since then, to the day, and then by the last
    /// one. Of several images that had the same name in turn the last one stands for all.
    pub(crate) fn top(&self, most: usize, since: u64) -> Vec<Used> {
        let mut by_name: BTreeMap<&str, Used> = BTreeMap::new();
        for (digest, used) in self.images.iter().filter(|(_, used)| used.last_use >= since) {
            let uses = used
                .days
                .range(since / DAY..)
                .fold(0, |all: u64, (_, day)| all.saturating_add(day.0));
            let one = Used {
                reference: used.reference.clone(),
                digest: *digest,
                uses,
                last_use: used.last_use,
            };
            match by_name.entry(&used.reference) {
                std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(one)),
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    let uses = uses.saturating_add(entry.get().uses);
                    if entry.get().last_use < one.last_use {
                        entry.insert(one);
                    }
                    entry.get_mut().uses = uses;
                }
            }
        }
        let mut all: Vec<Used> = by_name.into_values().collect();
        all.sort_by(|one, other| {
            let key = |used: &Used| (Reverse(used.uses), Reverse(used.last_use));
            key(one)
                .cmp(&key(other))
                .then_with(|| one.reference.cmp(&other.reference))
        });
        all.truncate(most);
        all
    }

    /// How each registry did since `since`, to the day.
    pub(crate) fn registries(&self, since: u64) -> BTreeMap<&str, RegistryUse> {
        let of = |days: &BTreeMap<u64, RegistryUse>| {
            let days = days.range(since / DAY..);
            days.fold(RegistryUse::default(), |all, (_, day)| all.and(*day))
        };
        let all = self.registries.iter().map(|(host, days)| (host.as_str(), of(days)));
        all.filter(|(_, used)| *used != RegistryUse::default()).collect()
    }

    /// Counts a line that is read at `now`, in seconds since 1970. What is too old to count is passed over, and what a wrong clock dated
    /// later than now counts as of now.
    pub(super) fn add(&mut self, line: &Line<'_>, now: u64) {
        let at = line.at.min(now);
        if at / DAY + DAYS < now / DAY {
            return;
        }
        let Some(kind) = EventKind::of_word(&line.kind) else {
            return;
        };
        let is_ahead = line
            .purpose
            .as_deref()
            .is_some_and(|word| Purpose::of_word(word).is_some());
        if !is_ahead && matches!(kind, EventKind::Run | EventKind::Pull | EventKind::Hit) {
            self.add_use(line, kind, at);
        }
        self.add_to_registry(line, kind, at / DAY);
    }

    fn add_use(&mut self, line: &Line<'_>, kind: EventKind, at: u64) {
        // What names no image used none.
        let Some(digest) = line.digest.as_deref().and_then(|text| text.parse::<Digest>().ok()) else {
            return;
        };
        // A pull that failed gave nothing; a run that failed is the function's own matter.
        if kind == EventKind::Pull && line.status != "ok" {
            return;
        }
        let rate = match (line.cache.as_deref(), kind) {
            (Some("hit"), _) | (None, EventKind::Hit) => HitRate { hits: 1, misses: 0 },
            (Some("miss"), _) => HitRate { hits: 0, misses: 1 },
            // Earlier versions did not say.
            (Some(_) | None, _) => HitRate::default(),
        };
        let hour = self.hours.entry(at / HOUR).or_default();
        *hour = hour.and(rate);
        if self.images.len() >= MAX_IMAGES && !self.images.contains_key(&digest) {
            self.forget_the_longest_unused();
        }
        let used = self.images.entry(digest).or_default();
        if used.last_use <= at {
            used.last_use = at;
            if used.reference != line.reference && line.reference.len() <= MAX_NAME {
                used.reference = line.reference.clone().into_owned();
            }
        }
        let day = used.days.entry(at / DAY).or_default();
        *day = Uses(day.0.saturating_add(1), day.1.and(rate));
    }

    fn add_to_registry(&mut self, line: &Line<'_>, kind: EventKind, day: u64) {
        let Some(host) = line.registry.as_deref().filter(|host| host.len() <= MAX_NAME) else {
            return;
        };
        let mut one = RegistryUse {
            bytes: line.bytes.unwrap_or_default(),
            ..RegistryUse::default()
        };
        let has_failed = match kind {
            // How the function ended says nothing of the registry.
            EventKind::Run => line.digest.is_none(),
            _ => line.status != "ok",
        };
        match kind {
            EventKind::Run | EventKind::Pull | EventKind::Push if has_failed => one.failures = 1,
            EventKind::Run | EventKind::Pull => one.pulls = 1,
            EventKind::Push => one.pushes = 1,
            EventKind::Failover => one.failovers = 1,
            _ => return,
        }
        if self.registries.len() < MAX_REGISTRIES || self.registries.contains_key(host) {
            let days = self.registries.entry(host.to_owned()).or_default();
            let of_day = days.entry(day).or_default();
            *of_day = of_day.and(one);
        }
    }

    /// Makes room: an eighth goes, so that this is done rarely.
    fn forget_the_longest_unused(&mut self) {
        let mut times: Vec<u64> = self.images.values().map(|used| used.last_use).collect();
        let (_, limit, _) = times.select_nth_unstable(MAX_IMAGES / 8);
        let limit = *limit;
        self.images.retain(|_, used| used.last_use > limit);
    }

    /// Forgets what is older than the journal at `now`; whether there was anything.
    pub(super) fn forget_old(&mut self, now: u64) -> bool {
        let size = |counts: &Self| (counts.hours.len(), counts.images.len(), counts.registries.len());
        let before = size(self);
        let first = (now / DAY).saturating_sub(DAYS);
        self.hours = self.hours.split_off(&(first * 24));
        for used in self.images.values_mut() {
            used.days = used.days.split_off(&first);
        }
        self.images.retain(|_, used| used.last_use / DAY >= first);
        for days in self.registries.values_mut() {
            *days = days.split_off(&first);
        }
        self.registries.retain(|_, days| !days.is_empty());
        before != size(self)
    }
}

impl HitRate {
    fn and(self, other: Self) -> Self {
        Self {
            hits: self.hits.saturating_add(other.hits),
            misses: self.misses.saturating_add(other.misses),
        }
    }
}

impl RegistryUse {
    fn and(self, other: Self) -> Self {
        Self {
            pulls: self.pulls.saturating_add(other.pulls),
            pushes: self.pushes.saturating_add(other.pushes),
            failures: self.failures.saturating_add(other.failures),
            failovers: self.failovers.saturating_add(other.failovers),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 20_000 * DAY + 5 * HOUR;

    fn digest(number: u64) -> Digest {
        Digest::of(&number.to_ne_bytes())
    }

    fn counts(lines: &[String]) -> Counts {
        let mut counts = Counts::default();
        for line in lines {
            counts.add(&Line::read(line.as_bytes()).unwrap(), NOW);
        }
        counts
    }

    fn line(kind: &str, at: u64, image: u64, rest: &str) -> String {
        let digest = digest(image);
        format!(
            r#"{{"at":{at},"kind":"{kind}","reference":"image:{image}","digest":"{digest}","status":"ok","ms":1{rest}}}"#
        )
    }

    #[test]
    fn the_hit_rate_is_of_runs_and_pulls_that_somebody_waits_for() {
        let counts = counts(&[
            line("run", NOW - 10, 1, r#","cache":"hit""#),
            line("run", NOW - 2 * HOUR, 1, r#","cache":"miss""#),
            line("run", NOW - 3 * DAY, 1, r#","cache":"hit""#),
            line("pull", NOW - 10, 2, r#","cache":"hit""#),
            line("pull", NOW - 10, 3, r#","cache":"miss","purpose":"warm""#),
            line("hit", NOW - 10, 4, ""),
            line("run", NOW - 10, 5, ""),
            line("build", NOW - 10, 6, ""),
            line("dream", NOW - 10, 6, r#","cache":"hit""#),
            r#"{"at":1728000000,"kind":"run","reference":"typo:1","digest":null,"status":"error","cache":"miss"}"#
                .to_owned(),
        ]);
        assert_eq!(counts.hit_rate(NOW - HOUR), HitRate { hits: 3, misses: 0 });
        assert_eq!(counts.hit_rate(NOW - DAY), HitRate { hits: 3, misses: 1 });
        assert_eq!(counts.hit_rate(0), HitRate { hits: 4, misses: 1 });
        assert_eq!(counts.hit_rate(0).share(), Some(0.8));
        assert_eq!(HitRate::default().share(), None);
        assert_eq!(counts.hit_rate_of(&digest(1), 0), HitRate { hits: 2, misses: 1 });
        assert_eq!(
            counts.hit_rate_of(&digest(1), NOW - DAY),
            HitRate { hits: 1, misses: 1 }
        );
        assert_eq!(counts.last_use(&digest(1)), Some(NOW - 10));
        for unused in [3, 6] {
            assert_eq!(counts.last_use(&digest(unused)), None);
        }
    }

    #[test]
    fn the_most_used_come_first_and_a_name_comes_once() {
        let mut lines: Vec<String> = (0..3).map(|_| line("run", NOW - DAY, 1, "")).collect();
        lines.extend((0..5).map(|_| line("run", NOW - 8 * DAY, 2, "")));
        lines.push(line("run", NOW - 8, 3, ""));
        lines.push(line("run", NOW - 9, 4, ""));
        // The name moved to another image.
        lines.extend((0..2).map(|_| line("run", NOW - 7, 5, "").replace("image:5", "image:1")));
        let counts = counts(&lines);
        let top = |most, since| -> Vec<(String, u64)> {
            let top = counts.top(most, since).into_iter();
            top.map(|used| (used.reference, used.uses)).collect()
        };
        let named = |number: u64, uses| (format!("image:{number}"), uses);
        assert_eq!(top(10, NOW - 7 * DAY), [named(1, 5), named(3, 1), named(4, 1)]);
        assert_eq!(top(2, 0), [named(1, 5), named(2, 5)]);
        assert_eq!(counts.top(1, 0)[0].digest, digest(5));
        assert!(top(0, 0).is_empty() && top(10, NOW).is_empty());
    }

    #[test]
    fn registries_are_told_apart_and_a_function_that_fails_is_no_failure_of_one() {
        let failed = |kind: &str, registry: &str| {
            format!(
                r#"{{"at":{NOW},"kind":"{kind}","reference":"x","digest":null,"status":"failed","registry":"{registry}"}}"#
            )
        };
        let counts = counts(&[
            line("pull", NOW, 1, r#","registry":"a.example","bytes":7"#),
            line("run", NOW, 1, r#","registry":"a.example","bytes":8"#).replace(r#""ok""#, r#""failed""#),
            line("push", NOW, 1, r#","registry":"b.example","bytes":9"#),
            line("failover", NOW, 1, r#","registry":"b.example","from":"a.example""#),
            failed("pull", "a.example"),
            failed("run", "a.example"),
            failed("scan", "c.example"),
        ]);
        let all = counts.registries(NOW - DAY);
        let (a, b) = (all["a.example"], all["b.example"]);
        assert_eq!((a.pulls, a.failures, a.bytes, a.failovers), (2, 2, 15, 0));
        assert_eq!((b.pushes, b.failures, b.bytes, b.failovers), (1, 0, 9, 1));
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn what_is_old_goes_and_a_wrong_clock_makes_nothing_young() {
        let mut counts = counts(&[
            line("run", NOW - 34 * DAY, 1, r#","cache":"hit","registry":"a.example""#),
            line("run", NOW - 37 * DAY, 2, ""),
            line("run", NOW + 500 * DAY, 3, r#","cache":"miss""#),
            line("run", u64::MAX, 4, ""),
            line("run", 0, 5, ""),
        ]);
        assert_eq!(counts.last_use(&digest(3)), Some(NOW));
        assert_eq!((counts.last_use(&digest(2)), counts.last_use(&digest(5))), (None, None));
        assert!(!counts.forget_old(NOW));
        assert!(counts.forget_old(NOW + 3 * DAY));
        assert_eq!(counts.last_use(&digest(1)), None);
        assert_eq!(counts.hit_rate(0), HitRate { hits: 0, misses: 1 });
        assert!(counts.registries(0).is_empty());
    }

    #[test]
    fn no_more_images_are_kept_than_memory_allows_and_the_longest_unused_go() {
        let mut counts = Counts::default();
        for number in 0..(MAX_IMAGES as u64 + 5000) {
            counts.add(
                &Line::read(line("run", NOW - 20_000 + number, number, "").as_bytes()).unwrap(),
                NOW,
            );
            assert!(counts.images.len() <= MAX_IMAGES);
        }
        assert!(counts.last_use(&digest(MAX_IMAGES as u64 + 4999)).is_some());
        assert_eq!(counts.last_use(&digest(0)), None);
        for number in 0..100 {
            let line = format!(r#"{{"at":{NOW},"kind":"pull","registry":"r{number}"}}"#);
            counts.add(&Line::read(line.as_bytes()).unwrap(), NOW);
        }
        assert_eq!(counts.registries.len(), MAX_REGISTRIES);
    }
}
