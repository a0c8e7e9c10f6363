"""The measurements of scripts/bench. Prints a table; judges nothing."""
import json
import os
import pathlib
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

GANTRY, ROUNDS = sys.argv[1], int(sys.argv[2])
EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"
DEGRADED = ["--allow-degraded", "memory,cpu"]


def call(*command, root, quiet=True):
    done = subprocess.run(command, env={**os.environ, "GANTRY_ROOT": str(root)}, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command}: {done.returncode}\n{done.stderr}")
    return done.stdout.strip()


def measured(*command, root):
    """Wall and CPU seconds of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    call(*command, root=root)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def interleaved(commands, root, rounds):
    """Median wall milliseconds of each command, taking turns."""
    times = {name: [] for name in commands}
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "GANTRY_ROOT": str(root)}
    for round_number in range(rounds + 3):
        for name, command in commands.items():
            start = time.perf_counter()
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            if done.returncode != 0:
                sys.exit(f"{command}: {done.returncode} {done.stderr.decode()}")
            if round_number >= 3:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: (min(values), statistics.median(values)) for name, values in times.items()}


def row(what, value, goal):
    print(f"{what:66} {value:>26}   goal {goal}")


def function(directory, code, requirements=""):
    directory.mkdir()
    (directory / "user_function.py").write_text(code)
    if requirements:
        (directory / "requirements.txt").write_text(requirements)
    return directory


def layer_trees(root, digest):
    blob = lambda digest: json.loads((root / "blobs/sha256" / digest.removeprefix("sha256:")).read_text())
    config = blob(blob(digest)["config"]["digest"])
    return [root / "layers" / diff.removeprefix("sha256:") / "fs" for diff in config["rootfs"]["diff_ids"]]


def starts(scratch, root):
    """A run of next to nothing, against bubblewrap with the same root (no seccomp, no Landlock there)."""
    source = function(scratch / "start", "pass\n")
    digest = call(GANTRY, "build", str(source), "--tag", "start:1", "--base", "python-3.11-slim", root=root)
    flat = scratch / "root"
    for tree in layer_trees(root, digest):
        shutil.copytree(tree, flat, symlinks=True, dirs_exist_ok=True)
    layout = scratch / "layout"
    call(GANTRY, "push", "start:1", f"oci:{layout}:x", root=root)
    commands = {"true": ["/usr/bin/true"], "python -c pass": ["/usr/bin/python3", "-c", "pass"]}
    bwrap = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", str(flat), "/", "--proc", "/proc", "--dev", "/dev",
             "--tmpfs", "/tmp", "--tmpfs", "/output"]
    for name, command in commands.items():
        tag = name.split()[0] + ":bench"
        cleared = ["--clear", "config.cmd", "--clear", "config.entrypoint", "--clear", "config.labels"]
        for clear in (cleared, [option for word in command for option in ("--config.cmd", word)]):
            call("umoci", "config", "--image", f"{layout}:x", *clear, root=root)
        call(GANTRY, "copy", f"oci:{layout}:x", tag, root=root)
        found = interleaved({"gantry": [GANTRY, "run", *DEGRADED, tag], "bwrap": bwrap + command}, root, ROUNDS)
        (ours_min, ours), (theirs_min, theirs) = found["gantry"], found["bwrap"]
        row(f"run {name}: gantry / bubblewrap, median ms (minimum)", f"{ours:.2f} / {theirs:.2f} ({ours_min:.2f} / {theirs_min:.2f})", "")
        row(f"run {name}: ratio of medians", f"{ours / theirs:.2f}", "<= 1.1")
        report = scratch / "outcome.json"
        call(GANTRY, "run", *DEGRADED, "--report", str(report), tag, root=root)
        phases = json.loads(report.read_text())["phases_ms"]
        row("  phases, ms", " ".join(f"{name} {value:.2f}" for name, value in phases.items() if value), "")


def filters(root):
    done = subprocess.run([GANTRY, "doctor", "--json"], env={**os.environ, "GANTRY_ROOT": str(root)}, capture_output=True, text=True)
    evidence = json.loads(done.stdout)["promises"]["seccomp"]["evidence"]
    row("seccomp filter, installed in, median µs", re.search(r"installed in (\d+) µs", evidence)[1], "<= 100")


def builds(scratch, root):
    source = function(scratch / "code", "print(0)\n", "numpy==1.26.4\n")
    command = [GANTRY, "build", str(source), "--tag", "code:1"]
    call(*command, root=root)
    changed, same = [], []
    for number in range(1, max(ROUNDS // 2, 5) + 1):
        (source / "user_function.py").write_text(f"print({number}, {time.time_ns()})\n")
        changed.append(measured(*command, root=root)[0] * 1e3)
        same.append(measured(*command, root=root)[0] * 1e3)
    row("build, only the code changed, median ms", f"{statistics.median(changed):.1f}", "<= 100")
    row("build, nothing changed, median ms", f"{statistics.median(same):.1f}", "<= 50")


def fresh(scratch, root, name, keep=("downloads", "tools")):
    """A store with nothing but the files that were downloaded."""
    store = scratch / name
    for part in keep:
        if (root / part).exists():
            shutil.copytree(root / part, store / part, symlinks=True)
    return store


def cold(scratch, root):
    wheels = function(scratch / "three", "print(1)\n", "numpy==1.26.4\nscipy==1.11.4\npandas==2.1.4\n")
    two = function(scratch / "two", "print(1)\n", "numpy==1.26.4\nscipy==1.11.4\n")
    call(GANTRY, "build", str(wheels), "--tag", "three:1", root=root)
    walls = [measured(GANTRY, "build", str(two), root=fresh(scratch, root, f"cold{number}"))[0] for number in range(3)]
    row("numpy + scipy from an empty store, downloads there, median s", f"{statistics.median(walls):.2f}", "<= 2.5")
    based = []
    for number in range(3):
        store = fresh(scratch, root, f"based{number}")
        call(GANTRY, "base", "build", root=store)
        based.append(measured(GANTRY, "build", str(two), root=store)[0])
    row("the same when the base is there, median s", f"{statistics.median(based):.2f}", "")

    cpu = []
    for _ in range(3):
        shutil.rmtree(root / "memo/wheel")
        (root / "memo/wheel").mkdir()
        report = scratch / "report.json"
        cpu.append(measured(GANTRY, "build", str(wheels), "--tag", "three:1", "--report", str(report), root=root)[1])
    layers = [layer for layer in json.loads(report.read_text())["layers"] if layer["reason"].startswith("wheel")]
    tar = scratch / "trees.tar"
    with open(tar, "wb") as out:
        for layer in layers:
            subprocess.run(["gzip", "-dc", root / "blobs/sha256" / layer["digest"].removeprefix("sha256:")], stdout=out, check=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(f"gzip -6 -c {tar} >/dev/null", shell=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    gzip = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    ours = statistics.median(cpu)
    row("numpy + scipy + pandas wheels -> blobs and trees / gzip -6, CPU s", f"{ours:.2f} / {gzip:.2f}", "")
    row("  ratio", f"{ours / gzip:.3f}", "<= 0.25")


def base(scratch, root):
    whole, compiled = [], []
    stores = [fresh(scratch, root, f"base{number}") for number in range(3)]
    report = scratch / "base.json"
    for store in stores:
        whole.append(measured(GANTRY, "base", "build", "--report", str(report), root=store)[1])
    # After all of them: ext4 is slow to make files for a minute after many were removed, as these are.
    for store in stores:
        shutil.rmtree(store / "memo/bytecode")
        (store / "memo/bytecode").mkdir()
        compiled.append(measured(GANTRY, "base", "build", root=store)[1])
    layer = json.loads(report.read_text())["layers"][0]
    row("base without bytecode, unpacked MB", f"{layer['unpacked_bytes'] / 1e6:.1f}", "<= 60")
    row("base without bytecode, compressed MB", f"{layer['size'] / 1e6:.1f}", "")
    row("base, CPU s after download", f"{statistics.median(whole) - statistics.median(compiled):.2f}", "<= 1.5")
    row("bytecode of its standard library, CPU s", f"{statistics.median(compiled):.2f}", "")


with tempfile.TemporaryDirectory(prefix="gantry-bench-") as directory:
    scratch = pathlib.Path(directory)
    root = scratch / "store"
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {ROUNDS} rounds")
    cold(scratch, root)
    base(scratch, root)
    starts(scratch, root)
    filters(root)
    builds(scratch, root)
    # Read-only directories of images must not keep the scratch directory here.
    subprocess.run(["chmod", "-R", "u+rwX", directory], check=False)
