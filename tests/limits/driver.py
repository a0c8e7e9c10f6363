#!/usr/bin/env python3
"""The limit tests: runs gantry from the outside, inside a cgroup that was delegated to an unprivileged user.

The cgroup tree:

    OWN                      the unit gantry-worker.service: delegated, with cpu, memory and pids; we start in it
    OWN/gantry-supervisor    where the first run moves us
    OWN/...                  what gantry makes for its runs, and must take away again

What gantry says is never believed alone: limits are read in the cgroup while a run lasts, use is compared with what
the function measured itself, and every probe has a twin that shows that it would go further without the limit.

The kernel has one processor: four busy processes under `--cpus 1` cannot have more than 1, whatever gantry does. Shares
below 1 are what shows that the share is enforced, with the same margin of 15 %, and 1 is their twin that shows that the
processes take what they get. The scheduler counts in ticks of 10 ms, so the times below are of several seconds.
"""
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

PAYLOAD = pathlib.Path(__file__).resolve().parent
GANTRY = str(PAYLOAD / "gantry")
OWN_NAME = pathlib.Path("/proc/self/cgroup").read_text().split("::")[1].strip()
OWN = pathlib.Path("/sys/fs/cgroup" + OWN_NAME)
OURS = {OWN_NAME, OWN_NAME + "/gantry-supervisor"}
IMAGE = "limits:1"
LOGIN = "/run/login/socket"
MIB = 1 << 20
# The kernel of User-Mode Linux has no Landlock; everything else must hold.
DEGRADED = os.environ.get("LIMITS_DEGRADED", "landlock")
ENVIRONMENT = {"HOME": "/home/worker", "PATH": "/usr/bin:/bin", "GANTRY_ROOT": str(PAYLOAD / "store")}
# What makes the containers; every test runs with each of them.
RUNTIMES = ("libcontainer", "native")
runtime = RUNTIMES[0]
# What each came to, by its name: they must not differ.
LEVELS = {}
# How long something that happens by itself may take before it counts as not happening.
PATIENCE = 10


class Ran:
    """One ended `gantry run`."""

    def __init__(self, code, stdout, stderr, outcome):
        self.code, self.stdout, self.stderr, self.outcome = code, stdout, stderr, outcome
        self.status = outcome.get("status")
        self.usage = outcome.get("usage", {})

    def said(self, fact):
        """What the function reported under that name; nothing when it did not get there."""
        for line in self.stdout.splitlines():
            facts = json.loads(line)
            if fact in facts:
                return facts[fact]
        return None

    def __str__(self):
        return f"exit code {self.code}, {json.dumps(self.outcome)}, stdout {self.stdout!r}, stderr {self.stderr!r}"


def command(report, options, function):
    common = ["--allow-degraded", DEGRADED, "--runtime", runtime, "--report", report]
    return [GANTRY, "run", *common, *options, IMAGE, "--", *map(str, function)]


def run(options, *function):
    """Runs the function to its end and checks what holds after every run: nothing is left."""
    ran = run_beside_others(options, *function)
    nothing_is_left(ran)
    return ran


def run_beside_others(options, *function):
    """The same while another run is under way."""
    with tempfile.TemporaryDirectory() as scratch:
        report = f"{scratch}/outcome.json"
        done = subprocess.run(
            command(report, options, function),
            env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )
        try:
            outcome = json.loads(pathlib.Path(report).read_text())
        except FileNotFoundError:
            outcome = {}
    check(outcome.get("runtime") in (None, runtime), f"the runtime is {outcome.get('runtime')}, not {runtime}")
    return Ran(done.returncode, done.stdout, done.stderr, outcome)


class Running:
    """A `gantry run` that is under way; the function has said that it is ready."""

    def __init__(self, options, *function):
        self.scratch = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            command(f"{self.scratch.name}/outcome.json", options, function),
            env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        line = self.process.stdout.readline()
        check(line, f"the function did not start: {self.process.stderr.read() if not line else ''}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
        self.scratch.cleanup()


def check(claim, otherwise):
    if not claim:
        raise AssertionError(otherwise)


def near(got, want, what):
    """Right to 10 %."""
    check(got is not None and abs(got - want) <= want / 10, f"{what}: {got} is not within 10 % of {want}")


def cgroups_below(top):
    """The cgroups below `top`, but for those that go while they are looked for: pathlib's rglob fails over one."""
    return [pathlib.Path(folder) / name for folder, names, _ in os.walk(top) for name in names]


def run_cgroups():
    """The cgroups below ours that are not ours: those of runs."""
    return sorted(path for path in cgroups_below(OWN) if OWN_NAME + "/" + path.name not in OURS)


def run_processes():
    """Processes of this service in another cgroup than ours: those of runs."""
    found = []
    for process in pathlib.Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                cgroup = (process / "cgroup").read_text().split("::")[1].strip()
                name, state = (process / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
            except OSError:
                continue
            # One that is dead and not yet waited for runs nothing; it keeps no cgroup alive either.
            if cgroup.startswith(OWN_NAME + "/") and cgroup not in OURS and state.split()[0] not in "ZX":
                found.append(f"{process.name} {name} in {cgroup}")
    return found


def nothing_is_left(after):
    check(not run_cgroups(), f"cgroups are left: {run_cgroups()} after {after}")
    check(not run_processes(), f"processes are left: {run_processes()} after {after}")


def becomes_true(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_oom(ran):
    check((ran.status, ran.code) == ("oom", 137), f"not an oom: {ran}")
    check((ran.outcome["exit_code"], ran.outcome["signal"]) == (137, 9), f"not the oom of the outcome: {ran}")


def is_ok(ran):
    check((ran.status, ran.code) == ("ok", 0), f"not ok: {ran}")


# --- what the machine has: a bed that does not enforce proves nothing ---


def the_bed_delegates_cpu_memory_and_pids():
    check(os.getuid() != 0, "the driver runs as root")
    controllers = (OWN / "cgroup.controllers").read_text().split()
    check({"cpu", "memory", "pids"} <= set(controllers), f"{OWN} has only {controllers}")


# --- levels and limits ---


def memory_cpu_and_processes_are_enforced():
    ran = run([], "nothing")
    is_ok(ran)
    levels = {name: ran.outcome["enforced"].get(name) for name in ("memory", "cpu", "processes")}
    check(set(levels.values()) == {"enforced"}, f"levels are {levels}")
    LEVELS[runtime] = ran.outcome["enforced"]
    first = next(iter(LEVELS.values()))
    check(all(levels == first for levels in LEVELS.values()), f"levels differ: {LEVELS}")


def the_limits_are_those_in_the_cgroup():
    want = {
        "memory.max": str(100 * MIB),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cgroup.max.descendants": "0",
    }
    with Running(["--memory", "100M", "--pids", "17", "--cpus", "0.3"], "hold", "nothing"):
        cgroups = [path for path in run_cgroups() if (path / "cgroup.procs").read_text()]
        check(len(cgroups) == 1, f"cgroups with processes during one run: {cgroups}")

        def read(name):
            return (cgroups[0] / name).read_text().strip()

        got = {name: read(name) for name in want}
        check(got == want, f"limits are {got}")
        # The trusted init of the sandbox is one process more.
        check(read("pids.max") in ("17", "18"), f"pids.max is {read('pids.max')}")
        quota, period = map(int, read("cpu.max").split())
        check(abs(quota / period - 0.3) < 0.001, f"cpu.max is {quota} {period}")
        processes = len(read("cgroup.procs").split())
        check(processes >= 2, f"{processes} processes in the cgroup: the init and the function are two")
    run([], "nothing")


# --- memory ---


def eight_processes_over_the_memory_limit_end_as_oom():
    ran = run(["--memory", "256M"], "spread", 480, 8)
    is_oom(ran)
    check(ran.usage["memory_peak_bytes"] <= 256 * MIB, f"the peak is over the limit: {ran}")


def one_process_over_the_memory_limit_ends_as_oom():
    ran = run(["--memory", "128M"], "memory", 300)
    is_oom(ran)
    check(ran.said("allocated") is None, f"it allocated all the same: {ran}")


def a_memfd_is_not_to_be_had():
    # Its pages are those of no process: where only processes are watched, it would hide memory.
    ran = run(["--memory", "128M"], "memfd", 300)
    check((ran.status, ran.code, ran.said("written")) == ("failed", 1, None), f"{ran}")
    check("OSError: [Errno 38]" in ran.stderr, f"{ran}")


def files_in_tmp_count_as_memory():
    is_oom(run(["--memory", "128M", "--tmp-size", "512M"], "files", "/tmp", 300))


def files_in_output_count_as_memory():
    is_oom(run(["--memory", "128M", "--output-size", "512M"], "files", "/output", 300))


def the_same_memory_under_a_larger_limit_is_fine():
    for function in (["memory", 300], ["files", "/tmp", 300]):
        is_ok(run(["--memory", "400M", "--tmp-size", "512M"], *function))


def a_kill_that_is_not_for_memory_is_not_an_oom():
    ran = run(["--memory", "128M"], "kill_self")
    check((ran.status, ran.code) == ("failed", 137), f"{ran}")


def memory_peak_is_right():
    before = run(["--memory", "512M"], "nothing").usage["memory_peak_bytes"]
    for mib in (100, 300):
        ran = run(["--memory", "512M"], "memory", mib)
        is_ok(ran)
        near(ran.usage["memory_peak_bytes"], before + mib * MIB, f"memory peak of {mib} MiB on top of {before}")


# --- processes ---


def three_hundred_forks_stop_at_the_limit():
    ran = run(["--pids", "40"], "forks", 300)
    is_ok(ran)
    check(ran.said("refused") == "EAGAIN", f"no fork was refused: {ran}")
    # The function itself is the fortieth.
    check(30 <= ran.said("made") <= 39, f"it made {ran.said('made')} processes under a limit of 40")


def threads_count_as_processes():
    ran = run(["--pids", "40"], "threads", 300)
    is_ok(ran)
    check(ran.said("refused"), f"no thread was refused: {ran}")
    check(30 <= ran.said("made") <= 39, f"it made {ran.said('made')} threads under a limit of 40")


def the_same_forks_under_a_larger_limit_are_fine_and_counted():
    # Not 300: a fork of Python takes 100 ms here.
    ran = run(["--pids", "100"], "forks", 60)
    is_ok(ran)
    check((ran.said("made"), ran.said("refused")) == (60, None), f"{ran}")
    # The function itself, and the init.
    near(ran.usage["pids_peak"], 62, "pids peak")


def a_fork_bomb_ends_with_its_time():
    ran = run(["--pids", "30", "--timeout", "3s"], "fork_bomb")
    check((ran.status, ran.code) == ("timeout", 124), f"{ran}")
    check(ran.usage["pids_peak"] <= 31, f"peak of processes: {ran.usage}")


# --- cpu ---


def four_busy_processes_get_their_share_and_no_more():
    for share in (0.25, 0.5, 1.0):
        ran = run(["--cpus", str(share)], "busy", 4, 4)
        is_ok(ran)
        used = ran.said("cpu") / ran.said("wall")
        check(used <= share * 1.15, f"they used {used:.3f} of {share} cpu: {ran}")
        # Over half of it, so that 1 is more than 0.5 may be; a busy host takes the rest.
        check(used >= share * 0.65, f"they got {used:.3f} of {share} cpu: {ran}")
        # The whole run, Python's start included, in the kernel's books.
        phases = ran.outcome["phases_ms"]
        lasted = phases["prepare"] + phases["start"] + phases["run"]
        whole = ran.usage["cpu_ms"] / lasted
        check(whole <= share * 1.15, f"the run used {whole:.3f} of {share} cpu: {ran}")


def cpu_ms_is_right():
    # On a host with four times as much to do as it has processors, this kernel books the time that the host took as
    # that of whoever was running. That comes out differently each time; a wrong figure is wrong each time.
    for then in ("measuring again", "measuring for the last time"):
        try:
            return compare_cpu_ms()
        except AssertionError as miss:
            print(f"  {miss}; {then}", flush=True)
    compare_cpu_ms()


def compare_cpu_ms():
    # The init and the end of Python are not in what the function sees: 0.2 to 1 s here, by how busy the host is.
    idle = run(["--cpus", "1"], "nothing")
    unseen = idle.usage["cpu_ms"] - idle.said("cpu_of_all") * 1000
    ran = run(["--cpus", "1"], "busy", 8, 2)
    is_ok(ran)
    near(ran.usage["cpu_ms"], unseen + ran.said("cpu_of_all") * 1000, f"cpu_ms, {unseen:.0f} of it unseen")


# --- the end ---


def daemons_that_ignore_signals_do_not_survive():
    # `run` checks it; the function only has to be what it says.
    ran = run([], "daemons", 5)
    is_ok(ran)
    check(ran.usage["pids_peak"] >= 7, f"there were no daemons: {ran}")


def nothing_survives_a_killed_gantry():
    for function in (["nothing"], ["daemons", 5], ["forks", 15]):
        with Running(["--pids", "50"], "hold", *function) as running:
            running.process.kill()
            running.process.wait()
            check(becomes_true(lambda: not run_processes()), f"processes are left: {run_processes()}")
        is_ok(run([], "nothing"))


def nothing_survives_gantry_killed_at_any_moment():
    # A run takes about a second here; the seed makes a failure repeatable.
    moments = random.Random(3)
    for _ in range(12):
        with tempfile.TemporaryDirectory() as scratch:
            process = subprocess.Popen(
                command(f"{scratch}/outcome.json", [], ["nothing"]),
                env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            time.sleep(moments.uniform(0, 1))
            process.kill()
            process.wait()
        check(becomes_true(lambda: not run_processes()), f"processes are left: {run_processes()}")
    is_ok(run([], "nothing"))


def the_time_limit_holds_while_gantry_is_stopped():
    with Running(["--timeout", "4s"], "hold", "nothing") as running:
        running.process.send_signal(signal.SIGSTOP)
        check(run_processes(), "there is no run to watch")
        check(becomes_true(lambda: not run_processes()), f"still alive: {run_processes()}")
        running.process.send_signal(signal.SIGCONT)
        check(running.process.wait() == 124, f"exit code is {running.process.returncode}")
    nothing_is_left("a stopped gantry went on")


def runs_at_once_have_limits_of_their_own():
    with Running(["--memory", "100M"], "hold", "nothing") as bystander:
        is_oom(run_beside_others(["--memory", "64M"], "memory", 200))
        check(bystander.process.poll() is None, "the oom of one run ended another")
    run([], "nothing")


# --- a plain login ---


class LoggedIn:
    """A command that the login session runs (login.py), and where its scope is."""

    def __init__(self, *words):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(LOGIN)
        self.socket.sendall(json.dumps([str(word) for word in words]).encode() + b"\n")
        self.file = self.socket.makefile()
        self.cgroup = self.file.readline().strip()

    def end(self):
        """Its exit code, what it printed, and its errors."""
        return json.loads(self.file.readline())


def gantry_of_login(options, *function):
    report = pathlib.Path(tempfile.mkdtemp(), "outcome.json")
    return LoggedIn(*command(str(report), options, function)), report


def ran_at_login(options, *function):
    login, report = gantry_of_login(options, *function)
    code, stdout, stderr = login.end()
    ran = Ran(code, stdout, stderr, json.loads(report.read_text()))
    check(becomes_true(lambda: not scopes()), f"scopes are left: {scopes()} after {ran}")
    return login, ran


def scopes():
    """The scopes that gantry asked the user's systemd for."""
    return sorted(path for path in cgroups_below("/sys/fs/cgroup/user.slice") if path.match("gantry-*.scope"))


def a_plain_login_has_nothing_delegated():
    login, ran = ran_at_login([], "nothing")
    check("/session-" in login.cgroup, f"the login is in {login.cgroup}")
    check(not os.access("/sys/fs/cgroup" + login.cgroup, os.W_OK), f"{login.cgroup} is delegated")
    is_ok(ran)


def a_plain_login_has_memory_and_cpu_enforced():
    _, ran = ran_at_login(["--memory", "128M"], "memory", 300)
    is_oom(ran)
    levels = {name: ran.outcome["enforced"].get(name) for name in ("memory", "cpu", "processes")}
    check(set(levels.values()) == {"enforced"}, f"levels are {levels}")
    asked, delegated = (ran.outcome["phases_ms"]["prepare"] for ran in (ran, run(["--memory", "128M"], "memory", 300)))
    print(f"  preparing took {asked:.0f} ms with a scope to ask for, {delegated:.0f} ms in a delegated cgroup", flush=True)
    _, ran = ran_at_login(["--cpus", "0.25"], "busy", 2, 3)
    used = ran.said("cpu") / ran.said("wall")
    check(0.15 <= used <= 0.29, f"they used {used:.3f} of 0.25 cpu: {ran}")


def nothing_of_a_scope_is_left_after_sigkill():
    for _ in range(3):
        login, _ = gantry_of_login([], "hold", "daemons", 5)
        check(becomes_true(scopes), "there is no scope to look at")
        [scope] = scopes()
        check(becomes_true(lambda: any(path.match("gantry-run-*") for path in cgroups_below(scope))), "there is no run to end")
        [gantry] = map(int, (scope / "gantry-supervisor/cgroup.procs").read_text().split())
        os.kill(gantry, signal.SIGKILL)
        login.end()
        check(becomes_true(lambda: not scopes()), f"scopes are left: {scopes()}")


def logins_at_once_have_scopes_of_their_own():
    all = [gantry_of_login(["--memory", "100M"], "memory", 20) for _ in range(4)]
    ends = [login.end() for login, _ in all]
    check([code for code, *_ in ends] == [0] * 4, f"{ends}")
    check(becomes_true(lambda: not scopes()), f"scopes are left: {scopes()}")


def nobody_is_asked_where_the_configuration_says_so():
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write('[run]\nscope = "off"\n')
        file.flush()
        words = [GANTRY, "--config", file.name, "run", "--allow-degraded", DEGRADED, IMAGE, "--", "nothing"]
        code, _, stderr = LoggedIn(*words).end()
    check(code == 125 and "is not delegated to this user" in stderr, f"{code}: {stderr}")


def a_manager_that_does_not_answer_is_waited_for_and_named():
    # The bus is the user's own, so it can be stopped by the user.
    bus = subprocess.run(["systemctl", "--user", "show", "--value", "--property=MainPID", "dbus.service"],
                         env={**ENVIRONMENT, "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"}, capture_output=True, text=True)
    pid = int(bus.stdout)
    os.kill(pid, signal.SIGSTOP)
    try:
        login, _ = gantry_of_login([], "nothing")
        code, _, stderr = login.end()
    finally:
        os.kill(pid, signal.SIGCONT)
    check(code == 125 and "busctl" in stderr, f"{code}: {stderr}")


def doctor_finds_memory_and_cpu_enforced_at_login():
    code, stdout, stderr = LoggedIn(GANTRY, "doctor", "--json").end()
    check(code in (0, 3), f"exit code {code}: {stderr}")
    promises = json.loads(stdout)["promises"]
    levels = {name: promises[name]["level"] for name in ("memory", "cpu", "processes", "death")}
    check(set(levels.values()) == {"enforced"}, f"the doctor says {levels}: {stdout}")


# --- bundles ---


def bundles_run_under_other_runtimes():
    # crun runs it as user 1000 and as root of its namespace, runc as root alone.
    examples = {expected.parent.name for expected in (PAYLOAD / "examples").glob("*/expected.txt")}
    check({"beam", "hello", "ode", "series"} <= examples, f"there are only {examples}")
    for example in sorted(examples):
        source = PAYLOAD / "examples" / example
        expected = (source / "expected.txt").read_text()
        directly = run_of(f"{example}:1", source)
        check(directly == expected, f"{example}: gantry run printed {directly!r}")
        for runtime, user in (("crun", "1000"), ("crun", "0"), ("runc", "0")):
            with tempfile.TemporaryDirectory(dir=PAYLOAD) as scratch:
                printed = elsewhere(runtime, user, example, source, pathlib.Path(scratch))
            check(printed == expected, f"{example} under {runtime} as {user}: {printed!r}")
            print(f"  {example} under {runtime} as {user}", flush=True)


def run_of(image, source):
    words = [GANTRY, "run", "--allow-degraded", DEGRADED, *input_of(source), image]
    return subprocess.run(words, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout


def input_of(source):
    return ["--input", str(source / "input")] if (source / "input").is_dir() else []


def elsewhere(runtime, user, example, source, scratch):
    bundle = scratch / "bundle"
    words = [GANTRY, "bundle", "--unpack", "--id", user, *input_of(source), f"{example}:1", str(bundle)]
    made = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)
    check(made.returncode == 0, f"{words}: {made.stderr}")
    bus = f"/run/user/{os.getuid()}"
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR": bus, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus}/bus",
    }
    manager = ["--systemd-cgroup"] if runtime == "runc" else ["--cgroup-manager=systemd"]
    words = [runtime, "--root", str(scratch / "state"), *manager, "run", "--bundle", str(bundle), f"{runtime}-{user}-{example}"]
    done = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    check(done.returncode == 0, f"{words}: exit code {done.returncode}: {done.stdout!r} {done.stderr!r}")
    return done.stdout


def the_limits_of_a_bundle_hold_under_crun():
    with tempfile.TemporaryDirectory(dir=PAYLOAD) as scratch:
        bundle = pathlib.Path(scratch, "bundle")
        words = [GANTRY, "bundle", "--unpack", "--pids", "40", IMAGE, str(bundle), "--", "forks", "300"]
        made = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)
        check(made.returncode == 0, made.stderr)
        bus = f"/run/user/{os.getuid()}"
        done = subprocess.run(
            ["crun", "--root", f"{scratch}/state", "--cgroup-manager=systemd", "run", "--bundle", str(bundle), "forks"],
            env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": bus, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus}/bus"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )
        ran = Ran(done.returncode, done.stdout, done.stderr, {})
        check(ran.said("refused") == "EAGAIN" and 30 <= ran.said("made") <= 40, f"{ran}")


# --- doctor ---


def doctor_finds_memory_and_cpu_enforced():
    with tempfile.TemporaryDirectory() as scratch:
        config = pathlib.Path(scratch, "config.toml")
        config.write_text(f'[run]\nruntime = "{runtime}"\n')
        done = subprocess.run(
            [GANTRY, "--config", str(config), "doctor", "--json"],
            env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )
    print(done.stdout, done.stderr, flush=True)
    check(done.returncode in (0, 3), f"exit code {done.returncode}: {done.stderr}")
    diagnosis = json.loads(done.stdout)
    promises, runtimes = diagnosis["promises"], diagnosis["runtimes"]
    check(sorted(runtimes) == sorted(RUNTIMES), f"runtimes are {runtimes}")
    fine = all(found["works"] and not found["differs"] for found in runtimes.values())
    check(fine and runtimes[runtime]["chosen"], f"runtimes are {runtimes}")
    levels = {name: promises[name]["level"] for name in ("memory", "cpu", "processes", "death", "landlock")}
    check(levels.pop("landlock") == "absent", "the doctor found Landlock in a kernel that has none")
    check(set(levels.values()) == {"enforced"}, f"the doctor says {levels}")
    nothing_is_left("doctor")


TESTS = [
    the_bed_delegates_cpu_memory_and_pids,
    memory_cpu_and_processes_are_enforced,
    the_limits_are_those_in_the_cgroup,
    eight_processes_over_the_memory_limit_end_as_oom,
    one_process_over_the_memory_limit_ends_as_oom,
    a_memfd_is_not_to_be_had,
    files_in_tmp_count_as_memory,
    files_in_output_count_as_memory,
    the_same_memory_under_a_larger_limit_is_fine,
    a_kill_that_is_not_for_memory_is_not_an_oom,
    memory_peak_is_right,
    three_hundred_forks_stop_at_the_limit,
    threads_count_as_processes,
    the_same_forks_under_a_larger_limit_are_fine_and_counted,
    a_fork_bomb_ends_with_its_time,
    four_busy_processes_get_their_share_and_no_more,
    cpu_ms_is_right,
    daemons_that_ignore_signals_do_not_survive,
    nothing_survives_a_killed_gantry,
    nothing_survives_gantry_killed_at_any_moment,
    the_time_limit_holds_while_gantry_is_stopped,
    runs_at_once_have_limits_of_their_own,
    doctor_finds_memory_and_cpu_enforced,
]
# Of the cgroup that gantry is given, and of other runtimes: ours makes no difference.
ONCE = [
    bundles_run_under_other_runtimes,
    the_limits_of_a_bundle_hold_under_crun,
    a_plain_login_has_nothing_delegated,
    a_plain_login_has_memory_and_cpu_enforced,
    nothing_of_a_scope_is_left_after_sigkill,
    logins_at_once_have_scopes_of_their_own,
    nobody_is_asked_where_the_configuration_says_so,
    a_manager_that_does_not_answer_is_waited_for_and_named,
    doctor_finds_memory_and_cpu_enforced_at_login,
]


def main():
    wanted = (PAYLOAD / "names").read_text().split()
    chosen = [test for test in TESTS + ONCE if not wanted or any(name in test.__name__ for name in wanted)]
    kernel, up = os.uname().release, float(pathlib.Path("/proc/uptime").read_text().split()[0])
    print(f"Linux {kernel}, up for {up:.1f} s; uid {os.getuid()} in {OWN_NAME}", flush=True)
    passed = failed = 0
    global runtime
    for runtime, test in [(each, test) for each in RUNTIMES for test in chosen if each == RUNTIMES[0] or test not in ONCE]:
        begun = time.monotonic()
        try:
            test()
            verdict, passed = "ok", passed + 1
        except Exception as error:  # whatever it is, it is a failure of this test only
            verdict, failed = "FAILED", failed + 1
            if not isinstance(error, AssertionError):
                traceback.print_exc(file=sys.stdout)
            print(f"  {error}", flush=True)
        print(f"{verdict:6} {runtime} {test.__name__} ({time.monotonic() - begun:.1f} s)", flush=True)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
