//! Which packages a wish comes to: the wished ones, and what they need and the base does not have.
//!
//! Of each name there is one version, the newest of the archive, so that nothing has to be tried out: of alternatives the
//! first is taken that is there or can be had. `Recommends` are left out.

use std::collections::{BTreeMap, VecDeque};

use super::error::SystemError;
use super::installed::Installed;
use super::shipped::Shipped;
use super::wish::SystemWish;
use crate::base::debian::{Candidate, LockedDeb, Offer, Relation};

/// Packages in all; a whole desktop has 2000.
const MOST: usize = 1000;

/// The packages that a wish comes to.
#[derive(Debug)]
pub(super) struct Closure {
    /// Sorted by name.
    pub packages: Vec<LockedDeb>,
    /// The names of those that were asked for.
    pub requested: Vec<String>,
}

/// Chooses the packages of `offer` that `wish` comes to on a base that has `installed`.
pub(super) fn close(
    wish: &SystemWish,
    offer: &Offer,
    installed: &Installed,
    shipped: &Shipped,
) -> Result<Closure, SystemError> {
    let mut chooser = Chooser {
        offer,
        installed,
        shipped,
        chosen: BTreeMap::new(),
        pending: VecDeque::new(),
    };
    let mut requested = Vec::new();
    for (name, line) in &wish.names {
        let relation = Relation::any(name);
        if installed.version(name).is_some() {
            continue;
        }
        let Some(real) = chooser.find(&relation) else {
            return Err(SystemError::Unknown {
                line: *line,
                suite: installed.suite.clone(),
                package: name.clone(),
                hint: super::likeness::did_you_mean(name, offer.names()),
            });
        };
        requested.push(real.to_owned());
        chooser.choose(real)?;
    }
    while let Some((package, group)) = chooser.pending.pop_front() {
        chooser.meet(&package, &group)?;
    }
    chooser.check_exclusions()?;
    let packages = chooser.chosen.values().map(|candidate| candidate.locked());
    requested.sort();
    requested.dedup();
    Ok(Closure {
        packages: packages.collect::<Result<_, _>>().map_err(odd)?,
        requested,
    })
}

fn odd(reason: String) -> SystemError {
    SystemError::Odd { reason }
}

struct Chooser<'a> {
    offer: &'a Offer,
    installed: &'a Installed,
    shipped: &'a Shipped,
    chosen: BTreeMap<&'a str, &'a Candidate>,
    /// Who needs one of what.
    pending: VecDeque<(String, Vec<Relation>)>,
}

impl<'a> Chooser<'a> {
    fn choose(&mut self, name: &str) -> Result<(), SystemError> {
        let Some((name, candidate)) = self.offer.entry(name) else {
            return Ok(());
        };
        if self.chosen.insert(name, candidate).is_some() {
            return Ok(());
        }
        if self.chosen.len() > MOST {
            return Err(odd(format!("they are more than {MOST}")));
        }
        for group in candidate.depends().map_err(odd)? {
            self.pending.push_back((name.to_owned(), group));
        }
        Ok(())
    }

    fn meet(&mut self, package: &str, group: &[Relation]) -> Result<(), SystemError> {
        if group.iter().any(|relation| self.is_met(relation)) {
            return Ok(());
        }
        if let Some(name) = group.iter().find_map(|relation| self.find(relation)) {
            return self.choose(name);
        }
        let needs: Vec<String> = group.iter().map(ToString::to_string).collect();
        Err(SystemError::Unmet {
            package: package.to_owned(),
            needs: needs.join(" | "),
            reason: self.why_not(group),
        })
    }

    fn is_met(&self, relation: &Relation) -> bool {
        if self.shipped.is_left_out(&relation.name) || self.installed.meets(relation) {
            return true;
        }
        let chosen = self.chosen.get(relation.name.as_str());
        chosen.is_some_and(|candidate| relation.accepts(candidate.version()))
            || self
                .offer
                .providers(relation)
                .any(|(name, _)| self.chosen.contains_key(name))
    }

    /// The package that would meet `relation`: the one of its name, else the first that provides it. One that the base has
    /// in another version is none: its files are there.
    fn find(&self, relation: &Relation) -> Option<&'a str> {
        let is_free = |name: &str| self.installed.version(name).is_none();
        let own = self.offer.entry(&relation.name);
        let own = own.filter(|(name, candidate)| is_free(name) && relation.accepts(candidate.version()));
        let own = own.map(|(name, _)| name);
        own.or_else(|| {
            let mut providers = self.offer.providers(relation);
            providers.find(|(name, _)| is_free(name)).map(|(name, _)| name)
        })
    }

    fn why_not(&self, group: &[Relation]) -> String {
        let reasons = group.iter().map(|relation| {
            let name = &relation.name;
            match (self.installed.version(name), self.offer.find(name)) {
                (Some(has), _) => format!("the base has {name} {has}, whose files are not replaced"),
                (None, Some(candidate)) => format!("the archive has {name} {}", candidate.version()),
                (None, None) => format!("the archive has no {name}"),
            }
        });
        reasons.collect::<Vec<_>>().join(", ")
    }

    /// Nothing that was chosen may exclude another, or something of the base.
    fn check_exclusions(&self) -> Result<(), SystemError> {
        for (name, candidate) in &self.chosen {
            for relation in candidate.excludes().map_err(odd)? {
                let of_chosen = self.chosen.get_key_value(relation.name.as_str());
                let of_chosen = of_chosen.filter(|(_, other)| relation.accepts(other.version()));
                let of_chosen = of_chosen.map(|(other, _)| *other).filter(|other| other != name);
                let of_base = self
                    .installed
                    .version(&relation.name)
                    .filter(|version| relation.accepts(version));
                if of_chosen.is_some() || of_base.is_some() {
                    let version = of_base
                        .map(|version| format!(" {version} of the base"))
                        .unwrap_or_default();
                    return Err(SystemError::Excluded {
                        package: format!("{name} {}", candidate.version()),
                        other: format!("{}{version}", relation.name),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::debian::Archive;

    fn paragraph(name: &str, version: &str, fields: &str) -> String {
        let hash = "0".repeat(64);
        format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: pool/{name}.deb\nSize: 5\nSHA256: {hash}\n{fields}\n\n")
    }

    fn closure(wanted: &[&str], list: &[String], base: &[(&str, &str)]) -> Result<Vec<String>, SystemError> {
        let mut offer = Offer::default();
        offer.add(list.concat().as_bytes(), Archive::Main, 1 << 20).unwrap();
        let offer = offer.complete();
        let installed = Installed::of("bookworm", base);
        let wish = SystemWish::read(wanted.join("\n").as_bytes()).unwrap();
        let closed = close(&wish, &offer, &installed, &Shipped::read().unwrap())?;
        Ok(closed.packages.into_iter().map(|deb| deb.name).collect())
    }

    const BASE: [(&str, &str); 1] = [("libc6", "2.36")];

    #[test]
    fn takes_what_is_needed_and_neither_there_nor_recommended() {
        let list = [
            paragraph("aa", "1", "Depends: libc6 (>= 2.30), bb | cc, debconf (>= 0.5) | debconf-2.0\nPre-Depends: dd (= 1)\nRecommends: zz"),
            paragraph("bb", "1", "Depends: aa"),
            paragraph("cc", "1", ""),
            paragraph("dd", "1", "Depends: virtual, cc"),
            paragraph("yy", "1", "Provides: virtual"),
            paragraph("xx", "1", "Provides: virtual, wished (= 3)"),
            paragraph("zz", "1", ""),
        ];
        let found = closure(&["aa"], &list, &BASE).unwrap();
        assert_eq!(
            found,
            ["aa", "bb", "cc", "dd", "xx"],
            "the first by name of those that provide it"
        );
        // One that is coming anyway serves as the second alternative.
        let list_of_two = [
            paragraph("aa", "1", "Depends: bb | cc"),
            paragraph("bb", "1", ""),
            paragraph("cc", "1", ""),
        ];
        assert_eq!(closure(&["aa", "cc"], &list_of_two, &BASE).unwrap(), ["aa", "cc"]);
        assert_eq!(
            closure(&["wished"], &list, &BASE).unwrap(),
            ["xx"],
            "asked for by what it provides"
        );
        assert!(closure(&["libc6"], &list, &BASE).unwrap().is_empty(), "the base has it");
    }

    #[test]
    fn versions_are_held_to() {
        let unmet = |depends: &str, base: &[(&str, &str)]| {
            let list = [
                paragraph("aa", "1", &format!("Depends: {depends}")),
                paragraph("bb", "1.5", ""),
            ];
            match closure(&["aa"], &list, base) {
                Err(SystemError::Unmet { needs, reason, .. }) => format!("{needs}: {reason}"),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(unmet("bb (>= 2)", &BASE), "bb (>= 2): the archive has bb 1.5");
        assert_eq!(
            unmet("libc6 (= 2.37)", &BASE),
            "libc6 (= 2.37): the base has libc6 2.36, whose files are not replaced"
        );
        assert_eq!(
            unmet("bb (>= 1.5)", &[("bb", "1.4")]),
            "bb (>= 1.5): the base has bb 1.4, whose files are not replaced"
        );
        assert_eq!(
            unmet("cc | dd", &BASE),
            "cc | dd: the archive has no cc, the archive has no dd"
        );
    }

    #[test]
    fn what_excludes_another_is_refused() {
        let list = [
            paragraph("aa", "1", "Conflicts: bb (<< 2), aa"),
            paragraph("bb", "1.5", ""),
            paragraph("cc", "1", "Breaks: libc6 (<< 3)"),
        ];
        assert!(
            closure(&["aa"], &list, &BASE).is_ok(),
            "a package may exclude its own name"
        );
        for wanted in [&["aa", "bb"][..], &["cc"]] {
            assert!(
                matches!(closure(wanted, &list, &BASE), Err(SystemError::Excluded { .. })),
                "{wanted:?}"
            );
        }
    }

    #[test]
    fn a_name_that_nobody_has_comes_with_one_that_is_like_it() {
        let list = [paragraph("graphviz", "1", "")];
        let error = closure(&["graphvis"], &list, &BASE).unwrap_err();
        assert!(
            matches!(&error, SystemError::Unknown { line: 1, hint, .. } if hint.contains("graphviz")),
            "{error}"
        );
    }
}
