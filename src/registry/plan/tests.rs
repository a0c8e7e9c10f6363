use super::*;

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn digests(names: &[&str]) -> Vec<Digest> {
    names.iter().map(|name| digest(name)).collect()
}

fn holding(name: &str, tags: &[&str]) -> Holding {
    Holding {
        digest: digest(name),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        is_index: None,
        ids: Vec::new(),
    }
}

fn tag(name: &str) -> Unwanted {
    Unwanted::Tag(name.to_owned())
}

fn known(sort: Sort, subject: Option<&str>, parts: &[&str]) -> Option<Known> {
    Some(Known {
        sort,
        subject: subject.map(digest),
        parts: digests(parts),
    })
}

type Read = BTreeMap<Digest, Option<Known>>;

fn read<const N: usize>(all: [(&str, Option<Known>); N]) -> Read {
    all.into_iter().map(|(name, known)| (digest(name), known)).collect()
}

/// What goes.
fn going(there: &[Holding], read: &Read, unwanted: &[Unwanted]) -> Result<Vec<Digest>, KeptBecause> {
    let plan = plan_removal(there, read, unwanted)?;
    assert_eq!(plan.unread, []);
    Ok(plan.going)
}

fn shared(name: &str, tags: &[&str]) -> KeptBecause {
    KeptBecause::Shared {
        digest: digest(name),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
    }
}

#[test]
fn a_digest_goes_with_all_its_tags_or_not_at_all() {
    let there = [holding("a", &["1", "latest"]), holding("b", &["2"])];
    let plan = |unwanted: &[Unwanted]| going(&there, &read([("c", None)]), unwanted);
    assert_eq!(plan(&[tag("2")]), Ok(vec![digest("b")]));
    assert_eq!(plan(&[tag("2"), tag("1")]), Err(shared("a", &["latest"])));
    assert_eq!(plan(&[tag("1"), tag("latest")]), Ok(vec![digest("a")]));
    assert_eq!(plan(&[Unwanted::Digest(digest("b"))]), Err(shared("b", &["2"])));
    assert_eq!(plan(&[Unwanted::Digest(digest("b")), tag("2")]), Ok(vec![digest("b")]));
    assert_eq!(plan(&[tag("3")]), Err(KeptBecause::Unknown("tag 3".to_owned())));
    let gone = Unwanted::Digest(digest("c"));
    assert_eq!(plan(&[gone]), Err(KeptBecause::Unknown(digest("c").to_string())));
}

#[test]
fn a_tag_and_a_digest_name_one_image() {
    let there = [holding("a", &[]), holding("b", &["1"])];
    let plan = |name: &str| going(&there, &Read::new(), &[Unwanted::Both("1".to_owned(), digest(name))]);
    let (tag, named, now) = ("1".to_owned(), digest("a"), digest("b"));
    assert_eq!(plan("a"), Err(KeptBecause::Moved { tag, named, now }));
    assert_eq!(plan("b"), Ok(vec![digest("b")]));
}

#[test]
fn what_is_not_known_is_read_before_anything_goes() {
    let there = [holding("index", &["1"])];
    let mut read = read([("index", known(Sort::Index, None, &["part", "gone"]))]);
    let plan = |read: &Read, unwanted: &[Unwanted]| plan_removal(&there, read, unwanted).unwrap();
    let unread = plan(&read, &[tag("1")]);
    assert_eq!(unread.going, []);
    let wanted: BTreeSet<Digest> = unread.unread.into_iter().collect();
    assert_eq!(wanted, BTreeSet::from([digest("part"), digest("gone")]));
    assert_eq!(plan(&read, &[Unwanted::Digest(digest("x"))]).going, []);
    read.insert(digest("part"), known(Sort::Image, None, &[]));
    read.insert(digest("gone"), None);
    assert_eq!(plan(&read, &[tag("1")]).going, digests(&["index", "part"]));
}

#[test]
fn what_an_index_lists_goes_with_it_unless_somebody_else_needs_it() {
    let there = [
        holding("index", &["1"]),
        holding("other", &["2"]),
        holding("own", &[]),
        holding("shared", &[]),
        holding("tagged", &["amd64"]),
    ];
    let read = read([
        ("index", known(Sort::Index, None, &["own", "shared", "tagged"])),
        ("other", known(Sort::Index, None, &["shared"])),
    ]);
    let plan = |unwanted: &[Unwanted]| going(&there, &read, unwanted);
    assert_eq!(plan(&[tag("1")]), Ok(digests(&["index", "own"])));
    let both = plan(&[tag("1"), tag("2")]);
    assert_eq!(both, Ok(digests(&["index", "other", "own", "shared"])));
    let kept = KeptBecause::Listed {
        digest: digest("tagged"),
        index: digest("index"),
    };
    assert_eq!(plan(&[tag("amd64")]), Err(kept));
    // The order of the arguments is not that of deletion.
    let both = plan(&[tag("amd64"), tag("1")]);
    assert_eq!(both, Ok(digests(&["index", "tagged", "own"])));
}

#[test]
fn a_signature_goes_before_its_image_and_a_signature_of_the_signature_before_both() {
    let signature = companion_tags(&digest("a"))[0].clone();
    let list = fallback_tag(&digest("signature"));
    let there = [
        holding("a", &["1"]),
        holding("signature", &[&signature]),
        holding("list", &[&list]),
        holding("b", &["2"]),
    ];
    let read = read([
        ("signature", known(Sort::Artifact, None, &[])),
        ("list", known(Sort::Index, None, &["entry"])),
        ("entry", known(Sort::Artifact, Some("signature"), &[])),
    ]);
    let planned = going(&there, &read, &[tag("1")]);
    assert_eq!(planned, Ok(digests(&["entry", "list", "signature", "a"])));
}

#[test]
fn what_has_a_tag_that_nobody_named_does_not_go_along() {
    let [_, _, sbom] = companion_tags(&digest("a"));
    let [_, _, of_b] = companion_tags(&digest("b"));
    for (tags, sort, expected) in [
        (
            vec![sbom.as_str(), "prod"],
            Sort::Artifact,
            Some(shared("s", &["prod"])),
        ),
        (vec![&sbom, &of_b], Sort::Artifact, Some(shared("s", &[&of_b]))),
        (vec![&sbom], Sort::Artifact, None),
        (
            vec![&sbom],
            Sort::Image,
            Some(KeptBecause::Foreign {
                digest: digest("s"),
                of: digest("a"),
            }),
        ),
        (
            vec![&sbom],
            Sort::Index,
            Some(KeptBecause::Foreign {
                digest: digest("s"),
                of: digest("a"),
            }),
        ),
    ] {
        let there = [holding("a", &["1"]), holding("b", &["2"]), holding("s", &tags)];
        let read = read([("s", known(sort, None, &[]))]);
        let plan = plan_removal(&there, &read, &[tag("1")]).unwrap();
        let goes = if expected.is_some() { &["a"][..] } else { &["s", "a"] };
        assert_eq!((plan.going, plan.left), (digests(goes), expected.into_iter().collect()));
    }
    // With both images it belongs to nothing that stays.
    let there = [
        holding("a", &["1"]),
        holding("b", &["2"]),
        holding("s", &[&sbom, &of_b]),
    ];
    let read = read([("s", known(Sort::Artifact, None, &[]))]);
    let both = going(&there, &read, &[tag("1"), tag("2")]);
    assert_eq!(both, Ok(digests(&["s", "a", "b"])));
}

#[test]
fn of_a_list_of_referrers_goes_what_refers_to_the_image() {
    let list = fallback_tag(&digest("a"));
    let there = [
        holding("a", &["1"]),
        holding("list", &[&list]),
        holding("tagged", &["x"]),
    ];
    let entries = [
        "signature",
        "image",
        "stranger",
        "subject-image",
        "index",
        "gone",
        "tagged",
    ];
    let mut read = read([
        ("list", known(Sort::Index, None, &entries)),
        ("signature", known(Sort::Artifact, Some("a"), &[])),
        ("image", known(Sort::Image, None, &[])),
        ("stranger", known(Sort::Artifact, Some("b"), &[])),
        ("subject-image", known(Sort::Image, Some("a"), &[])),
        ("index", known(Sort::Index, Some("a"), &["deployed"])),
        ("deployed", known(Sort::Image, None, &[])),
        ("gone", None),
    ]);
    read.insert(digest("tagged"), known(Sort::Artifact, Some("a"), &[]));
    let plan = plan_removal(&there, &read, &[tag("1")]).unwrap();
    assert_eq!(plan.going, digests(&["index", "signature", "list", "a"]));
    let left: BTreeSet<String> = plan.left.iter().map(ToString::to_string).collect();
    assert_eq!(left.len(), 4, "{left:?}");
    // Nor by the name of the list.
    let plan = plan_removal(&there, &read, &[Unwanted::Tag(list)]).unwrap();
    assert_eq!(plan.going, digests(&["list"]));
}

#[test]
fn an_image_is_what_has_its_configuration_and_a_file_system() {
    let blob = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{}","size":1}}"#, digest("x"));
    let manifest = |config: &str, layers: &[&str]| {
        let layers: Vec<String> = layers.iter().map(|layer| blob(layer)).collect();
        format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
            blob(config),
            layers.join(",")
        )
    };
    let (config, layer) = (media_type::CONFIG, media_type::LAYER_GZIP);
    let signature = "application/vnd.dev.cosign.simplesigning.v1+json";
    for (name, raw, sort) in [
        (media_type::MANIFEST, manifest(config, &[layer]), Sort::Image),
        (media_type::MANIFEST, manifest(config, &[]), Sort::Image),
        (media_type::MANIFEST, manifest(config, &[signature, layer]), Sort::Image),
        (media_type::MANIFEST, manifest(config, &[signature]), Sort::Artifact),
        (
            media_type::MANIFEST,
            manifest("application/vnd.oci.empty.v1+json", &[layer]),
            Sort::Artifact,
        ),
        // Whatever the registry says.
        (media_type::INDEX, manifest(config, &[layer]), Sort::Image),
        (media_type::MANIFEST, r#"{"schemaVersion":2}"#.to_owned(), Sort::Image),
        (
            media_type::INDEX,
            r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(),
            Sort::Index,
        ),
    ] {
        assert_eq!(Known::read(name, raw.as_bytes()).unwrap().sort, sort, "{raw}");
    }
}
