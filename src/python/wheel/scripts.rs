//! Scripts of wheels: entry points become small Python files, `#!python` lines get the real interpreter.
//!
//! The base has no shell and no `env`, so every script starts with the interpreter's own path.

use super::PYTHON;

/// A script made from an entry point.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Script {
    /// File name.
    pub name: String,
    /// The file.
    pub contents: Vec<u8>,
}

/// The scripts of `entry_points.txt` (entry points specification).
pub(super) fn generated(entry_points: &str) -> Result<Vec<Script>, String> {
    let mut scripts = Vec::new();
    let mut wanted = false;
    for line in entry_points.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            wanted = matches!(section.trim_end_matches(']').trim(), "console_scripts" | "gui_scripts");
            continue;
        }
        if !wanted {
            continue;
        }
        let bad = || format!("its entry point {line:?} is not name = module:attribute");
        let (name, object) = line.split_once('=').ok_or_else(bad)?;
        let object = object.split('[').next().unwrap_or_default().trim();
        let (module, attribute) = object.split_once(':').ok_or_else(bad)?;
        let (name, module, attribute) = (name.trim(), module.trim(), attribute.trim());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        // What is written into a program must be names and nothing else.
        if name.is_empty()
            || name.starts_with('.')
            || !name.bytes().all(plain)
            || !is_dotted(module)
            || !is_dotted(attribute)
        {
            return Err(bad());
        }
        let first = attribute.split('.').next().unwrap_or_default();
        let contents =
            format!("#!{PYTHON}\nimport sys\nfrom {module} import {first}\nif __name__ == '__main__':\n    sys.exit({attribute}())\n");
        scripts.push(Script {
            name: name.to_owned(),
            contents: contents.into_bytes(),
        });
    }
    Ok(scripts)
}

/// A script with its `#!python` line replaced; none when it has no such line.
pub(super) fn rewrite(contents: &[u8]) -> Option<Vec<u8>> {
    let rest = contents.strip_prefix(b"#!")?;
    let line_end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (line, body) = rest.split_at_checked(line_end)?;
    let line = line.trim_ascii_end();
    let name_end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (name, arguments) = line.split_at_checked(name_end)?;
    if !is_interpreter(std::str::from_utf8(name).ok()?) {
        return None;
    }
    // Arguments such as -E stay.
    Some([b"#!", PYTHON.as_bytes(), arguments, body].concat())
}

/// Whether a file of this name would be taken for the interpreter: `python`, `pythonw`, `python3`, `python3.11t`.
pub(super) fn is_interpreter(name: &str) -> bool {
    let version = name
        .strip_prefix("python")
        .map(|rest| rest.trim_end_matches(['w', 't', 'd', 'm']));
    version.is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
}

fn is_dotted(text: &str) -> bool {
    let identifier = |part: &str| {
        let mut characters = part.chars();
        characters
            .next()
            .is_some_and(|first| first == '_' || first.is_alphabetic())
            && characters.all(|character| character == '_' || character.is_alphanumeric())
    };
    text.split('.').all(identifier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_scripts_for_both_kinds_and_ignores_the_rest() {
        let text = "[console_scripts]\nf2py = numpy.f2py.f2py2e:main\nx=a:B.run [extra]\n\n[other]\ny = a:b\n[gui_scripts]\ng = m:f\n";
        let names: Vec<_> = generated(text).unwrap().into_iter().map(|script| script.name).collect();
        assert_eq!(names, ["f2py", "x", "g"]);
        let made = String::from_utf8(generated(text).unwrap().remove(1).contents).unwrap();
        assert!(
            made.starts_with("#!/usr/bin/python3\n") && made.contains("from a import B\n") && made.contains("B.run()")
        );
    }

    #[test]
    fn refuses_entry_points_that_are_code() {
        for line in [
            "x = os:system('id')",
            "x = a;b:c",
            "../x = a:b",
            ".. = a:b",
            "x = a",
            "x = :b",
            "x/y = a:b",
        ] {
            assert!(generated(&format!("[console_scripts]\n{line}\n")).is_err(), "{line}");
        }
    }

    #[test]
    fn replaces_the_interpreter_line_only() {
        assert_eq!(rewrite(b"#!python -E\r\nx").unwrap(), b"#!/usr/bin/python3 -E\nx");
        assert_eq!(rewrite(b"#!pythonw\nx").unwrap(), b"#!/usr/bin/python3\nx");
        assert_eq!(rewrite(b"#!python3.9\nx").unwrap(), b"#!/usr/bin/python3\nx");
        assert_eq!(rewrite(b"#!python").unwrap(), b"#!/usr/bin/python3");
        for other in [
            &b"#!/bin/sh\nx"[..],
            b"#!pythonic\nx",
            b"#!python-x\n",
            b"#!\xff\n",
            b"#python",
        ] {
            assert_eq!(rewrite(other), None);
        }
    }

    #[test]
    fn knows_the_interpreters_names() {
        for name in ["python", "python3", "python3.11", "python2", "pythonw", "python3.13t"] {
            assert!(is_interpreter(name), "{name}");
        }
        for name in [
            "python-argcomplete-tcsh",
            "pythonic",
            "ipython",
            "python3-config",
            "Python",
        ] {
            assert!(!is_interpreter(name), "{name}");
        }
    }
}
