//! Which libraries the loader would not find, were the modules of wheels imported: a model of ld.so(8) on what is known of
//! files, without loading any.
//!
//! A module, and what it loads, is what counts. A library that no module leads to is a part that its package loads on
//! demand, such as the interface of a solver that one has to buy; and nobody knows which of those a function uses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

/// Modules that their package tries to import and does without, by project and the start of their file name.
const OPTIONAL: [(&str, &str); 2] = [
    // Threads by TBB, of a wheel that few functions have.
    ("numba", "tbbpool."),
    // For an MPI that Debian's packages of functions are not.
    ("mpi4py", "MPI.mpich."),
];

/// Where wheels put libraries for everybody, by way of their data: the list of the loader has those of an image.
pub(super) const PREFIX_LIB: &str = "opt/py/lib";

/// A shared library or an extension module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Object {
    /// Where it is, without leading slash.
    pub path: String,
    /// Its own name, if it has one.
    pub name: Option<String>,
    /// Libraries by name.
    pub needs: Vec<String>,
    /// Directories in which it looks for them, without leading slash.
    pub search: Vec<String>,
    /// Whether what it loads looks there as well.
    pub is_inherited: bool,
    /// Whether Python can import it.
    pub is_module: bool,
    /// Libraries that it names without needing them: it opens them when it has to.
    pub opens: BTreeSet<String>,
}

/// What is known of one wheel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WheelObjects {
    pub objects: Vec<Object>,
    /// Whether it has sources.
    pub has_sources: bool,
    /// Whether its sources open libraries: what they need by name alone may be there already.
    pub preloads: bool,
    /// Libraries that its sources name.
    pub opens: BTreeSet<String>,
}

/// What one wheel will not find.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lack {
    /// Libraries that are nowhere.
    pub missing: BTreeSet<String>,
    /// Libraries that a wheel brings where they are not looked for: the wheel and the path.
    pub misplaced: BTreeMap<String, (String, String)>,
    /// Libraries that are nowhere and would be opened by name.
    pub opened: BTreeSet<String>,
}

/// All wheels of an image, and the names of the libraries of its base.
pub(super) struct Loader<'a> {
    wheels: BTreeMap<&'a str, &'a WheelObjects>,
    by_path: BTreeMap<&'a str, &'a Object>,
    /// By file name and by own name: the wheel and the object.
    by_name: BTreeMap<&'a str, (&'a str, &'a Object)>,
    base: &'a BTreeSet<String>,
}

impl<'a> Loader<'a> {
    /// `wheels` by their titles, such as `numpy 1.26.4`.
    pub(super) fn new(
        wheels: impl Iterator<Item = (&'a String, &'a WheelObjects)>,
        base: &'a BTreeSet<String>,
    ) -> Self {
        let wheels: BTreeMap<&str, &WheelObjects> = wheels.map(|(title, wheel)| (title.as_str(), wheel)).collect();
        let all = || {
            let of = |(title, wheel): (&&'a str, &&'a WheelObjects)| {
                let title = *title;
                wheel.objects.iter().map(move |object| (title, object))
            };
            wheels.iter().flat_map(of)
        };
        let named = |(title, object): (&'a str, &'a Object)| {
            let names = std::iter::once(object.file_name()).chain(object.name.as_deref());
            names.map(move |name| (name, (title, object)))
        };
        let (by_path, by_name) = (
            all().map(|(_, object)| (object.path.as_str(), object)).collect(),
            all().flat_map(named).collect(),
        );
        Self {
            by_path,
            by_name,
            wheels,
            base,
        }
    }

    /// What each wheel will not find, by title; those that find everything are left out.
    pub(super) fn lacks(&self) -> BTreeMap<&'a str, Lack> {
        let lacks = self
            .wheels
            .iter()
            .map(|(title, wheel)| (*title, self.lack_of(title, wheel)));
        lacks.filter(|(_, lack)| *lack != Lack::default()).collect()
    }

    fn lack_of(&self, title: &str, wheel: &'a WheelObjects) -> Lack {
        let mut lack = Lack::default();
        let is_nowhere = |name: &&String| {
            // `libGL.so` is tried before `libGL.so.1`, or finds it by way of the compiler.
            let versions = format!("{name}.");
            let known = self
                .base
                .range((*name).clone()..)
                .next()
                .is_some_and(|found| found == *name || found.starts_with(&versions));
            !known && !self.by_name.contains_key(name.as_str()) && !wheel.has_renamed(name)
        };
        lack.opened.extend(wheel.opens.iter().filter(is_nowhere).cloned());
        for root in roots(title, wheel) {
            let loaded = self.load(root);
            for object in loaded.objects.iter().filter(|object| wheel.objects.contains(object)) {
                lack.opened.extend(object.opens.iter().filter(is_nowhere).cloned());
            }
            for name in loaded.not_found {
                match self.by_name.get(name) {
                    None => _ = lack.missing.insert(name.to_owned()),
                    Some(_) if wheel.preloads => {}
                    Some((other, object)) => {
                        let place = ((*other).to_owned(), object.path.clone());
                        lack.misplaced.insert(name.to_owned(), place);
                    }
                }
            }
        }
        lack.opened.retain(|name| !lack.missing.contains(name));
        lack
    }

    /// Loads `root` and, breadth first, everything it needs.
    fn load(&self, root: &'a Object) -> Loaded<'a> {
        let mut loaded = Loaded::default();
        let mut names: BTreeSet<&str> = BTreeSet::new();
        let mut pending = VecDeque::from([root]);
        while let Some(object) = pending.pop_front() {
            names.insert(object.file_name());
            names.extend(object.name.as_deref());
            loaded.objects.push(object);
            for need in &object.needs {
                if names.contains(need.as_str()) || loaded.not_found.contains(need.as_str()) {
                    continue;
                }
                let inherited = root.search.iter().filter(|_| root.is_inherited);
                let places = object
                    .search
                    .iter()
                    .chain(inherited)
                    .map(|directory| format!("{directory}/{need}"));
                let found = places.into_iter().find_map(|place| self.by_path.get(place.as_str()));
                let listed = || self.by_path.get(format!("{PREFIX_LIB}/{need}").as_str());
                match found.or_else(|| listed().filter(|_| !self.base.contains(need))) {
                    Some(found) => {
                        names.insert(need);
                        pending.push_back(found);
                    }
                    None if self.base.contains(need) => _ = names.insert(need),
                    None => {
                        loaded.not_found.insert(need);
                        // What it would need in turn is missing as well.
                        pending.extend(self.by_name.get(need.as_str()).map(|(_, object)| *object));
                    }
                }
            }
        }
        loaded
    }
}

/// What loading one object came to.
#[derive(Default)]
struct Loaded<'a> {
    objects: Vec<&'a Object>,
    not_found: BTreeSet<&'a str>,
}

/// What of a wheel is loaded by Python itself: its modules. Of a wheel that has sources and no module, its libraries: the
/// sources open them. Of one that has neither, nothing: it is there for others.
fn roots<'a>(title: &str, wheel: &'a WheelObjects) -> Vec<&'a Object> {
    let project = title.split(' ').next().unwrap_or_default();
    let is_optional = |object: &Object| {
        let start = |(of, start): &(&str, &str)| *of == project && object.file_name().starts_with(start);
        OPTIONAL.iter().any(start)
    };
    let modules: Vec<&Object> = wheel.objects.iter().filter(|object| object.is_module).collect();
    match modules.is_empty() {
        true if wheel.has_sources => wheel.objects.iter().collect(),
        _ => modules.into_iter().filter(|object| !is_optional(object)).collect(),
    }
}

impl WheelObjects {
    /// Whether it brings the library `name` under another one: what repairs wheels calls `libcairo.so.2`
    /// `libcairo-1f2e3d4c.so.2`, and leaves the old name in the files that need it.
    fn has_renamed(&self, name: &str) -> bool {
        let stem = name.split('.').next().unwrap_or_default();
        let starts = |rest: &str| rest.starts_with('-');
        self.objects
            .iter()
            .any(|object| object.file_name().strip_prefix(stem).is_some_and(starts))
    }
}

impl Object {
    fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(path: &str, needs: &[&str], search: &[&str]) -> Object {
        Object {
            path: path.to_owned(),
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
            search: search.iter().map(|entry| (*entry).to_owned()).collect(),
            is_module: !path.contains("/lib"),
            ..Object::default()
        }
    }

    fn wheel(objects: &[Object]) -> WheelObjects {
        WheelObjects {
            objects: objects.to_vec(),
            has_sources: true,
            ..WheelObjects::default()
        }
    }

    fn lacks(wheels: &[(&str, WheelObjects)]) -> BTreeMap<String, Lack> {
        let base = ["libc.so.6".to_owned()].into();
        let wheels: Vec<(String, &WheelObjects)> = wheels
            .iter()
            .map(|(title, wheel)| ((*title).to_owned(), wheel))
            .collect();
        let loader = Loader::new(wheels.iter().map(|(title, wheel)| (title, *wheel)), &base);
        loader
            .lacks()
            .into_iter()
            .map(|(title, lack)| (title.to_owned(), lack))
            .collect()
    }

    #[test]
    fn a_library_counts_where_a_run_path_leads_to() {
        let library = object("site/a.libs/libx.so", &["libc.so.6"], &[]);
        let found = [object("site/a/m.so", &["libx.so"], &["site/a.libs"]), library.clone()];
        assert_eq!(lacks(&[("a 1", wheel(&found))]), BTreeMap::new());
        let lost = [object("site/a/m.so", &["libx.so"], &["site/a"]), library];
        let lack = &lacks(&[("a 1", wheel(&lost))])["a 1"];
        assert!(lack.missing.is_empty());
        let place = ("a 1".to_owned(), "site/a.libs/libx.so".to_owned());
        assert_eq!(lack.misplaced, [("libx.so".to_owned(), place)].into());
        // Its sources may have opened it before.
        let preloads = WheelObjects {
            preloads: true,
            ..wheel(&lost)
        };
        assert_eq!(lacks(&[("a 1", preloads)]), BTreeMap::new());
    }

    #[test]
    fn a_library_of_the_prefix_is_found_by_name() {
        let module = object("site/a/m.so", &["libtbb.so.12"], &["opt"]);
        let found = object("opt/py/lib/libtbb.so.12", &["libc.so.6"], &[]);
        assert_eq!(
            lacks(&[
                ("a 1", wheel(std::slice::from_ref(&module))),
                ("tbb 2", wheel(&[found]))
            ]),
            BTreeMap::new()
        );
        let lost = object("opt/py/lib/sub/libtbb.so.12", &[], &[]);
        assert!(lacks(&[("a 1", wheel(&[module])), ("tbb 2", wheel(&[lost]))]).contains_key("a 1"));
    }

    #[test]
    fn a_library_that_is_loaded_already_is_not_looked_for() {
        let objects = [
            object("site/a/m.so", &["libx.so", "liby.so"], &["site/a.libs"]),
            object("site/a.libs/libx.so", &[], &[]),
            object("site/a.libs/liby.so", &["libx.so"], &[]),
        ];
        assert_eq!(lacks(&[("a 1", wheel(&objects))]), BTreeMap::new());
    }

    #[test]
    fn the_run_path_of_old_is_that_of_what_is_loaded_too() {
        let mut objects = [
            object("site/a/m.so", &["libx.so"], &["site/a.libs"]),
            object("site/a.libs/libx.so", &["liby.so"], &[]),
            object("site/a.libs/liby.so", &[], &[]),
        ];
        assert!(lacks(&[("a 1", wheel(&objects))])["a 1"]
            .misplaced
            .contains_key("liby.so"));
        objects[0].is_inherited = true;
        assert_eq!(lacks(&[("a 1", wheel(&objects))]), BTreeMap::new());
    }

    #[test]
    fn what_no_module_leads_to_is_loaded_on_demand_and_counts_for_nothing() {
        let objects = [
            object("site/a/m.so", &["libx.so"], &["site/a"]),
            object("site/a/libx.so", &["libc.so.6"], &[]),
            object("site/a/libx_of_a_solver.so", &["libsolver.so"], &[]),
        ];
        assert_eq!(lacks(&[("a 1", wheel(&objects))]), BTreeMap::new());
        // Without a module, the sources open the libraries.
        let lack = &lacks(&[("a 1", wheel(&objects[1..]))])["a 1"];
        assert_eq!(lack.missing, ["libsolver.so".to_owned()].into());
        // Without sources, others do.
        let others = WheelObjects {
            has_sources: false,
            ..wheel(&objects[1..])
        };
        assert_eq!(lacks(&[("a 1", others)]), BTreeMap::new());
        let pool = [object("site/numba/tbbpool.cpython-311.so", &["libtbb.so.12"], &[])];
        assert_eq!(lacks(&[("numba 0.60", wheel(&pool))]), BTreeMap::new());
        assert!(lacks(&[("other 1", wheel(&pool))]).contains_key("other 1"));
        let mut worlds = vec![object("site/mpi4py/MPI.mpich.cpython-311.so", &["libmpi.so.12"], &[])];
        assert_eq!(lacks(&[("mpi4py 4.1.0", wheel(&worlds))]), BTreeMap::new());
        worlds.push(object("site/mpi4py/MPI.openmpi.cpython-311.so", &["libmpi.so.40"], &[]));
        let missing = &lacks(&[("mpi4py 4.1.0", wheel(&worlds))])["mpi4py 4.1.0"].missing;
        assert_eq!(*missing, ["libmpi.so.40".to_owned()].into());
    }

    #[test]
    fn what_is_opened_by_name_counts_where_it_is_loaded() {
        let mut objects = [
            object("site/a/m.so", &["libx.so"], &["site/a"]),
            object("site/a/libx.so", &[], &[]),
            object("site/a/lib_on_demand.so", &[], &[]),
        ];
        objects[1].opens = ["libGL.so.1".to_owned()].into();
        objects[2].opens = ["libX11.so.6".to_owned()].into();
        let mut all = wheel(&objects);
        all.opens = ["libcairo.so.2", "libc.so.6", "libc.so"].map(str::to_owned).into();
        let lack = &lacks(&[("a 1", all)])["a 1"];
        assert_eq!(
            lack.opened,
            ["libGL.so.1".to_owned(), "libcairo.so.2".to_owned()].into()
        );
        // The old name of a library that the wheel brings under a new one.
        let mut repaired = wheel(&objects);
        repaired.opens.clear();
        repaired
            .objects
            .push(object("site/a.libs/libGL-1f2e3d4c.so.1.7.0", &[], &[]));
        assert_eq!(lacks(&[("a 1", repaired)]), BTreeMap::new());
    }
}
