//! What a reader of JSON and TOML says about a value, in the words of those who wrote it instead of its own types.

/// `message` with each of its lines in plain words: `invalid type: sequence, expected f64` is `expected a number, not a list`.
pub fn in_plain_words(message: &str) -> String {
    let lines: Vec<String> = message.lines().map(plain).collect();
    lines.join("\n")
}

/// A line that may say at its end where in the document that is.
fn plain(line: &str) -> String {
    match line.split_once(" at line ") {
        Some((said, place)) => format!(
            "{} (line {})",
            plain_without_place(said),
            place.replace(", column", " column").replacen(" column", ", column", 1)
        ),
        None => plain_without_place(line),
    }
}

fn plain_without_place(line: &str) -> String {
    let wrong = ["invalid type: ", "invalid value: ", "invalid length "];
    if let Some((found, expected)) = wrong
        .iter()
        .find_map(|start| line.strip_prefix(start)?.split_once(", expected "))
    {
        return format!("expected {}, not {}", wanted(expected), given(found));
    }
    if let Some(field) = line.strip_prefix("missing field ") {
        return format!("the key {field} is missing");
    }
    line.replacen("unknown variant ", "unknown word ", 1)
}

/// What a type of ours is to whoever writes a value of it.
fn wanted(expected: &str) -> &str {
    match expected {
        "f64" => "a number such as 1.5",
        "u8" | "u16" | "u32" | "u64" | "usize" | "i64" => "a whole number such as 8",
        "a nonzero u32" => "a whole number from 1 on",
        "a string" => "a text such as \"a\"",
        "path string" => "a path, as a text such as \"/a\"",
        "a boolean" => "true or false",
        "a sequence" => "a list such as [\"a\"]",
        _ if expected.starts_with("struct ") => "a table of keys",
        "a map" => "an object such as {\"NAME\": \"VALUE\"}",
        other => other,
    }
}

/// What was written; the value of a text or a number is behind the name of its type.
fn given(found: &str) -> String {
    let (kind, value) = found.split_once(' ').unwrap_or((found, ""));
    let value = value.trim_matches('`');
    match (kind, found) {
        (_, "sequence") => "a list".to_owned(),
        (_, "map") => "an object or a table".to_owned(),
        (_, "null" | "unit value") => "null".to_owned(),
        ("string", "string") => "a text".to_owned(),
        ("integer", "integer") | (_, "floating point") => "a number".to_owned(),
        ("string", _) => format!("the text {value}"),
        ("integer", _) => format!("the number {value}"),
        ("boolean", _) => value.to_owned(),
        _ => match found.strip_prefix("floating point ") {
            Some(number) => format!("the number {}", number.trim_matches('`')),
            None => found.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZeroU32;
    use std::path::PathBuf;

    use serde::de::DeserializeOwned;

    use super::*;

    fn said<T: DeserializeOwned>(text: &str) -> String {
        let error = serde_json::from_str::<serde_json::Value>(text).and_then(serde_json::from_value::<T>);
        in_plain_words(&error.err().unwrap().to_string())
    }

    /// Made by the readers themselves, so that other words of theirs are noticed.
    #[test]
    fn values_of_another_sort_are_called_what_their_writers_call_them() {
        for (said, plain) in [
            (said::<f64>("[1]"), "expected a number such as 1.5, not a list"),
            (
                said::<f64>("\"1\""),
                "expected a number such as 1.5, not the text \"1\"",
            ),
            (
                said::<u32>("-1"),
                "expected a whole number such as 8, not the number -1",
            ),
            (
                said::<u32>("1.5"),
                "expected a whole number such as 8, not the number 1.5",
            ),
            (
                said::<NonZeroU32>("0"),
                "expected a whole number from 1 on, not the number 0",
            ),
            (said::<String>("5"), "expected a text such as \"a\", not the number 5"),
            (
                said::<PathBuf>("true"),
                "expected a path, as a text such as \"/a\", not true",
            ),
            (said::<bool>("null"), "expected true or false, not null"),
            (
                said::<Vec<String>>("{}"),
                "expected a list such as [\"a\"], not an object or a table",
            ),
            (
                said::<BTreeMap<String, String>>("[]"),
                "expected an object such as {\"NAME\": \"VALUE\"}, not a list",
            ),
        ] {
            assert_eq!(said, plain);
        }
        let missing = "missing field `image` at line 1 column 2";
        assert_eq!(in_plain_words(missing), "the key `image` is missing (line 1, column 2)");
        assert_eq!(
            in_plain_words("a\n |\nunknown variant `x`, expected `y`"),
            "a\n |\nunknown word `x`, expected `y`"
        );
        let toml = "TOML parse error at line 1, column 8\n  |\n1 | cpus = []\n  |        ^^\ninvalid type: sequence, expected f64\n";
        let plain = in_plain_words(toml);
        assert!(plain.contains("expected a number such as 1.5, not a list"), "{plain}");
        assert!(plain.starts_with("TOML parse error (line 1, column 8)\n"), "{plain}");
    }
}
