"""One probe per group of refused system calls. Arguments are chosen so that a kernel without the filter answers
something else than the filter does: success, or an errno that only comes after the call was let in."""

import ctypes
import mmap
import os

from kernel import call, in_child, name_of, raw, scratch
import kernel

PAGE = 4096


def add_key():
    return call(248, b"user", b"gantry-attack", b"x", 1, -2)


def request_key():
    return call(249, b"user", b"gantry-no-such-key", 0, -2)


def keyctl():
    return call(250, 0, -2, 1)


def bpf():
    return call(321, 0, 1, 2 * PAGE)


def userfaultfd():
    return call(323, 1)


def perf_event_open():
    return call(298, ctypes.create_string_buffer(128), 0, -1, -1, 1 << 31)


def ptrace_traceme():
    return in_child(lambda: call(101, 0, 0, 0, 0))


def ptrace_seize_init():
    return call(101, 0x4206, kernel.INIT, 0, 0)


def _iovec():
    buffer = ctypes.create_string_buffer(8)
    return buffer, (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)


def process_vm_readv():
    _keep, vector = _iovec()
    return call(310, os.getpid(), vector, 1, vector, 1, 0)


def process_vm_writev():
    _keep, vector = _iovec()
    return call(311, os.getpid(), vector, 1, vector, 1, 0)


def process_madvise():
    return call(440, -1, 0, 0, 0, 0)


def process_mrelease():
    return call(448, -1, 0)


def kcmp():
    return call(312, os.getpid(), os.getpid(), 1, 0, 0)


def pidfd_getfd():
    return call(438, os.pidfd_open(os.getpid()), 0, 0)


def io_uring_setup():
    return call(425, 1, ctypes.create_string_buffer(120))


def io_uring_enter():
    return call(426, -1, 0, 0, 0, 0, 0)


def io_uring_register():
    return call(427, -1, 0, 0, 0)


def io_setup():
    return call(206, 1, ctypes.byref(ctypes.c_uint64(0)))


def splice():
    read, write = os.pipe()
    os.write(write, b"x")
    return call(275, read, 0, os.pipe()[1], 0, 1, 0)


def tee():
    read, write = os.pipe()
    os.write(write, b"x")
    return call(276, read, os.pipe()[1], 1, 0)


def vmsplice():
    _keep, vector = _iovec()
    return call(278, os.pipe()[1], vector, 1, 0)


def sendfile():
    """Whose pages go into the pipe is the page cache's, which others read."""
    with open(kernel.APP + "/kernel.py") as file:
        return call(40, os.pipe()[1], file.fileno(), 0, 4)


def file_lease():
    # F_SETLEASE, F_RDLCK: on any file of one's own that nobody writes.
    descriptor = os.open(scratch("leased"), os.O_RDONLY)
    return call(72, descriptor, 1024, 0)


def fsync_of_nothing():
    return call(74, -1)


def fdatasync_of_nothing():
    return call(75, -1)


def sync_file_range_of_nothing():
    return call(277, -1, 0, 1, 2)


def syncfs_of_nothing():
    return call(306, -1)


def msync_of_nothing():
    return call(26, 0, PAGE, 4)


def name_to_handle_at():
    return call(303, -100, 1, 0, 0, 0)


def open_by_handle_at():
    return call(304, -100, 1, 0)


def fanotify_init():
    return call(300, 0x200, 0)


def memfd_create():
    return call(319, b"x", 0)


def memfd_secret():
    return call(447, 1 << 30)


def reboot():
    return call(169, 0, 0, 0, 0)


def swapon():
    return call(167, b"/nonexistent", 1 << 30)


def quotactl():
    return call(179, 0xFF, 0, 0, 0)


def clock_settime():
    return call(227, 0, 1)


def settimeofday():
    return call(164, 1, 0)


def adjtimex():
    return call(159, ctypes.create_string_buffer(208))


def clock_adjtime():
    return call(305, 0, ctypes.create_string_buffer(208))


def sethostname():
    return call(170, b"attack", 6)


def setdomainname():
    return call(171, b"attack", 6)


def iopl():
    return call(172, 0)


def ioperm():
    return call(173, 1 << 20, 1, 1)


def modify_ldt():
    return call(154, 0, ctypes.create_string_buffer(64), 64)


def personality_no_randomisation():
    return call(135, 0x0040000)


def mbind():
    return call(237, 1, PAGE, 0, 0, 0, 0)


def set_mempolicy():
    return call(238, 0, 0, 0)


def set_mempolicy_home_node():
    return call(450, 1, 0, 0, 0)


def move_pages():
    return call(279, 0, 0, 0, 0, 0, 1 << 20)


def migrate_pages():
    return call(256, 0, 1 << 20, 0, 0)


def seccomp_query():
    return call(317, 2, 0, ctypes.byref(ctypes.c_uint32(0x7FFF0000)))


def sched_setscheduler_real_time():
    # SCHED_FIFO without a priority: EINVAL from a kernel that was asked, before it looks at who asks.
    return call(144, 0, 1, 0)


def sched_setscheduler_deadline():
    return call(144, 0, 6, 0)


def sched_setscheduler_of_init():
    return call(144, kernel.INIT, 3, ctypes.byref(ctypes.c_int(0)))


def sched_setparam_of_init():
    return call(142, kernel.INIT, ctypes.byref(ctypes.c_int(0)))


def sched_setattr():
    # The niceness stays: only a privileged caller may lower it, whoever started us with what.
    attributes = (ctypes.c_int32 * 12)(48, 3, 0, 0, os.getpriority(os.PRIO_PROCESS, 0))
    return call(314, 0, attributes, 0)


def ioprio_set_first():
    # Best effort, but before everyone who did not ask.
    return call(251, 1, 0, 2 << 13 | 0)


def get_mempolicy():
    return call(239, ctypes.create_string_buffer(8), 0, 0, 0, 0)


def prlimit_of_init():
    return call(302, kernel.INIT, 7, 0, ctypes.create_string_buffer(16))


def prctl_set_mm():
    return call(157, 35, 1, 0, 0, 1)


def prctl_set_ptracer():
    return call(157, 0x59616D61, -1, 1, 1, 1)


def prctl_set_seccomp():
    return call(157, 22, 99, 0, 0, 0)


def prctl_syscall_user_dispatch():
    return call(157, 59, 0, 0, 0, 0)


def prctl_name_of_a_mapping():
    # PR_SET_VMA_ANON_NAME; EINVAL from a kernel that was built without it.
    page = raw(9, 0, PAGE, 3, 0x22, -1, 0)
    return call(157, 0x53564D41, 0, page, PAGE, b"name")


def prctl_with_high_bits():
    return call(157, 22 | 1 << 32, 99, 0, 0, 0)


def remap_file_pages():
    return call(216, 1, 0, 0, 0, 0)



def _made_and_removed(get, control, *arguments):
    """What stays after its maker is gone would be a way to leave something behind."""
    made = raw(get, *arguments)
    if made < 0:
        return name_of(-made)
    raw(control, made, 0, 0, 0)  # IPC_RMID is 0
    return "ok"


def sysv_shared_memory():
    return _made_and_removed(29, 31, 0, PAGE, 0o600 | 0o1000)


def sysv_semaphores():
    return _made_and_removed(64, 66, 0, 1, 0o600 | 0o1000)


def sysv_messages():
    return _made_and_removed(68, 71, 0, 0o600 | 0o1000)


def posix_message_queue():
    return call(240, b"gantry-attack", os.O_RDONLY, 0, 0)


def setxattr():
    return call(188, scratch("xattr").encode(), b"user.x", b"x", 1, 0)


def fsetxattr():
    with open(scratch("fxattr")) as file:
        return call(190, file.fileno(), b"user.x", b"x", 1, 0)


def setxattr_overlay():
    return call(188, scratch("oxattr").encode(), b"user.overlay.redirect", b"/x", 2, 0)


def lsetxattr():
    return call(189, scratch("lxattr").encode(), b"user.x", b"x", 1, 0)


def removexattr():
    return call(197, scratch("rxattr").encode(), b"user.nothing")


def lremovexattr():
    return call(198, scratch("lrxattr").encode(), b"user.nothing")


def fremovexattr():
    with open(scratch("frxattr")) as file:
        return call(199, file.fileno(), b"user.nothing")


def setxattrat():
    return call(463, -100, 1, 0, 0, 0, 0)


def removexattrat():
    return call(466, -100, 1, 0, 0)


def file_setattr():
    return call(469, -100, 1, 0, 0, 0)


def mseal():
    return call(462, 1, 0, 0)


def lsm_get_self_attr():
    return call(459, 0, 0, 0, 1 << 20)


def lsm_set_self_attr():
    return call(460, 0, 0, 0, 1 << 20)


def lsm_list_modules():
    return call(461, 0, 0, 0)


def cachestat():
    return call(451, -1, 0, 0, 0)


def _machine_code(code):
    page = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_int64)(address)()


def x32_getpid():
    return in_child(lambda: call(0x40000000 | 39))


def x32_execve():
    return in_child(lambda: call(0x40000000 | 520, 0, 0, 0))


def int80_getpid():
    # mov eax, 20 (getpid of i386); int 0x80; ret
    return in_child(lambda: "ok" if _machine_code(bytes.fromhex("b814000000cd80c3")) > 0 else "refused")


def int80_ptrace():
    # mov eax, 26 (ptrace of i386); xor ebx, ebx; int 0x80; ret
    return in_child(lambda: "ok" if _machine_code(bytes.fromhex("53b81a00000031dbcd805bc3")) == 0 else "refused")
