//! RECORD: path, `sha256=<urlsafe base64 without padding>`, size; a CSV file (binary distribution format).

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// The hashes a wheel says its files have.
#[derive(Debug, Default)]
pub(crate) struct Record(BTreeMap<String, Hash>);

/// What RECORD says of one file, without base64's padding.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hash {
    /// Nothing, as for RECORD itself.
    None,
    Sha256(String),
    Sha384(String),
    Sha512(String),
    /// Allowed by the specification, but no tool writes it.
    Unknown,
}

/// A file that is not what was said of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// Its hash.
    pub got: String,
    /// What RECORD says.
    pub expected: String,
}

impl Record {
    /// Parses the file; hashes weaker than sha256 are refused, as the specification demands.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut hashes = BTreeMap::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let fields = fields(line).ok_or_else(|| format!("its RECORD has a damaged line {line:?}"))?;
            let [path, hash, _size] = fields.as_slice() else {
                return Err(format!("its RECORD has a damaged line {line:?}"));
            };
            let hash = match hash.split_once('=') {
                None if hash.is_empty() => Hash::None,
                Some(("md5" | "sha1", _)) => return Err(format!("its RECORD has a weak hash for {path:?}")),
                Some(("sha256", value)) => Hash::Sha256(from_hex(value).unwrap_or_else(|| unpadded(value))),
                Some(("sha384", value)) => Hash::Sha384(unpadded(value)),
                Some(("sha512", value)) => Hash::Sha512(unpadded(value)),
                _ => Hash::Unknown,
            };
            if hashes
                .insert(path.clone(), hash.clone())
                .is_some_and(|other| other != hash)
            {
                return Err(format!("its RECORD has two hashes for {path:?}"));
            }
        }
        Ok(Self(hashes))
    }

    /// Whether the contents of `path` are what was said, which is true when nothing was; if not, both hashes.
    pub(crate) fn check(&self, path: &str, contents: &[u8]) -> Result<(), Mismatch> {
        let (kind, said, got) = match self.0.get(path) {
            None | Some(Hash::None | Hash::Unknown) => return Ok(()),
            Some(Hash::Sha256(said)) => ("sha256", said, base64(&Sha256::digest(contents))),
            Some(Hash::Sha384(said)) => ("sha384", said, base64(&Sha384::digest(contents))),
            Some(Hash::Sha512(said)) => ("sha512", said, base64(&Sha512::digest(contents))),
        };
        match got == *said {
            true => Ok(()),
            false => Err(Mismatch {
                got: format!("{kind}={got}"),
                expected: format!("{kind}={said}"),
            }),
        }
    }

    /// `sha256=...` of a file, if the wheel says one.
    pub(crate) fn sha256_of(&self, path: &str) -> Option<String> {
        match self.0.get(path) {
            Some(Hash::Sha256(said)) => Some(format!("sha256={said}")),
            _ => None,
        }
    }

    /// Whether `path` has a line.
    pub(crate) fn lists(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// All paths, sorted.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Paths whose hash nobody here can check.
    pub(crate) fn unchecked(&self) -> impl Iterator<Item = &str> {
        let unknown = self.0.iter().filter(|(_, hash)| **hash == Hash::Unknown);
        unknown.map(|(path, _)| path.as_str())
    }
}

fn unpadded(base64: &str) -> String {
    base64.trim_end_matches('=').to_owned()
}

/// The base64 form of a sha256 that is written in hexadecimal, as some build tools do.
fn from_hex(text: &str) -> Option<String> {
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pair = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..32).map(pair).collect();
    is_hex.then_some(bytes).flatten().map(|bytes| base64(&bytes))
}

/// The hash field of some contents.
pub(super) fn hash(contents: &[u8]) -> String {
    format!("sha256={}", base64(&Sha256::digest(contents)))
}

/// One line; quoted when it has to be.
pub(super) fn line(path: &str, hash: &str, size: u64) -> String {
    let path = if path.contains([',', '"']) {
        format!("\"{}\"", path.replace('"', "\"\""))
    } else {
        path.to_owned()
    };
    let size = if hash.is_empty() {
        String::new()
    } else {
        size.to_string()
    };
    format!("{path},{hash},{size}\n")
}

/// Paths in RECORD are relative to the site directory.
pub(super) fn relative_to_site(path: &str, site: &str, prefix: &str) -> String {
    if let Some(inside) = path.strip_prefix(site).and_then(|rest| rest.strip_prefix('/')) {
        return inside.to_owned();
    }
    format!("..{}", path.strip_prefix(prefix).unwrap_or(path))
}

fn fields(line: &str) -> Option<Vec<String>> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, quoted) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            ('"', _) => quoted = !quoted,
            (',', false) => fields.push(std::mem::take(&mut field)),
            _ => field.push(character),
        }
    }
    fields.push(field);
    (!quoted).then_some(fields)
}

/// RFC 4648, "base64url", without padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..=chunk.len() {
            let index = (group >> (18 - 6 * position) & 63) as usize;
            out.extend(ALPHABET.get(index).map(|letter| char::from(*letter)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_like_everyone_else() {
        assert_eq!(hash(b""), "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU");
        assert_eq!(base64(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw");
    }

    #[test]
    fn reads_quotes_and_refuses_damage() {
        let record = Record::parse("\"a,b\",sha256=x,1\nc,,\n").unwrap();
        assert_eq!(record.sha256_of("a,b"), Some("sha256=x".to_owned()));
        assert!(record.lists("c") && record.sha256_of("c").is_none() && !record.lists("d"));
        assert_eq!(line("a,\"b", "h", 1), "\"a,\"\"b\",h,1\n");
        for text in ["a", "\"a,b,c", "a,md5=x,1", "a,b,c,d", "a,sha256=x,\na,sha256=y,"] {
            assert!(Record::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn checks_every_hash_it_knows() {
        let long = format!("sha512={}", base64(&Sha512::digest(b"carnal pleas")));
        let middle = format!("sha384={}", base64(&Sha384::digest(b"carnal pleas")));
        let short = format!("{}=", hash(b"carnal pleas"));
        let text = format!("a,{short},\nb,{middle},\nc,{long},\nd,blake9=x,\n");
        let record = Record::parse(&text).unwrap();
        for path in ["a", "b", "c"] {
            assert_eq!(record.check(path, b"carnal pleas"), Ok(()), "{path}");
            let mismatch = record.check(path, b"carnal pleased").unwrap_err();
            assert!(
                text.contains(&mismatch.expected) && mismatch.got != mismatch.expected,
                "{path}"
            );
        }
        assert_eq!(record.unchecked().collect::<Vec<_>>(), ["d"]);
        assert_eq!(record.sha256_of("a"), Some(hash(b"carnal pleas")));
    }

    #[test]
    fn hexadecimal_means_the_same_and_is_written_as_it_should_be() {
        let hex: String = Sha256::digest(b"carnal pleas")
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        for hex in [hex.to_uppercase(), hex] {
            let record = Record::parse(&format!("a,sha256={hex},12\n")).unwrap();
            assert_eq!(record.check("a", b"carnal pleas"), Ok(()));
            assert_eq!(record.sha256_of("a"), Some(hash(b"carnal pleas")));
            assert_eq!(record.check("a", b"other").unwrap_err().got, hash(b"other"));
        }
    }

    #[test]
    fn paths_are_relative_to_the_site_directory() {
        assert_eq!(relative_to_site("opt/py/site/a/b", "opt/py/site", "opt/py"), "a/b");
        assert_eq!(relative_to_site("opt/py/bin/x", "opt/py/site", "opt/py"), "../bin/x");
    }
}
