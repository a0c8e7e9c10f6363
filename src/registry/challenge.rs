//! `WWW-Authenticate` as registries really send it (RFC 9110 section 11.6.1): several challenges in one header or in
//! several, any case, parameters with and without quotes, commas inside a value that has none around it.

use std::collections::BTreeMap;

/// The schemes that a registry may name. Anything else that stands alone is the rest of a value before it.
const SCHEMES: [&str; 6] = ["basic", "bearer", "digest", "negotiate", "ntlm", "mutual"];
/// A header that is longer is no challenge.
const MOST: usize = 8 << 10;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token that is had elsewhere.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The challenges in `headers` that we can answer, those for a token first.
pub(super) fn parse_challenges(headers: &[&str]) -> Vec<Challenge> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    for header in headers.iter().filter(|header| header.len() <= MOST) {
        parse_header(header, &mut found);
    }
    let mut challenges: Vec<Challenge> = found
        .into_iter()
        .filter_map(|(scheme, mut parameters)| match scheme.as_str() {
            "basic" => Some(Challenge::Basic),
            "bearer" => Some(Challenge::Bearer {
                realm: parameters.remove("realm").filter(|realm| !realm.is_empty())?,
                service: parameters.remove("service"),
                scope: parameters.remove("scope").filter(|scope| !scope.is_empty()),
            }),
            _ => None,
        })
        .collect();
    challenges.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    challenges
}

fn parse_header(header: &str, found: &mut Vec<(String, BTreeMap<String, String>)>) {
    let mut rest = header;
    // The name of the last parameter, whose value may go on behind a comma.
    let mut last: Option<String> = None;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=', '"']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            // A quote or an equals sign where none belongs: skip it.
            let mut characters = after.chars();
            match characters.next() {
                Some(_) => rest = characters.as_str(),
                None => return,
            }
            continue;
        }
        let name = word.to_ascii_lowercase();
        let after_space = after.trim_start_matches([' ', '\t']);
        if let (Some(value), Some((_, parameters))) = (after_space.strip_prefix('='), found.last_mut()) {
            let (value, behind) = parse_value(value.trim_start_matches([' ', '\t']));
            // The first one counts: a later one could be somebody else's addition.
            parameters.entry(name.clone()).or_insert(value);
            last = Some(name);
            rest = behind;
        } else if SCHEMES.contains(&name.as_str()) || found.is_empty() {
            found.push((name, BTreeMap::new()));
            last = None;
            rest = after;
        } else {
            // `scope=repository:x:pull,push`
            let value = last.as_ref().and_then(|last| found.last_mut()?.1.get_mut(last));
            if let Some(value) = value {
                value.push(',');
                value.push_str(word);
            }
            rest = after;
        }
    }
}

/// The value of a parameter, and what follows it.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([' ', '\t', ',']).unwrap_or(text.len()));
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => value.extend(characters.next()),
            other => value.push(other),
        }
    }
    (value, characters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn reads_challenges_as_registries_send_them() {
        let token = bearer("https://a.example/t", Some("registry"), Some("repository:x:pull,push"));
        for (headers, expected) in [
            (&["Basic realm=\"Registry\""][..], vec![Challenge::Basic]),
            (&["basic"], vec![Challenge::Basic]),
            (
                &["Bearer realm=\"https://a.example/t\",service=\"registry\",scope=\"repository:x:pull,push\""],
                vec![token.clone()],
            ),
            (
                &["bearer realm=https://a.example/t, service=registry, scope=repository:x:pull,push"],
                vec![token.clone()],
            ),
            (
                &["BEARER Realm = \"https://a.example/t\" , Service = registry , Scope=\"repository:x:pull,push\""],
                vec![token.clone()],
            ),
            (
                &["Basic realm=\"x\", Bearer realm=\"https://a.example/t\",service=\"registry\",scope=\"repository:x:pull,push\""],
                vec![token.clone(), Challenge::Basic],
            ),
            (
                &["Basic realm=x", "Bearer realm=\"https://a.example/t\",service=registry,scope=\"repository:x:pull,push\""],
                vec![token, Challenge::Basic],
            ),
            (
                &["Negotiate abc==, Bearer realm=\"https://a.example/t?a=b,c\""],
                vec![bearer("https://a.example/t?a=b,c", None, None)],
            ),
            (
                &["Bearer realm=\"https://a.example/\\\"t\\\"\",error=\"invalid_token\",realm=\"https://evil.example\""],
                vec![bearer("https://a.example/\"t\"", None, None)],
            ),
            (&["Bearer service=x"], vec![]),
            (&["Digest realm=x"], vec![]),
            (&[""], vec![]),
            (&["=,=\"\"\",,,"], vec![]),
            (&["Bearer realm="], vec![]),
            (&["Bearer realm=\"https://a.example"], vec![bearer("https://a.example", None, None)]),
        ] {
            assert_eq!(parse_challenges(headers), expected, "{headers:?}");
        }
        let long = format!("Bearer realm=\"https://a.example/{}\"", "x".repeat(MOST));
        assert!(parse_challenges(&[&long]).is_empty());
    }
}
