//! All packages of a release, from the lists of its archives: the newest of each name, and which ones provide a name.

use std::collections::BTreeMap;
use std::io::Read;

use super::list::{package, read_paragraphs, Fields};
use super::pinned::{Archive, LockedDeb};
use super::relation::{read_relations, Relation};
use super::version::{compare, is_version};

/// What is kept of a package.
const FIELDS: [&str; 11] = [
    "Package",
    "Version",
    "Architecture",
    "Filename",
    "Size",
    "SHA256",
    "Pre-Depends",
    "Depends",
    "Provides",
    "Conflicts",
    "Breaks",
];

/// A package that could be installed. Its fields are believed only once it is looked at: a damaged package that nobody
/// wants is nobody's trouble.
#[derive(Debug)]
pub(crate) struct Candidate {
    archive: Archive,
    fields: Fields,
}

impl Candidate {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// Its version.
    pub(crate) fn version(&self) -> &str {
        self.field("Version")
    }

    /// What has to be there with it: one of each group.
    pub(crate) fn depends(&self) -> Result<Vec<Vec<Relation>>, String> {
        let mut groups = self.relations("Pre-Depends")?;
        groups.extend(self.relations("Depends")?);
        Ok(groups)
    }

    /// What may not be there with it.
    pub(crate) fn excludes(&self) -> Result<Vec<Relation>, String> {
        let mut groups = self.relations("Conflicts")?;
        groups.extend(self.relations("Breaks")?);
        Ok(groups.into_iter().flatten().collect())
    }

    /// The names it answers to besides its own.
    pub(crate) fn provides(&self) -> Result<Vec<Relation>, String> {
        Ok(self.relations("Provides")?.into_iter().flatten().collect())
    }

    fn relations(&self, name: &str) -> Result<Vec<Vec<Relation>>, String> {
        let read = read_relations(self.field(name));
        read.map_err(|reason| format!("{} {name}: {reason}", self.field("Package")))
    }

    /// Which file it is.
    pub(crate) fn locked(&self) -> Result<LockedDeb, String> {
        package(self.fields.clone(), self.archive)
    }
}

/// The packages of a release.
#[derive(Debug, Default)]
pub(crate) struct Offer {
    packages: BTreeMap<String, Candidate>,
    /// Who provides a name, in the order of their names.
    providers: BTreeMap<String, Vec<String>>,
}

impl Offer {
    /// Adds the packages of `list`, that of `archive`; of one that is there already the newer one stays.
    pub(crate) fn add(&mut self, list: impl Read, archive: Archive, limit: u64) -> Result<(), String> {
        read_paragraphs(list, limit, &FIELDS, &mut |fields| {
            let found = Candidate { archive, fields };
            let name = found.field("Package").to_owned();
            let newer = |known: &Candidate| compare(found.version(), known.version()).is_gt();
            if is_version(found.version()) && self.packages.get(&name).is_none_or(newer) {
                self.packages.insert(name, found);
            }
            Ok(())
        })
    }

    /// What is offered once all lists are added: who provides what is known then.
    pub(crate) fn complete(mut self) -> Self {
        for (name, candidate) in &self.packages {
            for provided in candidate.provides().unwrap_or_default() {
                self.providers.entry(provided.name).or_default().push(name.clone());
            }
        }
        self
    }

    /// The package called `name`.
    pub(crate) fn find(&self, name: &str) -> Option<&Candidate> {
        self.packages.get(name)
    }

    /// The package called `name`, with a name that lives as long as it.
    pub(crate) fn entry(&self, name: &str) -> Option<(&str, &Candidate)> {
        let (name, candidate) = self.packages.get_key_value(name)?;
        Some((name, candidate))
    }

    /// The packages that serve as `relation` under another name, with their names.
    pub(crate) fn providers<'a, 'b>(
        &'a self,
        relation: &'b Relation,
    ) -> impl Iterator<Item = (&'a str, &'a Candidate)> + use<'a, 'b> {
        let names = self.providers.get(&relation.name).into_iter().flatten();
        let found = names.filter_map(move |name| Some((name.as_str(), self.packages.get(name)?)));
        found.filter(move |(_, candidate)| {
            let provided = candidate.provides().unwrap_or_default();
            provided.iter().any(|provided| relation.is_met_by(provided))
        })
    }

    /// The names of all packages.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.packages.keys().map(String::as_str)
    }
}
