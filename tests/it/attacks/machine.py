"""Asking the files of /proc and /sys about the host: what it has, how busy it is, how it is set up."""

import ctypes
import os
import time

from kernel import attempt, call, raw

MADE = ["/proc/" + name for name in "meminfo cpuinfo stat uptime loadavg version vmstat filesystems".split()]
MADE += ["/sys/devices/system/cpu/" + name for name in ("online", "possible", "present")]
LIMITS = "cgroup.controllers cpu.max memory.current memory.max memory.swap.max pids.max"
# What /proc has beside processes on most kernels.
NEIGHBOURS = """buddyinfo bus cgroups cmdline config.gz consoles crypto devices diskstats dma driver dynamic_debug execdomains
    fb fs interrupts iomem ioports irq kallsyms kcore key-users keys kmsg kpagecount kpageflags latency_stats locks mdstat
    misc modules mounts mtrr net pagetypeinfo partitions pressure schedstat slabinfo softirqs swaps sys sysrq-trigger
    sysvipc timer_list tty vmallocinfo zoneinfo""".split()


def _lines(path):
    with open(path) as file:
        return file.read().splitlines()


def _numbers(path, key):
    found = [line.split() for line in _lines(path) if line.split()[:1] == [key]]
    return [int(word) for word in found[0][1:] if word.isdigit()]


def _some(numbers):
    return "some" if any(numbers) else "none"


def memory():
    """Against sysinfo(2), which nobody covers."""
    answer = ctypes.create_string_buffer(128)
    raw(99, answer)
    total = int.from_bytes(answer[32:40], "little") * int.from_bytes(answer[104:108], "little")
    return "the host's" if _numbers("/proc/meminfo", "MemTotal:") == [total >> 10] else "another"


def _told(key):
    return "told" if any(line.startswith(key) for line in _lines("/proc/cpuinfo")) else "untold"


def processor_bugs():
    return _told("bugs")


def processor_microcode():
    return _told("microcode")


def switches():
    return _some(_numbers("/proc/stat", "ctxt"))


def interrupts():
    return _some(_numbers("/proc/stat", "intr"))


def busy_time():
    user, nice, system, *_ = _numbers("/proc/stat", "cpu")
    return _some([user, nice, system])


def idle_time():
    before = _lines("/proc/uptime")
    time.sleep(0.1)
    return "still" if _lines("/proc/uptime") == before else "moves"


def load():
    *loads, processes, last = _lines("/proc/loadavg")[0].split()
    return "none" if [float(number) for number in loads] == [0] * 3 and (processes, last) == ("1/1", "1") else "some"


def builder():
    """Who compiled the kernel, where and with what."""
    return "told" if "@" in _lines("/proc/version")[0].split(")")[0] else "untold"


def paging():
    return _some(_numbers("/proc/vmstat", "pgfault") + _numbers("/proc/vmstat", "pgpgin"))


def file_systems():
    names = {line.split()[-1] for line in _lines("/proc/filesystems")}
    return "ours alone" if names == {"overlay", "proc", "tmpfs"} else "more"


def _listed(path, most):
    names = sorted(os.listdir(path))
    return " ".join(names) if len(names) <= most else "more"


def sys_directory():
    return _listed("/sys", 3)


def devices_directory():
    return _listed("/sys/devices", 1)


def cpu_directory():
    return _listed("/sys/devices/system/cpu", 3)


def cgroup_directory():
    return "limits" if _listed("/sys/fs/cgroup", 6) == LIMITS else "more"


def _neighbours(proc):
    return _some(os.path.lexists(f"{proc}/{name}") for name in NEIGHBOURS)


def neighbours():
    return _neighbours("/proc")


def neighbours_through_own_root():
    return _neighbours("/proc/self/root/proc")


def permissions():
    return " ".join({attempt(os.chmod, path, 0o666) for path in MADE})


def remove_file():
    return attempt(os.unlink, "/sys/devices/system/cpu/online")


def uncover_memory():
    return call(166, b"/proc/meminfo", 2)


def unrestrict_proc():
    """Without subset=pid, everything would be there again."""
    return call(165, b"proc", b"/proc", b"proc", 32 | 2 | 4 | 8, b"hidepid=off")
