//! Further tags of an image that a template names.

use std::str::FromStr;

use super::function_name::{Field, FunctionName, NamingError};
use super::template::{refuse, split, Piece};

/// Further tags of an image that a [`Template`](super::Template) names, such as `latest`, `v{version}` or `sha-{commit}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagTemplate {
    pieces: Vec<Piece>,
}

impl TagTemplate {
    /// The tag of `function`; none when it lacks a value that the tag has.
    ///
    /// # Errors
    ///
    /// [`NamingError::Value`], as [`Template::name`](super::Template::name).
    pub fn tag(&self, function: &FunctionName) -> Result<Option<String>, NamingError> {
        let mut tag = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => tag.push_str(text),
                Piece::Field(field) if function.value(*field).is_empty() => return Ok(None),
                Piece::Field(field) => tag.push_str(field.checked(function.value(*field))?),
            }
        }
        Ok(Some(tag))
    }
}

impl FromStr for TagTemplate {
    type Err = NamingError;

    fn from_str(text: &str) -> Result<Self, NamingError> {
        let pieces = split(text)?;
        let is_of_tags = |piece: &Piece| {
            matches!(piece, Piece::Text(text) if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)))
                || matches!(piece, Piece::Field(Field::Version | Field::Code8 | Field::Commit))
        };
        if pieces.is_empty() || !pieces.iter().all(is_of_tags) {
            let reason = "a tag has letters, digits, ., _ and -, {version}, {code8} and {commit}";
            return Err(refuse(text, reason.to_owned()));
        }
        Ok(Self { pieces })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_tags_need_their_values() {
        let tag = |text: &str, commit: &str| {
            let function = FunctionName {
                commit: commit.to_owned(),
                version: "1.0.0".to_owned(),
                ..FunctionName::default()
            };
            text.parse::<TagTemplate>().unwrap().tag(&function)
        };
        assert_eq!(tag("latest", "").unwrap().as_deref(), Some("latest"));
        assert_eq!(tag("v{version}", "").unwrap().as_deref(), Some("v1.0.0"));
        assert_eq!(tag("sha-{commit}", "").unwrap(), None);
        assert_eq!(tag("sha-{commit}", "0123abc").unwrap().as_deref(), Some("sha-0123abc"));
        assert!(tag("sha-{commit}", "0123ABC").is_err());
        for text in ["", "a/b", "{user}", "a:b"] {
            assert!(text.parse::<TagTemplate>().is_err(), "{text}");
        }
    }
}
