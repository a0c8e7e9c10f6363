"""Mounting, by the old and the new interface, and leaving the root."""

import os

from kernel import call, raw
import kernel

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE, MS_SHARED = 1, 32, 4096, 8192, 1 << 20


def _dir(name):
    path = os.path.join(kernel.TMP, name)
    os.makedirs(path, exist_ok=True)
    return path.encode()


def mount_tmpfs():
    return call(165, b"none", _dir("a"), b"tmpfs", 0, 0)


def mount_bind():
    return call(165, b"/usr", _dir("b"), 0, MS_BIND, 0)


def mount_proc():
    return call(165, b"proc", _dir("c"), b"proc", 0, 0)


def mount_move():
    target = _dir("d")
    raw(165, b"none", target, b"tmpfs", 0, 0)
    return call(165, target, _dir("e"), 0, MS_MOVE, 0)


def remount_writable():
    return call(165, 0, b"/dev", 0, MS_REMOUNT | MS_BIND, 0)


def remount_executable():
    target = _dir("f")
    raw(165, b"none", target, b"tmpfs", 8, 0)
    return call(165, 0, target, 0, MS_REMOUNT | MS_BIND, 0)


def mount_shared():
    return call(165, 0, b"/", 0, MS_SHARED, 0)


def umount():
    target = _dir("g")
    raw(165, b"none", target, b"tmpfs", 0, 0)
    return call(166, target, 0)


def umount_proc_detached():
    return call(166, b"/proc", 2)


def pivot_root():
    return call(155, b"/nonexistent", b"/nonexistent")


def chroot():
    return call(161, _dir("h"))


def fsopen():
    return call(430, b"tmpfs", 0)


def fsconfig():
    return call(431, -1, 6, 0, 0, 0)


def fsmount():
    return call(432, -1, 0, 0)


def fspick():
    return call(433, -100, b"/nonexistent", 0)


def move_mount():
    return call(429, -100, b"/nonexistent", -100, b"/nonexistent", 0)


def open_tree():
    return call(428, -100, b"/", 1)


def mount_setattr():
    return call(442, -100, b"/nonexistent", 0, 0, 0)


def open_tree_attr():
    return call(467, -100, b"/nonexistent", 0, 0, 0)


def statmount():
    return call(457, 0, 0, 0, 0)


def listmount():
    return call(458, 0, 0, 0, 0)


def quotactl_fd():
    return call(443, -1, 0, 0, 0)


def mount_table():
    """Whether it names the place of the store on the host. Outside the store is mounted first, to have it there."""
    store = os.environ["ATTACK_STORE"]
    raw(165, store.encode(), _dir("i"), 0, MS_BIND, 0)
    # A mount is listed by its path inside its file system: the end of the path is what must not be there.
    end = "/".join(store.split("/")[-3:])
    with open("/proc/self/mountinfo") as file:
        text = file.read()
    return "names the store" if end in text else "silent"
