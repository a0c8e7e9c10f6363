//! Which versions a function gets: the index that is asked, when it is asked again, and what happens when it is away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{done, function, program, tool, Gantry};
use serde_json::Value;

/// A store, and a resolver in the place of uv that answers with the wheels of a directory and notes what it was told.
struct World {
    gantry: Gantry,
    bin: PathBuf,
    wheels: tempfile::TempDir,
}

/// Makes a pure wheel, and prints its name, size and hash.
const MAKE: &str = r#"
import hashlib, os, sys, zipfile
folder, name, version, *more = sys.argv[1:]
file_name = f"{name}-{version}-py3-none-any.whl"
info = f"{name}-{version}.dist-info"
files = {
    f"{name}.py": f"VERSION = {version!r}\n",
    # The name of its bytecode is too long, and the directory is as deep as a wheel's may be inside an image.
    "m" * 243 + ".py": "",
    "d/" * 120 + "deep.py": "",
    f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
    f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{info}/RECORD": "",
}
for library in more:
    # A library that needs another that is nowhere.
    files[f"{name}_part.so"] = open(library, "rb").read().replace(b"libc.so.6\0", b"libX.so.6\0")
with zipfile.ZipFile(os.path.join(folder, file_name), "w") as wheel:
    for path, text in files.items():
        wheel.writestr(zipfile.ZipInfo(path), text)
data = open(os.path.join(folder, file_name), "rb").read()
print(file_name, len(data), hashlib.sha256(data).hexdigest())
"#;

impl World {
    fn new() -> Self {
        let gantry = Gantry::with_downloads();
        let bin = gantry.home.join("bin");
        fs::create_dir(&bin).unwrap();
        let world = Self {
            gantry,
            bin,
            wheels: tempfile::tempdir().unwrap(),
        };
        world.uv("cat answer");
        world
    }

    /// The resolver does `then`, in a directory where `answer` is what it should print.
    fn uv(&self, then: &str) {
        let home = self.gantry.home.display();
        let text = format!(
            "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'uv 99.0.0'; exit; fi\necho \"index=$UV_DEFAULT_INDEX more=$UV_INDEX$UV_EXTRA_INDEX_URL$UV_INDEX_URL\" >>'{home}/asked'\ncd '{home}'\n{then}\n"
        );
        program(&self.bin.join("uv"), &text);
    }

    /// The index now has `version` of the package `thing`.
    fn publish(&self, version: &str) {
        self.publish_with(version, &[]);
    }

    fn publish_with(&self, version: &str, libraries: &[&str]) {
        let folder = self.wheels.path();
        let mut python = Command::new("python3");
        let said = tool(
            python
                .args(["-c", MAKE])
                .arg(folder)
                .args(["thing", version])
                .args(libraries),
        );
        let fields: Vec<&str> = said.split_whitespace().collect();
        let [file_name, size, hash] = fields.as_slice() else {
            panic!("{said}")
        };
        // As if it had been downloaded: nothing here listens.
        let downloads = self.gantry.root.join("downloads");
        fs::create_dir_all(&downloads).unwrap();
        fs::copy(folder.join(file_name), downloads.join(hash)).unwrap();
        let answer = format!("lock-version = \"1.0\"\ncreated-by = \"uv\"\n[[packages]]\nname = \"thing\"\nversion = \"{version}\"\nwheels = [{{ url = \"http://127.0.0.1:1/{file_name}\", size = {size}, hashes = {{ sha256 = \"{hash}\" }} }}]\n");
        fs::write(self.gantry.home.join("answer"), answer).unwrap();
    }

    /// What the resolver was told, a line each time, since this was last called.
    fn asked(&self) -> Vec<String> {
        let path = self.gantry.home.join("asked");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }

    fn command(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = self.gantry.command();
        for name in ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"] {
            command.env_remove(name);
        }
        command
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", self.bin.display()))
            .arg("build")
            .arg(dir)
            .args(["--tag", "thing:1"])
            .args(args);
        command
    }

    fn configure(&self, path: &str, text: &str) {
        let path = self.gantry.home.join(".config").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn the_index_of_this_machine_is_the_one_that_is_asked() {
    let world = World::new();
    world.publish("1.0");
    let ask = |version: &str, variables: &[(&str, &str)]| {
        // Another requirement each time, so that nothing is remembered.
        let dir = function("print(1)\n", Some(&format!("thing>={version}\n")));
        let done = done(
            world
                .command(dir.path(), &[])
                .envs(variables.iter().copied())
                .output()
                .unwrap(),
        );
        (done, world.asked())
    };
    let (url, other) = ("http://u:secret@127.0.0.1:1/of-uv", "http://127.0.0.1:1/of-pip");
    world.configure("pip/pip.conf", &format!("[global]\nindex-url = {other}\n"));
    let (done, asked) = ask("0.1", &[]);
    assert_eq!(asked, [format!("index={other} more=")], "{}", done.stderr);

    world.configure("uv/uv.toml", &format!("[[index]]\nurl = \"{url}\"\ndefault = true\n"));
    let (done, asked) = ask("0.2", &[]);
    assert_eq!(asked, [format!("index={url} more=")], "{}", done.stderr);
    assert!(done.stderr.contains("at http://127.0.0.1:1/of-uv"), "{}", done.stderr);
    assert!(!done.stderr.contains("secret"), "{}", done.stderr);

    let (_, asked) = ask("0.3", &[("UV_INDEX_URL", "http://127.0.0.1:1/of-the-variable")]);
    assert_eq!(asked, ["index=http://127.0.0.1:1/of-the-variable more="]);

    let (done, asked) = ask("0.4", &[("PIP_EXTRA_INDEX_URL", other)]);
    assert_eq!((done.code, asked.len()), (1, 0), "{}", done.stderr);
    for part in ["PIP_EXTRA_INDEX_URL", other, "[index]"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }

    world.configure("gantry/config.toml", "[index]\nurl = \"http://127.0.0.1:1/ours\"\n");
    let (done, asked) = ask("0.5", &[("UV_INDEX", other)]);
    assert_eq!(asked, ["index=http://127.0.0.1:1/ours more="], "{}", done.stderr);
}

#[test]
fn a_lock_of_one_index_is_none_of_another() {
    let world = World::new();
    world.publish("1.0");
    let dir = function("print(1)\n", Some("thing\n"));
    let build = |index: Option<&str>| {
        let mut command = world.command(dir.path(), &[]);
        let done = done(
            command
                .envs(index.map(|url| ("UV_DEFAULT_INDEX", url)))
                .output()
                .unwrap(),
        );
        assert_eq!(done.code, 0, "{}", done.stderr);
        world.asked().len()
    };
    assert_eq!(build(Some("http://127.0.0.1:1/private")), 1);
    assert_eq!(build(Some("http://127.0.0.1:1/private")), 0);
    assert_eq!(build(None), 1);
    assert_eq!(build(None), 0);
}

/// What a build says, and how often it asked.
fn build(world: &World, dir: &Path, args: &[&str]) -> (String, String, usize) {
    let done = done(world.command(dir, args).output().unwrap());
    assert_eq!(done.code, 0, "{}", done.stderr);
    (done.stdout, done.stderr, world.asked().len())
}

/// Changes the time of every lock the store remembers.
fn grow_old(world: &World, resolved: Option<u64>) {
    for entry in fs::read_dir(world.gantry.root.join("memo/lock")).unwrap() {
        let path = entry.unwrap().path();
        let mut lock: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let fields = lock["value"].as_object_mut().unwrap();
        fields.remove("resolved").unwrap();
        fields.extend(resolved.map(|seconds| ("resolved".to_owned(), seconds.into())));
        fs::write(&path, lock.to_string()).unwrap();
    }
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs()
}

#[test]
fn versions_are_asked_for_again_when_they_are_old() {
    let world = World::new();
    world.publish("1.0");
    let dir = function("print(1)\n", Some("thing\n"));
    let (first, _, asked) = build(&world, dir.path(), &[]);
    assert_eq!(asked, 1);
    world.publish("2.0");
    let (second, said, asked) = build(&world, dir.path(), &[]);
    assert_eq!((&second, asked), (&first, 0), "{said}");

    grow_old(&world, Some(now() - 23 * 3600));
    assert_eq!(build(&world, dir.path(), &[]).2, 0);
    grow_old(&world, Some(now() - 25 * 3600));
    let (third, said, asked) = build(&world, dir.path(), &[]);
    assert_eq!(asked, 1);
    assert_ne!(third, first);
    assert!(said.contains("thing 2.0"), "{said}");

    // The same answer: nothing else is done, and it is young again. A lock without a time is one of an earlier gantry.
    grow_old(&world, None);
    let (fourth, said, asked) = build(&world, dir.path(), &[]);
    assert_eq!((&fourth, asked), (&third, 1));
    assert!(!said.contains("Packing") && !said.contains("Compiling"), "{said}");
    assert_eq!(build(&world, dir.path(), &[]).2, 0);

    world.configure("gantry/config.toml", "[index]\nmax_age = \"1h\"\n");
    grow_old(&world, Some(now() - 2 * 3600));
    assert_eq!(build(&world, dir.path(), &[]).2, 1);
}

#[test]
fn upgrade_asks_now_and_an_index_that_is_away_does_not_stop_a_build() {
    let world = World::new();
    world.publish("1.0");
    let dir = function("print(1)\n", Some("thing\n"));
    let (first, ..) = build(&world, dir.path(), &[]);
    world.publish("2.0");
    let (second, said, asked) = build(&world, dir.path(), &["--upgrade"]);
    assert_eq!(asked, 1);
    assert!(second != first && said.contains("thing 2.0"), "{said}");

    world.uv("echo 'error: Failed to fetch: dns error' >&2; exit 2");
    grow_old(&world, Some(now() - 50 * 3600));
    let (third, said, asked) = build(&world, dir.path(), &[]);
    assert_eq!((&third, asked), (&second, 1));
    assert!(
        said.contains("cannot be asked") && said.contains("50 hours ago"),
        "{said}"
    );
    let refused = done(world.command(dir.path(), &["--upgrade"]).output().unwrap());
    assert_eq!(refused.code, 4, "{}", refused.stderr);
}

#[test]
fn what_is_named_by_version_and_hash_is_never_asked_for_again() {
    let world = World::new();
    world.publish("1.0");
    let answer = fs::read_to_string(world.gantry.home.join("answer")).unwrap();
    let hash = answer.split("sha256 = \"").nth(1).unwrap().split('"').next().unwrap();
    let dir = function("print(1)\n", Some(&format!("thing==1.0 --hash=sha256:{hash}\n")));
    assert_eq!(build(&world, dir.path(), &[]).2, 1);
    grow_old(&world, None);
    assert_eq!(build(&world, dir.path(), &[]).2, 0);
    assert_eq!(
        build(&world, dir.path(), &["--upgrade"]).2,
        0,
        "there is nothing to upgrade"
    );
}

#[test]
fn a_source_that_cannot_have_bytecode_does_not_stop_a_build() {
    let world = World::new();
    world.publish("1.0");
    let code = "import thing, importlib.util, os\nlong = importlib.import_module('m' * 243)\ndeep = os.path.dirname(thing.__file__) + '/d' * 120 + '/deep.py'\nprint(thing.VERSION, len(long.__name__), os.path.exists(importlib.util.cache_from_source(deep)))\n";
    let (_, said, _) = build(&world, function(code, Some("thing\n")).path(), &[]);
    let done = world.gantry.run(&["thing:1"]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "1.0 243 True\n"),
        "{} {said}",
        done.stderr
    );
}

#[test]
fn a_library_that_is_nowhere_is_named_when_the_image_is_built() {
    let world = World::new();
    world.publish_with("1.0", &["/usr/lib/x86_64-linux-gnu/libm.so.6"]);
    let dir = function(
        "import ctypes\nprint(ctypes.CDLL('libgomp.so.1').omp_get_max_threads() > 0)\n",
        Some("thing\n"),
    );
    let warning = "thing 1.0 needs libX.so.6, which is neither in the base nor in a wheel";
    let (_, said, _) = build(&world, dir.path(), &[]);
    assert!(said.contains(warning), "{said}");
    // Remembered, and said each time.
    let (_, said, _) = build(&world, dir.path(), &[]);
    assert!(said.contains(warning) && !said.contains("Packing"), "{said}");
    // OpenMP is in the base.
    let done = world.gantry.run(&["thing:1"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "True\n"), "{}", done.stderr);
}
