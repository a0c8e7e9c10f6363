//! What images of functions are called: a template, the names it makes of a function, and the function that a name is of.
//!
//! ```text
//! {registry}/{namespace}/functions/user-{user}-func-{id}:v{version}-{code8}
//! rg.example.org/mecapy/functions/user-a1b2c3-func-123:v1.0.0-1f3a9c02
//! ```
//!
//! A name that could be read in two ways is not made: printing and reading are each other's inverse.

use std::fmt;
use std::str::FromStr;

use super::function_name::{Field, FunctionName, NamingError, CODE_DIGITS, MAX_VALUE};
use super::Reference;

/// Longest template.
const MAX_TEMPLATE: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Field(Field),
}

/// How names are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    /// Whether names have `field`.
    pub fn has(&self, field: Field) -> bool {
        self.pieces.contains(&Piece::Field(field))
    }

    /// Whether each function has a repository of its own, so that a tag such as `latest` is one function's.
    pub fn has_a_repository_for_each(&self) -> bool {
        let is_tag = |piece: &&Piece| matches!(piece, Piece::Text(text) if text.contains(':'));
        let repository = self
            .pieces
            .iter()
            .rposition(|piece| is_tag(&piece))
            .unwrap_or(self.pieces.len());
        let before = self.pieces.get(..repository).unwrap_or_default();
        [Field::User, Field::Id]
            .iter()
            .all(|field| before.contains(&Piece::Field(*field)))
    }

    /// The name of `function`.
    ///
    /// # Errors
    ///
    /// [`NamingError::Value`] for a value that does not fit, [`NamingError::Ambiguous`] where the name could be read as that of
    /// another function, [`NamingError::Reference`] where it is none.
    pub fn name(&self, function: &FunctionName) -> Result<Reference, NamingError> {
        let mut name = String::new();
        let mut wanted = FunctionName::default();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Field(field) => {
                    let value = field.checked(function.value(*field))?;
                    name.push_str(value);
                    value.clone_into(wanted.place(*field));
                }
            }
        }
        if let Some(other) = self.readings(&name).into_iter().find(|reading| *reading != wanted) {
            return Err(NamingError::Ambiguous {
                literal: self.literal_in(&wanted),
                name,
                other: other.to_string(),
            });
        }
        name.parse()
            .map_err(|source: super::ParseReferenceError| NamingError::Reference {
                name,
                reason: source.reason,
            })
    }

    /// The function that `name` is of; none when the template makes no such name.
    pub fn read(&self, name: &str) -> Option<FunctionName> {
        match self.readings(name).as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        }
    }

    /// Up to two ways to read `name`.
    fn readings(&self, name: &str) -> Vec<FunctionName> {
        let mut found = Vec::new();
        read(&self.pieces, name, &FunctionName::default(), &mut found);
        found
    }

    /// The text between two fields that stands in a value; empty when none does.
    fn literal_in(&self, values: &FunctionName) -> String {
        let is_in_a_value = |text: &&String| Field::ALL.into_iter().any(|field| values.value(field).contains(*text));
        let texts = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(text) => Some(text),
            Piece::Field(_) => None,
        });
        texts
            .filter(is_in_a_value)
            .max_by_key(|text| text.len())
            .cloned()
            .unwrap_or_default()
    }
}

/// The error that says why `text` is no template.
pub(super) fn refuse(text: &str, reason: String) -> NamingError {
    NamingError::Template {
        template: text.chars().take(MAX_TEMPLATE).collect(),
        reason,
    }
}

/// The texts and fields of a template.
pub(super) fn split(text: &str) -> Result<Vec<Piece>, NamingError> {
    let error = |reason: String| refuse(text, reason);
    if text.len() > MAX_TEMPLATE {
        return Err(error(format!("it has more than {MAX_TEMPLATE} characters")));
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (literal, field) = match rest.split_once('{') {
            Some((literal, after)) => (literal, Some(after)),
            None => (rest, None),
        };
        if literal.contains('}') {
            return Err(error("a } has no {".to_owned()));
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.to_owned()));
        } else if !pieces.is_empty() {
            return Err(error("two fields need a text between them".to_owned()));
        }
        let Some(after) = field else {
            break;
        };
        let Some((name, after)) = after.split_once('}') else {
            return Err(error("a { has no }".to_owned()));
        };
        let Some(field) = Field::ALL.into_iter().find(|field| field.name() == name) else {
            let names = Field::ALL.map(|field| format!("{{{}}}", field.name())).join(", ");
            return Err(error(format!("{{{name}}} is no field; there are {names}")));
        };
        pieces.push(Piece::Field(field));
        rest = after;
    }
    Ok(pieces)
}

/// Adds to `found` what `name` is by `pieces`, until there are two ways. A field that comes again has the same value.
fn read(pieces: &[Piece], name: &str, so_far: &FunctionName, found: &mut Vec<FunctionName>) {
    match pieces.split_first() {
        _ if found.len() > 1 => {}
        None if name.is_empty() => {
            if !found.contains(so_far) {
                found.push(so_far.clone());
            }
        }
        None => {}
        Some((Piece::Text(text), rest)) => {
            if let Some(name) = name.strip_prefix(text.as_str()) {
                read(rest, name, so_far, found);
            }
        }
        Some((Piece::Field(field), rest)) => {
            let known = so_far.value(*field);
            for end in 1..=name.len().min(MAX_VALUE) {
                let Some((value, after)) = name.split_at_checked(end) else {
                    continue;
                };
                // What follows a field is a text: without it here, this is no end of the field.
                let goes_on = match rest.first() {
                    Some(Piece::Text(text)) => after.starts_with(text.as_str()),
                    Some(Piece::Field(_)) | None => after.is_empty(),
                };
                if goes_on && (known.is_empty() || known == value) && field.takes(value).is_ok() {
                    let mut with = so_far.clone();
                    value.clone_into(with.place(*field));
                    read(rest, after, &with, found);
                }
            }
        }
    }
}

impl FromStr for Template {
    type Err = NamingError;

    fn from_str(text: &str) -> Result<Self, NamingError> {
        let error = |reason: String| refuse(text, reason);
        let template = Self { pieces: split(text)? };
        for field in [Field::User, Field::Id, Field::Version] {
            if !template.has(field) {
                return Err(error(format!(
                    "it has no {{{}}}: two functions would have one name",
                    field.name()
                )));
            }
        }
        // Whether it can make any name at all.
        let example = FunctionName {
            registry: "registry.example.org".to_owned(),
            namespace: "n".to_owned(),
            user: "u".to_owned(),
            id: "i".to_owned(),
            version: "1".to_owned(),
            code8: "0".repeat(CODE_DIGITS),
            commit: "0".repeat(40),
        };
        template
            .name(&example)
            .map_err(|cause| error(format!("it makes no name: {cause}")))?;
        Ok(template)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Field(field) => write!(f, "{{{}}}", field.name()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLATFORM: &str = "{registry}/{namespace}/functions/user-{user}-func-{id}:v{version}-{code8}";

    fn beam() -> FunctionName {
        FunctionName {
            registry: "rg.example.org".to_owned(),
            namespace: "mecapy".to_owned(),
            user: "a1b2c3".to_owned(),
            id: "123".to_owned(),
            version: "1.0.0".to_owned(),
            code8: "1f3a9c02".to_owned(),
            commit: String::new(),
        }
    }

    #[test]
    fn names_and_functions_are_each_others_inverse() {
        let template: Template = PLATFORM.parse().unwrap();
        assert_eq!(template.to_string(), PLATFORM);
        let name = template.name(&beam()).unwrap().to_string();
        assert_eq!(
            name,
            "rg.example.org/mecapy/functions/user-a1b2c3-func-123:v1.0.0-1f3a9c02"
        );
        assert_eq!(template.read(&name), Some(beam()));
        assert_eq!(template.read("rg.example.org/mecapy/base/python:3.11-slim"), None);
        let dashed = FunctionName {
            version: "1.0.0-rc.1".to_owned(),
            id: "beam-2".to_owned(),
            ..beam()
        };
        let name = template.name(&dashed).unwrap().to_string();
        assert_eq!(template.read(&name), Some(dashed));
    }

    #[test]
    fn it_is_known_where_the_function_stands() {
        assert!(PLATFORM.parse::<Template>().unwrap().has_a_repository_for_each());
        for text in [
            "{registry}/{user}:{id}-v{version}",
            "functions:{user}-func-{id}-v{version}",
        ] {
            assert!(!text.parse::<Template>().unwrap().has_a_repository_for_each(), "{text}");
        }
    }

    #[test]
    fn the_function_may_stand_in_the_tag() {
        let template: Template = "{registry}/{namespace}/functions:user-{user}-func-{id}-v{version}"
            .parse()
            .unwrap();
        let name = template.name(&beam()).unwrap().to_string();
        assert_eq!(name, "rg.example.org/mecapy/functions:user-a1b2c3-func-123-v1.0.0");
        let long = FunctionName {
            id: "i".repeat(120),
            ..beam()
        };
        assert!(matches!(template.name(&long), Err(NamingError::Reference { .. })));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not_made() {
        let template: Template = PLATFORM.parse().unwrap();
        for (user, id) in [("a-func-b", "1"), ("a", "1-func-2")] {
            let function = FunctionName {
                user: user.to_owned(),
                id: id.to_owned(),
                ..beam()
            };
            match template.name(&function).unwrap_err() {
                NamingError::Ambiguous { literal, .. } => assert_eq!(literal, "-func-"),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn values_that_no_name_can_have_are_refused_by_field() {
        let template: Template = PLATFORM.parse().unwrap();
        let refused = |field: Field, value: &str| {
            let mut function = beam();
            value.clone_into(function.place(field));
            match template.name(&function).unwrap_err() {
                NamingError::Value { field: named, .. } => assert_eq!(named, field.name()),
                other => panic!("{other}"),
            }
        };
        let long = "1".repeat(129);
        refused(Field::User, "Alice");
        refused(Field::Id, "");
        refused(Field::Id, "a/b");
        refused(Field::Version, "1.0+cpu");
        refused(Field::Version, &long);
        refused(Field::Version, "-1");
        refused(Field::Code8, "1f3a9c0G");
        refused(Field::Registry, "rg.example.org/x");
    }

    #[test]
    fn templates_that_make_no_names_are_refused() {
        for (text, reason) in [
            ("functions/{user}-{id}", "{version}"),
            ("{registry}/{user}{id}:{version}", "text between"),
            ("{registry}/{user}-{id}:{verison}", "is no field"),
            ("{registry}/{user}-{id}:{version", "has no }"),
            ("{registry}/user}-{id}:{version}", "has no {"),
            ("{registry}/UP-{user}-{id}:{version}", "makes no name"),
            ("{registry}/{user}-{id}:{version}:{code8}", "makes no name"),
        ] {
            let error = text.parse::<Template>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
