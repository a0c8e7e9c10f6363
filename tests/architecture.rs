//! The shape of the crate, checked: ranks, no circles inside a folder, file sizes, the one home of each heavy
//! dependency, one name for one thing, and the first words of documentation.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and says why on standard error"
)]

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use source::{rust_files, sources, top, Crate, Edges, Source};

/// A module uses only modules of strictly lower rank.
const RANKS: &[(&str, u8)] = &[
    ("cli", 8),
    // Calls readers of every rank; nothing calls it but `fuzz/`.
    ("fuzzing", 8),
    ("ops", 7),
    ("build", 6),
    ("upkeep", 6),
    ("python", 5),
    ("base", 5),
    ("transfer", 4),
    ("registry", 3),
    ("objects", 3),
    ("trust", 3),
    ("store", 2),
    ("sandbox", 2),
    ("archive", 1),
    ("net", 1),
    ("journal", 1),
    ("config", 1),
    ("oci", 0),
    ("policy", 0),
    ("progress", 0),
    ("sys", 0),
];

/// Crates that only the named modules may name.
const HOMES: &[(&str, &[&str])] = &[
    ("reqwest", &["net"]),
    ("rustls", &["net"]),
    ("hickory_resolver", &["net"]),
    ("tokio", &["net"]),
    ("ignore", &["build"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("indicatif", &["cli"]),
    ("landlock", &["sandbox"]),
    ("libcgroups", &["sandbox::inside::youki"]),
    ("libcontainer", &["sandbox::inside::youki"]),
    ("oci_spec", &["sandbox"]),
    ("seccompiler", &["sandbox"]),
    ("signal_hook", &["sandbox", "sys"]),
    ("libc", &["sys"]),
    ("liblzma", &["archive"]),
    ("libdeflater", &["archive"]),
    ("libdeflate_sys", &["sys"]),
    ("blake3", &["store::trees::file_digest"]),
    ("flate2", &["archive"]),
    ("zstd", &["archive"]),
    ("ar", &["archive"]),
    ("tar", &["archive", "store", "transfer"]),
    ("toml", &["config", "python", "base"]),
    ("pep440_rs", &["python"]),
    ("pep508_rs", &["python"]),
];

const MOST_LINES: usize = 600;

/// Two files may have one name only where they are the two sides of one thing, or where a folder's reader knows the
/// name from the folder.
const SHARED_NAMES: &[(&str, &str)] = &[
    ("base", "the folder, and the operation on it"),
    ("build", "the folder, and the operation that uses it"),
    ("cache_check", "the operation, and how the command line prints it"),
    ("error", "each folder's own"),
    ("doctor", "the operation, and how the command line prints it"),
    ("gc", "the operation, and how the store carries it out"),
    ("images", "the store's folder, and the operations on it"),
    ("run", "the operation, and its arguments"),
    (
        "output",
        "what the command line prints, and what a function leaves in `/output`",
    ),
    ("progress", "the trait, and what prints it"),
];

fn judge(check: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{check}: {}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_module_has_a_rank_and_uses_only_lower_ones() {
    let ranks: BTreeMap<&str, u8> = RANKS.iter().copied().collect();
    for module in sources().iter().filter_map(Source::ranked) {
        assert!(ranks.contains_key(module), "src/{module} has no rank");
    }
    let mut wrong = BTreeSet::new();
    let mut count = 0;
    for mention in &Crate::tested().mentions {
        let [first, second, ..] = mention.segments.as_slice() else {
            continue;
        };
        let Some(module) = mention.module.first() else { continue };
        if first != "crate" || second == module {
            continue;
        }
        count += 1;
        let rank = ranks.get(module.as_str()).copied().unwrap_or(u8::MAX);
        if ranks.get(second.as_str()).is_none_or(|other| *other >= rank) {
            wrong.insert(format!(
                "{}: {module} (rank {rank}) uses {second}",
                mention.module.join("::")
            ));
        }
    }
    assert!(
        count > 20,
        "only {count} edges between modules found: the check no longer sees them"
    );
    judge("ranks", &Vec::from_iter(wrong));
}

/// The edges that lie in a circle, by folder. An edge between two files belongs to the folder where they part, and joins
/// what the two stand in there: a file, or a folder as a whole. A folder's own `mod.rs` (or `x.rs` beside `x/`) is the
/// front door: files behind it use what it defines, and it hands on what they define, so it is no part of a circle.
fn circles(edges: &Edges) -> BTreeMap<String, Vec<(String, String)>> {
    let mut folders: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for (from, to) in edges {
        let shared = from.iter().zip(to).take_while(|(one, other)| one == other).count();
        if let (Some(one), Some(other), true) = (from.get(shared), to.get(shared), shared > 0) {
            let folder = from.get(..shared).unwrap_or_default().join("/");
            folders.entry(folder).or_default().insert((one.clone(), other.clone()));
        }
    }
    let reaches = |edges: &BTreeSet<(String, String)>, from: &String, goal: &String| {
        let mut seen = BTreeSet::from([from]);
        let mut pending = vec![from];
        while let Some(at) = pending.pop() {
            for (_, next) in edges.iter().filter(|(one, _)| one == at) {
                if seen.insert(next) {
                    pending.push(next);
                }
            }
        }
        seen.contains(goal)
    };
    folders
        .into_iter()
        .map(|(folder, edges)| {
            let closing = edges.iter().filter(|(from, to)| reaches(&edges, to, from)).cloned();
            (folder, closing.collect())
        })
        .collect()
}

#[test]
fn files_inside_a_folder_form_no_circle() {
    let edges = Crate::shipped().edges();
    assert!(edges.len() > 100, "only {} edges between files found", edges.len());
    let wrong: Vec<String> = circles(&edges)
        .iter()
        .flat_map(|(folder, closing)| {
            closing
                .iter()
                .map(move |(from, to)| format!("{folder}: {from} -> {to}"))
        })
        .collect();
    judge("circles", &wrong);
}

/// A method that stands in another file than its type hides an edge from the check above, which reads paths.
#[test]
fn a_type_has_its_methods_in_its_own_file() {
    let collector = Crate::shipped();
    let mut wrong = Vec::new();
    for (module, segments) in &collector.impls {
        let Some(home) = collector.resolve(module, segments, 16) else {
            continue;
        };
        let (here, home) = (&collector.modules[module].file, &collector.modules[&home].file);
        if here != home {
            wrong.push(format!(
                "{}: impl {}, of {}",
                here.join("/"),
                segments.join("::"),
                home.join("/")
            ));
        }
    }
    judge("methods away from their type", &wrong);
}

#[test]
fn circles_are_found() {
    let path = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
    let edges = |list: &[(&str, &str)]| list.iter().map(|(from, to)| (path(from), path(to))).collect();
    let found = |list: &[(&str, &str)]| circles(&edges(list)).into_values().flatten().count();
    assert_eq!(found(&[("a/x", "a/y"), ("a/y", "a/z"), ("a/z", "a/x")]), 3);
    assert_eq!(found(&[("a/x", "a/y"), ("a/x", "a/z"), ("a/y", "a/z")]), 0);
    assert_eq!(found(&[("a/x/one", "a/y/one"), ("a/y/two", "a/x/two")]), 2);
    assert_eq!(found(&[("a/x", "a"), ("a", "a/x")]), 0);
}

#[test]
fn no_module_climbs_out_of_itself_by_super() {
    for source in sources() {
        let climb = "super::".repeat(source.module.len().max(1) + 1);
        assert!(
            !source.text.contains(&climb),
            "{} leaves its module by {climb}",
            source.path.display()
        );
    }
}

#[test]
fn heavy_dependencies_stay_at_home() {
    let manifest = fs::read_to_string(top().join("Cargo.toml")).unwrap();
    for (name, _) in HOMES {
        let says = manifest
            .lines()
            .filter_map(|line| line.split_once(" = "))
            .any(|(key, _)| key.replace('-', "_") == *name);
        assert!(says, "{name} is no dependency: remove its home");
    }
    let mut wrong = BTreeSet::new();
    let mut unused: BTreeSet<String> = HOMES
        .iter()
        .flat_map(|(name, homes)| homes.iter().map(move |home| format!("{name} in {home}")))
        .collect();
    for mention in &Crate::tested().mentions {
        let first = mention.segments.first().map(String::as_str).unwrap_or_default();
        let Some((name, homes)) = HOMES.iter().find(|(name, _)| *name == first) else {
            continue;
        };
        let file = mention.module.join("::");
        let is_in = |home: &str| {
            file.strip_prefix(home)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        match homes.iter().find(|home| is_in(home)) {
            Some(home) => drop(unused.remove(&format!("{name} in {home}"))),
            None => drop(wrong.insert(format!("{file} names {name}, which lives in {}", homes.join(", ")))),
        }
    }
    judge("homes", &Vec::from_iter(wrong));
    judge("homes that use nothing", &Vec::from_iter(unused));
}

/// A program that is run in another way may outlive us, hang, or see our environment. The doctor runs gantry itself.
#[test]
fn other_programs_are_run_by_sys_program_alone() {
    let homes = ["sys::program", "sys::keeper", "ops::doctor"];
    let mut wrong = BTreeSet::new();
    let mut found = 0;
    for mention in &Crate::shipped().mentions {
        if !mention
            .segments
            .starts_with(&["std", "process", "Command"].map(str::to_owned))
        {
            continue;
        }
        found += 1;
        let module = mention.module.join("::");
        if !homes.iter().any(|home| module.starts_with(home)) {
            wrong.insert(module);
        }
    }
    assert!(found > 0, "no program is run any more: the check no longer sees them");
    judge("programs run elsewhere", &Vec::from_iter(wrong));
}

#[test]
fn a_main_of_its_own_is_no_test() {
    let main = include_str!("../src/main.rs");
    let manifest = include_str!("../Cargo.toml");
    let bin = manifest.split("[[bin]]").nth(1).unwrap().split("\n[").next().unwrap();
    assert_eq!(main.contains("#![no_main]"), bin.contains("\ntest = false"), "{bin}");
}

#[test]
fn only_sys_says_unsafe() {
    // The name by which the C library calls a program is one that the compiler cannot answer for.
    let elsewhere = |source: &&Source| source.ranked() != Some("sys") && !source.path.ends_with("main.rs");
    for source in sources().iter().filter(elsewhere) {
        let says = source.text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {")
                || code.contains("unsafe fn")
                || code.contains("unsafe impl")
                || code.contains("unsafe_code")
        });
        assert!(!says, "{} says unsafe", source.path.display());
    }
}

#[test]
fn no_file_has_more_than_600_lines() {
    let top = top();
    for folder in ["src", "tests", "benches", "fuzz", "seccomp"] {
        for path in rust_files(&top.join(folder)) {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert!(
                lines <= MOST_LINES,
                "{} has {lines} lines: split it by concept",
                path.strip_prefix(&top).unwrap().display()
            );
        }
    }
}

/// `mod tests;` beside the file, where Rust looks for it. The two files of `seccomp/` are the exception: `build.rs`, which
/// compiles the profiles with them, is another program.
#[test]
fn modules_stand_where_rust_looks_for_them() {
    let top = top();
    let mut wrong = Vec::new();
    for path in ["src", "tests", "benches", "fuzz"]
        .iter()
        .flat_map(|folder| rust_files(&top.join(folder)))
    {
        let text = fs::read_to_string(&path).unwrap();
        for line in text.lines().map(str::trim).filter(|line| line.starts_with("#[path")) {
            if !["compiler.rs", "oci.rs"]
                .iter()
                .any(|file| line.ends_with(&format!("/seccomp/{file}\"]")))
            {
                wrong.push(format!("{}: {line}", path.strip_prefix(&top).unwrap().display()));
            }
        }
    }
    judge("#[path]", &wrong);
}

/// The first line of a document is true without context; the same as what?
#[test]
fn no_documentation_begins_with_the_same() {
    let top = top();
    let mut wrong = Vec::new();
    for path in ["src", "tests", "benches", "fuzz"]
        .iter()
        .flat_map(|folder| rust_files(&top.join(folder)))
    {
        let text = fs::read_to_string(&path).unwrap();
        let mut before = "";
        for line in text.lines().map(str::trim) {
            let is_doc = |line: &str| line.starts_with("///") || line.starts_with("//!");
            if is_doc(line) && !is_doc(before) && line.trim_start_matches(['/', '!', ' ']).starts_with("The same") {
                wrong.push(format!("{}: {line}", path.strip_prefix(&top).unwrap().display()));
            }
            before = line;
        }
    }
    judge("docs that begin with The same", &wrong);
}

#[test]
fn one_name_is_one_thing() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        if let Some(name) = source.module.last() {
            places
                .entry(name.clone())
                .or_default()
                .push(source.path.display().to_string());
        }
    }
    let mut wrong = Vec::new();
    for (name, paths) in places.iter().filter(|(_, paths)| paths.len() > 1) {
        if !SHARED_NAMES.iter().any(|(shared, _)| shared == name) {
            wrong.push(format!("{name}: {}", paths.join(", ")));
        }
    }
    for (name, _) in SHARED_NAMES {
        if places.get(*name).is_none_or(|paths| paths.len() < 2) {
            wrong.push(format!("{name}: only one file has it; remove it from SHARED_NAMES"));
        }
    }
    judge("names of two things", &wrong);
}

/// The documents of this repository: those beside `Cargo.toml`, and `docs/`.
fn documents() -> Vec<(String, String)> {
    let top = top();
    let mut found = Vec::new();
    for folder in [top.clone(), top.join("docs")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(&top).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 5, "only {} documents found", found.len());
    found
}

/// Whether `text` in backticks is a path of this repository: it begins with one of its folders, or ends as source does.
fn is_path(text: &str) -> bool {
    let plain = text
        .chars()
        .all(|character| character.is_ascii_alphanumeric() || "/._-".contains(character));
    let folders = [
        "src/",
        "tests/",
        "scripts/",
        "docs/",
        "benches/",
        "fuzz/",
        "link/",
        "rootfs/",
        "seccomp/",
        "examples/",
        ".ci/",
    ];
    plain && (folders.iter().any(|folder| text.starts_with(folder)) || (text.contains('/') && text.ends_with(".rs")))
}

/// A path is below the top, or below `src` where the text is about modules; a link is beside its document.
#[test]
fn documents_name_files_that_exist() {
    let top = top();
    let mut wrong = Vec::new();
    for (name, text) in documents() {
        // Every other part lies between backticks.
        for path in text.split('`').skip(1).step_by(2).filter(|path| is_path(path)) {
            if !top.join(path).exists() && !top.join("src").join(path).exists() {
                wrong.push(format!("{name}: {path}"));
            }
        }
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', '#']).next())
        {
            let from = top.join(&name).parent().unwrap().join(link);
            if !link.is_empty() && !link.contains(':') && !from.exists() {
                wrong.push(format!("{name}: {link}"));
            }
        }
    }
    judge("paths in documents", &wrong);
}

#[test]
fn the_table_of_decisions_has_each_of_them() {
    let text = fs::read_to_string(top().join("docs/decisions.md")).unwrap();
    let heads: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let rows: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("| 2"))
        .filter_map(|line| line.trim_end_matches(" |").rsplit(" | ").next())
        .collect();
    assert_eq!(rows, heads, "the table on top of docs/decisions.md");
}
