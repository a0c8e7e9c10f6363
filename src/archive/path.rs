//! Names inside archives: relative, plain, bounded; how plain depends on whether we or a stranger made the layer.

use crate::policy::ExtractionLimits;

/// Longest component the kernel's file systems take.
const MAX_COMPONENT: usize = 255;

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Starts with `/`.
    #[error("it is absolute")]
    Absolute,
    /// Has a component `..`.
    #[error("it has a component ..")]
    Parent,
    /// Has an empty component or `.`.
    #[error("it has an empty component or .")]
    NotNormal,
    /// Has a NUL, or a control character or a backslash where those are refused too.
    #[error("it has a NUL, a control character or a backslash")]
    Character,
    /// Has a component that starts with `.wh.`.
    #[error("it has a component that starts with .wh., which deletes files when it is in a layer")]
    Whiteout,
    /// Over a limit.
    #[error("it is too long or too deep")]
    Long,
}

/// What makes a name in a layer a deletion (OCI image specification, "Whiteouts").
pub(super) const WHITEOUT: &str = ".wh.";

/// Checks a path that we write: what is accepted stays below the directory it is joined to, means the same to every
/// tool that unpacks it, and is printable.
///
/// # Errors
///
/// [`PathProblem`] names the first rule that the path breaks.
pub fn check_path(path: &str, limits: &ExtractionLimits) -> Result<(), PathProblem> {
    check_foreign_path(path, limits)?;
    if path
        .chars()
        .any(|character| character.is_control() || character == '\\')
    {
        return Err(PathProblem::Character);
    }
    if path.split('/').any(|component| component.starts_with(WHITEOUT)) {
        return Err(PathProblem::Whiteout);
    }
    Ok(())
}

/// Checks a path of a stranger's layer: the same, but any character except NUL may be in a name. systemd's units have
/// backslashes in theirs, so that a stricter check refuses common base images.
pub(crate) fn check_foreign_path(path: &str, limits: &ExtractionLimits) -> Result<(), PathProblem> {
    if path.is_empty() {
        return Err(PathProblem::Empty);
    }
    if path.starts_with('/') {
        return Err(PathProblem::Absolute);
    }
    if path.contains('\0') {
        return Err(PathProblem::Character);
    }
    let mut depth = 0;
    for component in path.split('/') {
        depth += 1;
        match component {
            "" | "." => return Err(PathProblem::NotNormal),
            ".." => return Err(PathProblem::Parent),
            _ if component.len() > MAX_COMPONENT => return Err(PathProblem::Long),
            _ => {}
        }
    }
    if path.len() > limits.path || depth > limits.depth {
        return Err(PathProblem::Long);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_plain_relative_paths_only() {
        let limits = ExtractionLimits::default();
        for path in ["a", "a/b.c", "..a/b..", "é/ü", ".hidden"] {
            assert_eq!(check_path(path, &limits), Ok(()), "{path}");
        }
        let deep = "a/".repeat(200) + "a";
        let long = "x".repeat(256);
        for (path, problem) in [
            ("", PathProblem::Empty),
            ("/a", PathProblem::Absolute),
            ("..", PathProblem::Parent),
            ("a/../b", PathProblem::Parent),
            ("a//b", PathProblem::NotNormal),
            ("a/", PathProblem::NotNormal),
            ("./a", PathProblem::NotNormal),
            ("a\0", PathProblem::Character),
            ("a\\b", PathProblem::Character),
            ("a\nb", PathProblem::Character),
            ("a/.wh.b", PathProblem::Whiteout),
            (".wh.a/b", PathProblem::Whiteout),
            (&deep, PathProblem::Long),
            (&long, PathProblem::Long),
        ] {
            assert_eq!(check_path(path, &limits), Err(problem), "{path:?}");
            let foreign = match path {
                "a\\b" | "a\nb" | "a/.wh.b" | ".wh.a/b" => Ok(()),
                _ => Err(problem),
            };
            assert_eq!(check_foreign_path(path, &limits), foreign, "{path:?}");
        }
    }
}
