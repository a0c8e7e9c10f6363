//! A look at the entry point: does it do anything when Python runs it?

/// The platform's entry point.
pub(crate) const ENTRY_POINT: &str = "user_function.py";

/// A warning for an entry point that only defines things, or is empty: `python user_function.py` would end at once, without
/// a word and without an error. None for one that does something, or that is read here as if it did.
pub(super) fn warn_of_idle(source: &[u8]) -> Option<String> {
    let source = std::str::from_utf8(source).ok()?;
    let statements = top_level(source);
    if statements.iter().all(|line| line.starts_with('#')) {
        return Some(format!("{ENTRY_POINT} is empty: a run of it ends at once"));
    }
    let mut first = None;
    for line in statements {
        let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let name = match (words.next()?, words.next()) {
            ("def", name) => name,
            ("async", Some("def")) => words.next(),
            ("class" | "import" | "from" | "pass" | "global" | "nonlocal", _) => continue,
            ("", _) if line.starts_with(['@', '"', '\'', ')', ']', '}', '#']) => continue,
            // A value that is only given a name; a call may do anything.
            (word, _) if !word.is_empty() && line.contains('=') && !line.contains('(') && !KEYWORDS.contains(&word) => {
                continue
            }
            _ => return None,
        };
        first = first.or(name);
    }
    first.map(|name| {
        format!(
            "{ENTRY_POINT} defines {name} but calls nothing: it is run as a script, and such a run ends at once; add `if __name__ == \"__main__\": {name}()`"
        )
    })
}

/// Words that begin a statement which does something, and may hold `=`.
const KEYWORDS: [&str; 12] = [
    "if", "for", "while", "with", "try", "match", "assert", "raise", "del", "print", "exec", "lambda",
];

/// The lines that begin a statement of the module: not indented, and not inside brackets or a string of several lines.
pub(super) fn top_level(source: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut depth = 0_i64;
    let mut quote: Option<&str> = None;
    for line in source.lines() {
        let begins = depth == 0 && quote.is_none() && !line.starts_with([' ', '\t', '\u{c}']);
        if begins && !line.trim().is_empty() {
            lines.push(line);
        }
        let mut rest = line;
        while let Some(next) = rest.chars().next() {
            let mut taken = next.len_utf8();
            if let Some(end) = quote {
                if rest.starts_with(end) {
                    (quote, taken) = (None, end.len());
                } else if next == '\\' {
                    taken += rest.chars().nth(1).map_or(0, char::len_utf8);
                }
            } else if let Some(begin) = ["\"\"\"", "'''", "\"", "'"]
                .into_iter()
                .find(|quote| rest.starts_with(quote))
            {
                (quote, taken) = (Some(begin), begin.len());
            } else {
                match next {
                    '#' => break,
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth -= 1,
                    _ => {}
                }
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
        // A string of one quote ends with its line.
        quote = quote.filter(|quote| quote.len() == 3);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_only_defines_is_idle() {
        for source in [
            "def main(x):\n    return x\n",
            "\"\"\"What it does.\n\nmain() is called by nobody.\n\"\"\"\nimport os\nfrom a import (\n    b,\n    c,\n)\n\nN = 3\nNAMES = [\n    'run()',\n]\n\n@dataclass\nclass A:\n    x: int = f()\n\nasync def main():\n    await a()\n",
            "# main()\ndef main(): pass\n",
        ] {
            let warning = warn_of_idle(source.as_bytes()).unwrap();
            assert!(warning.contains("defines main but"), "{warning}");
        }
        for source in ["", "\n  \n", "# what it will do\n"] {
            let warning = warn_of_idle(source.as_bytes()).unwrap();
            assert!(warning.contains("is empty"), "{warning}");
        }
    }

    #[test]
    fn whatever_may_do_something_is_left_in_peace() {
        for source in [
            "print(1)\n",
            "import a\n",
            "X = 1\n",
            "def main(): pass\nmain()\n",
            "def main(): pass\nif __name__ == '__main__':\n    main()\n",
            "def main(): pass\nresult = main()\n",
            "def main(): pass\nfor x in y: z = x\n",
            "def main(): pass\nsys.exit(main())\n",
            "def main(): pass\nmain ()\n",
            "def main(): pass\na.b\n",
            "def main(): pass; main\nx = 1; main()\n",
        ] {
            assert_eq!(warn_of_idle(source.as_bytes()), None, "{source}");
        }
        assert_eq!(warn_of_idle(b"def main(): pass\n\xff"), None);
    }
}
