//! `packages.txt` of a stranger: the names of Debian packages, one a line, and nothing else.

use super::error::SystemError;
use crate::base::debian::is_package_name;

/// The file in the function.
pub(crate) const FILE: &str = "packages.txt";
/// Files that people mean to be it, or that other platforms read instead.
const MISTAKEN: [&str; 5] = ["package.txt", "Packages.txt", "packages.txt.txt", "apt.txt", "Aptfile"];
/// Bytes of the file: every package that is allowed by default, each with a comment, takes a tenth.
const MAX_FILE: usize = 64 << 10;
/// Packages; what they need comes on top.
const MOST: usize = 200;
/// Characters of a line that are shown.
const SHOWN: usize = 60;

/// A warning for a function that has another file where this one is meant; `has` says whether it has a file.
pub(crate) fn warn_of_mistaken(has: impl Fn(&str) -> bool) -> Option<String> {
    let mistaken = MISTAKEN.into_iter().find(|name| !has(FILE) && has(name))?;
    Some(format!("{mistaken} is not read: Debian packages are listed in {FILE}"))
}

/// The packages that a function asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SystemWish {
    /// Names, sorted, each with its first line.
    pub names: Vec<(String, usize)>,
}

impl SystemWish {
    /// Reads `contents`, those of `packages.txt`: a name a line, `#` begins a comment.
    pub(crate) fn read(contents: &[u8]) -> Result<Self, SystemError> {
        let refuse = |line: usize, reason: String| Err(SystemError::Line { line, reason });
        if contents.len() > MAX_FILE {
            return refuse(
                1,
                format!("the file has {} bytes of at most {MAX_FILE}", contents.len()),
            );
        }
        let Ok(text) = std::str::from_utf8(contents) else {
            return refuse(1, "the file is not UTF-8".to_owned());
        };
        let mut names: Vec<(String, usize)> = Vec::new();
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let name = line.split('#').next().unwrap_or_default().trim();
            if name.is_empty() {
                continue;
            }
            if !is_package_name(name) {
                return refuse(number + 1, why_not(name));
            }
            names.push((name.to_owned(), number + 1));
        }
        names.sort();
        names.dedup_by(|later, first| later.0 == first.0);
        match names.get(MOST) {
            Some((_, line)) => refuse(*line, format!("the file names more than {MOST} packages")),
            None => Ok(Self { names }),
        }
    }

    /// The names alone.
    pub(super) fn packages(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|(name, _)| name.as_str())
    }
}

/// What is wrong with a line, and what to write.
fn why_not(line: &str) -> String {
    let shown: String = line.chars().take(SHOWN).collect();
    let expected = "expected the name of one Debian package, such as libgl1";
    let reason = match line {
        _ if line.starts_with('-') => "options are not taken",
        _ if line.contains(['=', '<', '>', '~', '(']) => {
            "versions are not taken: the archive has one of each package, and the lock says which"
        }
        _ if line.contains(char::is_whitespace) || line.contains(',') => "one name a line",
        _ if line.contains('/') || line.contains(':') => "suites, architectures, files and addresses are not taken",
        _ if is_package_name(&line.to_ascii_lowercase()) => "names have no capital letters",
        _ => "it is no name of a package",
    };
    format!("{shown:?}: {reason}; {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_of_the_file_is_warned_of() {
        let warning = warn_of_mistaken(|name| name == "package.txt").unwrap();
        assert_eq!(
            warning,
            "package.txt is not read: Debian packages are listed in packages.txt"
        );
        assert_eq!(warn_of_mistaken(|name| [FILE, "apt.txt"].contains(&name)), None);
        assert_eq!(warn_of_mistaken(|_| false), None);
    }

    fn refused(text: &[u8]) -> (usize, String) {
        match SystemWish::read(text) {
            Err(SystemError::Line { line, reason }) => (line, reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_names_comments_and_lines_of_windows() {
        let wish = SystemWish::read("\u{feff}# why\r\nlibgl1 # OpenGL\r\n\r\ng++\nlibgl1\n".as_bytes()).unwrap();
        assert_eq!(wish.names, [("g++".to_owned(), 4), ("libgl1".to_owned(), 2)]);
        assert_eq!(SystemWish::read(b"# nothing\n").unwrap(), SystemWish::default());
    }

    #[test]
    fn refuses_everything_that_is_no_name() {
        for (text, says) in [
            ("libgl1=1.6.0", "versions are not taken"),
            ("libgl1 (>= 1)", "versions are not taken"),
            ("libgl1 libglu1-mesa", "one name a line"),
            ("-o Dir::Etc=/x", "options are not taken"),
            ("libgl1/bookworm", "are not taken"),
            ("https://example.org/x.deb", "are not taken"),
            ("LibGL1", "no capital letters"),
            ("libgl_1", "no name of a package"),
            ("\u{1b}[2J", "no name of a package"),
            (&"a".repeat(1000), "no name of a package"),
        ] {
            let (line, reason) = refused(format!("\n{text}\n").as_bytes());
            assert_eq!(line, 2);
            assert!(reason.contains(says) && reason.contains("such as libgl1"), "{reason}");
            assert!(!reason.contains('\u{1b}') && reason.len() < 300, "{reason}");
        }
        assert!(refused(b"\xff").1.contains("UTF-8"));
        assert!(refused(&vec![b'#'; MAX_FILE + 1]).1.contains("bytes"));
        let many: String = (0..=MOST).map(|number| format!("lib{number}\n")).collect();
        assert!(refused(many.as_bytes()).1.contains("more than"));
    }
}
