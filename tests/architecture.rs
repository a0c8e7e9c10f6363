//! The shape of the crate, checked: ranks, file sizes, and the one home of each heavy dependency.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and says why on standard error"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// A module uses only modules of strictly lower rank.
const RANKS: &[(&str, u8)] = &[
    ("cli", 8),
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
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
    ("landlock", &["sandbox"]),
    ("seccompiler", &["sandbox", "sys"]),
    ("caps", &["sandbox"]),
    ("libc", &["sys"]),
    ("liblzma", &["archive"]),
    ("libdeflater", &["archive"]),
    ("libdeflate_sys", &["sys"]),
    ("flate2", &["archive"]),
    ("zstd", &["archive"]),
    ("ar", &["archive"]),
    ("tar", &["archive", "store"]),
    ("toml", &["config", "build"]),
];

const MOST_LINES: usize = 600;

struct Source {
    /// Path below `src`.
    path: PathBuf,
    /// First component: the ranked module, or none for lib.rs and main.rs.
    module: Option<String>,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut pending = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(&root).unwrap().to_owned();
                let module = (below.components().count() > 1).then(|| {
                    below
                        .components()
                        .next()
                        .unwrap()
                        .as_os_str()
                        .to_str()
                        .unwrap()
                        .to_owned()
                });
                found.push(Source {
                    path: below,
                    module,
                    text: fs::read_to_string(&path).unwrap(),
                });
            }
        }
    }
    assert!(found.len() > 30, "only {} source files found", found.len());
    found
}

/// The first two segments of every path written in a file: `crate::store::Store` gives `("crate", "store")`.
#[derive(Default)]
struct Paths(Vec<(String, String)>);

impl Paths {
    fn add_tree(&mut self, prefix: &[String], tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                let mut longer = prefix.to_vec();
                longer.push(path.ident.to_string());
                self.add_tree(&longer, &path.tree);
            }
            syn::UseTree::Name(name) => self.add_leaf(prefix, &name.ident),
            syn::UseTree::Rename(rename) => self.add_leaf(prefix, &rename.ident),
            syn::UseTree::Glob(_) => self.add(prefix),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.add_tree(prefix, item)),
        }
    }

    fn add_leaf(&mut self, prefix: &[String], leaf: &syn::Ident) {
        let mut segments = prefix.to_vec();
        segments.push(leaf.to_string());
        self.add(&segments);
    }

    fn add(&mut self, segments: &[String]) {
        let first = segments.first().cloned().unwrap_or_default();
        self.0.push((first, segments.get(1).cloned().unwrap_or_default()));
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.add(&segments);
        }
        syn::visit::visit_path(self, path);
    }
}

fn paths(source: &Source) -> Vec<(String, String)> {
    let file = syn::parse_file(&source.text).unwrap_or_else(|error| panic!("{}: {error}", source.path.display()));
    let mut paths = Paths::default();
    paths.visit_file(&file);
    paths.0
}

#[test]
fn every_module_has_a_rank_and_uses_only_lower_ones() {
    let ranks: BTreeMap<&str, u8> = RANKS.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut edges = 0;
    for source in sources() {
        let Some(module) = &source.module else { continue };
        let rank = *ranks
            .get(module.as_str())
            .unwrap_or_else(|| panic!("src/{module} has no rank"));
        for (first, second) in paths(&source) {
            if first != "crate" || &second == module {
                continue;
            }
            edges += 1;
            match ranks.get(second.as_str()) {
                Some(other) if *other < rank => {}
                _ => wrong.push(format!(
                    "{}: {module} (rank {rank}) uses {second}",
                    source.path.display()
                )),
            }
        }
    }
    assert!(
        edges > 20,
        "only {edges} edges between modules found: the check no longer sees them"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_module_climbs_out_of_itself_by_super() {
    for source in sources() {
        let depth = source.path.components().count() - usize::from(source.path.ends_with("mod.rs"));
        let climb = "super::".repeat(depth.max(1) + 1);
        assert!(
            !source.text.contains(&climb),
            "{} leaves its module by {climb}",
            source.path.display()
        );
    }
}

#[test]
fn heavy_dependencies_stay_at_home() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (first, _) in paths(&source) {
            let Some((_, homes)) = HOMES.iter().find(|(name, _)| *name == first) else {
                continue;
            };
            if !source.module.as_deref().is_some_and(|module| homes.contains(&module)) {
                wrong.push(format!(
                    "{} names {first}, which lives in {}",
                    source.path.display(),
                    homes.join(", ")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_sys_says_unsafe() {
    for source in sources()
        .iter()
        .filter(|source| source.module.as_deref() != Some("sys"))
    {
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
    for source in sources() {
        let lines = source.text.lines().count();
        assert!(
            lines <= MOST_LINES,
            "{} has {lines} lines: split it by concept",
            source.path.display()
        );
    }
}
