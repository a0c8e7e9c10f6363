//! The crate's source files as the checks of its shape see them: modules, the paths they mention, and where those lead.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::visit::Visit;

/// The directory with `Cargo.toml`; a binary that is started by hand can be pointed at another checkout.
pub fn top() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// Every `.rs` file below `folder`, which may be missing.
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut pending = vec![folder.to_owned()];
    let mut found = Vec::new();
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// One file below `src`.
pub struct Source {
    /// Path below `src`.
    pub path: PathBuf,
    /// The module's path below the crate: `["store", "layers"]`; `lib.rs` is `[]`.
    pub module: Vec<String>,
    pub text: String,
}

impl Source {
    /// The ranked folder or file; `lib.rs` and `main.rs` have none.
    pub fn ranked(&self) -> Option<&str> {
        let first = self.module.first()?;
        (first != "main").then_some(first.as_str())
    }

    pub fn is_test(&self) -> bool {
        self.path.file_stem().is_some_and(|stem| {
            let stem = stem.to_str().unwrap();
            stem == "tests" || stem.ends_with("_tests")
        }) || self.path.components().any(|part| part.as_os_str() == "tests")
    }

    fn parse(&self) -> syn::File {
        syn::parse_file(&self.text).unwrap_or_else(|error| panic!("{}: {error}", self.path.display()))
    }
}

/// All files below `src`, read once.
pub fn sources() -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(read_sources)
}

fn read_sources() -> Vec<Source> {
    let root = top().join("src");
    let found: Vec<Source> = rust_files(&root)
        .into_iter()
        .map(|path| {
            let below = path.strip_prefix(&root).unwrap().to_owned();
            let mut module: Vec<String> = below
                .with_extension("")
                .iter()
                .map(|part| part.to_str().unwrap().to_owned())
                .collect();
            if module.last().is_some_and(|last| last == "mod" || last == "lib") {
                module.pop();
            }
            let text = fs::read_to_string(&path).unwrap();
            Source {
                path: below,
                module,
                text,
            }
        })
        .collect();
    assert!(found.len() > 30, "only {} source files found", found.len());
    found
}

/// One module, by file or inline.
#[derive(Default)]
pub struct Module {
    /// The module path of the file it stands in.
    pub file: Vec<String>,
    /// What `use` brings into it: the name, and the path as written.
    names: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
}

/// A path as written, and where.
pub struct Mention {
    /// The module (file or inline) that says it.
    pub module: Vec<String>,
    pub segments: Vec<String>,
    /// `pub use`: hands a name on, uses nothing.
    is_reexport: bool,
}

/// Pairs of module paths of files: the second is used by the first.
pub type Edges = BTreeSet<(Vec<String>, Vec<String>)>;

/// Every module, and every path that one mentions.
#[derive(Default)]
pub struct Crate {
    with_tests: bool,
    /// Where the visit is.
    file: Vec<String>,
    module: Vec<String>,
    pub modules: BTreeMap<Vec<String>, Module>,
    pub mentions: Vec<Mention>,
    /// `impl Type` without a trait: where, and the type as written.
    pub impls: Vec<(Vec<String>, Vec<String>)>,
}

/// Whether one of the attributes is `#[cfg(test)]`.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

impl Crate {
    /// With the code of unit tests.
    pub fn tested() -> &'static Self {
        static TESTED: OnceLock<Crate> = OnceLock::new();
        TESTED.get_or_init(|| Self::collect(sources(), true))
    }

    /// Without the code of unit tests.
    pub fn shipped() -> &'static Self {
        static SHIPPED: OnceLock<Crate> = OnceLock::new();
        SHIPPED.get_or_init(|| Self::collect(sources(), false))
    }

    fn collect(sources: &[Source], with_tests: bool) -> Self {
        let mut this = Self {
            with_tests,
            ..Self::default()
        };
        for source in sources.iter().filter(|source| with_tests || !source.is_test()) {
            this.file = source.module.clone();
            this.module = source.module.clone();
            this.enter();
            this.visit_file(&source.parse());
        }
        this
    }

    fn enter(&mut self) {
        let file = self.file.clone();
        self.modules.entry(self.module.clone()).or_default().file = file;
    }

    fn mention(&mut self, segments: Vec<String>, is_reexport: bool) {
        let module = self.module.clone();
        self.mentions.push(Mention {
            module,
            segments,
            is_reexport,
        });
    }

    fn add_tree(&mut self, prefix: &[String], tree: &syn::UseTree, is_reexport: bool) {
        let longer = |last: &syn::Ident| {
            let mut longer = prefix.to_vec();
            if last != "self" {
                longer.push(last.to_string());
            }
            longer
        };
        let (name, path) = match tree {
            syn::UseTree::Path(path) => {
                let mut longer = prefix.to_vec();
                longer.push(path.ident.to_string());
                return self.add_tree(&longer, &path.tree, is_reexport);
            }
            syn::UseTree::Group(group) => {
                return group
                    .items
                    .iter()
                    .for_each(|item| self.add_tree(prefix, item, is_reexport))
            }
            syn::UseTree::Glob(_) => {
                self.modules
                    .entry(self.module.clone())
                    .or_default()
                    .globs
                    .push(prefix.to_vec());
                return self.mention(prefix.to_vec(), is_reexport);
            }
            syn::UseTree::Name(name) => (longer(&name.ident).last().cloned(), longer(&name.ident)),
            syn::UseTree::Rename(rename) => (Some(rename.rename.to_string()), longer(&rename.ident)),
        };
        let names = &mut self.modules.entry(self.module.clone()).or_default().names;
        names.insert(name.unwrap_or_default(), path.clone());
        self.mention(path, is_reexport);
    }

    /// The module that defines what `segments`, written in `module`, names; none when it is another crate's or local.
    pub fn resolve(&self, module: &[String], segments: &[String], patience: u8) -> Option<Vec<String>> {
        let (first, rest) = segments.split_first()?;
        let patience = patience.checked_sub(1)?;
        match first.as_str() {
            "crate" => self.descend(Vec::new(), rest, patience),
            "self" => self.descend(module.to_vec(), rest, patience),
            "super" => {
                let parent = module.get(..module.len().checked_sub(1)?)?;
                match rest.first().is_some_and(|next| next == "super") {
                    true => self.resolve(parent, rest, patience),
                    false => self.descend(parent.to_vec(), rest, patience),
                }
            }
            _ => {
                let child = [module, std::slice::from_ref(first)].concat();
                if self.modules.contains_key(&child) {
                    return self.descend(child, rest, patience);
                }
                let target = self.modules.get(module)?.names.get(first)?;
                // `use serde::Serialize` names `serde` of another crate; `use fs::x` after `use std::fs` as well.
                (target.first() != Some(first)).then_some(())?;
                self.resolve(module, &[target, rest].concat(), patience)
            }
        }
    }

    /// From the module `at` along `rest`: through child modules, then through what `at` hands on.
    fn descend(&self, at: Vec<String>, rest: &[String], patience: u8) -> Option<Vec<String>> {
        let Some((first, tail)) = rest.split_first() else {
            return Some(at);
        };
        let child = [&at, std::slice::from_ref(first)].concat();
        if self.modules.contains_key(&child) {
            return self.descend(child, tail, patience);
        }
        let module = self.modules.get(&at)?;
        if let Some(target) = module.names.get(first) {
            if let Some(found) = self.resolve(&at, &[target, tail].concat(), patience) {
                return Some(found);
            }
        }
        Some(at)
    }

    /// Which file uses which, without what a file only hands on by `pub use`.
    pub fn edges(&self) -> Edges {
        let mut edges = BTreeSet::new();
        for mention in self.mentions.iter().filter(|mention| !mention.is_reexport) {
            let Some(to) = self.resolve(&mention.module, &mention.segments, 16) else {
                continue;
            };
            let (from, to) = (&self.modules[&mention.module].file, &self.modules[&to].file);
            if from != to {
                edges.insert((from.clone(), to.clone()));
            }
        }
        edges
    }
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Crate {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if self.with_tests || !is_for_tests(attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if self.with_tests || !is_for_tests(&item.attrs) {
            syn::visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_some() {
            self.module.push(item.ident.to_string());
            self.enter();
            syn::visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_reexport = !matches!(item.vis, syn::Visibility::Inherited);
        self.add_tree(&[], &item.tree, is_reexport);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let (None, syn::Type::Path(path)) = (&item.trait_, item.self_ty.as_ref()) {
            let segments = path
                .path
                .segments
                .iter()
                .map(|segment| segment.ident.to_string())
                .collect();
            self.impls.push((self.module.clone(), segments));
        }
        syn::visit::visit_item_impl(self, item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.mention(segments, false);
        }
        syn::visit::visit_path(self, path);
    }

    /// Of a macro's arguments those are read that are expressions: `format!`, `assert!`, `vec!` and their kind.
    fn visit_macro(&mut self, invoked: &'ast syn::Macro) {
        let parser = Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated;
        if let Ok(arguments) = parser.parse2(invoked.tokens.clone()) {
            for argument in &arguments {
                // The tree is this function's own: what it mentions is copied.
                let mut inner = Self {
                    module: self.module.clone(),
                    ..Self::default()
                };
                inner.visit_expr(argument);
                self.mentions.append(&mut inner.mentions);
            }
        }
    }
}
