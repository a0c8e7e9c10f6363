//! What is printed when something fails: each situation of `docs/failures.md` is made here, and the text there is the one
//! that is printed. None is silent.

mod masked;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use self::masked::masked;
use crate::common::wait::send;
use crate::common::{done, function, holder_of, shared, tiny, tool, Done, Gantry, DEGRADED};
use crate::registry::fake::{Fake, Reply};
use crate::registry::images::store_of;

/// The directory of one situation; it is `.` in what is printed.
struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Builds the function `code` as `failures:N` of the shared store and returns that name.
    fn image(&self, code: &str) -> String {
        let hex = gantry::oci::Digest::of(code.as_bytes()).hex();
        let name = format!("failures:{}", &hex[..12]);
        shared().build(function(code, None).path(), &name);
        name
    }

    fn command(&self, gantry: &Gantry, words: &str) -> Command {
        let mut command = gantry.command();
        command
            .current_dir(self.directory.path())
            .args(words.split_whitespace());
        command
    }

    /// `gantry WORDS`, in this directory, with the shared store.
    fn gantry(&self, words: &str) -> Done {
        done(self.command(shared(), words).output().unwrap())
    }

    /// `gantry run OPTIONS` of the function `code`.
    fn python(&self, options: &str, code: &str) -> Done {
        let image = self.image(code);
        self.gantry(&format!("run --allow-degraded {DEGRADED} {options} {image}"))
    }

    /// As [`python`](Self::python), again while nothing is said: a gantry that a busy machine holds up for as long as a short
    /// function runs has not looked at its directories.
    fn python_until_said(&self, options: &str, code: &str) -> Done {
        let mut done = self.python(options, code);
        for _ in 0..3 {
            if !done.stderr.is_empty() {
                break;
            }
            done = self.python(options, code);
        }
        done
    }

    /// `gantry WORDS` by a shell that does what `redirection` says with its streams.
    fn redirected(&self, words: &str, redirection: &str) -> Done {
        let mut command = Command::new("sh");
        let script = format!("exec {} {words} {redirection}", env!("CARGO_BIN_EXE_gantry"));
        command.args(["-c", &script]).current_dir(self.directory.path());
        command.env("HOME", &shared().home).env("GANTRY_ROOT", &shared().root);
        done(command.output().unwrap())
    }

    /// `gantry WORDS` of a store with a small image, `tiny:1`, after `change`.
    fn own(&self, words: &str, change: impl FnOnce(&Gantry)) -> Done {
        let gantry = Gantry::new();
        tiny(&gantry, &["tiny:1"]);
        change(&gantry);
        let mut done = done(self.command(&gantry, words).output().unwrap());
        done.stderr = done.stderr.replace(gantry.root.to_str().unwrap(), "STORE");
        done
    }
}

type Make = fn(&Scene) -> Done;

/// What happens, and how it is made.
const SITUATIONS: &[(&str, Make)] = &[
    ("A command that is typed wrong", |scene| scene.gantry("biuld")),
    ("An option that is typed wrong", |scene| {
        scene.gantry("run --memroy 1G a:1")
    }),
    ("A size that is none", |scene| scene.gantry("run --memory lots a:1")),
    ("A promise that there is none of", |scene| {
        scene.gantry("run --allow-degraded cgroups a:1")
    }),
    ("An image that the store has not", |scene| {
        scene.gantry("run not-built:1")
    }),
    ("A name in upper case", |scene| scene.gantry("run Beam:1")),
    ("A registry", |scene| scene.gantry("pull docker://example.org/beam")),
    ("A transport of other tools", |scene| scene.gantry("images rm sif:1")),
    ("A path where an image is named", |scene| scene.gantry("pull ./layout")),
    ("A page in the place of a registry", |scene| {
        let fake = Fake::start();
        let page = "<!DOCTYPE html>\n<title>Log in to this network</title>\n";
        fake.rule(move |_, _| Some(Reply::new(200, page).with("Content-Type", "text/html")));
        let gantry = store_of(&[&fake], "");
        let mut done = done(
            scene
                .command(&gantry, &format!("pull {}", fake.name("team/beam:1")))
                .output()
                .unwrap(),
        );
        done.stderr = done.stderr.replace(&fake.host, "HOST");
        done
    }),
    ("A registry without a repository", |scene| {
        scene.own("copy tiny:1 localhost:5000", |_| ())
    }),
    ("An image of a registry that is not to be pulled", |scene| {
        scene.own("run --pull never registry.example.org/team/beam:1", |_| ())
    }),
    ("A list of images with a line that is none", |scene| {
        scene.write("list", "registry.example.org/team/beam:1\n");
        scene.gantry("copy --all-from list")
    }),
    ("A digest that is in no store", |scene| {
        scene.gantry("images show sha256:0123456789ab")
    }),
    ("An image to remove that is not there", |scene| {
        scene.gantry("images rm not-built:1")
    }),
    ("A job that is no object", |scene| {
        scene.write("job.json", "[]");
        scene.gantry("run --job job.json")
    }),
    ("A job with a key that there is none of", |scene| {
        scene.write("job.json", r#"{"image": "a:1", "imgae": 1}"#);
        scene.gantry("run --job job.json")
    }),
    ("A job with a value of the wrong sort", |scene| {
        scene.write("job.json", r#"{"image": "a:1", "cpus": "two"}"#);
        scene.gantry("run --job job.json")
    }),
    ("A job without an image", |scene| {
        scene.write("job.json", "{}");
        scene.gantry("run --job job.json")
    }),
    ("A job that is not there", |scene| scene.gantry("run --job job.json")),
    ("A configuration with a key that there is none of", |scene| {
        scene.write("config.toml", "[run]\nmemroy = \"1G\"\n");
        scene.gantry("--config config.toml images ls")
    }),
    ("A configuration with a password", |scene| {
        scene.write(
            "config.toml",
            "[[registry]]\nhost = \"registry.example.org\"\ncredentials = \"me:hunter2\"\n",
        );
        scene.gantry("--config config.toml images ls")
    }),
    (
        "A configuration with one pair of brackets where there may be several tables",
        |scene| {
            scene.write("config.toml", "[registry]\nhost = \"registry.example.org\"\n");
            scene.gantry("--config config.toml images ls")
        },
    ),
    ("A configuration with a value of the wrong sort", |scene| {
        scene.write("config.toml", "[run]\ncpus = [2]\n");
        scene.gantry("--config config.toml images ls")
    }),
    ("A configuration of a later version", |scene| {
        scene.write("config.toml", "[pool]\nsize = 4\n");
        scene.gantry("--config config.toml images ls")
    }),
    ("More than the machine allows", |scene| {
        scene.write("config.toml", "[limits]\nmemory = \"100M\"\n");
        scene.gantry("--config config.toml run --memory 1G a:1")
    }),
    ("Nothing that says where the store is", |scene| {
        let mut command = scene.command(shared(), "images ls");
        done(command.env_remove("HOME").env_remove("GANTRY_ROOT").output().unwrap())
    }),
    ("A store of a later version", |scene| {
        scene.own("images ls", |gantry| {
            fs::write(gantry.root.join("version"), "gantry store 9\n").unwrap()
        })
    }),
    ("A store on a file system without attributes", |scene| {
        let place = scene.directory.path().join("ramfs");
        fs::create_dir(&place).unwrap();
        let script = "mount -t ramfs none \"$0\" && exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .arg(&place);
        command.args([env!("CARGO_BIN_EXE_gantry"), "images", "ls"]);
        let home = &shared().home;
        command.env("HOME", home).env("GANTRY_ROOT", place.join("store"));
        done(command.current_dir(scene.directory.path()).output().unwrap())
    }),
    ("A store that is a file", |scene| {
        scene.write("store", "");
        let mut command = scene.command(shared(), "images ls");
        done(
            command
                .env("GANTRY_ROOT", scene.directory.path().join("store"))
                .output()
                .unwrap(),
        )
    }),
    (
        "A process that holds a lock of the store and does not get on",
        |scene| {
            scene.write("config.toml", "[store]\npatience = \"1s\"\n");
            let mut holder = None;
            let done = scene.own("--config config.toml run tiny:1", |gantry| {
                holder = Some(holder_of(&gantry.root.join("locks/collector"), "LOCK_EX"));
            });
            let mut holder = holder.unwrap();
            holder.kill().unwrap();
            holder.wait().unwrap();
            done
        },
    ),
    ("A collection of garbage while others use the store", |scene| {
        let mut holder = None;
        let done = scene.own("cache gc --wait 0s", |gantry| {
            holder = Some(holder_of(&gantry.root.join("locks/collector"), "LOCK_SH"));
        });
        let mut holder = holder.unwrap();
        holder.kill().unwrap();
        holder.wait().unwrap();
        done
    }),
    ("A runtime that takes bundles", |scene| {
        scene.gantry("run --runtime crun a:1")
    }),
    ("A bundle in the store", |scene| {
        scene.own("bundle tiny:1 store/layers/x", |gantry| {
            symlink(&gantry.root, scene.directory.path().join("store")).unwrap();
        })
    }),
    ("An image without a command", |scene| {
        scene.own(&format!("run --allow-degraded {DEGRADED} tiny:1"), |_| ())
    }),
    ("A program that is not in the image", |scene| {
        scene.python("--env PATH=/none", "")
    }),
    ("A program that cannot be executed", |scene| {
        scene.own(&format!("run --allow-degraded {DEGRADED} tiny:1 /etc/name"), |_| ())
    }),
    ("The time limit", |scene| {
        scene.python("--timeout 300ms", "import time\ntime.sleep(600)\n")
    }),
    ("The deadline", |scene| {
        // As long as it takes here until the function has started.
        let of = |deadline: &str| {
            let options = format!("--timeout 600s --deadline {deadline}");
            let done = scene.python(&options, "import time\ntime.sleep(600)\n");
            let stderr = done.stderr.replace(deadline, "500ms");
            (done.code == 124).then_some(Done { stderr, ..done })
        };
        of("500ms").or_else(|| of("5s")).or_else(|| of("60s")).unwrap()
    }),
    ("The memory limit", |scene| {
        let code = "held = bytearray(b'x') * (300 << 20)\nimport time\ntime.sleep(600)\n";
        scene.python("--memory 100M --timeout 600s", code)
    }),
    ("A signal of the function's own", |scene| {
        scene.python("", "import os\nos.kill(os.getpid(), 11)\n")
    }),
    ("A system call that ends a process", |scene| {
        scene.python("", "import ctypes\nctypes.CDLL(None).syscall(0x40000027)\n")
    }),
    ("A full /tmp", |scene| {
        let code = "import os, sys\nf = os.open('/tmp/x', os.O_WRONLY | os.O_CREAT)\ntry:\n    while True: os.write(f, b'x' * 65536)\nexcept OSError: sys.exit(1)\n";
        scene.python_until_said("--tmp-size 1M --output-size 2M", code)
    }),
    ("A full /output", |scene| {
        let code = "import os, sys\nf = os.open('/output/x', os.O_WRONLY | os.O_CREAT)\ntry:\n    while True: os.write(f, b'x' * 65536)\nexcept OSError: sys.exit(1)\n";
        scene.python_until_said("--output-size 1M", code)
    }),
    ("An /output on disk that is too large", |scene| {
        let code = "import time\nfor n in range(17000): open(f'/output/{n}', 'w').close()\ntime.sleep(600)\n";
        scene.python("--output-on-disk --timeout 600s", code)
    }),
    ("A link among the results", |scene| {
        scene.python("--output out", "import os\nos.symlink('/etc/passwd', '/output/link')\n")
    }),
    ("A directory for results that cannot be written", |scene| {
        fs::create_dir(scene.directory.path().join("out")).unwrap();
        fs::set_permissions(scene.directory.path().join("out"), fs::Permissions::from_mode(0o555)).unwrap();
        scene.python("--output out", "")
    }),
    ("An input that is not there", |scene| scene.python("--input none", "")),
    ("A secret that is not there", |scene| {
        scene.python("--secret KEY=env:NOT_SET", "")
    }),
    ("A host without its port", |scene| {
        scene.gantry("run --network egress --egress example.org a:1")
    }),
    ("A report where nothing can be written", |scene| {
        scene.gantry("run --report none/report.json a:1")
    }),
    ("A report to a descriptor that is none", |scene| {
        scene.gantry("run --report fd:abc a:1")
    }),
    ("A standard output that is full", |scene| {
        let image = scene.image("print(1)\n");
        scene.redirected(&format!("run --allow-degraded {DEGRADED} {image}"), "> /dev/full")
    }),
    ("A standard output that is closed", |scene| {
        let image = scene.image("print(1)\n");
        scene.redirected(&format!("run --allow-degraded {DEGRADED} {image}"), ">&-")
    }),
    ("A list to a standard output that is closed", |scene| {
        scene.redirected("base ls", ">&-")
    }),
    ("Help to a standard output that is full", |scene| {
        scene.redirected("--help", "> /dev/full")
    }),
    ("More standard output than is passed on", |scene| {
        scene.python("--output-limit 10K", "print('x' * 20000)\nraise SystemExit(1)\n")
    }),
    ("More standard input than is passed on", |scene| {
        let image = scene.image("import time\ntime.sleep(600)\n");
        let options = format!("run --allow-degraded {DEGRADED} -i --input-limit 100K {image}");
        scene.redirected(&options, "< /dev/zero")
    }),
    ("No run slot", |scene| {
        scene.write("config.toml", "[run]\nslots = 1\nslots_dir = \"slots\"\n");
        let image = scene.image("import time\nprint('up', flush=True)\ntime.sleep(600)\n");
        let words = format!("--config config.toml run --allow-degraded {DEGRADED} --timeout 600s {image}");
        let mut first = scene.command(shared(), &words).stdout(Stdio::piped()).spawn().unwrap();
        first.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        let done = scene.gantry(&format!("{words} --wait 0s"));
        first.kill().unwrap();
        first.wait().unwrap();
        done
    }),
    ("More memory than the machine gives to all runs", |scene| {
        scene.write("config.toml", "[run]\nmemory_total = \"100M\"\n");
        let image = scene.image("");
        scene.gantry(&format!("--config config.toml run --memory 1G {image}"))
    }),
    ("SIGTERM", |scene| {
        let image = scene.image("import time\nprint('up', flush=True)\ntime.sleep(600)\n");
        let words = format!("run --allow-degraded {DEGRADED} --timeout 600s {image}");
        let mut command = scene.command(shared(), &words);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        send(&child, Signal::TERM);
        done(child.wait_with_output().unwrap())
    }),
    ("A directory to build that is not there", |scene| {
        scene.gantry("build none")
    }),
    ("A directory without a function", |scene| {
        fs::create_dir(scene.directory.path().join("f")).unwrap();
        scene.gantry("build f")
    }),
    ("A function with a syntax error", |scene| {
        // A code that no store has seen, whose layer is made anew.
        let code = format!("print(1\n# {}\n", scene.directory.path().display());
        scene.write("f/user_function.py", &code);
        scene.gantry("build f")
    }),
    (
        "A file that looks like a secret, and an --allow-file for another",
        |scene| {
            scene.write("f/user_function.py", "print(1)\n");
            scene.write("f/.env", "TOKEN=abc\n");
            scene.gantry("build f --allow-file *.env")
        },
    ),
    ("A link that leads out of the function", |scene| {
        scene.write("f/user_function.py", "print(1)\n");
        symlink("/etc/passwd", scene.directory.path().join("f/link")).unwrap();
        scene.gantry("build f")
    }),
    ("A requirement with = for ==", |scene| {
        scene.write("f/user_function.py", "print(1)\n");
        scene.write("f/requirements.txt", "six\nnumpy=1.26\n");
        scene.gantry("build f")
    }),
    ("Requirements that an ignore file leaves out", |scene| {
        scene.write("f/user_function.py", "print(1)\n");
        scene.write("f/requirements.txt", "-r other.txt\n");
        scene.write("f/other.txt", "six\n");
        scene.write("f/.dockerignore", "other.txt\n");
        scene.gantry("build f")
    }),
    ("A requirement by the name of its module", |scene| {
        scene.write("f/user_function.py", "import sklearn\n");
        scene.write("f/requirements.txt", "sklearn\n");
        scene.gantry("build f")
    }),
    ("A requirement that is part of Python", |scene| {
        scene.write("f/user_function.py", "import json\n");
        scene.write("f/requirements.txt", "json\n");
        scene.gantry("build f")
    }),
    ("A pattern that is none", |scene| {
        scene.write("f/user_function.py", "print(1)\n");
        scene.write("f/.gantryignore", "*.csv\n[z-a]\n");
        scene.gantry("build f")
    }),
    ("A build on a disk that is full", |scene| {
        scene.write("f/user_function.py", "print(1)\n");
        let gantry = Gantry::new();
        let mut command = scene.command(&gantry, "build f");
        let mut done = done(command.env("GANTRY_FAULT", "Scaffold:0+:28").output().unwrap());
        done.stderr = done.stderr.replace(gantry.root.to_str().unwrap(), "STORE");
        done
    }),
    ("A base that there is none of", |scene| {
        scene.write("f/user_function.py", "print(1)\n");
        scene.gantry("build f --base none")
    }),
    ("A name for an image that is a digest", |scene| {
        scene.write("f/user_function.py", "print(1)\n");
        scene.gantry("build f --tag sha256:0123456789ab")
    }),
    ("An archive that is none", |scene| {
        scene.write("x.tar", "root:x:0:0:root:/root:/bin/sh\n");
        scene.gantry("load x.tar")
    }),
    ("An archive that ends early", |scene| {
        scene.own("load tiny.tar", |gantry| {
            let whole = gantry.home.join("whole.tar");
            gantry.ok(["save", "tiny:1", whole.to_str().unwrap()]);
            let whole = fs::read(whole).unwrap();
            fs::write(scene.directory.path().join("tiny.tar"), &whole[..2600]).unwrap();
        })
    }),
    ("An archive where nothing can be written", |scene| {
        scene.own("save tiny:1 none/tiny.tar", |_| ())
    }),
    ("An image that was evicted, and that a registry has", |scene| {
        scene.own("run tiny:1", |gantry| {
            let origins = gantry.root.join("origins");
            fs::create_dir_all(&origins).unwrap();
            let place = "registry.example.org/team/beam\n";
            fs::write(origins.join(digest_of(gantry).hex()), place).unwrap();
            evict(scene, gantry);
        })
    }),
    ("An image that was evicted, and that was only here", |scene| {
        scene.own("run tiny:1", |gantry| evict(scene, gantry))
    }),
    ("An image to pin that is not there", |scene| {
        scene.own("cache pin none:1", |_| ())
    }),
    ("An image to warm that is not there", |scene| {
        scene.own("cache warm none:1 tiny:1", |_| ())
    }),
    ("Nothing that says what to warm", |scene| {
        scene.own("cache warm", |_| ())
    }),
    ("A list to warm with a line that is none", |scene| {
        scene.write("list", "beam:1\nBeam:1\n");
        scene.own("cache warm --from list", |_| ())
    }),
    ("An inventory whose images have no name here", |scene| {
        let now = tool(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]));
        let (now, digest) = (now.trim(), format!("sha256:{}", "a".repeat(64)));
        let function = format!(r#"{{"id": "1", "user": "u1", "active": "{digest}", "last_executed": "{now}"}}"#);
        let document = format!(r#"{{"schema": 1, "as_of": "{now}", "count": 1, "functions": [{function}]}}"#);
        scene.write("inventory.json", &document);
        scene.own("cache warm --inventory inventory.json", |_| ())
    }),
    ("A limit of the cache that is none", |scene| {
        scene.write("config.toml", "[cache]\nmax_images = -1\n");
        scene.own("--config config.toml cache gc", |_| ())
    }),
    ("A limit of the cache that is too small", |scene| {
        scene.write("config.toml", "[cache]\nmax_bytes = \"1K\"\n");
        scene.own("--config config.toml cache gc", |_| ())
    }),
    ("A share of the cache's limits that is none", |scene| {
        scene.write("config.toml", "[cache]\nlow_water = 200\n");
        scene.own("--config config.toml cache gc", |_| ())
    }),
    ("An age that is none", |scene| {
        scene.own("cache gc --older-than soon", |_| ())
    }),
    ("An image to save that lost a blob", |scene| {
        scene.own("save tiny:1 tiny.tar", lose_a_blob)
    }),
    (
        "A manifest that is lost, as `gantry cache check` says on standard output",
        |scene| {
            let done = scene.own("cache check", |gantry| {
                let manifest = gantry.root.join("blobs/sha256").join(digest_of(gantry).hex());
                fs::remove_file(manifest).unwrap();
            });
            let stderr = done.stdout.clone();
            Done { stderr, ..done }
        },
    ),
    (
        "A blob that is lost, as `gantry cache check` says on standard output",
        |scene| {
            let done = scene.own("cache check", lose_a_blob);
            let stderr = done.stdout.clone();
            Done { stderr, ..done }
        },
    ),
];

/// The digest of the only image.
fn digest_of(gantry: &Gantry) -> gantry::oci::Digest {
    let images: serde_json::Value = serde_json::from_str(&gantry.ok(["images", "ls", "--json"])).unwrap();
    images[0]["digest"].as_str().unwrap().parse().unwrap()
}

/// Evicts the only image for another one.
fn evict(scene: &Scene, gantry: &Gantry) {
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let lease = gantry.root.join("leases").join(digest_of(gantry).hex());
    fs::File::open(lease).unwrap().set_modified(hour_ago).unwrap();
    tiny(gantry, &["other:1"]);
    scene.write("cache.toml", "[cache]\nmax_images = 1\n");
    let done = done(scene.command(gantry, "--config cache.toml cache gc").output().unwrap());
    assert!(done.stdout.contains("Evicted tiny:1"), "{}{}", done.stdout, done.stderr);
}

/// Removes the layer of the only image, as it was shipped.
fn lose_a_blob(gantry: &Gantry) {
    let shown: serde_json::Value = serde_json::from_str(&gantry.ok(["images", "show", "tiny:1", "--json"])).unwrap();
    let layer = shown["manifest"]["layers"][0]["digest"].as_str().unwrap();
    fs::remove_file(gantry.root.join("blobs/sha256").join(&layer[7..])).unwrap();
}

#[test]
fn every_failure_is_said_as_it_is_documented() {
    let mut document = String::from(
        "# What is printed when something fails\n\nEach situation is made by a test, which holds what is printed on standard error against this page. `.` is the directory that\ngantry is started in, `STORE` that of the store, `N` differs from run to run.\n",
    );
    for (situation, make) in SITUATIONS {
        let scene = Scene {
            directory: tempfile::tempdir().unwrap(),
        };
        let done = make(&scene);
        let printed = masked(&done.stderr, scene.directory.path());
        assert!(
            !printed.is_empty() && done.code != 0,
            "{situation}: silent, {}",
            done.code
        );
        for word in ["serde", "Some(", "None", "f64", "u32", "sequence", "panicked"] {
            assert!(!printed.contains(word), "{situation}: {word} in {printed}");
        }
        document.push_str(&format!(
            "\n## {situation}\n\nExit code {}:\n\n```text\n{printed}\n```\n",
            done.code
        ));
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/failures.md");
    let found = fs::read_to_string(page).unwrap();
    if found != document {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("failures.md");
        fs::write(&place, &document).unwrap();
        for (line, (found, made)) in found.lines().zip(document.lines()).enumerate() {
            assert_eq!(
                found,
                made,
                "line {} of docs/failures.md; the whole is in {}",
                line + 1,
                place.display()
            );
        }
        panic!("docs/failures.md has another length than {}", place.display());
    }
}
