//! RECORD: path, `sha256=<urlsafe base64 without padding>`, size; a CSV file (binary distribution format).

use std::collections::BTreeMap;

use crate::oci::Digest;

/// The hashes a wheel says its files have.
#[derive(Debug, Default)]
pub struct Record(BTreeMap<String, String>);

impl Record {
    /// Parses the file; hashes weaker than sha256 are refused, stronger ones are not looked at.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut hashes = BTreeMap::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let fields = fields(line).ok_or_else(|| format!("its RECORD has a damaged line {line:?}"))?;
            let [path, hash, _size] = fields.as_slice() else {
                return Err(format!("its RECORD has a damaged line {line:?}"));
            };
            if hash.starts_with("md5=") || hash.starts_with("sha1=") {
                return Err(format!("its RECORD has a weak hash for {path:?}"));
            }
            if hash.starts_with("sha256=") {
                hashes.insert(path.clone(), hash.clone());
            }
        }
        Ok(Self(hashes))
    }

    /// `sha256=...` of a file, if the wheel says one.
    pub fn hash_of(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }
}

/// The hash field of some contents.
pub fn hash(contents: &[u8]) -> String {
    let hex = Digest::of(contents).hex();
    let bytes = hex
        .as_bytes()
        .chunks_exact(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    format!("sha256={}", base64(&bytes.collect::<Vec<u8>>()))
}

/// One line; quoted when it has to be.
pub fn line(path: &str, hash: &str, size: u64) -> String {
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
pub fn relative_to_site(path: &str, site: &str, prefix: &str) -> String {
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
        assert_eq!((record.hash_of("a,b"), record.hash_of("c")), (Some("sha256=x"), None));
        assert_eq!(line("a,\"b", "h", 1), "\"a,\"\"b\",h,1\n");
        for text in ["a", "\"a,b,c", "a,md5=x,1", "a,b,c,d"] {
            assert!(Record::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_are_relative_to_the_site_directory() {
        assert_eq!(relative_to_site("opt/py/site/a/b", "opt/py/site", "opt/py"), "a/b");
        assert_eq!(relative_to_site("opt/py/bin/x", "opt/py/site", "opt/py"), "../bin/x");
    }
}
