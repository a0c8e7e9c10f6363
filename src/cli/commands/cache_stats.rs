//! `gantry cache stats`: what the store takes, by kind, by image and by layer, with bars on a terminal.

use std::io::{self, IsTerminal};

use serde::Serialize;

use super::cache_ls::{last_use, name};
use crate::cli::error::CommandError;
use crate::cli::format_args::Format;
use crate::cli::output::{print_json, print_line};
use crate::cli::session::Session;
use crate::cli::table::{table, SHORT};
use crate::ops::{self, CacheStats, CacheUse, Hits};
use crate::policy::{as_limit, Bytes};
use crate::sys::clock;

/// Rows of a list; `--json` has all of it.
const MOST: usize = 10;
/// Characters of a bar.
const WIDTH: u64 = 30;

/// What the store takes, and how often what was wanted was there.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    stats: &'a CacheStats,
    /// None when the journal cannot be read.
    #[serde(flatten)]
    used: Option<CacheUse>,
}

/// Prints what the store takes.
pub(super) fn stats(session: &Session, format: Format) -> Result<u8, CommandError> {
    // First, as the sums of the journal are kept in the store.
    let used = ops::cache_use(&session.store, clock::now()).ok();
    let stats = ops::cache_stats(&session.store, ops::cache_limits(&session.config))?;
    if format == Format::Json {
        return print_json(&Shown { stats: &stats, used });
    }
    let bar = match io::stdout().is_terminal() {
        true => bar,
        false => |_, _| String::new(),
    };
    print_line(&summary(&stats))?;
    print_line(&hits(used.as_ref()))?;
    print_line("")?;
    print_line(&parts(&stats, bar))?;
    if !stats.images.is_empty() {
        print_line("")?;
        print_line(&largest_images(&stats, bar))?;
    }
    if !stats.layers.is_empty() {
        print_line("")?;
        print_line(&largest_layers(&stats, bar))?;
    }
    if let Some(used) = used.filter(|used| !used.most_used.is_empty()) {
        print_line("")?;
        print_line(&most_used(&used))?;
    }
    Ok(0)
}

fn summary(stats: &CacheStats) -> String {
    let of = |most: Option<String>| most.map(|most| format!(" of {most}")).unwrap_or_default();
    let bytes = |bytes| Bytes(bytes).to_string();
    let mut lines = vec![
        format!(
            "on the disk  {}{}",
            bytes(stats.physical),
            of(stats.limits.max_bytes.map(|most| as_limit(Bytes(most))))
        ),
        format!(
            "images       {}{}: {} pinned, {} in use, {} that no registry is known to have",
            stats.count,
            of(stats.limits.max_images.map(|most| most.to_string())),
            stats.pinned,
            stats.in_use,
            stats.only_here
        ),
        format!(
            "sharing      {} would be {} without it",
            bytes(stats.of_images),
            bytes(stats.logical)
        ),
    ];
    let find = |digest| stats.images.iter().find(|image| Some(image.digest) == digest);
    if let Some(oldest) = find(stats.oldest) {
        lines.push(format!("oldest       {}, last used {}", name(oldest), last_use(oldest)));
    }
    if let Some(largest) = find(stats.largest) {
        lines.push(format!("largest      {}, {}", name(largest), bytes(largest.logical)));
    }
    lines.join("\n")
}

fn hits(used: Option<&CacheUse>) -> String {
    let say = |hits: Hits, time: &str| match percent(hits) {
        Some(share) => format!("{share} of {} in the last {time}", hits.hits + hits.misses),
        None => format!("no run or pull in the last {time}"),
    };
    let said = used.map(|used| {
        let rate = &used.hit_rate;
        format!("{}, {}", say(rate.day, "day"), say(rate.week, "7 days"))
    });
    format!(
        "hits         {}",
        said.unwrap_or("the journal cannot be read".to_owned())
    )
}

fn percent(hits: Hits) -> Option<String> {
    hits.share.map(|share| format!("{:.0} %", share * 100.0))
}

fn most_used(used: &CacheUse) -> String {
    let row = |image: &ops::MostUsed| {
        [
            image.reference.clone(),
            image.uses.to_string(),
            percent(image.hit_rate).unwrap_or("-".to_owned()),
        ]
    };
    table(
        ["MOST USED IN 7 DAYS", "USES", "HITS"],
        used.most_used.iter().map(row).collect(),
    )
}

fn parts(stats: &CacheStats, bar: fn(u64, u64) -> String) -> String {
    let rows = [
        ("images, shared", stats.shared),
        ("images, not shared", stats.of_images.saturating_sub(stats.shared)),
        ("later builds", stats.of_builds),
        ("other: tools, journal, garbage", stats.other),
    ];
    let rows = rows.map(|(what, bytes)| [what.to_owned(), Bytes(bytes).to_string(), bar(bytes, stats.physical)]);
    table(["WHAT", "BYTES", ""], rows.into())
}

fn largest_images(stats: &CacheStats, bar: fn(u64, u64) -> String) -> String {
    let mut images: Vec<_> = stats.images.iter().collect();
    images.sort_by_key(|image| std::cmp::Reverse(image.unique));
    let row = |image: &&ops::ImageRoom| {
        [
            name(image),
            Bytes(image.logical).to_string(),
            Bytes(image.unique).to_string(),
            last_use(image),
            bar(image.unique, stats.physical),
        ]
    };
    let rows = images.iter().take(MOST).map(row).collect();
    table(["IMAGE", "SIZE", "UNIQUE", "LAST USE", ""], rows)
}

fn largest_layers(stats: &CacheStats, bar: fn(u64, u64) -> String) -> String {
    let row = |layer: &ops::LayerRoom| {
        [
            layer.diff_id.hex().chars().take(SHORT).collect(),
            Bytes(layer.bytes).to_string(),
            layer.images.to_string(),
            layer.of.clone().unwrap_or("-".to_owned()),
            bar(layer.bytes, stats.physical),
        ]
    };
    let rows = stats.layers.iter().take(MOST).map(row).collect();
    table(["LAYER", "BYTES", "IMAGES", "OF", ""], rows)
}

/// The share of `all` that `bytes` are.
fn bar(bytes: u64, all: u64) -> String {
    let filled = u128::from(bytes) * u128::from(WIDTH) / u128::from(all.max(1));
    "█".repeat(usize::try_from(filled).unwrap_or_default())
}
