//! Files that must not get into an image: environment files, keys, and texts that hold a token.
//!
//! A finding names file, line and kind, never the value. Matching is by well-known names and prefixes: it catches the
//! accident, not the intent.

use super::function::Function;

/// Files larger than this are data, and are not searched.
const MAX_SEARCHED: usize = 4 << 20;

/// Something that looks like a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Path in the directory.
    pub path: String,
    /// Line, when it is in a text.
    pub line: Option<usize>,
    /// What it looks like.
    pub kind: &'static str,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line} ({})", self.path, self.kind),
            None => write!(f, "{} ({})", self.path, self.kind),
        }
    }
}

/// Prefix, what may follow, how much of it at least, and what that is.
type Token = (&'static str, fn(u8) -> bool, usize, &'static str);

const TOKENS: [Token; 14] = [
    ("AKIA", upper, 16, "an AWS access key"),
    ("ASIA", upper, 16, "an AWS access key"),
    ("ghp_", word, 36, "a GitHub token"),
    ("gho_", word, 36, "a GitHub token"),
    ("ghs_", word, 36, "a GitHub token"),
    ("github_pat_", word, 40, "a GitHub token"),
    ("glpat-", word, 20, "a GitLab token"),
    ("xoxb-", word, 20, "a Slack token"),
    ("xoxp-", word, 20, "a Slack token"),
    ("sk_live_", word, 20, "a Stripe key"),
    ("AIza", word, 35, "a Google API key"),
    ("SCW", upper, 17, "a Scaleway access key"),
    ("pypi-AgEI", word, 40, "a package index token"),
    ("hf_", word, 34, "a Hugging Face token"),
];

/// Everything in `function` that looks like a secret, but for the files in `allowed`.
pub fn find(function: &Function, allowed: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in function.files.iter().filter(|file| !allowed.contains(&file.path)) {
        if let Some(kind) = by_name(&file.path) {
            findings.push(Finding {
                path: file.path.clone(),
                line: None,
                kind,
            });
        } else if file.contents.len() <= MAX_SEARCHED {
            for (number, line) in (1..).zip(file.contents.split(|byte| *byte == b'\n')) {
                if let Some(kind) = by_text(line) {
                    findings.push(Finding {
                        path: file.path.clone(),
                        line: Some(number),
                        kind,
                    });
                }
            }
        }
    }
    findings
}

fn by_name(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    let template = [".example", ".sample", ".template"]
        .iter()
        .any(|end| name.ends_with(end));
    match name.as_str() {
        _ if template => None,
        _ if name == ".env" || name.starts_with(".env.") || name.ends_with(".env") => Some("an environment file"),
        "id_rsa" | "id_dsa" | "id_ecdsa" | "id_ed25519" => Some("a private key"),
        ".netrc" | "_netrc" | ".pypirc" | ".npmrc" | ".pgpass" | ".htpasswd" | ".git-credentials" => {
            Some("a credentials file")
        }
        "credentials.json" | "service-account.json" | "service_account.json" => Some("a credentials file"),
        _ if [".key", ".p12", ".pfx", ".jks", ".keystore"]
            .iter()
            .any(|end| name.ends_with(end)) =>
        {
            Some("a private key")
        }
        _ => None,
    }
}

fn by_text(line: &[u8]) -> Option<&'static str> {
    let begins = find_bytes(line, b"-----BEGIN ").is_some() && find_bytes(line, b"PRIVATE KEY-----").is_some();
    if begins {
        return Some("a private key");
    }
    TOKENS
        .iter()
        .find(|(prefix, follows, least, _)| has_token(line, prefix.as_bytes(), *follows, *least))
        .map(|token| token.3)
}

fn has_token(line: &[u8], prefix: &[u8], follows: fn(u8) -> bool, least: usize) -> bool {
    let mut from = 0;
    while let Some(at) = line.get(from..).and_then(|rest| find_bytes(rest, prefix)) {
        let start = from + at;
        let alone = start == 0 || line.get(start - 1).is_some_and(|byte| !word(*byte));
        let rest = line.get(start + prefix.len()..).unwrap_or_default();
        if alone && rest.iter().take_while(|byte| follows(**byte)).count() >= least {
            return true;
        }
        from = start + 1;
    }
    false
}

fn find_bytes(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

#[cfg(test)]
mod tests {
    use super::super::function::SourceFile;
    use super::*;

    fn findings(path: &str, contents: &str) -> Vec<Finding> {
        let file = SourceFile {
            path: path.to_owned(),
            executable: false,
            contents: contents.as_bytes().to_vec(),
        };
        find(&Function { files: vec![file] }, &[])
    }

    #[test]
    fn finds_by_name_and_by_text_and_never_prints_the_value() {
        for path in [
            ".env",
            "a/.env.prod",
            "prod.env",
            "id_rsa",
            "x/server.key",
            ".netrc",
            "credentials.json",
        ] {
            assert_eq!(findings(path, "x").len(), 1, "{path}");
        }
        let token = format!("ghp_{}", "a".repeat(36));
        for (text, line) in [
            (format!("x\nT = '{token}'\n"), 2),
            ("-----BEGIN RSA PRIVATE KEY-----\n".to_owned(), 1),
            (format!("k = AKIA{}\n", "A1".repeat(8)), 1),
        ] {
            let found = findings("a.py", &text);
            assert_eq!(
                found.iter().map(|finding| finding.line).collect::<Vec<_>>(),
                [Some(line)],
                "{text}"
            );
            assert!(!found[0].to_string().contains("AKIA") && !found[0].to_string().contains("ghp_"));
        }
    }

    #[test]
    fn leaves_honest_files_alone() {
        for (path, text) in [
            (".env.example", "A="),
            ("environment.py", "x"),
            ("a.py", "AKIA"),
            ("a.py", "my_ghp_x = 1"),
            ("key.py", ""),
        ] {
            assert_eq!(findings(path, text), [], "{path} {text}");
        }
    }
}
