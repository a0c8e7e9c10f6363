"""Device nodes: making them, finding more of them, and changing those that are shared with the host."""

import os

from kernel import attempt, call, opened
import kernel

S_IFCHR, S_IFBLK = 0o020000, 0o060000


def mknod_char():
    # 0:0 is a whiteout, the one device that everyone may make.
    return call(133, (kernel.TMP + "/char").encode(), S_IFCHR | 0o600, 0)


def mknodat_char():
    return call(259, -100, (kernel.TMP + "/char-at").encode(), S_IFCHR | 0o600, 0)


def mknod_block():
    # With a path that cannot be read: without a filter the kernel looks at it before it looks at us.
    return call(133, 1, S_IFBLK | 0o600, 0x800)


def mknodat_block():
    return call(259, -100, 1, S_IFBLK | 0o600, 0x800)


def listing():
    wanted = "fd full null random shm stderr stdin stdout urandom zero"
    return "minimal" if sorted(os.listdir("/dev")) == wanted.split() else "more"


def open_kmsg():
    return opened("/dev/kmsg")


def open_tty():
    return opened("/dev/tty", os.O_RDWR)


def open_ptmx():
    return opened("/dev/ptmx", os.O_RDWR)


def open_fuse():
    return opened("/dev/fuse", os.O_RDWR)


def open_net_tun():
    return opened("/dev/net/tun", os.O_RDWR)


def make_in_dev():
    return opened("/dev/mine", os.O_CREAT | os.O_WRONLY)


def touch_null():
    """The node is the host's own: its times must not be ours to set."""
    return attempt(os.utime, "/dev/null")


def ioctl_on_device():
    # FIONREAD, which the filter lets through: this one is Landlock's.
    return call(16, os.open("/dev/urandom", os.O_RDONLY), 0x541B, bytes(4))
