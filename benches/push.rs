//! How long it takes until an image is in a registry: changed code, one more requirement, a whole function; and how many
//! requests and bytes that is. The registry is the distribution's, on this machine, without TLS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a bench prints its table and fails by panicking"
)]

mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use harness::{
    call, copy_all, function, in_scratch, is_installed, shell, take_turns, Gantry, Measure, Options, Registry, Report,
    Turn,
};

const TWO: &str = "numpy==1.26.4\nscipy==1.11.4\n";
const THREE: &str = "numpy==1.26.4\npandas==2.1.4\nscipy==1.11.4\n";
/// Functions that share their packages.
const MANY: usize = 100;

fn main() {
    let mut report = Report::new("push", Options::read());
    if is_installed("docker-registry") {
        in_scratch(|scratch| measure(scratch, &mut report));
    }
    report.finish();
}

fn measure(scratch: &Path, report: &mut Report) {
    let gantries = Gantry::all(scratch);
    let registry = Registry::start(&scratch.join("registry"));
    let first = function(&scratch.join("first"), "print(0)\n", THREE);
    for gantry in &gantries {
        gantry.share_downloads(&gantries[0]);
        call(build(&registry, gantry, &gantry.root, &first, "first:1"));
        call(push(&registry, gantry, &gantry.root, "first:1"));
    }
    changed(&registry, &gantries, scratch, report);
    // An empty one, from which neither can take a layer of another repository.
    requests(
        &Registry::start(&scratch.join("counting")),
        &gantries[0],
        scratch,
        report,
    );
    bytes(&registry, &gantries[0], scratch, report);
    cold(&registry, &gantries, scratch, report);
}

fn build(registry: &Registry, gantry: &Gantry, root: &Path, source: &Path, image: &str) -> Command {
    let tag = registry.name(image);
    let mut command = gantry.command_on(root, ["build", "--quiet", "--tag", &tag]);
    command.arg(source).env("GANTRY_CONFIG", registry.config());
    command
}

fn push(registry: &Registry, gantry: &Gantry, root: &Path, image: &str) -> Command {
    let mut command = gantry.command_on(root, ["push", "--quiet", &registry.name(image)]);
    command.env("GANTRY_CONFIG", registry.config());
    command
}

/// Puts the image of `source` into a layout, past any registry.
fn to_layout(gantry: &Gantry, source: &Path, place: &str) {
    let mut command = gantry.command(["build", "--quiet", "--tag", "layout:1"]);
    command.arg(source);
    call(command);
    gantry.call(["copy", "layout:1", place]);
}

/// Only the code changed: the push alone, and with the build before it.
fn changed(registry: &Registry, gantries: &[Gantry], scratch: &Path, report: &mut Report) {
    let rounds = report.rounds(20);
    let sources: Vec<(String, PathBuf)> = gantries
        .iter()
        .map(|gantry| {
            let source = function(&scratch.join(format!("code-{}", gantry.name)), "print(0)\n", THREE);
            (format!("code-{}", gantry.name), source)
        })
        .collect();
    let change = |source: &Path, text: String| fs::write(source.join("user_function.py"), text).unwrap();
    let layout = scratch.join("layout");
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for (gantry, (name, source)) in gantries.iter().zip(&sources) {
        let before = move |round| {
            change(source, format!("print({round}, 'push')\n"));
            call(build(registry, gantry, &gantry.root, source, name));
        };
        turns.push(Turn::new(&gantry.name, move |_| push(registry, gantry, &gantry.root, name)).before(before));
    }
    if is_installed("skopeo") {
        let (gantry, (_, source)) = (&gantries[0], &sources[0]);
        let image = registry.name("skopeo:1");
        let place = format!("oci:{}:x", layout.display());
        let before = {
            let place = place.clone();
            move |round| {
                change(source, format!("print({round}, 'skopeo')\n"));
                to_layout(gantry, source, &place);
            }
        };
        let copy = move |_| {
            let mut command = Command::new("skopeo");
            command.args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
                &place,
            ]);
            command.arg(format!("docker://{image}"));
            command
        };
        turns.push(Turn::new("skopeo", copy).before(before));
    }
    let times = take_turns(2, rounds, &turns);
    report.row("push, only the code changed", Measure::WallMs, &times);
    report.row("push, only the code changed", Measure::CpuS, &times);
    let both: Vec<Turn<'_>> = gantries
        .iter()
        .zip(&sources)
        .map(|(gantry, (name, source))| {
            let command = move |_| {
                let one = build(registry, gantry, &gantry.root, source, name);
                let other = push(registry, gantry, &gantry.root, name);
                in_a_row(&[one, other])
            };
            Turn::new(&gantry.name, command).before(move |round| change(source, format!("print({round}, 'both')\n")))
        })
        .collect();
    let times = take_turns(2, rounds, &both);
    report.row("build and push, only the code changed", Measure::WallMs, &times);
}

/// One command that runs all of them.
fn in_a_row(commands: &[Command]) -> Command {
    let quote = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap());
    let lines = commands.iter().map(|command| {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(quote).collect::<Vec<_>>().join(" ")
    });
    let mut all = shell(&lines.collect::<Vec<_>>().join(" && "));
    for (name, value) in commands.iter().flat_map(Command::get_envs) {
        all.env(name, value.unwrap());
    }
    all
}

/// Requests of a first push, of one after a change, and of a pull.
fn requests(registry: &Registry, gantry: &Gantry, scratch: &Path, report: &mut Report) {
    let source = function(&scratch.join("counted"), "print(0)\n", THREE);
    let mut count = |what: &str, who: &str, command: Command| {
        let before = registry.requests();
        call(command);
        let made = registry.requests() - before;
        report.number(what, who, "", made as f64);
    };
    call(build(registry, gantry, &gantry.root, &source, "counted:1"));
    count(
        "requests of a push",
        "gantry",
        push(registry, gantry, &gantry.root, "counted:1"),
    );
    let layout = format!("oci:{}:x", scratch.join("counted-layout").display());
    to_layout(gantry, &source, &layout);
    let skopeo = |arguments: &[&str]| {
        let mut command = Command::new("skopeo");
        command.args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            "--src-tls-verify=false",
        ]);
        command.args(arguments);
        command
    };
    let has_skopeo = is_installed("skopeo");
    let there = format!("docker://{}", registry.name("counted-skopeo:1"));
    if has_skopeo {
        count("requests of a push", "skopeo", skopeo(&[&layout, &there]));
    }
    fs::write(source.join("user_function.py"), "print(1)\n").unwrap();
    call(build(registry, gantry, &gantry.root, &source, "counted:1"));
    let again = "requests of a push, only the code changed";
    count(again, "gantry", push(registry, gantry, &gantry.root, "counted:1"));
    to_layout(gantry, &source, &layout);
    if has_skopeo {
        count(again, "skopeo", skopeo(&[&layout, &there]));
    }
    let mut pull = gantry.command_on(
        &scratch.join("counted-store"),
        ["pull", "--quiet", &registry.name("counted:1")],
    );
    pull.env("GANTRY_CONFIG", registry.config());
    count("requests of a pull", "gantry", pull);
    if has_skopeo {
        let target = format!("oci:{}:x", scratch.join("counted-other").display());
        count("requests of a pull", "skopeo", skopeo(&[&there, &target]));
    }
}

/// What one more small requirement sends, and what many functions that share their packages take.
fn bytes(registry: &Registry, gantry: &Gantry, scratch: &Path, report: &mut Report) {
    const MB: f64 = 1e6;
    let source = function(&scratch.join("more"), "print(0)\n", THREE);
    let deliver = |image: &str| {
        call(build(registry, gantry, &gantry.root, &source, image));
        call(push(registry, gantry, &gantry.root, image));
        registry.bytes() as f64 / MB
    };
    // Beside pandas there are small wheels that others share layers with.
    for (what, requirements) in [
        ("bytes that six adds to numpy + scipy", TWO),
        ("bytes that six adds to numpy + scipy + pandas", THREE),
    ] {
        fs::write(source.join("requirements.txt"), requirements).unwrap();
        let before = deliver("more:1");
        fs::write(source.join("requirements.txt"), format!("{requirements}six==1.16.0\n")).unwrap();
        let after = deliver("more:1");
        report.number(what, "gantry", "MB", after - before);
    }
    fs::write(source.join("requirements.txt"), THREE).unwrap();
    let empty = Registry::start(&scratch.join("many"));
    for number in 0..MANY {
        fs::write(source.join("user_function.py"), format!("print({number})\n")).unwrap();
        let image = format!("many-{number}:1");
        call(build(&empty, gantry, &gantry.root, &source, &image));
        call(push(&empty, gantry, &gantry.root, &image));
    }
    let what = "a registry with 100 functions that share packages";
    report.number(what, "gantry", "MB", empty.bytes() as f64 / MB);
}

/// numpy and scipy on a base that is there, to an empty repository, beside `buildah bud`. Both have their base in their
/// store and in the registry, and the program that resolves requirements; both get the packages from the index that this
/// machine is configured for, with nothing cached.
fn cold(registry: &Registry, gantries: &[Gantry], scratch: &Path, report: &mut Report) {
    let rounds = report.rounds(3).min(5);
    let source = function(&scratch.join("two"), "print(1)\n", TWO);
    let bare = function(&scratch.join("bare"), "print(1)\n", "");
    let ready = |gantry: &Gantry| scratch.join(format!("ready-{}", gantry.name));
    let store = |gantry: &Gantry, round: usize| scratch.join(format!("cold-{}-{round}", gantry.name));
    for gantry in gantries {
        let root = gantry.with_tools(&ready(gantry));
        let image = format!("bare-{}:1", gantry.name);
        call(build(registry, gantry, &root, &bare, &image));
        call(push(registry, gantry, &root, &image));
    }
    let source = &source;
    let mut turns: Vec<Turn<'_>> = gantries
        .iter()
        .map(|gantry| {
            let command = move |round| {
                let (root, image) = (store(gantry, round), format!("cold-{}-{round}:1", gantry.name));
                in_a_row(&[
                    build(registry, gantry, &root, source, &image),
                    push(registry, gantry, &root, &image),
                ])
            };
            Turn::new(&gantry.name, command).before(move |round| copy_all(&ready(gantry), &store(gantry, round)))
        })
        .collect();
    if let Some(buildah) = Buildah::prepare(registry, &gantries[0], source, scratch) {
        turns.push(Turn::new("buildah", move |round| {
            buildah.build_and_push(registry, round)
        }));
    }
    let times = take_turns(0, rounds, &turns);
    let what = "build and push numpy + scipy, the base there";
    report.row(what, Measure::WallS, &times);
    report.row(what, Measure::CpuS, &times);
}

/// A function by a Dockerfile, on a base with pip that is in its storage.
struct Buildah {
    context: PathBuf,
    scratch: PathBuf,
}

impl Buildah {
    fn prepare(registry: &Registry, gantry: &Gantry, source: &Path, scratch: &Path) -> Option<Self> {
        if !is_installed("buildah") {
            return None;
        }
        let pip = function(&scratch.join("pip"), "print(1)\n", "pip\n");
        let mut base = build(registry, gantry, &gantry.root, &pip, "pip:1");
        // It has a shell, which RUN needs.
        base.args(["--base", "python-3.11-slim"]);
        call(base);
        call(push(registry, gantry, &gantry.root, "pip:1"));
        let context = scratch.join("context");
        fs::create_dir_all(&context).unwrap();
        for file in ["user_function.py", "requirements.txt"] {
            fs::copy(source.join(file), context.join(file)).unwrap();
        }
        let base = registry.name("pip:1");
        let steps = "USER 0\nCOPY requirements.txt /tmp/r.txt\n\
                     RUN python -m pip install --quiet --no-cache-dir --target /opt/py/site -r /tmp/r.txt\n\
                     COPY user_function.py /app/\n";
        fs::write(context.join("Dockerfile"), format!("FROM {base}\n{steps}")).unwrap();
        let this = Self {
            context,
            scratch: scratch.to_owned(),
        };
        call(this.build_and_push(registry, usize::MAX));
        Some(this)
    }

    /// Images are built as on a machine where podman's own storage driver does not work: by copies.
    fn build_and_push(&self, registry: &Registry, round: usize) -> Command {
        let scratch = self.scratch.display();
        let image = registry.name(&format!("buildah-{round}:1"));
        let buildah = format!("buildah --root {scratch}/buildah --runroot {scratch}/buildah-run --storage-driver vfs");
        // Where pip gets packages is what this machine says.
        let own = ["PIP_INDEX_URL", "PIP_CERT"]
            .into_iter()
            .filter_map(|name| Some((name, env::var(name).ok()?)));
        let given: String = own.map(|(name, value)| format!(" --env {name}={value}")).collect();
        let volumes = "-v /etc/ssl/certs:/etc/ssl/certs:ro";
        let mut command = shell(&format!(
            "{buildah} bud --quiet --no-cache --isolation chroot --tls-verify=false {volumes}{given} -t {image} {} && \
             {buildah} push --quiet --tls-verify=false {image}",
            self.context.display()
        ));
        command.env("XDG_RUNTIME_DIR", &self.scratch);
        command
    }
}
