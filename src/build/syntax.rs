//! Shows where a source does not compile: file, line, the text and a caret, from what `compile_tree.py` recorded.
//!
//! Both the text and the message are a stranger's; they are cut to what fits a terminal. Escaping is the command line's.

use std::path::Path;

use serde::Deserialize;

/// Characters of the line around the caret.
const SHOWN: usize = 100;
/// A person repairs these and builds again.
const MAX_SHOWN: usize = 5;

/// One line of the record. Python counts lines and columns from 1 and says 0 where it knows none.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    line: u64,
    offset: u64,
    text: String,
    message: String,
}

/// Describes the sources that do not compile, given as path below `root` and record; none when there are none.
pub(super) fn render(failed: &[(String, String)], root: &str) -> Option<String> {
    let shown = failed
        .iter()
        .take(MAX_SHOWN)
        .map(|(path, record)| one(path, record, root));
    let mut shown: Vec<String> = shown.collect();
    if failed.len() > MAX_SHOWN {
        shown.push(format!("  and {} more", failed.len() - MAX_SHOWN));
    }
    (!shown.is_empty()).then(|| shown.join("\n"))
}

fn one(path: &str, record: &str, root: &str) -> String {
    let problem: Problem = serde_json::from_str(record).unwrap_or_default();
    let file = Path::new(path).strip_prefix(root).unwrap_or(Path::new(path)).display();
    let message: String = problem
        .message
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect();
    if problem.line == 0 || problem.text.trim().is_empty() {
        return format!("  {file}: {message}");
    }
    // Indentation says nothing here, and a tab is wider than a caret.
    let text: Vec<char> = problem.text.lines().next().unwrap_or_default().chars().collect();
    let indent = text.iter().take_while(|character| character.is_whitespace()).count();
    let at = usize::try_from(problem.offset)
        .unwrap_or(usize::MAX)
        .saturating_sub(1)
        .clamp(indent, text.len());
    let from = at.saturating_sub(SHOWN / 2).max(indent);
    let part: String = text
        .iter()
        .skip(from)
        .take(SHOWN)
        .map(|character| if *character == '\t' { ' ' } else { *character })
        .collect();
    let caret = if problem.offset == 0 {
        String::new()
    } else {
        format!("\n    {}^", " ".repeat(at - from))
    };
    format!("  {file}, line {}\n    {part}{caret}\n  {message}", problem.line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(record: &str) -> String {
        render(&[("/app/lib/a.py".to_owned(), record.to_owned())], "/app").unwrap()
    }

    #[test]
    fn the_caret_stands_below_the_place() {
        let text = rendered(r#"{"path":"x","line":3,"offset":11,"text":"\t    def f(:","message":"invalid syntax"}"#);
        assert_eq!(text, "  lib/a.py, line 3\n    def f(:\n         ^\n  invalid syntax");
        assert_eq!(render(&[], "/app"), None);
    }

    #[test]
    fn records_without_a_place_have_a_message_and_long_lines_are_cut() {
        let nul = r#"{"line":0,"offset":0,"text":"","message":"source code string cannot contain null bytes"}"#;
        assert_eq!(
            rendered(nul),
            "  lib/a.py: source code string cannot contain null bytes"
        );
        assert_eq!(rendered("rubbish"), "  lib/a.py: ");
        let long = format!(
            r#"{{"line":1,"offset":5000,"text":"{}(","message":"m"}}"#,
            "é".repeat(9000)
        );
        let text = rendered(&long);
        assert!(text.chars().count() < 250, "{text}");
        assert_eq!(text.lines().nth(2), Some(format!("    {}^", " ".repeat(50)).as_str()));
        let past = rendered(r#"{"line":1,"offset":18446744073709551615,"text":"x","message":"m"}"#);
        assert_eq!(past.lines().nth(2), Some("     ^"));
        let many = vec![("a".to_owned(), nul.to_owned()); 9];
        assert!(render(&many, "/app").unwrap().ends_with("and 4 more"));
    }
}
