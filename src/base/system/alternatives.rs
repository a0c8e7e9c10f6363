//! `update-alternatives --install`: a link to one of several programs or libraries, by way of `/etc/alternatives`.

use std::collections::BTreeMap;

/// One that can stand behind a link, with links that go along with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alternative {
    /// The link, such as `/usr/bin/mpirun`.
    pub link: String,
    /// The name of the link in `/etc/alternatives`.
    pub name: String,
    /// What it leads to.
    pub path: String,
    /// The one of the highest number stands behind the link.
    pub priority: i64,
    /// Link, name and path of each one that goes along.
    pub followers: Vec<(String, String, String)>,
}

impl Alternative {
    /// Reads a command line; none when it does anything else, or not only this.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let line = line.trim_end_matches("|| true");
        let words = line.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
        let mut words = words.filter(|word| !matches!(*word, "--force" | "--quiet"));
        if words.next()? != "update-alternatives" || words.next()? != "--install" {
            return None;
        }
        let mut found = Self {
            link: path(words.next()?)?,
            name: name(words.next()?)?,
            path: path(words.next()?)?,
            priority: words.next()?.parse().ok()?,
            followers: Vec::new(),
        };
        while let Some(word) = words.next() {
            if !matches!(word, "--slave" | "--follower") {
                return None;
            }
            let follower = (path(words.next()?)?, name(words.next()?)?, path(words.next()?)?);
            found.followers.push(follower);
        }
        Some(found)
    }
}

/// An absolute path of plain components.
fn path(word: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+-".contains(&byte);
    let inside = word.strip_prefix('/')?;
    let is_path = word.bytes().all(plain) && inside.split('/').all(|part| !matches!(part, "" | "." | ".."));
    is_path.then(|| word.to_owned())
}

fn name(word: &str) -> Option<String> {
    path(&format!("/{word}")).filter(|_| !word.contains('/'))?;
    Some(word.to_owned())
}

/// The links of `alternatives`, path without leading slash -> target: of each name those of the highest priority, and of
/// these, those that lead to something that `is_there`.
pub(super) fn links(alternatives: &[Alternative], is_there: &dyn Fn(&str) -> bool) -> BTreeMap<String, String> {
    let mut best: BTreeMap<&str, &Alternative> = BTreeMap::new();
    for alternative in alternatives
        .iter()
        .filter(|alternative| is_there(relative(&alternative.path)))
    {
        let better = |known: &&Alternative| alternative.priority > known.priority;
        if best.get(alternative.name.as_str()).is_none_or(better) {
            best.insert(&alternative.name, alternative);
        }
    }
    let mut links = BTreeMap::new();
    for alternative in best.into_values() {
        let own = (&alternative.link, &alternative.name, &alternative.path);
        let followers = alternative
            .followers
            .iter()
            .map(|(link, name, path)| (link, name, path));
        for (link, name, path) in followers.filter(|(_, _, path)| is_there(relative(path))).chain([own]) {
            let middle = format!("/etc/alternatives/{name}");
            links.insert(relative(&middle).to_owned(), path.clone());
            links.insert(relative(link).to_owned(), middle);
        }
    }
    links
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_priority_stands_behind_the_link_with_its_followers() {
        let read = |line: &str| Alternative::parse(&format!("update-alternatives --install {line}")).unwrap();
        let all = [
            read("/usr/lib/libblas.so.3 blas /usr/lib/blas/libblas.so.3 10"),
            read("/usr/lib/libblas.so.3 blas /usr/lib/openblas/libblas.so.3 100 --slave /usr/bin/b b /usr/bin/b.open --slave /usr/share/man/b.1 b.1 /usr/share/man/b.open.1"),
            read("/usr/lib/libblas.so.3 blas /usr/lib/gone/libblas.so.3 1000"),
        ];
        let links = links(&all, &|path| !path.contains("gone") && !path.contains("man"));
        let links: Vec<(&str, &str)> = links
            .iter()
            .map(|(path, target)| (path.as_str(), target.as_str()))
            .collect();
        assert_eq!(
            links,
            [
                ("etc/alternatives/b", "/usr/bin/b.open"),
                ("etc/alternatives/blas", "/usr/lib/openblas/libblas.so.3"),
                ("usr/bin/b", "/etc/alternatives/b"),
                ("usr/lib/libblas.so.3", "/etc/alternatives/blas"),
            ]
        );
    }

    #[test]
    fn what_is_not_spelled_out_is_none() {
        for line in [
            "update-alternatives --install /a/$x b /c 1",
            "update-alternatives --install /a/../b b /c 1",
            "update-alternatives --install a b /c 1",
            "update-alternatives --install /a b/c /c 1",
            "update-alternatives --install /a .. /c 1",
            "update-alternatives --install /a b /c one",
            "update-alternatives --install /a b /c 1 --slave /d",
            "update-alternatives --install /a b /c 1 && rm",
            "update-alternatives --auto b",
        ] {
            assert_eq!(Alternative::parse(line), None, "{line}");
        }
    }
}
