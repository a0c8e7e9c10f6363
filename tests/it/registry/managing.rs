//! What a registry holds is listed and deleted: by the protocol, and by the APIs of two registries as they document them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use gantry::oci::Digest;
use serde_json::{json, Value};

use super::fake::{Fake, Reply, Seen};
use super::images::{configure, image, store_of};
use crate::common::{Done, Gantry};
use crate::interop;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry with two images: the first is 1 and latest, the second 2.
fn registry() -> (Fake, Gantry, [String; 2]) {
    let (fake, maker) = (Fake::start(), Gantry::new());
    let digests = [1, 2].map(|number| image(&maker, "x:1", &[(number, 4000)]));
    for (digest, tag) in [(&digests[0], "1"), (&digests[0], "latest"), (&digests[1], "2")] {
        fake.hold(&maker.root, digest, "team/x", tag);
    }
    let gantry = store_of(&[&fake], "");
    (fake, gantry, digests)
}

/// Puts an index of manifests there.
fn index(fake: &Fake, tag: &str, parts: &[&str]) -> String {
    let part =
        |digest: &&str| json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1});
    let parts: Vec<Value> = parts.iter().map(part).collect();
    let raw = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": parts})).unwrap();
    let digest = Digest::of(&raw).to_string();
    let mut manifests = fake.state.manifests.lock().unwrap();
    for name in [tag, &digest] {
        manifests.insert(("team/x".to_owned(), name.to_owned()), (INDEX.to_owned(), raw.clone()));
    }
    digest
}

pub fn rm(gantry: &Gantry, fake: &Fake, names: &[&str]) -> Done {
    let names = names.iter().map(|name| fake.name(&format!("team/x{name}")));
    let args: Vec<String> = ["registries", "rm"]
        .map(str::to_owned)
        .into_iter()
        .chain(names)
        .collect();
    gantry.gantry(&args)
}

#[test]
fn a_digest_is_deleted_with_all_its_tags_or_not_at_all() {
    let (fake, gantry, [first, second]) = registry();
    let refused = rm(&gantry, &fake, &[":1", ":2"]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("latest") && refused.stderr.contains("nothing is deleted"),
        "{}",
        refused.stderr
    );
    assert_eq!(rm(&gantry, &fake, &[&format!("@{first}")]).code, 3);
    assert_eq!(rm(&gantry, &fake, &[":3"]).code, 1);
    assert_eq!(rm(&gantry, &fake, &[""]).code, 1);
    let rehearsed = gantry.gantry(["registries", "rm", "--dry-run", &fake.name("team/x:2")]);
    assert_eq!(
        (rehearsed.code, rehearsed.stdout.trim()),
        (0, second.as_str()),
        "{}",
        rehearsed.stderr
    );
    assert_eq!(fake.count("DELETE", ""), 0);
    let done = rm(&gantry, &fake, &[":1", ":latest"]);
    assert_eq!((done.code, done.stdout.trim()), (0, first.as_str()), "{}", done.stderr);
    assert_eq!(
        (fake.digest_of("team/x", "1"), fake.digest_of("team/x", "2")),
        (None, Some(second.clone()))
    );
    // A registry that deletes nothing says so, and one whose images are only pulled is not asked.
    fake.rule(|seen, _| {
        let said = r#"{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}"#;
        (seen.method == "DELETE").then(|| Reply::new(405, said))
    });
    let refused = rm(&gantry, &fake, &[":2"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("405") && refused.stderr.contains("UNSUPPORTED"),
        "{}",
        refused.stderr
    );
    configure(
        &gantry,
        &format!(
            "[[registry]]\nhost = \"{}\"\nplain_http = true\nrole = \"pull\"\n",
            fake.host
        ),
    );
    let before = fake.seen().len();
    assert_eq!(rm(&gantry, &fake, &[":2"]).code, 3);
    assert_eq!(fake.seen().len(), before);
}

#[test]
fn parts_of_an_index_go_with_it_unless_they_are_needed() {
    let (fake, gantry, [first, second]) = registry();
    fake.state.manifests.lock().unwrap().retain(|(_, tag), _| tag != "2");
    let whole = index(&fake, "multi", &[&first, &second]);
    // A part does not go while its index stays.
    let refused = rm(&gantry, &fake, &[":1", ":latest"]);
    assert!(
        refused.code == 3 && refused.stderr.contains(&whole),
        "{}",
        refused.stderr
    );
    let done = rm(&gantry, &fake, &[":multi"]);
    assert_eq!(
        done.stdout.lines().collect::<Vec<_>>(),
        [&whole, &second],
        "{}",
        done.stderr
    );
    // The other part has tags of its own.
    assert_eq!(fake.digest_of("team/x", "1"), Some(first));
    assert_eq!(fake.digest_of("team/x", &second), None);
}

#[test]
fn lists_have_an_end_and_stay_on_their_server() {
    let (fake, gantry, _) = registry();
    let tags = || gantry.gantry(["registries", "tags", &fake.name("team/x")]);
    assert_eq!(tags().stdout, "1\n2\nlatest\n");
    let json = gantry.ok(["registries", "tags", &fake.name("team/x"), "--json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&json).unwrap()["names"],
        json!(["1", "2", "latest"])
    );
    let other = Fake::start();
    let elsewhere = format!("<http://{}/v2/team/x/tags/list>; rel=\"next\"", other.host);
    let page =
        |tags: Value, link: &str| Reply::new(200, json!({"name": "x", "tags": tags}).to_string()).with("Link", link);
    let again = "</v2/team/x/tags/list?n=1000>; rel=\"next\"";
    let last = Reply::new(200, r#"{"name":"x","tags":null}"#);
    for (reply, says) in [
        (page(json!(["a"]), &elsewhere), "next page"),
        (page(json!(["a"]), again), "circle"),
        (page(json!(["../../x"]), ""), "none can be"),
        (page(json!(["x".repeat(129)]), ""), "none can be"),
        (Reply::new(200, "[1]"), "no JSON"),
        (Reply::new(200, vec![b' '; 3 << 20]), "over 1"),
        (last, ""),
    ] {
        let counted = other.seen().len();
        fake.rule(move |seen, _| seen.path.contains("/tags/list").then(|| reply.clone()));
        let done = tags();
        assert_eq!(done.code, i32::from(!says.is_empty()), "{says}: {}", done.stderr);
        assert!(done.stderr.contains(says), "{says}: {}", done.stderr);
        assert_eq!(other.seen().len(), counted);
    }
    let mut number = 0;
    fake.rule(move |seen, _| {
        number += 1;
        let link = format!("</v2/team/x/tags/list?n=1000&last={number}>; rel=\"next\"");
        seen.path
            .contains("/tags/list")
            .then(|| page(json!([format!("t{number}")]), &link))
    });
    let done = tags();
    assert!(
        done.code == 1 && done.stderr.contains("more than 100 pages"),
        "{}",
        done.stderr
    );
    // Nothing is deleted by a list that is not whole.
    assert_eq!(rm(&gantry, &fake, &[":2"]).code, 1);
    assert_eq!(fake.count("DELETE", ""), 0);

    fake.rule(|seen, _| match seen.path.as_str() {
        "/v2/_catalog?n=1000" => {
            Some(Reply::new(200, r#"{"repositories":["b"]}"#).with("Link", "</v2/_catalog?last=b>; rel=\"next\""))
        }
        "/v2/_catalog?last=b" => Some(Reply::new(200, r#"{"repositories":["a/c"]}"#)),
        _ => None,
    });
    assert_eq!(gantry.ok(["registries", "ls", &fake.host]), "a/c\nb\n");
    fake.rule(|seen, _| {
        seen.path
            .contains("_catalog")
            .then(|| Reply::new(200, r#"{"repositories":["../x"]}"#))
    });
    assert_eq!(gantry.gantry(["registries", "ls", &fake.host]).code, 1);
    assert_eq!(gantry.gantry(["registries", "ls", "no host"]).code, 2);
}

#[test]
fn the_registry_of_the_distribution_lists_and_deletes() {
    let (registry, maker) = (interop::Registry::start(), Gantry::new());
    configure(
        &maker,
        &format!("[[registry]]\nhost = \"{}\"\nplain_http = true\n", registry.address),
    );
    let name = |rest: &str| format!("{}/{rest}", registry.address);
    let digests = [1, 2].map(|number| {
        let digest = image(&maker, "x:1", &[(number, 4000)]);
        maker.ok(["push", "x:1", &name(&format!("team/x:{number}"))]);
        digest
    });
    maker.ok(["push", "x:1", &name("team/x:latest")]);
    assert_eq!(maker.ok(["registries", "tags", &name("team/x")]), "1\n2\nlatest\n");
    assert_eq!(maker.ok(["registries", "ls", &registry.address]), "team/x\n");
    assert_eq!(maker.gantry(["registries", "rm", &name("team/x:2")]).code, 3);
    assert_eq!(maker.ok(["registries", "rm", &name("team/x:1")]).trim(), digests[0]);
    assert_eq!(maker.ok(["registries", "tags", &name("team/x")]), "2\nlatest\n");
    let gone = maker.gantry(["copy", &name("team/x:1"), "y:1"]);
    assert_eq!(gone.code, 1, "{}", gone.stderr);
}

#[test]
fn who_has_no_list_of_repositories_is_not_to_be_asked_for_it_again() {
    let (fake, gantry, _) = registry();
    for status in [404, 405] {
        fake.rule(move |seen, _| seen.path.contains("/_catalog").then(|| Reply::new(status, "")));
        let none = gantry.gantry(["registries", "ls", &fake.host]);
        assert_eq!((none.code, none.stdout.as_str()), (1, ""), "{}", none.stderr);
        for part in [
            &status.to_string(),
            "hint: this registry does not list its repositories",
        ] {
            assert!(none.stderr.contains(part), "{part}: {}", none.stderr);
        }
        assert!(!none.stderr.contains("`gantry registries ls"), "{}", none.stderr);
    }
}

/// Tags of an API, each with its digest.
type Tags = Arc<Mutex<BTreeMap<String, String>>>;

fn tags(digests: &[String; 2]) -> Tags {
    let [first, second] = digests;
    let tags = [("1", first), ("latest", first), ("2", second)];
    Arc::new(Mutex::new(
        tags.map(|(tag, digest)| (tag.to_owned(), digest.clone())).into(),
    ))
}

pub fn with_api(gantry: &Gantry, fake: &Fake, api: &str, path: &str) {
    let password = gantry.home.join("password");
    std::fs::write(&password, "s3cret\n").unwrap();
    configure(
        gantry,
        &format!(
            "[[registry]]\nhost = \"{0}\"\nplain_http = true\ncredentials = {{ user = \"nologin\", password_file = \"{1}\" }}\nmanagement = {{ api = \"{api}\", url = \"http://{0}{path}\" }}\n",
            fake.host,
            password.display()
        ),
    );
}

#[test]
fn a_tag_goes_by_the_api_of_scaleway_and_never_by_force() {
    let (fake, gantry, digests) = registry();
    let tags = tags(&digests);
    with_api(&gantry, &fake, "scaleway", "/registry/v1/regions/one");
    let own = Arc::clone(&tags);
    fake.rule(move |seen, _| scaleway(seen, &mut own.lock().unwrap()));
    assert_eq!(rm(&gantry, &fake, &[":1"]).code, 3);
    assert_eq!(rm(&gantry, &fake, &[":2"]).stdout.trim(), digests[1]);
    let deleted = |part: &str| fake.count("DELETE", part);
    assert_eq!((deleted("/registry/v1/regions/one/tags/id-2"), deleted("/v2/")), (1, 0));
    // A digest with several tags goes by the protocol.
    assert_eq!(rm(&gantry, &fake, &[":1", ":latest"]).code, 0);
    assert_eq!(
        (
            deleted("/registry/"),
            deleted(&format!("/v2/team/x/manifests/{}", digests[0]))
        ),
        (1, 1)
    );
    assert!(fake.seen().iter().all(|seen| !seen.path.contains("force")));
    let is_told = |seen: &Seen| seen.header("x-auth-token") == "s3cret";
    assert!(fake
        .seen()
        .iter()
        .all(|seen| is_told(seen) == seen.path.starts_with("/registry/")));

    let page = |tags: Value, total: u64| Reply::new(200, json!({"tags": tags, "total_count": total}).to_string());
    let tag = |id: &str, name: &str| json!({"id": id, "name": name, "digest": digests[1], "status": "ready"});
    for (reply, says) in [
        (page(json!([tag("../../x", "2")]), 1), "the id"),
        (page(json!([tag("id-2", "a/b")]), 1), "none can be"),
        (page(json!([tag("id-2", "2")]), 1 << 40), "more than 100 pages"),
        (page(json!([{"id": "x"}]), 1), "no JSON"),
        (
            Reply::new(302, "").with("Location", "http://elsewhere.example/"),
            "redirect",
        ),
        (
            Reply::new(403, r#"{"message":"insufficient permissions","type":"denied"}"#),
            "insufficient permissions",
        ),
    ] {
        fake.rule(move |seen, _| seen.is("GET", "/images/id-of-x/tags").then(|| reply.clone()));
        let done = rm(&gantry, &fake, &[":2"]);
        assert!(done.code == 1 && done.stderr.contains(says), "{says}: {}", done.stderr);
        assert!(!done.stderr.contains("s3cret"));
    }
}

/// Scaleway's API, as far as it is documented: pages by number and size, and a tag whose digest another one shares is not deleted.
fn scaleway(seen: &Seen, tags: &mut BTreeMap<String, String>) -> Option<Reply> {
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    let rest = path.strip_prefix("/registry/v1/regions/one/")?;
    let has = |part: &str| query.split('&').any(|pair| pair == part);
    let json = |value: Value| Some(Reply::new(200, value.to_string()));
    match (seen.method.as_str(), rest) {
        ("GET", "namespaces") if has("name=team") => json(
            json!({"namespaces": [{"id": "id-other", "name": "team2"}, {"id": "id-of-team", "name": "team"}], "total_count": 2}),
        ),
        ("GET", "images") if has("namespace_id=id-of-team") && has("name=x") => {
            json(json!({"images": [{"id": "id-of-x", "name": "x", "tags": []}], "total_count": 1}))
        }
        // A tag a page, to have several.
        ("GET", "images/id-of-x/tags") => {
            let number: usize = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("page=")?.parse().ok())?;
            let page: Vec<Value> = tags
                .iter()
                .skip(number - 1)
                .take(1)
                .map(|(name, digest)| json!({"id": format!("id-{name}"), "name": name, "image_id": "id-of-x", "digest": digest, "status": "ready"}))
                .collect();
            json(json!({"tags": page, "total_count": tags.len()}))
        }
        ("DELETE", rest) => {
            let name = rest.strip_prefix("tags/id-")?;
            let digest = tags.get(name)?.clone();
            match tags.values().filter(|other| **other == digest).count() {
                1 => {
                    tags.remove(name);
                    json(json!({}))
                }
                _ => Some(Reply::new(400, r#"{"message":"the digest has other tags"}"#)),
            }
        }
        _ => Some(Reply::new(404, r#"{"message":"not found"}"#)),
    }
}

/// Its id, its digest and its tags.
type Version = (u64, String, Vec<&'static str>);

#[test]
fn a_version_goes_by_the_api_of_github() {
    let (fake, gantry, digests) = registry();
    with_api(&gantry, &fake, "github", "/orgs/team");
    let child = format!("sha256:{}", "c".repeat(64));
    let whole = index(&fake, "multi", &[&child]);
    let versions: Arc<Mutex<Vec<Version>>> = Arc::new(Mutex::new(vec![
        (11, digests[0].clone(), vec!["1", "latest"]),
        (12, digests[1].clone(), vec!["2"]),
        (13, whole.clone(), vec!["multi"]),
        (14, child.clone(), vec![]),
    ]));
    let (own, host) = (Arc::clone(&versions), fake.host.clone());
    fake.rule(move |seen, _| {
        let path = seen.path.split('?').next().unwrap();
        let rest = path.strip_prefix("/orgs/team/packages/container/x/versions")?;
        let mut versions = own.lock().unwrap();
        if seen.method == "DELETE" {
            let id: u64 = rest.strip_prefix('/')?.parse().unwrap();
            versions.retain(|version| version.0 != id);
            return Some(Reply::new(204, ""));
        }
        let number: usize = seen.path.split("page=").last().and_then(|text| text.parse().ok()).filter(|number| *number < 100).unwrap_or(1);
        let page: Vec<Value> = versions
            .iter()
            .skip((number - 1) * 2)
            .take(2)
            .map(|(id, name, tags)| json!({"id": id, "name": name, "metadata": {"package_type": "container", "container": {"tags": tags}}}))
            .collect();
        let reply = Reply::new(200, json!(page).to_string());
        Some(match versions.len() > number * 2 {
            true => reply.with("Link", format!("<http://{host}{path}?page={}>; rel=\"next\"", number + 1)),
            false => reply,
        })
    });
    let ids = || {
        versions
            .lock()
            .unwrap()
            .iter()
            .map(|version| version.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(rm(&gantry, &fake, &[":latest"]).code, 3);
    assert_eq!(
        rm(&gantry, &fake, &[&format!("@{child}")]).code,
        3,
        "a part of an index that stays"
    );
    let done = rm(&gantry, &fake, &[":multi"]);
    assert_eq!(
        done.stdout.lines().collect::<Vec<_>>(),
        [&whole, &child],
        "{}",
        done.stderr
    );
    assert_eq!(ids(), [11, 12]);
    assert_eq!(rm(&gantry, &fake, &[":1", ":latest"]).code, 0);
    assert_eq!(ids(), [12]);
    assert_eq!(fake.count("DELETE", "/v2/"), 0);
    let is_told = |seen: &Seen| seen.header("authorization") == "Bearer s3cret";
    assert!(fake
        .seen()
        .iter()
        .all(|seen| is_told(seen) == seen.path.starts_with("/orgs/")));
    // The password goes to no other server, and what is no digest is no version.
    let other = Fake::start();
    let link = format!("<http://{}/orgs/team>; rel=\"next\"", other.host);
    for (reply, says) in [
        (Reply::new(200, "[]").with("Link", link), "next page"),
        (Reply::new(200, r#"[{"id":1,"name":"latest"}]"#), "parse digest"),
        (Reply::new(200, r#"[{"id":"1/../2","name":"x"}]"#), "no JSON"),
    ] {
        fake.rule(move |seen, _| seen.path.starts_with("/orgs/").then(|| reply.clone()));
        let done = rm(&gantry, &fake, &[":2"]);
        assert!(done.code == 1 && done.stderr.contains(says), "{says}: {}", done.stderr);
    }
    assert!(other.seen().is_empty());
}
