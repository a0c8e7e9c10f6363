//! A path that is walked name by name, with links followed as the kernel follows them, but by us: who walks decides what
//! an absolute target and `..` mean, and whether to go there at all.

/// As many as the kernel follows (`MAXSYMLINKS` of Linux).
const MAX_LINKS: usize = 40;

/// What is still to be walked of a path.
#[derive(Debug)]
pub struct Trail {
    /// Last first.
    pending: Vec<String>,
    links: usize,
}

impl Trail {
    /// All of `path`. Empty names and `.` are left out; a slash at the end stands for `.`, as only a directory may have one.
    pub fn of(path: &str) -> Self {
        Self {
            pending: names(path),
            links: 0,
        }
    }

    /// The next name.
    pub fn step(&mut self) -> Option<String> {
        self.pending.pop()
    }

    /// Whether the last name was taken.
    pub fn is_at_end(&self) -> bool {
        self.pending.is_empty()
    }

    /// The names that are still to be walked.
    pub fn rest(&self) -> impl Iterator<Item = &str> {
        self.pending.iter().rev().map(String::as_str)
    }

    /// Goes on by way of a link's target, then with the rest; `None` when that were more links than the kernel follows.
    pub fn follow(&mut self, target: &str) -> Option<()> {
        self.links += 1;
        self.pending.extend(names(target));
        (self.links <= MAX_LINKS).then_some(())
    }
}

/// The names of a path, last first.
fn names(path: &str) -> Vec<String> {
    let names = path.split('/').rev().enumerate();
    let names = names.map(|(number, name)| match (number, name) {
        (0, "") => ".",
        (_, ".") if number > 0 => "",
        _ => name,
    });
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_walked_with_the_targets_of_its_links() {
        let mut trail = Trail::of("/a//b/./link/c/");
        let mut walked = Vec::new();
        while let Some(name) = trail.step() {
            if name == "link" {
                trail.follow("../d").unwrap();
                assert_eq!(trail.rest().collect::<Vec<_>>(), ["..", "d", "c", "."]);
            } else {
                walked.push(name);
            }
        }
        assert_eq!(walked, ["a", "b", "..", "d", "c", "."]);
        assert!(trail.is_at_end());
    }

    #[test]
    fn links_in_a_circle_come_to_an_end() {
        let mut trail = Trail::of("link");
        let mut followed = 0;
        while trail.step().is_some() {
            if trail.follow("link").is_none() {
                break;
            }
            followed += 1;
        }
        assert_eq!(followed, MAX_LINKS);
    }
}
