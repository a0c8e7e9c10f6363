//! What else than `requirements.txt` may say what a function needs: the files of project tools.
//!
//! `pyproject.toml` is taken when it is asked for: the dependencies of its `[project]` table, under the rules for
//! requirements. Of the others only as much is read as it takes to see that they list something: a function that is built
//! without it would fail at its first import.

use toml::{Table, Value};

use super::requirements::{Find, RequirementError, Requirements, FILE};
use crate::policy::Kind;

/// The file of Python's own standard for projects (PEP 621).
const PYPROJECT: &str = "pyproject.toml";
/// The most that is read of a project file; the largest honest ones have some ten kilobytes.
const MAX_BYTES: usize = 1 << 20;
/// Names of packages that an error shows.
const SHOWN: usize = 3;
/// Files that people mean to be the requirements.
const MISTAKEN: [&str; 4] = [
    "requirements.in",
    "Requirements.txt",
    "requirement.txt",
    "requirements.txt.txt",
];

/// Which file says what a function needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// `requirements.txt`, when there is one.
    #[default]
    Requirements,
    /// The `[project]` table of `pyproject.toml`.
    Pyproject,
}

/// Who reads a file that lists dependencies, as far as it can write requirements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lists {
    /// The standard's table, which [`Origin::Pyproject`] takes.
    Project,
    Poetry,
    Pipenv,
    /// Something that nobody turns into requirements for us.
    Other,
}

/// Why the requirements of a function are not known.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// A requirement is refused.
    #[error("{0}")]
    Requirement(#[from] RequirementError),
    /// Another file than the requirements lists what is needed.
    #[error(
        "read requirements: the function has no {FILE}, but its {file} lists {packages}, which would not be there"
    )]
    Elsewhere {
        file: &'static str,
        /// The first of them.
        packages: String,
        lists: Lists,
    },
    /// `pyproject.toml` cannot be taken.
    #[error("read {PYPROJECT} of the function: {reason}")]
    Pyproject { reason: String },
}

impl ProjectError {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Requirement(source) => source.kind(),
            Self::Elsewhere { .. } | Self::Pyproject { .. } => Kind::Failed,
        }
    }
}

/// What a function requires by the file of `origin`, for one of the Python versions `pythons`; `find` returns its files by path
/// and `entry` is that of its script.
pub(crate) fn requirements(
    find: Find<'_>,
    entry: &str,
    origin: Origin,
    pythons: &[String],
) -> Result<Requirements, ProjectError> {
    if origin == Origin::Pyproject {
        return of_pyproject(find, pythons);
    }
    if find(FILE).is_none() {
        if let Some(error) = elsewhere(find, entry) {
            return Err(error);
        }
    }
    Ok(Requirements::read(find)?)
}

fn of_pyproject(find: Find<'_>, pythons: &[String]) -> Result<Requirements, ProjectError> {
    let refuse = |reason: String| ProjectError::Pyproject { reason };
    let contents = find(PYPROJECT).ok_or_else(|| refuse("there is no such file".to_owned()))?;
    let text = text_of(contents).ok_or_else(|| refuse(format!("it is no UTF-8, or over {MAX_BYTES} bytes")))?;
    // The parser's own text quotes the line, which may hold a password.
    let table: Table = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        refuse(format!(
            "line {}: {}",
            before.matches('\n').count() + 1,
            error.message()
        ))
    })?;
    let Some(project) = table.get("project").and_then(Value::as_table) else {
        let poetry = match at(&table, &["tool", "poetry"]) {
            Some(_) => ": the dependencies under [tool.poetry] are poetry's own",
            None => "",
        };
        return Err(refuse(format!("it has no [project] table{poetry}")));
    };
    let dynamic = project.get("dynamic").and_then(Value::as_array);
    if dynamic.is_some_and(|all| all.iter().any(|one| one.as_str() == Some("dependencies"))) {
        return Err(refuse(
            "its dependencies are dynamic: only the package's own code knows them".to_owned(),
        ));
    }
    check_python(project, pythons).map_err(refuse)?;
    let lines = match project.get("dependencies") {
        None => Vec::new(),
        Some(Value::Array(all)) => all
            .iter()
            .map(|one| one.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| refuse("one of its dependencies is no text".to_owned()))?,
        Some(_) => return Err(refuse("its dependencies are no list".to_owned())),
    };
    let lines: Vec<String> = lines;
    let found = Requirements::of_list(&format!("dependencies of {PYPROJECT}"), &lines)?;
    // A package of that name on the index may be anybody's.
    let sources = at(&table, &["tool", "uv", "sources"]).and_then(Value::as_table);
    let mut elsewhere = sources.into_iter().flat_map(Table::keys);
    if let Some(name) = elsewhere.find(|name| found.mentions(name)) {
        return Err(refuse(format!(
            "{name} has a source of its own under [tool.uv.sources]; only packages of the platform's index are installed"
        )));
    }
    Ok(found)
}

/// Refuses a project that no release of any of the Python versions `pythons` can run.
fn check_python(project: &Table, pythons: &[String]) -> Result<(), String> {
    let Some(wanted) = project.get("requires-python").and_then(Value::as_str) else {
        return Ok(());
    };
    let specifiers: pep440_rs::VersionSpecifiers = wanted
        .parse()
        .map_err(|_| "its requires-python is no version specifier".to_owned())?;
    // Which release of a version the base has is no matter here: some are accepted, or none.
    let accepts = |python: &String| {
        let all = (0..100).map(|release| format!("{python}.{release}").parse::<pep440_rs::Version>());
        all.flatten().any(|version| specifiers.contains(&version))
    };
    match pythons.iter().any(accepts) {
        true => Ok(()),
        false => Err(format!(
            "it requires Python {wanted}, and the base has {}",
            pythons.join(" or ")
        )),
    }
}

/// The first file besides the requirements that lists something.
fn elsewhere(find: Find<'_>, entry: &str) -> Option<ProjectError> {
    let text = |file: &str| text_of(find(file)?);
    let toml = |file: &str| toml::from_str::<Table>(text(file)?).ok();
    let pyproject = toml(PYPROJECT).unwrap_or_default();
    let found = |file: &'static str, names: Vec<String>, lists: Lists| {
        (!names.is_empty()).then(|| ProjectError::Elsewhere {
            file,
            packages: shown(&names),
            lists,
        })
    };
    let of_script = text(entry).and_then(inline).unwrap_or_default();
    found(
        PYPROJECT,
        texts(at(&pyproject, &["project", "dependencies"])),
        Lists::Project,
    )
    .or_else(|| {
        let names = keys(at(&pyproject, &["tool", "poetry", "dependencies"]));
        found(PYPROJECT, names, Lists::Poetry)
    })
    .or_else(|| {
        let pipfile = toml("Pipfile").unwrap_or_default();
        found("Pipfile", keys(pipfile.get("packages")), Lists::Pipenv)
    })
    .or_else(|| {
        found(
            "setup.cfg",
            text("setup.cfg").map(of_setup).unwrap_or_default(),
            Lists::Other,
        )
    })
    .or_else(|| {
        let names = text("setup.py").map(of_setup_script).unwrap_or_default();
        found("setup.py", names, Lists::Other)
    })
    .or_else(|| {
        let mut files = ["environment.yml", "environment.yaml"].into_iter();
        files.find_map(|file| found(file, text(file).map(of_conda).unwrap_or_default(), Lists::Other))
    })
    .or_else(|| found("script metadata", texts(of_script.get("dependencies")), Lists::Other))
    .or_else(|| {
        let mut files = MISTAKEN.into_iter();
        files.find_map(|file| found(file, text(file).map(of_lines).unwrap_or_default(), Lists::Other))
    })
}

fn text_of(contents: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(contents)
        .ok()
        .filter(|text| text.len() <= MAX_BYTES)?;
    Some(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn at<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(*first)?;
    rest.iter().try_fold(value, |value, key| value.get(*key))
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let all = value.and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|one| Some(one.as_str()?.to_owned())).collect()
}

/// The keys of a table of dependencies; that of the Python itself is none.
fn keys(value: Option<&Value>) -> Vec<String> {
    let all = value.and_then(Value::as_table).into_iter().flatten();
    let is_wanted =
        |name: &str, value: &Value| name != "python" && value.get("optional") != Some(&Value::Boolean(true));
    all.filter(|(name, value)| is_wanted(name, value))
        .map(|(name, _)| name.clone())
        .collect()
}

/// The metadata that a script holds about itself (PEP 723).
fn inline(text: &str) -> Option<Table> {
    let mut lines = text.lines().skip_while(|line| line.trim_end() != "# /// script");
    lines.next()?;
    let body = lines.take_while(|line| line.trim_end() != "# ///");
    let body: Vec<&str> = body.map_while(|line| line.strip_prefix('#')).collect();
    let body: Vec<&str> = body.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    toml::from_str(&body.join("\n")).ok()
}

/// `install_requires` of `setup.cfg`.
fn of_setup(text: &str) -> Vec<String> {
    let options = text.lines().skip_while(|line| line.trim() != "[options]").skip(1);
    let options = options.take_while(|line| !line.starts_with('['));
    let mut lines = options.skip_while(|line| !line.starts_with("install_requires"));
    let first = lines.next().and_then(|line| Some(line.split_once('=')?.1));
    // What goes on is indented.
    let rest = lines.take_while(|line| line.trim().is_empty() || line.starts_with([' ', '\t']));
    of_lines(&first.into_iter().chain(rest).collect::<Vec<_>>().join("\n"))
}

/// `install_requires` of `setup.py`, as far as it is a list of texts: nothing of it is executed.
fn of_setup_script(text: &str) -> Vec<String> {
    let list = text
        .split_once("install_requires")
        .and_then(|(_, rest)| rest.trim_start().strip_prefix('='));
    let list = list
        .and_then(|rest| rest.trim_start().strip_prefix('['))
        .unwrap_or_default();
    let list = list.split(']').next().unwrap_or_default();
    let texts = list.split(['"', '\'']).skip(1).step_by(2);
    texts
        .filter(|text| !text.trim().is_empty())
        .map(str::to_owned)
        .collect()
}

/// The dependencies of a conda environment besides Python and pip themselves.
fn of_conda(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .skip_while(|line| line.trim_end() != "dependencies:")
        .skip(1);
    let items = lines.take_while(|line| line.trim().is_empty() || line.starts_with([' ', '-', '\t', '#']));
    let items = items.filter_map(|line| line.trim().strip_prefix("- "));
    let is_package = |item: &&str| !["python", "pip"].contains(&name_of(item).as_str()) && !item.ends_with(':');
    items.map(str::trim).filter(is_package).map(str::to_owned).collect()
}

/// The lines that are neither comments nor options.
fn of_lines(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with(['#', '-']))
        .map(str::to_owned)
        .collect()
}

fn name_of(requirement: &str) -> String {
    let is_of_name = |character: &char| character.is_ascii_alphanumeric() || "._-".contains(*character);
    requirement.chars().take_while(is_of_name).collect()
}

/// The first of the names, and how many there are besides.
fn shown(requirements: &[String]) -> String {
    let names = requirements.iter().take(SHOWN).map(|one| name_of(one));
    let names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
    match requirements.len().saturating_sub(names.len()) {
        0 => names.join(", "),
        more if names.is_empty() => format!("{more} packages"),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)], origin: Origin) -> Result<Requirements, ProjectError> {
        let find = |path: &str| {
            let mut files = files.iter();
            files.find(|(other, _)| *other == path).map(|(_, text)| text.as_bytes())
        };
        requirements(&find, "user_function.py", origin, &["3.11".to_owned()])
    }

    #[test]
    fn what_other_files_list_is_said_unless_there_are_requirements() {
        let conda = "name: x\nchannels:\n  - defaults\ndependencies:\n  - python=3.11\n  - pip\n  - numpy=1.26\n  - pip:\n    - six\n";
        let script = "#!/usr/bin/env python\n# /// script\n# dependencies = [\n#   \"six\",\n# ]\n# ///\nimport six\n";
        for (file, text, packages, lists) in [
            (PYPROJECT, "[project]\nname = 'f'\ndependencies = ['six>=1', 'numpy', 'a', 'b']\n", "six, numpy, a and 1 more", Lists::Project),
            (PYPROJECT, "[tool.poetry.dependencies]\npython = '^3.11'\nsix = '*'\nx = { version = '1', optional = true }\n", "six", Lists::Poetry),
            ("Pipfile", "[packages]\nsix = '*'\n[requires]\npython_version = '3.11'\n", "six", Lists::Pipenv),
            ("setup.cfg", "[metadata]\nname = f\n[options]\ninstall_requires =\n    # why\n    six\n    numpy<2\npackages = find:\n", "six, numpy", Lists::Other),
            ("setup.cfg", "[options]\ninstall_requires = six\n", "six", Lists::Other),
            (
                "setup.py",
                "setup(\n    name='f',\n    install_requires = ['six>=1', \"numpy\"],\n)\n",
                "six, numpy",
                Lists::Other,
            ),
            ("environment.yml", conda, "numpy, six", Lists::Other),
            ("user_function.py", script, "six", Lists::Other),
            ("requirements.in", "# what\nsix\n", "six", Lists::Other),
            ("requirements.txt.txt", "six\n", "six", Lists::Other),
        ] {
            let error = read(&[(file, text)], Origin::Requirements).unwrap_err();
            let ProjectError::Elsewhere { packages: found, lists: of, .. } = &error else { panic!("{file}: {error}") };
            assert_eq!((found.as_str(), *of), (packages, lists), "{file}");
            // An empty one is an answer.
            assert!(read(&[(file, text), (FILE, "")], Origin::Requirements).is_ok(), "{file}");
        }
        for (file, text) in [
            (
                PYPROJECT,
                "[project]\nname = 'f'\ndependencies = []\n[tool.black]\nline-length = 9\n",
            ),
            (PYPROJECT, "[tool.poetry.dependencies]\npython = '^3.11'\n"),
            (PYPROJECT, "rubbish ["),
            ("Pipfile", "[dev-packages]\npytest = '*'\n"),
            ("setup.cfg", "[flake8]\nmax-line-length = 9\n"),
            ("setup.py", "setup(name='f', install_requires=[])\n"),
            ("setup.py", "setup(name='f', install_requires=read())\n"),
            ("environment.yml", "dependencies:\n  - python=3.11\n"),
            ("user_function.py", "# dependencies = ['six']\n"),
        ] {
            assert_eq!(
                read(&[(file, text)], Origin::Requirements).unwrap(),
                Requirements::default(),
                "{file}"
            );
        }
    }

    #[test]
    fn the_projects_own_dependencies_are_requirements_when_they_are_asked_for() {
        let text = "[project]\nname = 'f'\nrequires-python = '>=3.11.4'\ndependencies = ['Six>=1', 'numpy ; python_version > \"3\"']\n[project.optional-dependencies]\ntest = ['pytest']\n";
        let found = read(&[(PYPROJECT, text), (FILE, "other\n")], Origin::Pyproject).unwrap();
        assert_eq!(found.wanted.len(), 2, "{found:?}");
        assert_eq!(
            read(&[(PYPROJECT, "[project]\nname = 'f'\n")], Origin::Pyproject).unwrap(),
            Requirements::default()
        );
        assert!(read(&[], Origin::Pyproject).is_err());
        for (text, says) in [
            ("[project]\nname = 'f'\n\nx = ]\n", "line 4"),
            ("[tool.poetry.dependencies]\nsix = '*'\n", "poetry's own"),
            ("[project]\ndynamic = ['dependencies']\n", "dynamic"),
            ("[project]\nrequires-python = '>=3.12'\n", ">=3.12"),
            ("[project]\nrequires-python = 'new'\n", "requires-python"),
            ("[project]\ndependencies = 'six'\n", "no list"),
            ("[project]\ndependencies = [1]\n", "no text"),
            (
                "[project]\ndependencies = ['six', 'a @ https://example.org/a.whl']\n",
                "line 2: \"a\" is a direct URL",
            ),
            (
                "[project]\ndependencies = ['--index-url https://example.org']\n",
                "line 1",
            ),
            (
                "[project]\ndependencies = ['My_Pkg>1']\n[tool.uv.sources]\nmy-pkg = { git = 'https://example.org' }\n",
                "[tool.uv.sources]",
            ),
        ] {
            let error = read(&[(PYPROJECT, text)], Origin::Pyproject).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
