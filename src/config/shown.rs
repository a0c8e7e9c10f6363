//! The configuration as people read it: every key, its value, and where that comes from. `template.toml`, which
//! `gantry config init` writes, is the list of keys.

use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::{Table, Value};

use super::files::layers;
use super::{Config, ConfigError, Environment};

/// How a key is marked whose value in the template is an example and no default.
const EXAMPLE: &str = " # example";

/// A file with every key and its default, all of them comments.
pub fn template() -> &'static str {
    include_str!("template.toml")
}

/// What holds.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// Always 1.
    schema: u32,
    /// The files in use, the lowest first.
    files: Vec<PathBuf>,
    /// Every key.
    keys: Vec<ShownKey>,
}

/// One key.
#[derive(Debug, Serialize)]
struct ShownKey {
    section: String,
    key: String,
    /// None when nothing sets it and it has no default.
    value: Option<Value>,
    /// The file that sets it; none for a default.
    from: Option<PathBuf>,
}

impl Shown {
    /// What holds when `explicit` is the file of the options.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], as for every other command.
    pub fn read(explicit: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        Config::load(explicit, environment)?;
        let mut tables = Vec::new();
        for layer in layers(explicit, environment)? {
            tables.push((layer.parse::<Table>()?, layer.path));
        }
        let keys = defaults().map(|(section, key, default)| {
            let set = tables.iter().rev().find_map(|(table, path)| {
                // What stands above the sections is of none.
                let values = if section.is_empty() {
                    Some(table)
                } else {
                    table.get(section)?.as_table()
                };
                let value = values?.get(key)?;
                Some((value.clone(), path.clone()))
            });
            let (value, from) = set.map_or((default, None), |(value, path)| (Some(value), Some(path)));
            ShownKey {
                section: section.to_owned(),
                key: key.to_owned(),
                value: value.map(without_credentials),
                from,
            }
        });
        Ok(Self {
            schema: 1,
            keys: keys.collect(),
            files: tables.iter().map(|(_, path)| path.clone()).collect(),
        })
    }

    /// As a configuration file, in which what is not set is a comment.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for key in &self.keys {
            if key.section != section {
                section = &key.section;
                text.push_str(&format!("{}[{section}]\n", if text.is_empty() { "" } else { "\n" }));
            }
            let value = key.value.as_ref().map_or("".to_owned(), written);
            let line = format!("{} = {value}", key.key);
            text.push_str(&match (&key.from, &key.value) {
                (Some(path), _) => format!("{line:<40} # {}\n", path.display()),
                (None, Some(_)) => format!("#{line:<39} # default\n"),
                (None, None) => format!("#{line:<39} # not set\n"),
            });
        }
        text
    }
}

/// Section, key and default of every key in the template.
fn defaults() -> impl Iterator<Item = (&'static str, &'static str, Option<Value>)> {
    let mut section = "";
    template().lines().filter_map(move |line| {
        if let Some(name) = line.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            section = name;
        }
        let (key, value) = line
            .strip_prefix('#')?
            .split_once(" = ")
            .filter(|(key, _)| is_key(key))?;
        let default = (!value.ends_with(EXAMPLE)).then(|| parsed(value)).flatten();
        Some((section, key, default))
    })
}

/// The words of a comment begin with a space.
fn is_key(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn parsed(value: &str) -> Option<Value> {
    let table: Table = toml::from_str(&format!("value = {value}\n")).ok()?;
    table.get("value").cloned()
}

/// A value as it stands in a file; texts and numbers are written in TOML as in JSON.
fn written(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("[{}]", values.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::Table(table) => {
            let pairs = table.iter().map(|(key, value)| format!("{key} = {}", written(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        Value::Float(number) => format!("{number:?}"),
        _ => serde_json::to_string(value).unwrap_or_default(),
    }
}

/// An address may hold a user and a password, which are nobody's to read.
fn without_credentials(value: Value) -> Value {
    let Value::String(text) = &value else { return value };
    let Some((scheme, rest)) = text.split_once("://") else {
        return value;
    };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((secret, _)) => Value::String(format!(
            "{scheme}://***{}",
            rest.get(secret.len()..).unwrap_or_default()
        )),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_an_address_is_not_shown() {
        for (text, shown) in [
            ("https://me:hunter2@a.example/x", "https://***@a.example/x"),
            ("https://a.example/x@y", "https://a.example/x@y"),
            ("512M", "512M"),
        ] {
            let value = without_credentials(Value::String(text.to_owned()));
            assert_eq!(value.as_str(), Some(shown));
        }
    }

    #[test]
    fn values_are_written_as_a_file_has_them() {
        for text in [
            "[{ packages = [\"a\"], url = \"b\" }]",
            "\"512M\"",
            "[\"a:1\", \"b:2\"]",
            "1.0",
            "64",
            "[]",
            "\"a\\\"b\"",
        ] {
            assert_eq!(written(&parsed(text).unwrap()), text);
        }
    }
}
