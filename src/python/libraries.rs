//! Shared libraries that wheels need and nobody brings: known when the image is built, not at the first call.
//!
//! A wheel for manylinux may need a dozen libraries of the system, and many need more than they may: OpenMP, OpenGL, X11.
//! Which libraries a layer has and which its wheels need is read once and remembered by the layer. What is missing is a
//! warning, not an error: it may be of a part that the function does not import.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::elf;
use super::layers::WheelLayer;
use super::wheel::{normalise, Record, SITE};
use crate::progress::Progress;
use crate::store::{BuiltLayer, Key, Memo, Roots, Step, Store, StoreError};

/// Directories inside each other that are searched in a base: `usr/lib/x86_64-linux-gnu/name/part` is five.
const DEPTH: usize = 8;
/// Names in one warning.
const MOST_NAMED: usize = 4;
/// Wheels that are to be had without what needs a screen.
const HEADLESS: [&str; 2] = ["opencv-python", "opencv-contrib-python"];

/// The shared libraries of a layer.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Libraries {
    /// Those it has, by file name and by `DT_SONAME`.
    has: BTreeSet<String>,
    /// Those its wheels need, by wheel (`numpy 1.26.4`), without those it has itself.
    needs: BTreeMap<String, BTreeSet<String>>,
}

impl Memo for Libraries {
    const FOLDER: &'static str = "libraries";
    const FORMER_FOLDER: Option<&'static str> = Some("wheel");

    fn roots(&self) -> Roots {
        Roots::default()
    }
}

/// Warns of libraries that `wheels` need and neither they nor the layers of the system, `base`, have. `package_of` knows the
/// system package that has a library.
pub(crate) fn warn_of_missing<'a>(
    store: &Store,
    base: impl Iterator<Item = &'a BuiltLayer>,
    wheels: &[WheelLayer],
    package_of: &dyn Fn(&str) -> Option<String>,
    progress: &dyn Progress,
) -> Result<(), StoreError> {
    let of_wheels = wheels.iter().map(|made| libraries(store, &made.layer, of_wheels));
    let of_wheels = of_wheels.collect::<Result<Vec<_>, _>>()?;
    let mut lacks = lacks(&of_wheels, &BTreeSet::new());
    if !lacks.is_empty() {
        let mut there = BTreeSet::new();
        for layer in base {
            there.extend(libraries(store, layer, of_base)?.has);
        }
        lacks = self::lacks(&of_wheels, &there);
    }
    let warnings = lacks.iter().map(|(wheel, missing)| warning(wheel, missing, package_of));
    warnings.for_each(|warning| progress.warn(&warning));
    Ok(())
}

/// The libraries of `layer`, read by `scan` unless they are remembered.
fn libraries(
    store: &Store,
    layer: &BuiltLayer,
    scan: fn(&Path) -> io::Result<Libraries>,
) -> Result<Libraries, StoreError> {
    let key = Key::of(Step::Libraries).with(layer.diff_id.to_string()).finish();
    if let Some(found) = store.memos().find(&key)? {
        return Ok(found);
    }
    let tree = store.trees().path(&layer.diff_id);
    let found = scan(&tree).map_err(|source| StoreError::Io {
        action: "read the libraries of",
        path: tree,
        source,
    })?;
    store.memos().put(&key, &found)?;
    Ok(found)
}

fn is_library(name: &str) -> bool {
    name.ends_with(".so") || name.contains(".so.")
}

/// Reads the files that the wheels of a layer list.
fn of_wheels(tree: &Path) -> io::Result<Libraries> {
    let mut found = Libraries::default();
    let site = tree.join(SITE);
    let Ok(entries) = fs::read_dir(&site) else {
        return Ok(found);
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap_or_default();
        let Some((project, version)) = name.strip_suffix(".dist-info").and_then(|name| name.rsplit_once('-')) else {
            continue;
        };
        let Ok(record) = Record::parse(&fs::read_to_string(entry.path().join("RECORD")).unwrap_or_default()) else {
            continue;
        };
        let mut needs = BTreeSet::new();
        for path in record.paths() {
            let file_name = path.rsplit('/').next().unwrap_or_default();
            if !is_library(file_name) {
                continue;
            }
            found.has.insert(file_name.to_owned());
            // What is no library of this machine is not loaded; a wheel may carry those of others.
            if let Ok(Some(read)) = elf::read(&fs::read(site.join(path))?) {
                needs.extend(read.libraries);
                found.has.extend(read.name);
            }
        }
        found.needs.insert(format!("{} {version}", normalise(project)), needs);
    }
    let has = &found.has;
    found
        .needs
        .values_mut()
        .for_each(|needs| needs.retain(|name| !has.contains(name)));
    found.needs.retain(|_, needs| !needs.is_empty());
    Ok(found)
}

/// Lists the files of a base that are called like libraries, wherever they are: where the loader looks is its own matter.
fn of_base(tree: &Path) -> io::Result<Libraries> {
    let mut found = Libraries::default();
    let mut pending = vec![(tree.to_owned(), 0)];
    while let Some((directory, depth)) = pending.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            if entry.file_type()?.is_dir() {
                if depth < DEPTH {
                    pending.push((entry.path(), depth + 1));
                }
            } else if is_library(&name) {
                found.has.insert(name);
            }
        }
    }
    Ok(found)
}

/// What each wheel of `layers` needs and neither they nor `there` have.
fn lacks<'a>(layers: &'a [Libraries], there: &BTreeSet<String>) -> BTreeMap<&'a str, Vec<&'a str>> {
    let has = |name: &String| there.contains(name) || layers.iter().any(|layer| layer.has.contains(name));
    let mut lacks = BTreeMap::new();
    for (wheel, needs) in layers.iter().flat_map(|layer| &layer.needs) {
        let missing: Vec<&str> = needs.iter().filter(|name| !has(name)).map(String::as_str).collect();
        if !missing.is_empty() {
            lacks.insert(wheel.as_str(), missing);
        }
    }
    lacks
}

fn warning(wheel: &str, missing: &[&str], package_of: &dyn Fn(&str) -> Option<String>) -> String {
    let named = missing.get(..MOST_NAMED).unwrap_or(missing).join(", ");
    let more = match missing.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (verb, them) = if missing.len() == 1 {
        ("is", "it")
    } else {
        ("are", "them")
    };
    let project = wheel.split(' ').next().unwrap_or_default();
    let other = match HEADLESS.contains(&project) {
        true => format!(" ({project}-headless does not need {them})"),
        false => String::new(),
    };
    let packages: BTreeSet<String> = missing.iter().filter_map(|library| package_of(library)).collect();
    let remedy = match packages.is_empty() {
        true => String::new(),
        false => {
            let packages = packages.into_iter().collect::<Vec<_>>().join(", ");
            format!("; in packages.txt, one a line: {packages}")
        }
    };
    format!(
        "{wheel} needs {named}{more}, which {verb} neither in the base nor in a wheel; importing it may fail{other}{remedy}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer with the C library's own library of mathematics as the extension module of the wheel `name`.
    fn layer(name: &str, others: &[&str]) -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        let site = tree.path().join(SITE);
        let info = site.join(format!("{name}-1.0.dist-info"));
        fs::create_dir_all(&info).unwrap();
        fs::create_dir_all(site.join(format!("{name}.libs"))).unwrap();
        fs::copy("/usr/lib/x86_64-linux-gnu/libm.so.6", site.join(format!("{name}.so"))).unwrap();
        let mut record = format!("{name}.so,,\n");
        for other in others {
            let path = format!("{name}.libs/{other}");
            fs::write(site.join(&path), "").unwrap();
            record += &format!("{path},,\n");
        }
        fs::write(info.join("RECORD"), record).unwrap();
        tree
    }

    #[test]
    fn what_neither_base_nor_wheels_have_is_named() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("usr/lib/x86_64-linux-gnu");
        fs::create_dir_all(&directory).unwrap();
        let one = of_wheels(layer("Some_Package", &[]).path()).unwrap();
        assert!(one.has.contains("libm.so.6"), "its own DT_SONAME: {one:?}");
        let missing = ["ld-linux-x86-64.so.2", "libc.so.6"];
        let layers = [one];
        let found = lacks(&layers, &of_base(base.path()).unwrap().has);
        assert_eq!(found, [("some-package 1.0", missing.to_vec())].into());

        std::os::unix::fs::symlink("nowhere", directory.join("libc.so.6")).unwrap();
        let found = lacks(&layers, &of_base(base.path()).unwrap().has);
        assert_eq!(found, [("some-package 1.0", vec![missing[0]])].into());

        // Another wheel's, of another layer.
        let other = of_wheels(layer("other", &["ld-linux-x86-64.so.2", "libc.so.6"]).path()).unwrap();
        assert!(other.needs.is_empty(), "{other:?}");
        let [one] = layers;
        assert!(lacks(&[one, other], &BTreeSet::new()).is_empty());
    }

    #[test]
    fn a_warning_names_what_is_missing_and_who_does_without() {
        let known = |library: &str| (library == "libGL.so.1").then(|| "libgl1".to_owned());
        let text = warning("opencv-python 4.9.0.80", &["libGL.so.1"], &known);
        for part in [
            "opencv-python 4.9.0.80 needs libGL.so.1, which is",
            "opencv-python-headless",
            "; in packages.txt, one a line: libgl1",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let text = warning("vtk 9.3", &["a.so", "b.so", "c.so", "d.so", "e.so", "f.so"], &known);
        assert!(
            text.contains("d.so and 2 more, which are") && !text.contains("e.so") && !text.contains("packages.txt"),
            "{text}"
        );
    }
}
