"""A namespace of one's own is the door to most kernel bugs; a namespace of another's is the way out."""

import ctypes
import os

from kernel import call, cloned, name_of, opened, raw

NEWTIME, NEWNS, NEWCGROUP, NEWUTS = 0x80, 0x20000, 0x2000000, 0x4000000
NEWIPC, NEWUSER, NEWPID, NEWNET = 0x8000000, 0x10000000, 0x20000000, 0x40000000
SIGCHLD = 17


def unshare_user():
    return call(272, NEWUSER)


def unshare_mount():
    return call(272, NEWNS)


def unshare_pid():
    return call(272, NEWPID)


def unshare_net():
    return call(272, NEWNET)


def unshare_ipc():
    return call(272, NEWIPC)


def unshare_uts():
    return call(272, NEWUTS)


def unshare_cgroup():
    return call(272, NEWCGROUP)


def unshare_time():
    return call(272, NEWTIME)


def clone_user():
    return cloned(NEWUSER | SIGCHLD)


def clone_mount():
    return cloned(NEWNS | SIGCHLD)


def clone_pid():
    return cloned(NEWPID | SIGCHLD)


def clone_net():
    return cloned(NEWNET | SIGCHLD)


def clone_ipc():
    return cloned(NEWIPC | SIGCHLD)


def clone_uts():
    return cloned(NEWUTS | SIGCHLD)


def clone_cgroup():
    return cloned(NEWCGROUP | SIGCHLD)


def clone_time_bit():
    # In clone(2) this bit belongs to the exit signal, in clone3 it is CLONE_NEWTIME: refused in both.
    return cloned(NEWTIME | SIGCHLD)


def clone_high_bits():
    # The kernel looks at the low 32 bits alone, and so must the filter.
    return cloned(NEWUSER | SIGCHLD | 1 << 32)


def _clone3(flags):
    args = (ctypes.c_uint64 * 8)(flags, 0, 0, 0, SIGCHLD, 0, 0, 0)
    result = raw(435, args, 64)
    if result == 0:
        os._exit(0)
    return name_of(-result) if result < 0 else "ok"


def clone3_plain():
    return _clone3(0)


def clone3_user():
    return _clone3(NEWUSER)


def clone3_time():
    return _clone3(NEWUSER | NEWTIME)


def _setns(kind):
    with open(f"/proc/self/ns/{kind}") as file:
        return call(308, file.fileno(), 0)


def setns_net():
    return _setns("net")


def setns_uts():
    return _setns("uts")


def setns_ipc():
    return _setns("ipc")


def setns_user():
    return _setns("user")


def setns_by_pidfd():
    pidfd = os.pidfd_open(os.getpid())
    return call(308, pidfd, NEWUTS)


def write_uid_map():
    return opened("/proc/self/uid_map", os.O_WRONLY)


def write_gid_map():
    return opened("/proc/self/gid_map", os.O_WRONLY)


def write_setgroups():
    return opened("/proc/self/setgroups", os.O_WRONLY)


def more_user_namespaces():
    return opened("/proc/sys/user/max_user_namespaces", os.O_WRONLY)
