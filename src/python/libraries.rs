//! Shared libraries that wheels need and nobody brings: known when the image is built, not at the first call.
//!
//! A wheel for manylinux may need a dozen libraries of the system, and many need more than they may: OpenMP, OpenGL, X11.
//! What the files of a layer need, where they look for it and what they open by name is read once and remembered by the
//! layer; `loading` decides what of it will not be found. That is a warning, not an error: it may be of a part that the
//! function does not import.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use memchr::memmem;
use serde::{Deserialize, Serialize};

use super::layers::WheelLayer;
use super::loading::{Lack, Loader, Object, WheelObjects, PREFIX_LIB};
use super::wheel::{Record, SITE};
use crate::archive::elf;
use crate::policy::normalise;
use crate::progress::Progress;
use crate::store::{BuiltLayer, Key, Memo, Roots, Step, Store, StoreError};

/// Directories inside each other that are searched in a base: `usr/lib/x86_64-linux-gnu/name/part` is five.
const DEPTH: usize = 8;
/// Names in one warning.
const MOST_NAMED: usize = 4;
/// Sources are looked at up to here; larger ones are tables.
const MAX_SOURCE: u64 = 1 << 20;
/// Words of sources that open libraries themselves.
const OPENING: [&str; 4] = ["CDLL", "RTLD_GLOBAL", "LoadLibrary(", "dlopen("];
/// Libraries that are opened by name, when there is a window, a drawing or a sound to be made: too often to be checked
/// when it happens, too seldom to be needed outright. Not those that many a wheel opens for a part that hardly anybody
/// uses: pillow names libxcb and libharfbuzz, whatever draws windows GTK.
const OPENED: [&str; 21] = [
    "libEGL.so",
    "libEGL.so.1",
    "libGL.so",
    "libGL.so.1",
    "libGLU.so.1",
    "libGLX.so.0",
    "libOSMesa.so.8",
    "libX11.so.6",
    "libXcursor.so.1",
    "libXext.so.6",
    "libXrender.so.1",
    "libcairo.so.2",
    "libfontconfig.so.1",
    "libgdk_pixbuf-2.0.so.0",
    "libgobject-2.0.so.0",
    "libmagic.so.1",
    "libpango-1.0.so.0",
    "libpangocairo-1.0.so.0",
    "libpangoft2-1.0.so.0",
    "libportaudio.so.2",
    "libsndfile.so.1",
];
/// Wheels that are to be had without what needs a screen.
const HEADLESS: [&str; 2] = ["opencv-python", "opencv-contrib-python"];

/// Knows the system package that has a library.
type PackageOf<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The shared libraries of a layer.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Libraries {
    /// Of a base: file names.
    has: BTreeSet<String>,
    /// Of wheels, by title (`numpy 1.26.4`).
    wheels: BTreeMap<String, WheelObjects>,
}

impl Memo for Libraries {
    const FOLDER: &'static str = "libraries";
    const FORMER_FOLDER: Option<&'static str> = Some("wheel");

    fn roots(&self) -> Roots {
        Roots::default()
    }
}

/// Warns of libraries that `wheels` need and neither they nor the layers of the system, `base`, have. `package_of` knows the
/// system package that has a library. Returns the libraries that wheels put into `/opt/py/lib`, absolute path by name.
pub(crate) fn survey<'a>(
    store: &Store,
    base: impl Iterator<Item = &'a BuiltLayer>,
    wheels: &[WheelLayer],
    package_of: PackageOf<'_>,
    progress: &dyn Progress,
) -> Result<BTreeMap<String, String>, StoreError> {
    let of_wheels = wheels.iter().map(|made| libraries(store, &made.layer, of_wheels));
    let of_wheels = of_wheels.collect::<Result<Vec<_>, _>>()?;
    let wheels = || of_wheels.iter().flat_map(|layer| &layer.wheels);
    if wheels().all(|(_, wheel)| wheel.objects.is_empty() && wheel.opens.is_empty()) {
        return Ok(BTreeMap::new());
    }
    let mut there = BTreeSet::new();
    for layer in base {
        there.extend(libraries(store, layer, of_base)?.has);
    }
    let lacks = Loader::new(wheels(), &there).lacks();
    let warnings = lacks.iter().flat_map(|(wheel, lack)| warnings(wheel, lack, package_of));
    warnings.for_each(|warning| progress.warn(&warning));
    Ok(of_prefix(wheels().flat_map(|(_, wheel)| &wheel.objects), &there))
}

/// The libraries among `objects` that lie in `/opt/py/lib`: absolute path by name, as ldconfig(8) would list them. Not those
/// that the system has, `there`: what the loader has a list of comes before the directories that it searches anyhow, and a base
/// without a list has its libraries in these alone.
fn of_prefix<'a>(objects: impl Iterator<Item = &'a Object>, there: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for object in objects {
        let Some((PREFIX_LIB, file)) = object.path.rsplit_once('/') else {
            continue;
        };
        let (name, path) = (object.name.as_deref().unwrap_or(file), format!("/{}", object.path));
        // A file of the very name counts before one that says to be it. `libtbb.so` is a link for the linker elsewhere.
        if file == name || file.ends_with(".so") {
            found.insert(file.to_owned(), path.clone());
        }
        found.entry(name.to_owned()).or_insert(path);
    }
    found.retain(|name, _| !there.contains(name));
    found
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
        let mut wheel = WheelObjects::default();
        for path in record.paths() {
            let file_name = path.rsplit('/').next().unwrap_or_default();
            if is_library(file_name) {
                let bytes = fs::read(site.join(path))?;
                wheel
                    .objects
                    .extend(inside(SITE, path).and_then(|path| object(path, &bytes)));
            } else if file_name.ends_with(".py") {
                wheel.has_sources = true;
                let bytes = source(&site.join(path))?;
                wheel.preloads |= OPENING
                    .iter()
                    .any(|word| memmem::find(&bytes, word.as_bytes()).is_some());
                wheel.opens.extend(named(&bytes, b"\"'"));
            }
        }
        found.wheels.insert(format!("{} {version}", normalise(project)), wheel);
    }
    Ok(found)
}

/// The contents of a source; none of one that is larger than any that a person wrote.
fn source(path: &Path) -> io::Result<Vec<u8>> {
    match fs::symlink_metadata(path)?.len() {
        size if size > MAX_SOURCE => Ok(Vec::new()),
        _ => fs::read(path),
    }
}

/// The library or module at `path`, without leading slash. What is no library of this machine is not loaded; a wheel may
/// carry those of others.
fn object(path: String, bytes: &[u8]) -> Option<Object> {
    let read = elf::read(bytes).ok().flatten()?;
    let (directory, file_name) = path.rsplit_once('/')?;
    let stem = file_name.split('.').next().unwrap_or_default();
    let is_module = memmem::find(bytes, format!("\0PyInit_{stem}\0").as_bytes()).is_some();
    let search = read.search.iter().filter_map(|entry| {
        let entry = entry.replace("${ORIGIN}", "$ORIGIN");
        match entry.strip_prefix("$ORIGIN") {
            Some(rest) => inside(directory, rest.trim_start_matches('/')),
            None => inside("", entry.strip_prefix('/')?),
        }
    });
    let mut opens = named(bytes, &[0]);
    opens.retain(|name| !read.libraries.contains(name) && read.name.as_ref() != Some(name));
    // Without anything to draw with, it only asks whether there is a screen, as matplotlib does.
    if opens.iter().all(|name| name.starts_with("libX")) {
        opens.clear();
    }
    Some(Object {
        search: search.collect(),
        is_module,
        opens,
        name: read.name,
        needs: read.libraries,
        is_inherited: read.is_inherited,
        path,
    })
}

/// `path` as seen from `directory`, without `.` and `..`; none when it leads out of the image.
fn inside(directory: &str, path: &str) -> Option<String> {
    let mut components: Vec<&str> = directory.split('/').filter(|component| !component.is_empty()).collect();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => _ = components.pop()?,
            component => components.push(component),
        }
    }
    Some(components.join("/"))
}

/// Which of [`OPENED`] stand in `bytes`, each between two of the bytes `ends`.
fn named(bytes: &[u8], ends: &[u8]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for at in memmem::find_iter(bytes, b"lib") {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        let rest = bytes.get(at..).unwrap_or_default();
        let is_whole = |name: &&&str| {
            let after = rest.strip_prefix(name.as_bytes()).and_then(<[u8]>::first);
            after.is_some_and(|after| before == Some(after) && ends.contains(after))
        };
        found.extend(OPENED.iter().find(is_whole).map(|name| (*name).to_owned()));
    }
    found
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

/// What the user should know of what a wheel will not find.
fn warnings(wheel: &str, lack: &Lack, package_of: PackageOf<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let missing: Vec<&str> = lack.missing.iter().map(String::as_str).collect();
    if !missing.is_empty() {
        warnings.push(warning(wheel, &missing, package_of));
    }
    if let Some((name, (other, path))) = lack.misplaced.first_key_value() {
        let more = more(lack.misplaced.len(), 1);
        warnings.push(format!(
            "{wheel} needs {name}{more}, which {other} brings as /{path}, where it is not looked for; importing it may fail"
        ));
    }
    let opened: Vec<&str> = lack.opened.iter().map(String::as_str).collect();
    if !opened.is_empty() {
        let (names, verb) = (names(&opened), if opened.len() == 1 { "is" } else { "are" });
        warnings.push(format!(
            "{wheel} opens {names} when it has to, which {verb} neither in the base nor in a wheel; what needs it fails{}",
            remedy(&opened, package_of)
        ));
    }
    warnings
}

/// Which system packages have `libraries`, as far as that is known.
fn remedy(libraries: &[&str], package_of: PackageOf<'_>) -> String {
    // `libGL.so` comes with compilers alone; what opens it takes `libGL.so.1` as well.
    let package_of = |library: &&str| package_of(library).or_else(|| package_of(&format!("{library}.1")));
    let packages: BTreeSet<String> = libraries.iter().filter_map(package_of).collect();
    match packages.is_empty() {
        true => String::new(),
        false => {
            let packages = packages.into_iter().collect::<Vec<_>>().join(", ");
            format!("; in packages.txt, one a line: {packages}")
        }
    }
}

fn names(all: &[&str]) -> String {
    all.get(..MOST_NAMED).unwrap_or(all).join(", ") + &more(all.len(), MOST_NAMED)
}

fn more(count: usize, named: usize) -> String {
    match count.saturating_sub(named) {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

fn warning(wheel: &str, missing: &[&str], package_of: PackageOf<'_>) -> String {
    let named = names(missing);
    let (verb, them) = if missing.len() == 1 {
        ("is", "it")
    } else {
        ("are", "them")
    };
    let project = wheel.split(' ').next().unwrap_or_default();
    let other = match HEADLESS.contains(&project) {
        true => format!(
            " ({project}-headless does not need {them}; the line `{project} ; python_version < \"3\"` in overrides.txt, beside requirements.txt, leaves {project} out where another package requires it)"
        ),
        false => String::new(),
    };
    let remedy = remedy(missing, package_of);
    format!(
        "{wheel} needs {named}, which {verb} neither in the base nor in a wheel; importing it may fail{other}{remedy}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer with the C library's own library of mathematics as a library of the wheel `name`.
    fn layer(name: &str, source: &str) -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        let site = tree.path().join(SITE);
        let info = site.join(format!("{name}-1.0.dist-info"));
        fs::create_dir_all(&info).unwrap();
        fs::copy("/usr/lib/x86_64-linux-gnu/libm.so.6", site.join(format!("{name}.so"))).unwrap();
        fs::write(site.join(format!("{name}.py")), source).unwrap();
        fs::write(info.join("RECORD"), format!("{name}.so,,\n{name}.py,,\n")).unwrap();
        tree
    }

    #[test]
    fn what_neither_base_nor_wheels_have_is_named() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("usr/lib/x86_64-linux-gnu");
        fs::create_dir_all(&directory).unwrap();
        let one = of_wheels(layer("Some_Package", "").path()).unwrap();
        let [object] = one.wheels["some-package 1.0"].objects.as_slice() else {
            panic!("{one:?}");
        };
        assert_eq!(
            (object.path.as_str(), object.name.as_deref()),
            ("opt/py/site/Some_Package.so", Some("libm.so.6"))
        );
        let missing = |base: &Path| {
            let there = of_base(base).unwrap().has;
            let lacks = Loader::new(one.wheels.iter(), &there).lacks();
            lacks["some-package 1.0"].missing.iter().cloned().collect::<Vec<_>>()
        };
        assert_eq!(missing(base.path()), ["ld-linux-x86-64.so.2", "libc.so.6"]);
        std::os::unix::fs::symlink("nowhere", directory.join("libc.so.6")).unwrap();
        assert_eq!(missing(base.path()), ["ld-linux-x86-64.so.2"]);
    }

    #[test]
    fn sources_say_what_they_open() {
        let opens = |source: &str| {
            let found = of_wheels(layer("one", source).path()).unwrap();
            let wheel = &found.wheels["one 1.0"];
            (wheel.opens.iter().cloned().collect::<Vec<_>>(), wheel.preloads)
        };
        let source = "x = dlopen(ffi, 'cairo-2', 'libcairo.so.2', \"libGL.so.1\")";
        assert_eq!(
            opens(source),
            (vec!["libGL.so.1".to_owned(), "libcairo.so.2".to_owned()], true)
        );
        assert_eq!(
            opens("# libcairo.so.2 is not 'mylibGL.so.1', nor 'libGL.so.10'"),
            (vec![], false)
        );
    }

    #[test]
    fn libraries_are_opened_by_names_between_zeroes() {
        let found = named(b"\0libGL.so.1\0 libX11.so.6\0\0libEGL.so.1", &[0]);
        assert_eq!(found, ["libGL.so.1".to_owned()].into());
    }

    #[test]
    fn a_path_stays_inside_the_image() {
        assert_eq!(
            inside("opt/py/site/a", "../a.libs").as_deref(),
            Some("opt/py/site/a.libs")
        );
        assert_eq!(
            inside("opt/py/site", "../lib/libtbb.so").as_deref(),
            Some("opt/py/lib/libtbb.so")
        );
        assert_eq!(inside("", "usr/lib/./x").as_deref(), Some("usr/lib/x"));
        assert_eq!(inside("opt", "../.."), None);
    }

    #[test]
    fn a_warning_names_what_is_missing_and_who_does_without() {
        let known = |library: &str| (library == "libGL.so.1").then(|| "libgl1".to_owned());
        let text = warning("opencv-python 4.9.0.80", &["libGL.so.1"], &known);
        for part in [
            "opencv-python 4.9.0.80 needs libGL.so.1, which is",
            "opencv-python-headless",
            "; in packages.txt, one a line: libgl1",
            "overrides.txt",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let text = warning("vtk 9.3", &["a.so", "b.so", "c.so", "d.so", "e.so", "f.so"], &known);
        assert!(
            text.contains("d.so and 2 more, which are") && !text.contains("e.so") && !text.contains("packages.txt"),
            "{text}"
        );
    }

    #[test]
    fn libraries_of_the_prefix_have_their_own_names_and_those_of_their_files() {
        let object = |path: &str, name: Option<&str>| Object {
            path: path.to_owned(),
            name: name.map(str::to_owned),
            ..Object::default()
        };
        let objects = [
            object("opt/py/lib/libtbb.so", Some("libtbb.so.12")),
            object("opt/py/lib/libtbb.so.12.13", Some("libtbb.so.12")),
            object("opt/py/lib/libtbb.so.12", Some("libtbb.so.12")),
            object("opt/py/lib/libodd.so", Some("libodd.so.1")),
            object("opt/py/lib/sub/libx.so", None),
            object("opt/py/site/liby.so", None),
        ];
        let found: Vec<_> = of_prefix(objects.iter(), &BTreeSet::new()).into_iter().collect();
        let of = |name: &str, file: &str| (name.to_owned(), format!("/opt/py/lib/{file}"));
        assert_eq!(
            found,
            [
                of("libodd.so", "libodd.so"),
                of("libodd.so.1", "libodd.so"),
                of("libtbb.so", "libtbb.so"),
                of("libtbb.so.12", "libtbb.so.12"),
            ]
        );
    }

    #[test]
    fn a_library_of_the_system_is_not_replaced_by_one_of_the_prefix() {
        let object = |name: &str| Object {
            path: format!("opt/py/lib/{name}"),
            name: Some(name.to_owned()),
            ..Object::default()
        };
        let objects = [object("libz.so.1"), object("libtbb.so.12")];
        let there = ["libc.so.6".to_owned(), "libz.so.1".to_owned()].into();
        let found = of_prefix(objects.iter(), &there);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["libtbb.so.12"]);
    }

    #[test]
    fn a_library_in_the_wrong_place_is_named_with_its_wheel() {
        let place = ("tbb 2021".to_owned(), "opt/py/site/tbb.libs/libtbb.so.12".to_owned());
        let lack = Lack {
            misplaced: [("libtbb.so.12".to_owned(), place)].into(),
            opened: ["libGL.so.1".to_owned()].into(),
            ..Lack::default()
        };
        let known = |library: &str| (library == "libGL.so.1").then(|| "libgl1".to_owned());
        let texts = warnings("a 1", &lack, &known);
        assert_eq!(texts.len(), 2, "{texts:?}");
        let part = "a 1 needs libtbb.so.12, which tbb 2021 brings as /opt/py/site/tbb.libs/libtbb.so.12";
        assert!(texts[0].contains(part), "{texts:?}");
        assert!(
            texts[1].contains("a 1 opens libGL.so.1") && texts[1].ends_with("one a line: libgl1"),
            "{texts:?}"
        );
    }
}
