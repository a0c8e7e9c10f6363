//! What is wrong with a file of the configuration, in the words of its writer, and without a value that may be a secret.
//!
//! The reader of TOML shows the line and often the value. A password that stands where it does not belong is such a value, and an
//! error ends up in logs. So of a line that is about credentials the key is shown and nothing behind it.

use std::ops::Range;

use crate::policy::in_plain_words;

/// What lines are about whose values are not shown.
const SECRET: [&str; 8] = ["credential", "pass", "pwd", "secret", "token", "auth", "login", "user"];
/// What stands in the place of a value.
const HIDDEN: &str = "...";
/// What the reader says of a key or a table that is there already.
const TWICE: &str = "duplicate key";

/// `error`, which was found in `text`.
pub(super) fn explained(error: &toml::de::Error, text: &str) -> String {
    let mut said = shown_of(error, text);
    if error.message() == TWICE {
        said.push_str(&where_first(text, error.span()).unwrap_or_default());
    }
    said
}

fn shown_of(error: &toml::de::Error, text: &str) -> String {
    let shown = error.to_string();
    if !is_about_secret(text, error.span()) {
        return in_plain_words(&shown);
    }
    let message = without_value(error.message());
    // The first lines show the place, down to the marks below the line itself.
    let mut lines = Vec::new();
    for line in shown.lines() {
        match line.split_once(" | ") {
            Some((number, code)) if number.trim().parse::<usize>().is_ok() => {
                lines.push(format!("{number} | {}", key_of(code)));
                break;
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.push(message);
    in_plain_words(&lines.join("\n"))
}

/// Where the table or the key at `span` stands for the first time, as far as lines tell that.
fn where_first(text: &str, span: Option<Range<usize>>) -> Option<String> {
    let at = text.get(..span?.start)?.matches('\n').count();
    let line = text.lines().nth(at)?;
    let earlier: Vec<(usize, &str)> = (1..).zip(text.lines().take(at)).collect();
    if let Some(table) = heading_of(line) {
        let (first, _) = earlier.iter().find(|(_, line)| heading_of(line) == Some(table))?;
        return Some(format!(
            ": line {first} has this table already, and a table stands once; put the keys below that heading"
        ));
    }
    let key_of = |line: &str| line.split_once('=').map(|(key, _)| key.trim().to_owned());
    let key = key_of(line)?;
    let mut of_table = earlier.iter().rev().take_while(|(_, line)| heading_of(line).is_none());
    let (first, _) = of_table.find(|(_, line)| key_of(line).as_ref() == Some(&key))?;
    Some(format!(": line {first} has this key already"))
}

/// The table that a line begins.
fn heading_of(line: &str) -> Option<&str> {
    let line = line.split('#').next().unwrap_or_default().trim();
    line.starts_with('[').then(|| line.trim_matches(['[', ']', ' ']))
}

/// `error` of keys of several files, which has no line. No value is shown.
pub(super) fn explained_without_place(error: &toml::de::Error) -> String {
    in_plain_words(&without_value(error.message()))
}

/// Whether the line at `span` is about something secret, or goes on with what a line before it begins.
fn is_about_secret(text: &str, span: Option<Range<usize>>) -> bool {
    let at = span.map_or(0, |span| span.start).min(text.len());
    let before = text.get(..at).unwrap_or_default();
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = text
        .get(start..)
        .and_then(|rest| rest.lines().next())
        .unwrap_or_default();
    let is_secret = |line: &str| {
        let line = line.to_ascii_lowercase();
        SECRET.iter().any(|word| line.contains(word)) || (line.contains("://") && line.contains('@'))
    };
    let is_begun = |line: &str| line.contains('=') || line.trim_start().starts_with('[');
    let begins = || {
        text.get(..start)
            .unwrap_or_default()
            .lines()
            .rev()
            .find(|line| is_begun(line))
    };
    is_secret(line) || (!is_begun(line) && begins().is_some_and(is_secret))
}

/// A line with its key alone.
fn key_of(line: &str) -> String {
    match line.split_once('=') {
        Some((key, _)) => format!("{key}= {HIDDEN}"),
        None if line.trim_start().starts_with('[') && !line.contains(['"', '\'']) => line.to_owned(),
        None => HIDDEN.to_owned(),
    }
}

/// What the reader says, without the value that it says it of.
fn without_value(message: &str) -> String {
    for wrong in ["invalid type: ", "invalid value: "] {
        let Some((found, expected)) = message
            .strip_prefix(wrong)
            .and_then(|rest| rest.rsplit_once(", expected "))
        else {
            continue;
        };
        let kinds = ["string", "integer", "boolean", "floating point"];
        let kind = kinds.into_iter().find(|kind| found.starts_with(kind)).unwrap_or(found);
        return format!("{wrong}{kind}, expected {expected}");
    }
    // Of a word that is none of several only the first quoted one is the writer's.
    let quote = if message.starts_with("unknown variant") {
        '`'
    } else {
        '"'
    };
    match message.split_once(quote) {
        Some((before, rest)) => {
            let after = rest.split_once(quote).map_or("", |(_, after)| after);
            format!("{before}{quote}{HIDDEN}{quote}{after}")
        }
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read to be refused")]
    struct File {
        #[serde(default)]
        credentials: Option<Credentials>,
        #[serde(default)]
        pids: Option<u32>,
        #[serde(default)]
        token_role: Option<Role>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(expecting = "{ helper = NAME }", deny_unknown_fields)]
    #[allow(dead_code, reason = "only read to be refused")]
    struct Credentials {
        helper: String,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Role {
        Pull,
        Push,
    }

    fn said(text: &str) -> String {
        let error = toml::from_str::<File>(text).unwrap_err();
        explained(&error, text)
    }

    #[test]
    fn a_value_that_may_be_a_secret_is_not_shown_and_its_line_is_named() {
        for (text, line, says) in [
            (
                "credentials = \"me:hunter2\"\n",
                "line 1",
                "expected { helper = NAME }, not a text",
            ),
            (
                "pids = 1\ncredentials = { helper = \"x\", password = \"hunter2\" }\n",
                "line 2",
                "unknown field `password`",
            ),
            (
                "pids = 1\n[credentials]\npassword = \"hunter2\"\n",
                "line 3",
                "unknown field `password`",
            ),
            ("password = hunter2\n", "line 1", ""),
            ("credentials = \"hunter2\n", "line 1", ""),
            ("credentials = \"\"\"\nhunter2\\q\n\"\"\"\n", "line 2", ""),
            ("credentials = 42424242\n", "line 1", "not a number"),
            ("token_role = \"hunter2\"\n", "line 1", "expected `pull` or `push`"),
            (
                "url = \"https://me:hunter2@a.example\"\n",
                "line 1",
                "unknown field `url`",
            ),
        ] {
            let error = said(text);
            assert!(!error.contains("hunter2") && !error.contains("4242"), "{text}: {error}");
            assert!(error.contains(line) && error.contains(says), "{text}: {error}");
            assert!(
                !error.contains("struct ") && !error.contains("Credentials"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn what_stands_twice_says_where_it_stands_first() {
        for (text, says) in [
            (
                "[a]\npids = 1\n[b]\n[a] # again\npids = 2\n",
                "duplicate key: line 1 has this table already, and a table stands once; put the keys below that heading",
            ),
            ("[a]\n[[a]]\n", "line 1 has this table already"),
            ("[a]\nx = 1\n[b]\nx = 1\ny = 2\nx = 3\n", "duplicate key: line 4 has this key already"),
            ("password = \"hunter2\"\npassword = \"hunter2\"\n", "duplicate key: line 1 has this key already"),
        ] {
            let error = explained(&toml::from_str::<toml::Table>(text).unwrap_err(), text);
            assert!(error.ends_with(says) || says.starts_with("line") && error.contains(says), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        // What lines do not tell is left out.
        let text = "a = { x = 1, x = 2 }\n";
        let error = explained(&toml::from_str::<toml::Table>(text).unwrap_err(), text);
        assert!(error.ends_with("duplicate key"), "{error}");
    }

    #[test]
    fn any_other_value_is_shown() {
        assert!(said("pids = \"many\"\n").contains("not the text \"many\""));
        assert!(said("pids = \"many\"\n").contains("1 | pids = \"many\""));
    }
}
