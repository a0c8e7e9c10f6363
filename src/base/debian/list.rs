//! `Packages`: a paragraph per package of a suite, of which only the wanted fields are kept.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

use super::pinned::{is_pool_path, Archive, LockedDeb};
use super::version::{compare, is_version};

/// A line of the list; the longest, `Depends` of metapackages, have some ten kilobytes.
const MAX_LINE: u64 = 256 << 10;
/// A package of a base; the largest of ours has 3 MB.
const MAX_PACKAGE: u64 = 256 << 20;

/// Adds to `found` the newest version of each of `wanted` that `list`, that of `archive`, has; one that is there already
/// stays unless the list has a newer one. A list over `limit` bytes is refused.
pub(crate) fn find_newest(
    list: impl Read,
    archive: Archive,
    wanted: &[String],
    limit: u64,
    found: &mut BTreeMap<String, LockedDeb>,
) -> Result<(), String> {
    read_paragraphs(list, limit, &FIELDS, &mut |fields| {
        if !fields.get("Package").is_some_and(|name| wanted.contains(name)) {
            return Ok(());
        }
        let deb = package(fields, archive)?;
        let older = |known: &LockedDeb| compare(&deb.version, &known.version).is_gt();
        if found.get(&deb.name).is_none_or(older) {
            found.insert(deb.name.clone(), deb);
        }
        Ok(())
    })
}

/// The fields of a package that say which file it is.
pub(super) const FIELDS: [&str; 6] = ["Package", "Version", "Architecture", "Filename", "Size", "SHA256"];

/// The fields of one paragraph, by name.
pub(crate) type Fields = BTreeMap<&'static str, String>;

/// Gives the fields of each paragraph of `list` that are among `wanted` to `each`. A list over `limit` bytes is refused.
pub(crate) fn read_paragraphs(
    list: impl Read,
    limit: u64,
    wanted: &[&'static str],
    each: &mut dyn FnMut(Fields) -> Result<(), String>,
) -> Result<(), String> {
    let mut list = BufReader::new(list);
    let (mut line, mut left) = (Vec::new(), limit);
    let mut fields = Fields::new();
    loop {
        line.clear();
        let read = (&mut list).take(MAX_LINE).read_until(b'\n', &mut line);
        let length = read.map_err(|error| error.to_string())?;
        if length as u64 == MAX_LINE {
            return Err(format!("a line is over {MAX_LINE} bytes"));
        }
        left = left
            .checked_sub(length as u64)
            .ok_or_else(|| format!("it has more than {limit} bytes"))?;
        let text = std::str::from_utf8(&line).map_err(|_| "it is not UTF-8".to_owned())?;
        let text = text.trim_end_matches(['\n', '\r']);
        if !text.is_empty() {
            add(&mut fields, wanted, text)?;
            continue;
        }
        if !fields.is_empty() {
            each(std::mem::take(&mut fields))?;
        }
        if length == 0 {
            return Ok(());
        }
    }
}

fn add(fields: &mut Fields, wanted: &[&'static str], line: &str) -> Result<(), String> {
    let Some((name, value)) = line.split_once(':') else {
        return Ok(());
    };
    let Some(name) = wanted.iter().copied().find(|field| *field == name) else {
        return Ok(());
    };
    if fields.insert(name, value.trim().to_owned()).is_some() {
        return Err(format!("a package has {name} twice"));
    }
    Ok(())
}

/// The package of `archive` that `fields` describe.
pub(super) fn package(mut fields: Fields, archive: Archive) -> Result<LockedDeb, String> {
    let mut field = |name: &str| fields.remove(name).unwrap_or_default();
    let name = field("Package");
    let (version, path, architecture) = (field("Version"), field("Filename"), field("Architecture"));
    let refuse = |what: &str, value: &str| Err(format!("{name} has the {what} {value:?}"));
    if !is_version(&version) {
        return refuse("version", &version);
    }
    if !is_pool_path(&path) {
        return refuse("file name", &path);
    }
    if !matches!(architecture.as_str(), "amd64" | "all") {
        return refuse("architecture", &architecture);
    }
    let (size, hash) = (field("Size"), field("SHA256"));
    let Some(size) = size.parse().ok().filter(|size| *size <= MAX_PACKAGE) else {
        return refuse("size", &size);
    };
    let Ok(sha256) = format!("sha256:{hash}").parse() else {
        return refuse("hash", &hash);
    };
    Ok(LockedDeb {
        name,
        version,
        archive,
        path,
        size,
        sha256,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paragraph(name: &str, version: &str, path: &str) -> String {
        let hash = "0".repeat(64);
        format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\nDescription: a\n b\n Version: 9\nFilename: {path}\nSize: 5\nSHA256: {hash}\n\n")
    }

    fn newest(lists: &[(&str, Archive)]) -> Result<BTreeMap<String, LockedDeb>, String> {
        let mut found = BTreeMap::new();
        for (list, archive) in lists {
            find_newest(
                list.as_bytes(),
                *archive,
                &["a".to_owned(), "b".to_owned()],
                1 << 20,
                &mut found,
            )?;
        }
        Ok(found)
    }

    #[test]
    fn takes_the_newest_of_all_lists_and_nothing_else() {
        let main = paragraph("a", "1.9", "pool/main/a.deb") + &paragraph("other", "1", "../x");
        let security = paragraph("a", "1.10", "pool/updates/a10.deb") + &paragraph("a", "1.2", "pool/updates/a2.deb");
        let b = paragraph("b", "1", "pool/main/b.deb");
        let lists = [
            (main.as_str(), Archive::Main),
            (security.as_str(), Archive::Security),
            (b.trim_end(), Archive::Main),
        ];
        let found = newest(&lists).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found["a"].version.as_str(), found["a"].archive, found["b"].size),
            ("1.10", Archive::Security, 5)
        );
        let same = newest(&[(&main, Archive::Main), (&main, Archive::Security)]).unwrap();
        assert_eq!(same["a"].archive, Archive::Main, "the first of two equal ones");
    }

    #[test]
    fn refuses_wanted_packages_that_are_damaged() {
        let good = paragraph("a", "1", "pool/a.deb");
        for damaged in [
            paragraph("a", "x", "pool/a.deb"),
            paragraph("a", "1", "pool/../../a.deb"),
            paragraph("a", "1", "/etc/a.deb"),
            paragraph("a", "1", "pool/a.deb?x"),
            paragraph("a", "1", "pool//a.deb"),
            good.replace("Size: 5", "Size: -5"),
            good.replace("Size: 5", "Size: 999999999999"),
            good.replace("SHA256: 0", "SHA256: g"),
            good.replace("amd64", "arm64"),
            good.replace("Size: 5", "Version: 2"),
            good.replace("Description: a", &format!("Description: {}", "a".repeat(300 << 10))),
        ] {
            assert!(newest(&[(&damaged, Archive::Main)]).is_err(), "{damaged:.200}");
        }
        assert!(newest(&[(&good, Archive::Main)]).is_ok());
        let long = good.repeat((1 << 20) / good.len() + 1);
        assert!(newest(&[(&long, Archive::Main)]).unwrap_err().contains("more than"));
    }
}
