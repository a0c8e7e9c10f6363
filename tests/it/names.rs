//! Images of functions have the names of the platform.

use std::fs;
use std::path::PathBuf;

use serde_json::{json, Value};

use crate::common::{function, shared, Done};

/// A machine whose `[naming]` says `naming`, and a function.
struct Platform {
    directory: tempfile::TempDir,
    function: tempfile::TempDir,
}

impl Platform {
    fn new(naming: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.toml"), naming).unwrap();
        let function = function("print('named')\n", None);
        Self { directory, function }
    }

    fn report(&self) -> PathBuf {
        self.directory.path().join("report.json")
    }

    /// `gantry build` of the function with the words of `ids`.
    fn build(&self, ids: &str) -> Done {
        let config = self.directory.path().join("config.toml");
        let mut command = shared().command();
        command
            .arg("--config")
            .arg(config)
            .arg("build")
            .arg(self.function.path());
        command.args(ids.split_whitespace()).arg("--report").arg(self.report());
        crate::common::done(command.output().unwrap())
    }
}

const PLATFORM: &str = "[naming]\nregistry = \"registry.example.org\"\nnamespace = \"mecapy\"\n";
const IDS: &str = "--function 123 --user a1b2c3 --function-version 1.0.0";

#[test]
fn an_image_of_a_function_has_the_names_of_the_platform() {
    let platform = Platform::new(PLATFORM);
    let done = platform.build(&format!("{IDS} --commit 0123abcd"));
    assert_eq!(done.code, 0, "{}", done.stderr);
    let report: Value = serde_json::from_slice(&fs::read(platform.report()).unwrap()).unwrap();
    let repository = "registry.example.org/mecapy/functions/user-a1b2c3-func-123";
    let name = report["reference"].as_str().unwrap();
    let code = name.strip_prefix(&format!("{repository}:v1.0.0-")).unwrap();
    assert!(
        code.len() == 8 && code.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{name}"
    );
    let other = |tag: &str| format!("{repository}:{tag}");
    assert_eq!(
        report["references"],
        json!([name, other("v1.0.0"), other("latest"), other("sha-0123abcd")])
    );
    let listed = shared().ok(["images", "ls", "--format", "json"]);
    let digest = done.stdout.trim();
    for name in report["references"].as_array().unwrap() {
        let shown = shared().ok(["images", "show", name.as_str().unwrap(), "--format", "json"]);
        assert!(shown.contains(digest), "{shown}");
        assert!(listed.contains(name.as_str().unwrap()), "{listed}");
    }
    let layout = |digest: &str| {
        let file = shared()
            .root
            .join("blobs/sha256")
            .join(digest.trim_start_matches("sha256:"));
        serde_json::from_slice::<Value>(&fs::read(file).unwrap()).unwrap()
    };
    let config = layout(layout(digest)["config"]["digest"].as_str().unwrap());
    for (label, value) in [("id", "123"), ("user", "a1b2c3"), ("version", "1.0.0")] {
        assert_eq!(
            config["config"]["Labels"][format!("org.mecapy.function.{label}")],
            value
        );
    }
    // Another code is another name, and the tags that move follow it.
    fs::write(platform.function.path().join("user_function.py"), "print('other')\n").unwrap();
    let second = platform.build(IDS);
    assert_eq!(second.code, 0, "{}", second.stderr);
    let report: Value = serde_json::from_slice(&fs::read(platform.report()).unwrap()).unwrap();
    assert_ne!(report["reference"], name);
    assert_eq!(report["references"].as_array().unwrap().len(), 3, "without a commit");
    let latest = shared().ok(["images", "show", &other("latest"), "--format", "json"]);
    assert!(latest.contains(second.stdout.trim()), "{latest}");
}

#[test]
fn what_no_name_can_be_is_refused_before_anything_is_built() {
    let platform = Platform::new(PLATFORM);
    let long = "1".repeat(120);
    for (ids, says) in [
        ("--function a-func-b --user u --function-version 1", "\"-func-\""),
        ("--function a --user u-func-v --function-version 1", "could also be"),
        ("--function a --user u --function-version 1.0+cpu", "write - for it"),
        ("--function a --user Alice --function-version 1", "no upper case"),
        (&format!("--function a --user u --function-version {long}"), "128"),
        (
            "--function a --user u --function-version 1 --commit HEAD",
            "hexadecimal",
        ),
        ("--function a --user u", "--function-version"),
        ("--user u", "--function"),
    ] {
        let done = platform.build(ids);
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{ids}: {}", done.stderr);
        assert!(done.stderr.contains(says), "{ids}: {}", done.stderr);
    }
    let nowhere = Platform::new("[naming]\nnamespace = \"mecapy\"\n").build(IDS);
    assert_eq!(nowhere.code, 2, "{}", nowhere.stderr);
    assert!(
        nowhere.stderr.contains("`registry` under [naming]"),
        "{}",
        nowhere.stderr
    );
}

#[test]
fn a_machine_names_functions_as_its_configuration_says() {
    let template = "template = \"{registry}/{namespace}/functions:user-{user}-func-{id}-v{version}\"\n";
    let done_and_names = |config: &str| {
        let platform = Platform::new(config);
        let done = platform.build(IDS);
        let report: Value = serde_json::from_slice(&fs::read(platform.report()).unwrap()).unwrap();
        (done, report["references"].clone())
    };
    let (done, names) = done_and_names(&format!("{PLATFORM}{template}"));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(
        names,
        json!(["registry.example.org/mecapy/functions:user-a1b2c3-func-123-v1.0.0"])
    );
    // The registry that images are pushed to is the one that names them.
    let registries = "[[registry]]\nhost = \"mirror.example.org\"\nrole = \"pull\"\n[[registry]]\nhost = \"main.example.org\"\n[naming]\nnamespace = \"n\"\ntags = [\"latest\"]\n";
    let (_, names) = done_and_names(registries);
    let names: Vec<&str> = names.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(
        names.len() == 2 && names[1] == "main.example.org/n/functions/user-a1b2c3-func-123:latest",
        "{names:?}"
    );
    for (config, says) in [
        (format!("{PLATFORM}{template}tags = [\"latest\"]\n"), "would share them"),
        (
            format!("{PLATFORM}template = \"{{registry}}/{{id}}\"\n"),
            "has no {user}",
        ),
        (format!("{PLATFORM}template = \"{{user}}{{id}}\"\n"), "text between"),
        (format!("{PLATFORM}tags = [\"{{user}}\"]\n"), "a tag has"),
    ] {
        let done = Platform::new(&config).build(IDS);
        assert_eq!(done.code, 2, "{config}: {}", done.stderr);
        assert!(
            done.stderr.contains(says) && done.stderr.contains("config.toml"),
            "{}",
            done.stderr
        );
    }
}
