//! What people write who mean another package, or a part of Python.

use crate::policy::normalise;

/// What a name was meant for that no package of the index answers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meant {
    /// The package that has the module of this name, or its wheels.
    Package(&'static str),
    /// A module of this package, which is for Windows alone.
    Windows(&'static str),
    /// A module of Python itself.
    Python,
}

/// Normalised names without a package, or without a wheel of it for any Python we know, and what has them.
const PACKAGES: [(&str, &str); 23] = [
    ("cv2", "opencv-python-headless"),
    ("dateutil", "python-dateutil"),
    ("distutils", "setuptools"),
    ("faiss", "faiss-cpu"),
    ("jpype", "jpype1"),
    ("mpl-toolkits", "matplotlib"),
    ("mysqlclient", "pymysql"),
    ("mysqldb", "pymysql"),
    ("opencv", "opencv-python-headless"),
    ("opencv-python-contrib", "opencv-contrib-python-headless"),
    ("pil", "pillow"),
    ("pkg-resources", "setuptools"),
    ("psycopg2", "psycopg2-binary"),
    ("pytables", "tables"),
    ("scikit", "scikit-learn"),
    ("skimage", "scikit-image"),
    ("sklearn", "scikit-learn"),
    ("sql", "sqlalchemy"),
    ("tensorflow-gpu", "tensorflow"),
    ("umap", "umap-learn"),
    ("xgb", "xgboost-cpu"),
    ("xlsx", "openpyxl"),
    ("yaml", "pyyaml"),
];

/// Modules of packages that no function has.
const WINDOWS: [(&str, &str); 2] = [("win32api", "pywin32"), ("win32com", "pywin32")];

/// Modules that people list although Python has them. Names that are packages of the index as well are left out.
const PYTHON: [&str; 27] = [
    "collections",
    "copy",
    "csv",
    "ctypes",
    "functools",
    "glob",
    "importlib",
    "inspect",
    "io",
    "itertools",
    "json",
    "logging",
    "math",
    "multiprocessing",
    "os",
    "pickle",
    "random",
    "re",
    "shutil",
    "sqlite3",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "traceback",
    "urllib",
];

/// What is meant by `name`, when that is known.
pub(crate) fn find_meant(name: &str) -> Option<Meant> {
    let name = normalise(name);
    if PYTHON.contains(&name.as_str()) {
        return Some(Meant::Python);
    }
    let of = |all: &'static [(&'static str, &'static str)]| {
        let found = all.iter().find(|(known, _)| *known == name);
        found.map(|(_, package)| *package)
    };
    of(&PACKAGES)
        .map(Meant::Package)
        .or_else(|| of(&WINDOWS).map(Meant::Windows))
}

/// The package that is in no index, by uv's `explanation`.
pub(crate) fn find_absent(explanation: &str) -> Option<String> {
    let flat = explanation.split_whitespace().collect::<Vec<_>>().join(" ");
    let (before, _) = flat.split_once(" was not found in the package registry")?;
    before.rsplit(' ').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_modules_lead_to_their_packages() {
        assert_eq!(find_meant("Sklearn"), Some(Meant::Package("scikit-learn")));
        assert_eq!(find_meant("mpl_toolkits"), Some(Meant::Package("matplotlib")));
        assert_eq!(find_meant("win32api"), Some(Meant::Windows("pywin32")));
        assert_eq!(find_meant("json"), Some(Meant::Python));
        assert_eq!(find_meant("numpy"), None);
        let names = PACKAGES.map(|(name, _)| name);
        for name in names.into_iter().chain(PYTHON) {
            assert_eq!(normalise(name), name);
        }
    }

    #[test]
    fn the_absent_package_is_read_in_the_explanation() {
        let explanation =
            "  cause: Because json was not found\n   in the package registry and you require json, we can conclude";
        assert_eq!(find_absent(explanation).as_deref(), Some("json"));
        assert_eq!(find_absent("Because you require numpy<2 and numpy>2"), None);
    }
}
