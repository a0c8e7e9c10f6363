//! Relations between packages as control fields have them (Debian policy, chapter 7): `a (>= 1) | b:any, c`.

use std::cmp::Ordering;
use std::fmt;

use super::version::{compare, is_version};

/// Names in one field; the longest `Depends` of Debian's metapackages have some hundred.
const MOST: usize = 4096;

/// One package that is asked for, perhaps of certain versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation {
    pub name: String,
    version: Option<(Operator, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Earlier,
    EarlierOrEqual,
    Equal,
    LaterOrEqual,
    Later,
}

impl Operator {
    const ALL: [(&'static str, Self); 5] = [
        ("<<", Self::Earlier),
        ("<=", Self::EarlierOrEqual),
        ("=", Self::Equal),
        (">=", Self::LaterOrEqual),
        (">>", Self::Later),
    ];

    fn sign(self) -> &'static str {
        Self::ALL
            .into_iter()
            .find(|(_, known)| *known == self)
            .map_or("", |(sign, _)| sign)
    }

    fn accepts(self, order: Ordering) -> bool {
        match self {
            Self::Earlier => order.is_lt(),
            Self::EarlierOrEqual => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::LaterOrEqual => order.is_ge(),
            Self::Later => order.is_gt(),
        }
    }
}

impl Relation {
    /// Any version of the package `name`.
    pub(crate) fn any(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: None,
        }
    }

    /// Whether version `version` of the package is one of those that are meant.
    pub(crate) fn accepts(&self, version: &str) -> bool {
        let meant = self.version.as_ref();
        meant.is_none_or(|(operator, wanted)| operator.accepts(compare(version, wanted)))
    }

    /// Whether a package that provides `provided` serves: one without a version serves where none is asked for (policy 7.5).
    pub(crate) fn is_met_by(&self, provided: &Self) -> bool {
        self.name == provided.name
            && match (&self.version, &provided.version) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(_), Some((_, version))) => self.accepts(version),
            }
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let end = text.find([' ', '(', '[', '<']).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        // `:any` is another architecture's, `:amd64` ours: here is only one.
        let name = name.split(':').next().unwrap_or_default();
        if !is_package_name(name) {
            return None;
        }
        let rest = rest.trim();
        if rest.is_empty() {
            return Some(Self::any(name));
        }
        let inner = rest.strip_prefix('(')?.strip_suffix(')')?.trim();
        let (sign, operator) = Operator::ALL
            .into_iter()
            .rev()
            .find(|(sign, _)| inner.starts_with(sign))?;
        let version = inner.get(sign.len()..)?.trim();
        is_version(version).then(|| Self {
            name: name.to_owned(),
            version: Some((operator, version.to_owned())),
        })
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            None => f.write_str(&self.name),
            Some((operator, version)) => write!(f, "{} ({} {version})", self.name, operator.sign()),
        }
    }
}

/// The groups of a field, each a list of alternatives of which one has to be there.
pub(crate) fn read_relations(field: &str) -> Result<Vec<Vec<Relation>>, String> {
    let groups = field.split(',').map(str::trim).filter(|group| !group.is_empty());
    let read = |text: &str| Relation::parse(text).ok_or_else(|| format!("it has the relation {text:?}"));
    let groups = groups.map(|group| group.split('|').map(read).collect::<Result<Vec<_>, _>>());
    let groups: Vec<_> = groups.take(MOST + 1).collect::<Result<_, _>>()?;
    match groups.len() > MOST {
        true => Err(format!("it has more than {MOST} relations")),
        false => Ok(groups),
    }
}

/// Whether `text` is a package's name (policy 5.6.1).
pub(crate) fn is_package_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (2..=128).contains(&text.len())
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|byte| plain(byte) || b"+-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_alternatives_versions_and_architectures() {
        let groups =
            read_relations("libc6 (>= 2.34), debconf (>= 0.5) | debconf-2.0, python3:any, xx (= 1:2-3),").unwrap();
        let shown: Vec<Vec<String>> = groups
            .iter()
            .map(|group| group.iter().map(ToString::to_string).collect())
            .collect();
        assert_eq!(
            shown,
            [
                vec!["libc6 (>= 2.34)"],
                vec!["debconf (>= 0.5)", "debconf-2.0"],
                vec!["python3"],
                vec!["xx (= 1:2-3)"]
            ]
        );
        assert!(read_relations("").unwrap().is_empty());
        for damaged in [
            "a b",
            "A",
            "libc6 (>> )",
            "libc6 (2)",
            "libc6 (>= 2",
            "../x",
            "a (>= 2) b",
        ] {
            assert!(read_relations(damaged).is_err(), "{damaged}");
        }
    }

    #[test]
    fn compares_versions_with_every_operator() {
        for (relation, older, same, newer) in [
            ("aa (<< 2)", true, false, false),
            ("aa (<= 2)", true, true, false),
            ("aa (= 2)", false, true, false),
            ("aa (>= 2)", false, true, true),
            ("aa (>> 2)", false, false, true),
            ("aa", true, true, true),
        ] {
            let relation = Relation::parse(relation).unwrap();
            let accepts = ["1.9", "2", "2.1"].map(|version| relation.accepts(version));
            assert_eq!(accepts, [older, same, newer], "{relation}");
        }
    }

    #[test]
    fn what_is_provided_without_a_version_serves_no_versioned_relation() {
        let met = |wanted: &str, provided: &str| {
            Relation::parse(wanted)
                .unwrap()
                .is_met_by(&Relation::parse(provided).unwrap())
        };
        assert!(met("aa", "aa") && met("aa", "aa (= 1)") && met("aa (>= 1)", "aa (= 1)"));
        assert!(!met("aa (>= 1)", "aa") && !met("aa (>= 2)", "aa (= 1)") && !met("aa", "ab"));
    }

    #[test]
    fn knows_what_is_no_name_of_a_package() {
        for name in ["libgl1", "g++", "libc6.1", "0ad", "ab"] {
            assert!(is_package_name(name), "{name}");
        }
        for name in ["", "a", "Ab", "-a", "a_b", "a/b", "a b", "a=1", "é1", &"a".repeat(129)] {
            assert!(!is_package_name(name), "{name}");
        }
    }
}
