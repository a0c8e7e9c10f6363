//! The specification of every kind of run against `tests/golden/`, and what no specification may say.

use super::super::bundle::{Place, Purpose, Secret, Stdin};
use super::*;
use crate::policy::{Bytes, Confinement, Egress, Network, Scope};

/// What nobody may find in a document.
const SECRET: &str = "hunter2";
const OTHER: Guest = Guest::Runtime {
    id: 1000,
    owner: (501, 20),
};

fn bundle(purpose: Purpose) -> Bundle {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Bundle {
        lowers: vec![PathBuf::from("/store/scaffold"), PathBuf::from("/store/layer")],
        argv: words(&["python", "user_function.py"]),
        env: vec![
            ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
            ("HOME".to_owned(), "/tmp".to_owned()),
        ],
        cwd: "/app".to_owned(),
        hostname: "sandbox".to_owned(),
        input: None,
        output: None,
        stdin: Stdin::Empty,
        secrets: Vec::new(),
        purpose,
        confinement: Confinement {
            shm_size: Bytes(32 << 20),
            output_size: Bytes(16 << 20),
            ..Confinement::default()
        },
        scope: Scope::Off,
    }
}

/// Each kind of run, by the name of its golden file.
fn kinds() -> Vec<(&'static str, Bundle)> {
    let function = || bundle(Purpose::Function);
    let secret = |place| Secret {
        name: "TOKEN".to_owned(),
        place,
        value: SECRET.into(),
    };
    let egress = "a.example:443".parse().unwrap();
    vec![
        ("function", function()),
        (
            "input-and-secrets",
            Bundle {
                input: Some(PathBuf::from("/srv/in")),
                secrets: vec![secret(Place::File), secret(Place::Variable)],
                ..function()
            },
        ),
        (
            "egress",
            Bundle {
                confinement: Confinement {
                    network: Network::Egress(Egress::new([egress]).unwrap()),
                    ..function().confinement
                },
                ..function()
            },
        ),
        (
            "output-on-disk",
            Bundle {
                output: Some(PathBuf::from("/srv/out")),
                ..function()
            },
        ),
        ("compilation", bundle(Purpose::Compilation)),
        ("package-build", bundle(Purpose::PackageBuild)),
    ]
}

fn guests() -> [(&'static str, Guest); 2] {
    [("libcontainer", Guest::OurInit), ("runtime", OTHER)]
}

fn text(bundle: &Bundle, guest: Guest) -> String {
    let spec = specification(bundle, Path::new("rootfs"), guest).unwrap();
    String::from_utf8(canonical_json(&spec).unwrap()).unwrap()
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "how to regenerate is asked in the environment, as usual for golden files"
)]
fn the_golden_specifications_are_what_is_written() {
    for (name, bundle) in kinds() {
        for (whose, guest) in guests() {
            let path = format!(
                "{}/tests/golden/runtime-spec-{name}-{whose}.json",
                env!("CARGO_MANIFEST_DIR")
            );
            let now = text(&bundle, guest);
            if std::env::var_os("GANTRY_WRITE_GOLDEN").is_some() {
                std::fs::write(&path, &now).unwrap();
            }
            let golden = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(now, golden, "{path}: GANTRY_WRITE_GOLDEN=1 writes it anew, for review");
        }
    }
}

#[test]
fn a_bundle_gives_the_same_bytes_each_time() {
    let (_, bundle) = kinds().swap_remove(0);
    let first = text(&bundle, Guest::OurInit);
    // A set of four comes in another order nearly every time.
    assert!((0..50).all(|_| text(&bundle, Guest::OurInit) == first));
}

#[test]
fn a_specification_for_our_init_knows_nothing_of_the_workload() {
    let plain = text(&bundle(Purpose::Function), Guest::OurInit);
    for (name, bundle) in kinds() {
        let text = text(&bundle, Guest::OurInit);
        for word in ["user_function", "/usr/bin", "TOKEN", SECRET, "a.example"] {
            assert!(!text.contains(word), "{name} has {word}");
        }
        // Listeners are made, memory is mounted and secrets are written by our own code on every way.
        let is_plain = ["function", "egress", "compilation", "package-build"].contains(&name);
        assert_eq!(text == plain, is_plain, "{name}");
    }
}

#[test]
fn nothing_is_granted_or_made_that_is_not_needed() {
    for (name, bundle) in kinds() {
        for (whose, guest) in guests() {
            let spec = specification(&bundle, Path::new("rootfs"), guest).unwrap();
            let process = spec.process().as_ref().unwrap();
            let sets = process.capabilities().as_ref().unwrap();
            let needed: Capabilities = match guest {
                Guest::OurInit => KEPT.into_iter().collect(),
                Guest::Runtime { .. } => Capabilities::new(),
            };
            assert_eq!(sets.permitted().as_ref(), Some(&needed), "{name}, {whose}");
            assert_eq!(sets.effective().as_ref(), Some(&needed), "{name}, {whose}");
            for set in [sets.bounding(), sets.inheritable(), sets.ambient()] {
                assert_eq!(set.as_ref(), Some(&Capabilities::new()), "{name}, {whose}");
            }
            assert_eq!(process.no_new_privileges(), Some(true));
            let env = process.env().as_ref().unwrap();
            assert!(env.iter().any(|variable| variable.starts_with("HOME=")), "{env:?}");
            assert!(!text(&bundle, guest).contains(SECRET), "{name}, {whose}");
            let linux = spec.linux().as_ref().unwrap();
            let has_user = linux.namespaces().as_ref().unwrap().iter();
            let has_user = has_user.filter(|namespace| namespace.typ() == LinuxNamespaceType::User);
            assert_eq!(
                has_user.count(),
                usize::from(guest != Guest::OurInit),
                "{name}, {whose}"
            );
            // Nothing that is silently left out.
            assert!(linux.seccomp().is_none() && linux.resources().is_none());
            let is_placed = linux.cgroups_path().as_deref() == Some(Path::new(NO_CGROUP));
            assert_eq!(is_placed, guest == Guest::OurInit, "{name}, {whose}");
        }
    }
}

#[test]
fn a_runtime_that_is_told_of_no_home_is_given_one() {
    let mut bundle = bundle(Purpose::Function);
    assert!(text(&bundle, OTHER).contains("\"HOME=/tmp\""));
    bundle.env.retain(|(name, _)| name != "HOME");
    assert!(text(&bundle, OTHER).contains("\"HOME=/\""));
}
