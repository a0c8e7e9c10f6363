"""Reading and turning the knobs of /proc, the init's entries first."""

import os
import resource
import signal
import time

from kernel import attempt, name_of, opened
import kernel


def _init(entry):
    return f"/proc/{kernel.INIT}/{entry}"


def init_environ():
    return opened(_init("environ"))


def init_memory():
    return opened(_init("mem"), os.O_RDWR)


def init_maps():
    return opened(_init("maps"))


def init_descriptors():
    return attempt(os.listdir, _init("fd"))


def init_executable():
    return attempt(os.readlink, _init("exe"))


def init_root():
    return attempt(os.listdir, _init("root"))


def init_directory():
    return attempt(os.listdir, _init("cwd"))


def init_command_line():
    return opened(_init("cmdline"))


def init_map_files():
    return attempt(os.listdir, _init("map_files"))


def init_namespaces():
    return attempt(os.readlink, _init("ns/mnt"))


def init_stack():
    return opened(_init("syscall"))


def init_replaced():
    return opened(_init("exe"), os.O_WRONLY)


def other_processes():
    """Whether the process list shows any process but those of the run (there are two: main and this one)."""
    return "ours alone" if sum(name.isdigit() for name in os.listdir("/proc")) <= 3 else "others"


def _signalled(number):
    sent = attempt(os.kill, kernel.INIT, number)
    # Outside, the answer is that it stops, and a busy machine may take its time; inside nothing comes.
    until = time.monotonic() + (0.1 if kernel.INIT == 1 else 60)
    while time.monotonic() < until:
        if not _alive():
            return "stopped"
        time.sleep(0.002)
    return "unmoved" if sent == "ok" else sent


def _alive():
    try:
        with open(_init("stat")) as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "TZX"
    except FileNotFoundError:
        # hidepid: it is there, but not shown.
        return attempt(os.kill, kernel.INIT, 0) == "ok"


def stop_init():
    return _signalled(signal.SIGSTOP)


def disturb_init():
    for number in range(1, 65):
        if number not in (signal.SIGKILL, signal.SIGTERM, signal.SIGCONT, signal.SIGSTOP):
            attempt(os.kill, kernel.INIT, number)
    return _signalled(signal.SIGTERM)


def kill_init():
    return _signalled(signal.SIGKILL)


def kill_init_by_pidfd():
    try:
        pidfd = os.pidfd_open(kernel.INIT)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError as error:
        return name_of(error.errno)
    return "unmoved" if _alive() else "stopped"


def kill_process_of_the_host():
    """A process the test started outside; its number means nothing here."""
    return attempt(os.kill, int(os.environ["ATTACK_VICTIM"]), 0)


def group_of_the_host():
    return attempt(os.killpg, int(os.environ["ATTACK_VICTIM"]), 0)


def _knob(name):
    return opened(f"/proc/self/{name}", os.O_WRONLY)


def oom_score_adj():
    return _knob("oom_score_adj")


def oom_adj():
    return _knob("oom_adj")


def timens_offsets():
    return _knob("timens_offsets")


def loginuid():
    return _knob("loginuid")


def coredump_filter():
    return _knob("coredump_filter")


def clear_refs():
    return _knob("clear_refs")


def security_attribute():
    return _knob("attr/current")


def autogroup():
    return _knob("autogroup")


def comm():
    return _knob("comm")


def timerslack():
    return _knob("timerslack_ns")


def own_memory():
    return opened("/proc/self/mem", os.O_RDWR)


def own_executable():
    return opened("/proc/self/exe", os.O_WRONLY)


def reopen_for_writing():
    with open(os.path.join(kernel.APP, "kernel.py")) as file:
        return opened(f"/proc/self/fd/{file.fileno()}", os.O_RDWR)


def _absent(path):
    return "there" if os.path.exists(path) else "absent"


def everything_but_processes():
    """No kcore, keys, sysrq-trigger, kallsyms: the mount shows processes alone."""
    names = sorted(name for name in os.listdir("/proc") if not name.isdigit())
    return " ".join(names) if len(names) < 5 else "more"


def sysctl():
    return _absent("/proc/sys/kernel")


def kernel_keys():
    return _absent("/proc/keys")


def kernel_symbols():
    return _absent("/proc/kallsyms")


def interrupts():
    return _absent("/proc/interrupts")


def sys_file_system():
    return _absent("/sys/kernel")


def cgroup_file_system():
    """Whether there is a cgroup: what is shown of one is files that say limits."""
    places = ("", "unified", "memory", "init.scope", "systemd")
    return "there" if any(os.path.exists(f"/sys/fs/cgroup/{place}/cgroup.procs") for place in places) else "absent"


def core_dump():
    """Whether an abort leaves a core file."""
    pid = os.fork()
    if pid == 0:
        os.chdir(kernel.TMP)
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        os.abort()
    return "core" if os.WCOREDUMP(os.waitpid(pid, 0)[1]) else "no core"
