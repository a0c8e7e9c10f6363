//! Our credentials in what a registry says: it knows them, and may print them into an error that we show.

use super::login::Login;

/// Shorter ones would be found in any text.
const SHORTEST: usize = 4;
/// What stands in their place.
const HIDDEN: &str = "[redacted]";

/// What must not be shown, the longest first.
#[derive(Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Adds a secret, as it is and as an address has it.
    pub(super) fn add(&mut self, secret: &str) {
        for form in [secret.to_owned(), in_address(secret)] {
            if form.len() >= SHORTEST && !self.0.contains(&form) {
                self.0.push(form);
            }
        }
        self.0.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    }

    /// Adds what was shown of `login`, and what it is made of.
    pub(super) fn add_login(&mut self, login: &Login) {
        let shown = match login {
            Login::Password { user, password } => {
                self.add(password);
                Login::basic(user, password)
            }
            Login::Identity(token) => {
                self.add(token);
                Login::basic("<token>", token)
            }
        };
        self.add(shown.trim_start_matches("Basic "));
    }

    /// `text` without them, also without the beginning of one where the text was cut.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            text = text.replace(secret.as_str(), HIDDEN);
        }
        for secret in &self.0 {
            let begins = |end: &usize| secret.get(..*end).is_some_and(|begin| text.ends_with(begin));
            if let Some(length) = (SHORTEST..secret.len()).rev().find(begins) {
                text.truncate(text.len() - length);
                text.push_str(HIDDEN);
                break;
            }
        }
        text
    }
}

/// As addresses escape it.
fn in_address(secret: &str) -> String {
    let escaped = |byte: u8| match byte {
        b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    secret.bytes().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_knows_of_us_is_not_shown() {
        let mut secrets = Secrets::default();
        secrets.add_login(&Login::Password {
            user: "me".to_owned(),
            password: "hunter2/+".to_owned(),
        });
        secrets.add("a-token-of-mine");
        let basic = Login::basic("me", "hunter2/+");
        let basic = basic.trim_start_matches("Basic ");
        for (text, shown) in [
            ("no such user".to_owned(), "no such user".to_owned()),
            ("hunter2/+ is wrong".to_owned(), format!("{HIDDEN} is wrong")),
            (
                "https://x/?p=hunter2%2F%2B".to_owned(),
                format!("https://x/?p={HIDDEN}"),
            ),
            (format!("got Basic {basic}"), format!("got Basic {HIDDEN}")),
            (format!("got Basic {}", &basic[..10]), format!("got Basic {HIDDEN}")),
            (
                "Bearer a-token-of-mine, hunt".to_owned(),
                format!("Bearer {HIDDEN}, {HIDDEN}"),
            ),
        ] {
            assert_eq!(secrets.redact(&text), shown, "{text}");
        }
        assert_eq!(Secrets::default().redact("as it is"), "as it is");
    }
}
