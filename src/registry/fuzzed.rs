//! What fuzzing reads of a registry's words and of docker's files, and what has to hold of the result.

use std::time::{Duration, Instant};

use super::challenge::{parse_challenges, Challenge};
use super::fetching::end_of;
use super::login::{of_pair, read_auth_file, with_login, Said};
use super::pages::next_page;
use super::pushing::offset_of;
use super::retry::retry_after;
use super::token::Token;
use crate::net::Url;

/// Lines that come as `WWW-Authenticate`: a realm is there and no longer than what it came in, and tokens come first.
pub(crate) fn read_fuzzed_challenge(text: &str) {
    let headers: Vec<&str> = text.lines().collect();
    let challenges = parse_challenges(&headers);
    let is_basic = |challenge: &Challenge| matches!(challenge, Challenge::Basic);
    assert!(challenges.is_sorted_by_key(is_basic), "{challenges:?}");
    for challenge in &challenges {
        if let Challenge::Bearer { realm, service, scope } = challenge {
            assert!(!realm.is_empty() && scope.as_ref().is_none_or(|scope| !scope.is_empty()));
            let words = [Some(realm), service.as_ref(), scope.as_ref()];
            for word in words.into_iter().flatten() {
                assert!(word.len() <= text.len(), "{word:?}");
            }
        }
    }
    assert_eq!(parse_challenges(&headers), challenges);
}

/// A file of docker's: what is kept in it is found again.
pub(crate) fn read_fuzzed_login_file(bytes: &[u8]) {
    const HOST: &str = "registry.example:5000";
    let Ok(file) = read_auth_file(bytes) else { return };
    let _ = file.find(HOST, "team/x");
    let (Ok(text), None) = (with_login(bytes, HOST, "me", "p:w"), file.helper_of(HOST)) else {
        return;
    };
    let kept = read_auth_file(&text).map(|file| file.find(HOST, ""));
    assert_eq!(kept, Ok(Ok(Some(Said::Login(of_pair("me", "p:w"))))));
}

/// The answer of a place where tokens are had: a token fits into a header, and is used for an hour at most.
pub(crate) fn read_fuzzed_token(bytes: &[u8]) {
    let asked = Instant::now();
    if let Ok(token) = Token::parse(bytes, asked) {
        let is_plain = token.value().bytes().all(|byte| byte.is_ascii_graphic());
        assert!(is_plain && !token.value().is_empty());
        assert!(token.until() > asked && token.until() <= asked + Duration::from_secs(3600));
    }
}

/// What says which bytes are sent or had, after two bytes that say which were asked for: no other bytes are believed.
pub(crate) fn read_fuzzed_range(bytes: &[u8]) {
    let (Some(&[from, size]), Some(text)) = (bytes.get(..2).and_then(|two| two.first_chunk::<2>()), bytes.get(2..))
    else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    let (from, size) = (u64::from(from), u64::from(size));
    if let Some(end) = end_of(&text, from, size) {
        assert!(from <= end && end < size, "{from} {end} {size}");
    }
    if let Some(had) = offset_of(&text) {
        assert!(had != 1, "one byte is none");
    }
}

/// `Link`: the next page is a part of it, and an address is made of it or is not.
pub(crate) fn read_fuzzed_link(text: &str) {
    let Some(next) = next_page(text) else { return };
    assert!(text.contains(next));
    if let Ok(home) = Url::parse("https://registry.example/v2/x/tags/list?n=1000") {
        let _ = home.join(next);
    }
}

/// `Retry-After`, and after a line feed the body of the answer: seconds are at most a day.
pub(crate) fn read_fuzzed_pause(text: &str) {
    const DAY: Duration = Duration::from_secs(86_400);
    let (header, body) = text.split_once('\n').unwrap_or((text, ""));
    let asked = retry_after(Some(header), body);
    let is_date = header.contains(", ");
    assert!(is_date || asked.is_none_or(|asked| asked <= DAY), "{asked:?}");
    assert!(retry_after(None, body).is_none_or(|asked| asked <= DAY));
}
