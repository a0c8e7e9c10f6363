//! `[naming]`: what images of functions are called.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use crate::oci::{TagTemplate, Template};

/// `[naming]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NamingSection {
    /// The name of a function's image; default: the platform's.
    pub(crate) template: Option<Parsed<Template>>,
    /// Further tags of the same image; default: the version, `latest`, and the commit when it is given.
    pub(crate) tags: Option<Vec<Parsed<TagTemplate>>>,
    /// What `{registry}` stands for; default: the first `[[registry]]` that may be pushed to.
    pub(crate) registry: Option<String>,
    /// What `{namespace}` stands for.
    pub(crate) namespace: Option<String>,
}

/// A value that stands in the file as a text.
#[derive(Debug, Clone)]
pub(crate) struct Parsed<T>(pub(crate) T);

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl NamingSection {
    /// Refuses tags that all functions would share.
    pub(super) fn check(&self) -> Result<(), String> {
        let shares = |Parsed(template): &Parsed<Template>| !template.has_a_repository_for_each();
        if self.template.as_ref().is_some_and(shares) && self.tags.as_ref().is_some_and(|tags| !tags.is_empty()) {
            return Err(
                "naming.tags: the template has the function in its tag, so all functions would share them".to_owned(),
            );
        }
        Ok(())
    }
}
