//! What to do about requirements that cannot be resolved. Used by `hint`.

use crate::python::resolve::{find_absent, find_meant, LockError, Meant};

pub(super) const SMALLER: &str = "leave out packages; where another index has a package without GPU libraries, `[[index.extra]]` in the configuration names it";
const OTHER_INDEX: &str = "versions with a + are of another index than the platform's; `[[index.extra]]` in the configuration names it, and the packages that come from it";

/// What a requirement was meant for, where it has another name.
pub(super) fn of_name(error: &LockError) -> Option<String> {
    let is_absent = matches!(error, LockError::Unsatisfiable { .. });
    let name = match error {
        LockError::NoWheel { package, .. } => package.split(' ').next().map(str::to_owned),
        LockError::Unsatisfiable { explanation } => find_absent(explanation).or_else(|| find_versionless(explanation)),
        LockError::Unavailable { .. }
        | LockError::TooLarge { .. }
        | LockError::Index(_)
        | LockError::NoUv { .. }
        | LockError::Hash { .. }
        | LockError::Answer { .. }
        | LockError::Run(_)
        | LockError::Question { .. }
        | LockError::Offer { .. }
        | LockError::OldUv { .. }
        | LockError::UvUnavailable { .. }
        | LockError::Password { .. }
        | LockError::Store(_) => None,
    }?;
    let Some(meant) = find_meant(&name) else {
        return is_absent.then(|| not_on_the_index(&name));
    };
    Some(match meant {
        Meant::Package(package) => format!("instead of {name}, ask for {package}"),
        Meant::Windows(package) => {
            format!("{name} is part of {package}, which is for Windows alone: leave it out of requirements.txt")
        }
        Meant::Python => format!("{name} is part of Python: leave it out of requirements.txt"),
    })
}

/// What to do about a package that the index does not have.
fn not_on_the_index(name: &str) -> String {
    format!(
        "the index that was asked has no {name}: check how it is spelled; `url` under [index] in the configuration names another index, `[[index.extra]]` one for some packages"
    )
}

/// The package of which the index lists no file.
fn find_versionless(explanation: &str) -> Option<String> {
    let flat = flat(explanation);
    let (_, rest) = flat.split_once("there are no versions of ")?;
    rest.split([' ', ',']).next().map(str::to_owned)
}

/// uv's words on one line.
fn flat(explanation: &str) -> String {
    explanation.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(super) fn of_lock(error: &LockError) -> Option<&'static str> {
    match error {
        LockError::NoWheel { .. } => Some(
            "ask for a version that has a wheel, or have its source distribution built in the sandbox: --allow-sdist",
        ),
        LockError::Index(_) => {
            Some("set `url` under [index] in the configuration to the index to ask; nothing else counts then")
        }
        LockError::NoUv { .. } => {
            Some("install uv, or pip for python3, or set `uv` under [index] in the configuration")
        }
        LockError::TooLarge { .. } => Some(SMALLER),
        LockError::Unsatisfiable { explanation } if has_no_local_version(explanation) => Some(OTHER_INDEX),
        LockError::Unsatisfiable { explanation } if flat(explanation).contains("there is no version of ") => {
            Some("ask for a version that there is; a name without a version takes the newest that fits")
        }
        LockError::Unavailable { .. } => {
            Some("try again later; `url` under [index] in the configuration names another index, HTTPS_PROXY a proxy")
        }
        LockError::Unsatisfiable { .. }
        | LockError::Hash { .. }
        | LockError::Answer { .. }
        | LockError::Run(_)
        | LockError::Question { .. }
        | LockError::Offer { .. }
        | LockError::OldUv { .. }
        | LockError::UvUnavailable { .. }
        | LockError::Password { .. }
        | LockError::Store(_) => None,
    }
}

/// Whether uv finds no version such as `2.3.1+cpu`.
fn has_no_local_version(explanation: &str) -> bool {
    let flat = flat(explanation);
    let mut absent = flat.split("there is no version of ").skip(1);
    absent.any(|rest| rest.split(' ').next().is_some_and(|version| version.contains('+')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsatisfiable(explanation: &str) -> LockError {
        LockError::Unsatisfiable {
            explanation: explanation.to_owned(),
        }
    }

    #[test]
    fn a_name_that_nobody_knows_and_a_version_that_there_is_not_say_what_to_change() {
        for (explanation, says) in [
            (
                "Because nmupy was not found in the package\n registry and you require nmupy",
                "has no nmupy: check how it is spelled",
            ),
            (
                "Because there are no versions of six and you require six",
                "has no six: check how it is spelled",
            ),
        ] {
            let hint = of_name(&unsatisfiable(explanation)).unwrap();
            assert!(hint.contains(says), "{hint}");
        }
        let hint = |explanation: &str| of_lock(&unsatisfiable(explanation)).unwrap_or_default();
        assert!(hint("Because there is no version of\n numpy==99.0 and").starts_with("ask for a version that there is"));
        assert_eq!(hint("Because there is no version of torch==2.3.1+cpu and"), OTHER_INDEX);
        assert_eq!(hint("Because a depends on b<2"), "");
    }
}
