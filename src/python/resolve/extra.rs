//! Further indexes: each is for the packages that are assigned to it and for no other, and they come from nowhere else.
//!
//! uv asks an index for a package alone where a project's own file says so, `[tool.uv.sources]` beside an index that is
//! `explicit`; and only for packages that the project itself requires. So what is required of assigned packages is written
//! into such a file beside the requirements. The answer is not believed: the page of a package at its index has to list
//! the very file.

use std::fmt;

use serde_json::json;

use super::locked::{LockError, LockedWheel};
use crate::net::{Address, Client, Credentials, NetError};
use crate::oci::Digest;
use crate::policy::one_line;
use crate::python::requirements::name_of;

/// The project that uv reads of; explanations speak of it as if it were the user.
const PROJECT: &str = "your-function";
/// The page of a package with ten thousand files has some megabytes.
const MAX_PAGE: u64 = 64 << 20;

/// An index beside the main one.
#[derive(Debug, Clone)]
pub struct ExtraIndex {
    /// What messages call it.
    pub name: String,
    /// Where it is, without credentials.
    pub url: Address,
    /// Who we are there.
    pub login: Option<Login>,
    /// Normalised names of the packages that come from it.
    pub packages: Vec<String>,
}

/// A user and a password.
#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

impl ExtraIndex {
    /// What the index wants to see.
    pub(super) fn credentials(&self) -> Option<Credentials> {
        let login = self.login.as_ref()?;
        Credentials::of(&Credentials::join(self.url.as_str(), &login.user, &login.password)?)
    }

    /// Whether the page of `package` lists the file with the hash `sha256`.
    pub(super) fn lists(&self, package: &str, sha256: &Digest) -> Result<bool, LockError> {
        let url = format!("{}/{package}/", self.url.as_str().trim_end_matches('/'));
        let page = Client::new().and_then(|client| {
            let client = client.with_credentials(self.credentials().as_ref());
            client.get(&url, MAX_PAGE)
        });
        match page {
            Ok(page) => Ok(String::from_utf8_lossy(&page).contains(&sha256.hex())),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(unreadable(&error)),
        }
    }
}

/// The error of an index that does not say what is asked of it.
pub(super) fn unreadable(error: &NetError) -> LockError {
    let explanation = one_line(error);
    match error.kind().is_away() {
        true => LockError::Unavailable { explanation },
        false => LockError::Answer { reason: explanation },
    }
}

/// The index that `package` comes from; none for the main one.
pub(super) fn find<'a>(extra: &'a [ExtraIndex], package: &str) -> Option<&'a ExtraIndex> {
    extra
        .iter()
        .find(|index| index.packages.iter().any(|name| name == package))
}

/// What an answer depends on, for keys; no credentials.
pub(super) fn key(extra: &[ExtraIndex]) -> String {
    let index = |index: &ExtraIndex| {
        let mut packages = index.packages.clone();
        packages.sort();
        format!(" {}={}", packages.join(","), index.url)
    };
    extra.iter().map(index).collect()
}

/// The project's file that assigns the packages among `requirements`; none when there is none among them.
pub(super) fn project<'a>(extra: &[ExtraIndex], requirements: impl Iterator<Item = &'a str>) -> Option<String> {
    let assigned = requirements.filter(|line| find(extra, &name_of(line)).is_some());
    let dependencies: Vec<&str> = assigned.collect();
    if dependencies.is_empty() {
        return None;
    }
    // Texts are written in TOML as in JSON.
    let mut file = format!(
        "[project]\nname = \"{PROJECT}\"\nversion = \"0\"\ndependencies = {}\n[tool.uv.sources]\n",
        json!(dependencies)
    );
    for (number, index) in extra.iter().enumerate() {
        let of_index = |package| format!("{} = {{ index = {} }}\n", json!(package), json!(label(number)));
        file.extend(index.packages.iter().map(of_index));
    }
    for (number, index) in extra.iter().enumerate() {
        let (name, url) = (json!(label(number)), json!(index.url.as_str()));
        file.push_str(&format!(
            "[[tool.uv.index]]\nname = {name}\nurl = {url}\nexplicit = true\n"
        ));
    }
    Some(file)
}

/// The variables by which uv is told who we are at each index.
pub(super) fn variables(extra: &[ExtraIndex]) -> Vec<(String, &str)> {
    let mut variables = Vec::new();
    for (number, index) in extra.iter().enumerate() {
        if let Some(login) = &index.login {
            let prefix = format!("UV_INDEX_{}", label(number).to_uppercase());
            variables.push((format!("{prefix}_USERNAME"), login.user.as_str()));
            variables.push((format!("{prefix}_PASSWORD"), login.password.as_str()));
        }
    }
    variables
}

/// What uv says, as if no project's file stood between it and the user, and without credentials.
pub(super) fn hide(extra: &[ExtraIndex], said: &str) -> String {
    let plain = said.replace(&format!("{PROJECT} depends on"), "you require");
    let credentials = extra.iter().filter_map(ExtraIndex::credentials);
    credentials.fold(plain, |said, credentials| credentials.hide(&said))
}

/// The wheels that are not of the index they have to be of: assigned packages by name, others with a reason.
pub(super) fn strays<'a>(
    extra: &[ExtraIndex],
    main: Option<&str>,
    wheels: &'a [LockedWheel],
) -> Result<Vec<&'a str>, LockError> {
    let mut strays = Vec::new();
    // What was built here is of a source distribution that was looked at.
    for wheel in wheels.iter().filter(|wheel| wheel.sdist.is_none()) {
        match find(extra, &wheel.name) {
            Some(index) if !index.lists(&wheel.name, &wheel.sha256)? => strays.push(wheel.name.as_str()),
            Some(_) => {}
            None => {
                let origin = origin(&wheel.url);
                let is_of = |index: &&ExtraIndex| self::origin(index.url.as_str()) == origin;
                let index = extra
                    .iter()
                    .find(is_of)
                    .filter(|_| main.is_none_or(|main| self::origin(main) != origin));
                if let Some(index) = index {
                    return Err(stray(&wheel.name, &wheel.version, index, "lies at"));
                }
            }
        }
    }
    Ok(strays)
}

/// The error of a package that is at the wrong index.
pub(super) fn stray(name: &str, version: &str, index: &ExtraIndex, how: &str) -> LockError {
    LockError::Answer {
        reason: format!(
            "{name} {version} {how} the index {}, against its `packages` under [[index.extra]]",
            index.name
        ),
    }
}

/// Whether an explanation of uv speaks of `package`.
pub(super) fn speaks_of(explanation: &str, package: &str) -> bool {
    let words = explanation.split(|character: char| !character.is_ascii_alphanumeric() && !"._-".contains(character));
    words
        .map(|word| word.trim_matches('.'))
        .any(|word| name_of(word) == package)
}

fn label(number: usize) -> String {
    format!("extra{number}")
}

/// Scheme, host and port of an address, without credentials.
fn origin(url: &str) -> &str {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extra() -> Vec<ExtraIndex> {
        let index = |name: &str, packages: &[&str], login| ExtraIndex {
            name: name.to_owned(),
            url: Address::new(format!("https://{name}.example/simple")),
            login,
            packages: packages.iter().map(|package| (*package).to_owned()).collect(),
        };
        let (user, password) = ("me".to_owned(), "hunter2".to_owned());
        vec![
            index("cpu", &["torch", "my-pkg"], Some(Login { user, password })),
            index("other", &["six"], None),
        ]
    }

    #[test]
    fn the_projects_file_names_indexes_and_no_password() {
        let extra = extra();
        let lines = ["numpy>1", "torch==2.3.1+cpu ; python_version > \"3\"", "My_Pkg"];
        let text = project(&extra, lines.into_iter()).unwrap();
        let file: toml::Table = toml::from_str(&text).unwrap();
        let dependencies = file["project"]["dependencies"].as_array().unwrap();
        assert_eq!((dependencies.len(), dependencies[0].as_str()), (2, Some(lines[1])));
        let uv = &file["tool"]["uv"];
        assert_eq!(uv["index"][0]["explicit"].as_bool(), Some(true));
        assert_eq!(uv["sources"]["my-pkg"]["index"], uv["index"][0]["name"]);
        assert_eq!(uv["sources"]["six"]["index"], uv["index"][1]["name"]);
        assert_eq!(project(&extra, ["numpy"].into_iter()), None);
        for text in [
            &text,
            &key(&extra),
            &format!("{extra:?}"),
            &hide(&extra, "https://me:hunter2@cpu.example"),
        ] {
            assert!(!text.contains("hunter2"), "{text}");
        }
        assert_eq!(
            variables(&extra),
            [
                ("UV_INDEX_EXTRA0_USERNAME".to_owned(), "me"),
                ("UV_INDEX_EXTRA0_PASSWORD".to_owned(), "hunter2")
            ]
        );
    }

    #[test]
    fn what_is_not_assigned_never_lies_at_a_further_index() {
        let wheel = |url: &str| LockedWheel {
            name: "numpy".to_owned(),
            version: "1".to_owned(),
            file_name: String::new(),
            url: url.to_owned(),
            size: 1,
            sha256: Digest::of(b""),
            sdist: None,
        };
        let check = |url: &str, main| strays(&extra(), main, &[wheel(url)]).map(|strays| strays.len());
        assert_eq!(check("https://files.example/numpy.whl", None).unwrap(), 0);
        assert!(check("https://cpu.example/numpy.whl", None).is_err());
        assert!(check("https://cpu.example/numpy.whl", Some("https://index.example/simple")).is_err());
        // One server may have both.
        assert_eq!(
            check("https://cpu.example/numpy.whl", Some("https://me:x@cpu.example/main")).unwrap(),
            0
        );
    }

    #[test]
    fn an_explanation_speaks_of_a_package_by_its_whole_name() {
        let said = "Because my-pkg was not found in the package registry and you require my-torch>=1, we can";
        assert!(speaks_of(said, "my-pkg") && speaks_of(said, "my-torch"));
        assert!(!speaks_of(said, "torch") && !speaks_of(said, "pkg"));
        assert!(speaks_of("and torch.", "torch") && speaks_of("torch==2.3.1+cpu has", "torch"));
    }
}
