//! Files that must not get into an image: environment files, keys, and texts that hold a token.
//!
//! A finding names file, line and kind, never the value. Matching is by well-known names and prefixes: it catches the
//! accident, not the intent.

use super::function::Function;
use super::BuildError;

/// A person repairs these and builds again; more would only hide the first.
const MAX_FINDINGS: usize = 20;
const PEM: &str = "-----BEGIN ";

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

/// How a token begins, what may follow and how much of it, and what that is.
struct Token {
    prefix: &'static str,
    follows: fn(u8) -> bool,
    /// Fewest and most characters that follow. Keys of a fixed length are exact: protein sequences are capital letters,
    /// too, but longer.
    length: (usize, usize),
    kind: &'static str,
}

const fn token(prefix: &'static str, follows: fn(u8) -> bool, length: (usize, usize), kind: &'static str) -> Token {
    Token {
        prefix,
        follows,
        length,
        kind,
    }
}

const ANY: usize = usize::MAX;

const TOKENS: [Token; 25] = [
    token("AKIA", upper, (16, 16), "an AWS access key"),
    token("ASIA", upper, (16, 16), "an AWS access key"),
    token("ghp_", word, (36, ANY), "a GitHub token"),
    token("gho_", word, (36, ANY), "a GitHub token"),
    token("ghu_", word, (36, ANY), "a GitHub token"),
    token("ghs_", word, (36, ANY), "a GitHub token"),
    token("ghr_", word, (36, ANY), "a GitHub token"),
    token("github_pat_", word, (40, ANY), "a GitHub token"),
    token("glpat-", word, (20, ANY), "a GitLab token"),
    token("xoxa-", word, (20, ANY), "a Slack token"),
    token("xoxb-", word, (20, ANY), "a Slack token"),
    token("xoxp-", word, (20, ANY), "a Slack token"),
    token("xapp-", word, (20, ANY), "a Slack token"),
    token("sk_live_", word, (20, ANY), "a Stripe key"),
    token("rk_live_", word, (20, ANY), "a Stripe key"),
    token("whsec_", word, (30, ANY), "a Stripe key"),
    token("AIza", word, (35, 35), "a Google API key"),
    token("GOCSPX-", word, (28, ANY), "a Google client secret"),
    token("SCW", upper, (17, 17), "a Scaleway access key"),
    token("pypi-AgEI", word, (40, ANY), "a package index token"),
    token("npm_", word, (36, 36), "a package index token"),
    token("hf_", word, (34, ANY), "a Hugging Face token"),
    token("sk-ant-", word, (30, ANY), "an API key"),
    token("sk-proj-", word, (30, ANY), "an API key"),
    token(PEM, pem, (11, ANY), "a private key"),
];

/// Names of settings whose values have no beginning of their own.
const SETTINGS: [Token; 8] = [
    token("aws_secret_access_key", base64, (40, 40), "an AWS secret key"),
    token("AWS_SECRET_ACCESS_KEY", base64, (40, 40), "an AWS secret key"),
    token("AWS_SESSION_TOKEN", base64, (80, ANY), "an AWS session token"),
    token("scw_secret_key", uuid, (36, 36), "a Scaleway secret key"),
    token("SCW_SECRET_KEY", uuid, (36, 36), "a Scaleway secret key"),
    token("secret_key", uuid, (36, 36), "a Scaleway secret key"),
    token("SECRET_KEY", uuid, (36, 36), "a Scaleway secret key"),
    token("_authToken", word, (20, ANY), "a package index token"),
];

/// Which bytes begin a token or a setting: all others cost one look.
const STARTS: [bool; 256] = {
    let mut starts = [false; 256];
    let mut number = 0;
    while number < TOKENS.len() {
        starts[TOKENS[number].prefix.as_bytes()[0] as usize] = true;
        number += 1;
    }
    number = 0;
    while number < SETTINGS.len() {
        starts[SETTINGS[number].prefix.as_bytes()[0] as usize] = true;
        number += 1;
    }
    starts
};

/// Names that are a credentials file in the right directory.
const BELOW_DIRECTORY: [&str; 3] = ["config.json", "credentials", "config"];

/// Refuses a function with files that look like secrets, but for those that `allowed` names.
///
/// # Errors
///
/// [`BuildError::Secrets`] names all of them.
pub(crate) fn refuse(function: &Function, allowed: &[String]) -> Result<(), BuildError> {
    let findings = find(function, allowed);
    match findings.is_empty() {
        true => Ok(()),
        false => Err(BuildError::Secrets { findings }),
    }
}

/// Those of `allowed` that allow nothing, as the function has no such file or link: most likely typed wrong.
pub(crate) fn allowed_in_vain<'a>(function: &Function, allowed: &'a [String]) -> Vec<&'a str> {
    let is_there = |path: &str| {
        let mut files = function.files.iter().map(|file| &file.path);
        let mut links = function.links.iter().map(|link| link.path.as_str());
        let below = |link: &str| {
            path.strip_prefix(link)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        files.any(|file| file == path) || links.any(below)
    };
    let allowed = allowed.iter().map(String::as_str);
    allowed.filter(|path| !is_there(path)).collect()
}

/// Everything in `function` that looks like a secret, but for the files in `allowed`; one finding per line, and no more
/// than a person can look at.
fn find(function: &Function, allowed: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in function.files.iter().filter(|file| !allowed.contains(&file.path)) {
        let mut found = |line, kind| {
            findings.push(Finding {
                path: file.path.clone(),
                line,
                kind,
            });
            findings.len() < MAX_FINDINGS
        };
        let more = match by_name(&file.path) {
            Some(kind) => found(None, kind),
            None => by_text(&file.contents, &mut |line, kind| found(Some(line), kind)),
        };
        if !more {
            return findings;
        }
    }
    // A name that tools look for is one by way of a link, too.
    let entries = function.entries();
    for link in &function.links {
        let below = BELOW_DIRECTORY.map(|name| format!("{}/{name}", link.path));
        let below = below.into_iter().filter(|path| entries.resolve(path).is_ok());
        for path in [link.path.clone()].into_iter().chain(below) {
            if allowed.contains(&path) {
                continue;
            }
            let Some(kind) = by_name(&path) else { continue };
            let line = None;
            findings.push(Finding { path, line, kind });
            if findings.len() == MAX_FINDINGS {
                return findings;
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
        _ if [".docker/config.json", ".aws/credentials", ".kube/config"]
            .iter()
            .any(|end| path.ends_with(end)) =>
        {
            Some("a credentials file")
        }
        _ if [".key", ".p12", ".pfx", ".jks", ".keystore", ".ppk", ".kdbx"]
            .iter()
            .any(|end| name.ends_with(end)) =>
        {
            Some("a private key")
        }
        _ => None,
    }
}

/// Calls `found` with line and kind until it returns false; returns whether it never did.
fn by_text(text: &[u8], found: &mut dyn FnMut(usize, &'static str) -> bool) -> bool {
    let (mut line, mut found_on, mut before) = (1, 0, b'\n');
    for (at, byte) in text.iter().enumerate() {
        let rest = text.get(at..).unwrap_or_default();
        let kind = match byte {
            b'\n' => {
                line += 1;
                None
            }
            _ if found_on == line => None,
            b':' => password_of_address(rest),
            _ if STARTS[usize::from(*byte)] && !before.is_ascii_alphanumeric() && before != b'_' => {
                let token = TOKENS.iter().find(|token| token.is_at(rest));
                let setting = || SETTINGS.iter().find(|setting| setting.is_set_at(rest));
                token.or_else(setting).map(|token| token.kind)
            }
            _ => None,
        };
        if let Some(kind) = kind {
            found_on = line;
            if !found(line, kind) {
                return false;
            }
        }
        before = *byte;
    }
    true
}

impl Token {
    fn is_at(&self, text: &[u8]) -> bool {
        text.strip_prefix(self.prefix.as_bytes())
            .is_some_and(|value| self.takes(value))
    }

    /// `name = "value"` and its relatives.
    fn is_set_at(&self, text: &[u8]) -> bool {
        let Some(rest) = text.strip_prefix(self.prefix.as_bytes()) else {
            return false;
        };
        let between = rest
            .iter()
            .take(6)
            .take_while(|byte| b" \t\"'=:".contains(byte))
            .count();
        between > 0 && self.takes(rest.get(between..).unwrap_or_default())
    }

    fn takes(&self, text: &[u8]) -> bool {
        let length = text.iter().take_while(|byte| (self.follows)(**byte)).count();
        let value = text.get(..length).unwrap_or_default();
        if self.prefix == PEM {
            return value.windows(11).any(|window| window == b"PRIVATE KEY");
        }
        // `xxxx` and the documentation's AKIA..EXAMPLE stand for a key.
        let same = value.iter().all(|byte| value.first() == Some(byte));
        (self.length.0..=self.length.1).contains(&length) && !same && !value.ends_with(b"EXAMPLE")
    }
}

/// `://user:password@` from the colon on, as in addresses of data bases.
fn password_of_address(text: &[u8]) -> Option<&'static str> {
    let rest = text.strip_prefix(b"://")?;
    let visible = |byte: &u8| byte.is_ascii_graphic() && !b"/?#\"'`<>(){}$%*@,".contains(byte);
    let length = rest.iter().take(200).take_while(|byte| visible(byte)).count();
    let (authority, after) = rest.split_at_checked(length)?;
    let colon = authority.iter().position(|byte| *byte == b':')?;
    let password = std::str::from_utf8(authority.get(colon + 1..)?).ok()?.to_lowercase();
    let stands_for = [
        "", "password", "passwd", "pass", "pw", "pwd", "secret", "token", "user", "example", "changeme", "...",
    ];
    let same = password.bytes().all(|byte| password.as_bytes().first() == Some(&byte));
    (after.first() == Some(&b'@') && !same && !stands_for.contains(&password.as_str()))
        .then_some("an address with a password")
}

fn upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/+=".contains(&byte)
}

fn uuid(byte: u8) -> bool {
    byte.is_ascii_hexdigit() || byte == b'-'
}

fn pem(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' '
}

#[cfg(test)]
mod tests {
    use super::super::function::{SourceFile, SourceLink};
    use super::*;

    fn findings(path: &str, contents: &str) -> Vec<Finding> {
        let file = SourceFile {
            path: path.to_owned(),
            executable: false,
            contents: contents.as_bytes().to_vec(),
        };
        let files = vec![file];
        find(
            &Function {
                files,
                ..Function::default()
            },
            &[],
        )
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
        let token = format!("ghp_{}", "a1".repeat(18));
        let uuid = "0123abcd-0123-4567-89ab-0123456789ab";
        for (text, line) in [
            (format!("x\nT = '{token}'\n"), 2),
            ("-----BEGIN RSA PRIVATE KEY-----\n".to_owned(), 1),
            (format!("k = AKIA{}\n", "A1".repeat(8)), 1),
            ("-----BEGIN PGP PRIVATE KEY BLOCK-----".to_owned(), 1),
            (r#"{"private_key": "-----BEGIN PRIVATE KEY-----\nMII"}"#.to_owned(), 1),
            (format!("\n\nexport SCW_SECRET_KEY={uuid}"), 3),
            (format!("secret_key: \"{uuid}\""), 1),
            (format!("aws_secret_access_key = {}", "aB3/".repeat(10)), 1),
            (format!("https://x/?k=AIza{}", "aB3_x".repeat(7)), 1),
            (
                "engine('postgresql+psycopg2://mecapy:h0rse@db.internal:5432/x')".to_owned(),
                1,
            ),
            (format!("#{token} {token}"), 1),
        ] {
            let found = findings("a.py", &text);
            assert_eq!(
                found.iter().map(|finding| finding.line).collect::<Vec<_>>(),
                [Some(line)],
                "{text}"
            );
            let shown = found[0].to_string();
            assert!(
                !["AKIA", "ghp_", "h0rse", uuid]
                    .iter()
                    .any(|value| shown.contains(value)),
                "{shown}"
            );
        }
    }

    #[test]
    fn finds_the_names_of_links() {
        let path = |path: &str| path.to_owned();
        let (executable, contents) = (false, Vec::new());
        let file = SourceFile {
            path: path("conf/config.json"),
            executable,
            contents,
        };
        let links = [(".env", "conf/config.json"), (".docker", "conf"), ("honest", "conf")];
        let link = |(from, to): (&str, &str)| SourceLink {
            path: path(from),
            target: path(to),
        };
        let function = Function {
            files: vec![file],
            links: links.map(link).into(),
            ..Function::default()
        };
        let names = |allowed: &[String]| {
            let found = find(&function, allowed);
            found.into_iter().map(|finding| finding.path).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), [".env", ".docker/config.json"]);
        assert_eq!(
            names(&[path(".env"), path(".docker/config.json")]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn leaves_honest_files_alone() {
        for (path, text) in [
            (".env.example", "A="),
            ("environment.py", "x"),
            ("a.py", "AKIA"),
            ("a.py", "my_ghp_x = 1"),
            ("key.py", ""),
            ("a.py", "k = 'AKIAIOSFODNN7EXAMPLE'"),
            ("a.py", "T = 'ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'"),
            ("a.fasta", "SCWMKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"),
            ("a.fasta", "ASIAMKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"),
            ("a.py", "SECRET_KEY = os.environ['SCW_SECRET_KEY']"),
            ("a.py", "postgresql://user:password@localhost/db"),
            ("a.py", "f'https://{user}:{password}@host'"),
            ("a.py", "x = http://host:8080/a@b"),
            ("a.py", "-----BEGIN CERTIFICATE-----"),
            ("ca.pem", "-----BEGIN CERTIFICATE-----\n-----BEGIN PUBLIC KEY-----"),
        ] {
            assert_eq!(findings(path, text), [], "{path} {text}");
        }
    }

    #[test]
    fn findings_are_few_and_large_data_is_searched_quickly() {
        let line = format!("ghp_{}\n", "a1".repeat(18));
        assert_eq!(findings("a.txt", &line.repeat(1000)).len(), MAX_FINDINGS);
        let mut data = "1.25,3.5,2024-01-01T00:00:00,sensor-a,http://x:80/\n".repeat(200_000);
        data.push_str(&line);
        // Time of this thread: a busy machine makes it no slower.
        let spent = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_sec;
        let before = spent();
        assert_eq!(findings("a.csv", &data)[0].line, Some(200_001));
        assert!(spent() - before < 5);
    }
}
