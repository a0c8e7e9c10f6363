//! Which package has no wheel, from uv's explanation of why it found no answer.

use crate::policy::normalise;

/// A package without wheels, as uv speaks of it.
#[derive(Debug, PartialEq, Eq)]
pub struct MissingWheel {
    /// Normalised project name.
    pub name: String,
    /// The version, when there is but one.
    pub version: Option<String>,
    /// The requirement or package that wants it, when it is not the user.
    pub needed_by: Option<String>,
    /// Version specifiers of those that want it.
    pub specifiers: Vec<String>,
}

/// Finds the package that has no wheel in uv's explanation; none when the explanation is about something else.
///
/// The name comes from uv's hint: its sentences name other packages too.
pub(super) fn missing_wheel(explanation: &str) -> Option<MissingWheel> {
    // Sentences are broken over lines; joined they can be searched.
    let flat = explanation.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, hint) = flat.split_once("Wheels are required for `")?;
    let name = normalise(hint.split('`').next()?);
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-+!=<>~,*[]".contains(&byte))
    };
    if name.is_empty() || !plain(&name) {
        return None;
    }
    let exact = format!("{name}==");
    let versions = flat.match_indices(&exact).filter_map(|(at, found)| {
        let (version, rest) = flat.get(at + found.len()..)?.split_once(' ')?;
        (rest.starts_with("has no ") && plain(version)).then(|| version.to_owned())
    });
    let depends = format!(" depends on {name}");
    let other = flat
        .split_once(&depends)
        .and_then(|(before, _)| before.rsplit(' ').next());
    let (version, needed_by) = (versions.last(), other.filter(|other| plain(other)).map(str::to_owned));
    let specifiers = flat.match_indices(&depends).filter_map(|(at, found)| {
        let text = flat.get(at + found.len()..)?.split(' ').next()?.trim_end_matches(',');
        let parses = text.parse::<pep440_rs::VersionSpecifiers>().is_ok();
        (!text.is_empty() && parses).then(|| text.to_owned())
    });
    let mut specifiers: Vec<String> = specifiers.collect();
    specifiers.sort();
    specifiers.dedup();
    Some(MissingWheel {
        name,
        version,
        needed_by,
        specifiers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_package_without_a_wheel_and_not_the_one_that_needs_it() {
        let hint = |name: &str| {
            format!("\n\nhint: Wheels are required for `{name}` because building from source is disabled for all packages (i.e., with `--no-build`)\n")
        };
        let found = |name: &str, version: Option<&str>, needed_by: Option<&str>, specifiers: &[&str]| {
            Some(MissingWheel {
                name: name.to_owned(),
                version: version.map(str::to_owned),
                needed_by: needed_by.map(str::to_owned),
                specifiers: specifiers.iter().map(|specifier| (*specifier).to_owned()).collect(),
            })
        };
        let transitive = "  cause: Because docopt==0.6.2 has no usable wheels and only docopt<=0.6.2 is available, we can conclude that docopt>=0.6.2\n cannot be used. And because num2words>=0.5.14 depends on docopt>=0.6.2 and you require num2words==0.5.14, we can conclude";
        assert_eq!(
            missing_wheel(&(transitive.to_owned() + &hint("docopt"))),
            found("docopt", Some("0.6.2"), Some("num2words>=0.5.14"), &[">=0.6.2"])
        );
        let pinned = "Because scipy==1.0.0 has no\nusable wheels and you require scipy==1.0, we can conclude";
        assert_eq!(
            missing_wheel(&(pinned.to_owned() + &hint("scipy"))),
            found("scipy", Some("1.0.0"), None, &[])
        );
        let all = "Because all versions of docopt have no usable wheels and you require docopt, we can conclude";
        assert_eq!(
            missing_wheel(&(all.to_owned() + &hint("docopt"))),
            found("docopt", None, None, &[])
        );
        assert_eq!(
            missing_wheel("Because you require numpy<2 and numpy>2, we can conclude"),
            None
        );
        assert_eq!(missing_wheel(&hint("\u{1b}[31m; rm")), None);
    }
}
