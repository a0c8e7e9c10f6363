//! What failures print, as a document can say it.

use std::path::Path;

use crate::common::shared;

/// What is printed, without what differs from run to run and machine to machine.
pub fn masked(text: &str, scratch: &Path) -> String {
    let scratch = scratch.to_str().unwrap();
    let text = text.replace(&format!("{scratch}/"), "").replace(scratch, ".");
    let text = text.replace(shared().root.to_str().unwrap(), "STORE");
    let mut lines = Vec::new();
    // Of a machine without uv, a store that has not fetched it yet, and one that other tests use, too.
    let is_by_the_way = |line: &&str| line.starts_with("Downloading uv ") || line.starts_with("Waiting for another ");
    for line in text.lines().filter(|line| !is_by_the_way(line)) {
        // How much was seen when it was over.
        let line = match (line.find("out of memory: "), line.find(" seen, ")) {
            (Some(from), Some(to)) => format!("{}N MB{}", &line[..from + 15], &line[to..]),
            _ => line.to_owned(),
        };
        let line = match line.find("hint: process ") {
            Some(_) => line
                .split(' ')
                .map(|word| if word.parse::<u32>().is_ok() { "N" } else { word })
                .collect::<Vec<_>>()
                .join(" "),
            None => line,
        };
        let line: Vec<String> = line.split(' ').map(name_masked).map(day_masked).collect();
        lines.push(line.join(" ").trim_end().to_owned());
    }
    lines.join("\n").trim().to_owned()
}

/// The word, or `beam:1` for the name that an image of a test has.
fn name_masked(word: &str) -> String {
    match word.split_once("failures:") {
        Some((before, rest)) => format!("{before}beam:1{}", rest.get(12..).unwrap_or_default()),
        None => word.to_owned(),
    }
}

/// `N` for a day.
fn day_masked(word: String) -> String {
    let digits = |byte: u8| byte.is_ascii_digit() || byte == b'-';
    match word.len() == 10 && word.starts_with("20") && word.bytes().all(digits) {
        true => "N".to_owned(),
        false => word,
    }
}
