//! What the name of a function's image says.

use std::fmt;

/// Longest value of a field; a tag has 128 characters, a repository 255.
pub(super) const MAX_VALUE: usize = 128;
/// Hexadecimal digits of the code's digest that a name has.
pub(super) const CODE_DIGITS: usize = 8;

/// What a template leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Host of the registry, with its port.
    Registry,
    /// First part of all repositories of a platform.
    Namespace,
    /// Who the function belongs to.
    User,
    /// Which function it is.
    Id,
    /// Which version of it.
    Version,
    /// The first 8 hexadecimal digits of the digest of its code.
    Code8,
    /// The commit that the code is of.
    Commit,
}

impl Field {
    pub(super) const ALL: [Self; 7] = [
        Self::Registry,
        Self::Namespace,
        Self::User,
        Self::Id,
        Self::Version,
        Self::Code8,
        Self::Commit,
    ];

    /// What stands between braces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Namespace => "namespace",
            Self::User => "user",
            Self::Id => "id",
            Self::Version => "version",
            Self::Code8 => "code8",
            Self::Commit => "commit",
        }
    }

    /// `value`, when it may stand for the field.
    pub(super) fn checked(self, value: &str) -> Result<&str, NamingError> {
        let error = |reason| NamingError::Value {
            field: self.name(),
            value: value.to_owned(),
            reason,
        };
        self.takes(value).map(|()| value).map_err(error)
    }

    /// Whether `value` may stand for the field, wherever the template has it.
    pub(super) fn takes(self, value: &str) -> Result<(), &'static str> {
        let has = |allowed: &[u8]| {
            let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || allowed.contains(&byte);
            value.bytes().all(fits)
        };
        let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        let starts_and_ends = outer(value.bytes().next()) && outer(value.bytes().last());
        if value.is_empty() || value.len() > MAX_VALUE {
            return Err("it has 1 to 128 characters");
        }
        match self {
            Self::Registry if !has(b".-:") => Err("a host has a-z, 0-9, . and -, and may have a port"),
            Self::Namespace if !has(b"._-/") => Err("a namespace has a-z, 0-9, ., _, - and /"),
            Self::User | Self::Id if value.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                Err("names of images have no upper case")
            }
            Self::User | Self::Id if !has(b"._-") => Err("it has a-z, 0-9, ., _ and -"),
            Self::Version if value.contains('+') => Err("a tag has no +; write - for it"),
            Self::Version
                if !value
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) =>
            {
                Err("a tag has letters, digits, ., _ and -")
            }
            Self::Code8 if value.len() != CODE_DIGITS || value.bytes().any(|byte| !is_hex(byte)) => {
                Err("it has 8 hexadecimal digits")
            }
            Self::Commit if !(7..=64).contains(&value.len()) || value.bytes().any(|byte| !is_hex(byte)) => {
                Err("it has 7 to 64 hexadecimal digits in lower case")
            }
            _ if !starts_and_ends => Err("it begins and ends with a letter or a digit"),
            _ => Ok(()),
        }
    }
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// A value for each field. What a template does not have may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FunctionName {
    /// [`Field::Registry`]
    pub registry: String,
    /// [`Field::Namespace`]
    pub namespace: String,
    /// [`Field::User`]
    pub user: String,
    /// [`Field::Id`]
    pub id: String,
    /// [`Field::Version`]
    pub version: String,
    /// [`Field::Code8`]
    pub code8: String,
    /// [`Field::Commit`]
    pub commit: String,
}

/// Why there is no such template, or no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamingError {
    /// The template is none.
    #[error("template {template:?}: {reason}")]
    Template {
        /// What was written.
        template: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// A field has no value, or one that no name can have.
    #[error("name a function: its {field} {value:?}: {reason}")]
    Value {
        /// Which field.
        field: &'static str,
        /// What it was to be.
        value: String,
        /// Which rule that breaks.
        reason: &'static str,
    },
    /// The name could be that of another function.
    #[error("name a function: {name} could also be {other}; give it a value without {literal:?}")]
    Ambiguous {
        /// The name that would be made.
        name: String,
        /// What else it can be read as.
        other: String,
        /// The text between fields that stands in a value.
        literal: String,
    },
    /// What the template makes is no reference.
    #[error("name a function: {name}: {reason}")]
    Reference {
        /// What it made.
        name: String,
        /// Which rule that breaks.
        reason: &'static str,
    },
}

impl FunctionName {
    /// The value of `field`.
    pub fn value(&self, field: Field) -> &str {
        match field {
            Field::Registry => &self.registry,
            Field::Namespace => &self.namespace,
            Field::User => &self.user,
            Field::Id => &self.id,
            Field::Version => &self.version,
            Field::Code8 => &self.code8,
            Field::Commit => &self.commit,
        }
    }

    pub(super) fn place(&mut self, field: Field) -> &mut String {
        match field {
            Field::Registry => &mut self.registry,
            Field::Namespace => &mut self.namespace,
            Field::User => &mut self.user,
            Field::Id => &mut self.id,
            Field::Version => &mut self.version,
            Field::Code8 => &mut self.code8,
            Field::Commit => &mut self.commit,
        }
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "version {} of function {} of user {}",
            self.version, self.id, self.user
        )
    }
}
