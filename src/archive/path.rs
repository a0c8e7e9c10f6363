//! Names inside archives: relative, plain, bounded.

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
    /// Has a NUL, a control character or a backslash.
    #[error("it has a NUL, a control character or a backslash")]
    Character,
    /// Over a limit.
    #[error("it is too long or too deep")]
    Long,
}

/// Checks a normal relative path: what is accepted stays below the directory it is joined to.
pub fn check_path(path: &str, limits: &ExtractionLimits) -> Result<(), PathProblem> {
    if path.is_empty() {
        return Err(PathProblem::Empty);
    }
    if path.starts_with('/') {
        return Err(PathProblem::Absolute);
    }
    if path
        .chars()
        .any(|character| character.is_control() || character == '\\')
    {
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
            (&deep, PathProblem::Long),
            (&long, PathProblem::Long),
        ] {
            assert_eq!(check_path(path, &limits), Err(problem), "{path:?}");
        }
    }
}
