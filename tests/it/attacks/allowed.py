"""An honest use of every system call the profile lets through. Each must work: a filter that refuses what programs need is
as wrong as one that lets attacks through, and a rule that nothing here needs does not belong in the profile."""

import array
import ctypes
import mmap
import os
import signal
import socket
import struct

import kernel
from kernel import in_child, name_of, raw, scratch

HERE = -100  # AT_FDCWD
USES = {}


def use(*numbers):
    def _register(function):
        for number in numbers:
            USES[number] = function
        return function

    return _register


def words(*values):
    return (ctypes.c_uint64 * len(values))(*values)


def space(size=256):
    return ctypes.create_string_buffer(size)


def address(thing):
    return ctypes.addressof(thing)


def path(name="file", contents=b"contents"):
    return scratch(f"{name}-{os.getpid()}", contents).encode()


def fresh(name="fresh"):
    target = os.path.join(kernel.TMP, f"{name}-{os.getpid()}")
    if os.path.lexists(target):
        os.rmdir(target) if os.path.isdir(target) and not os.path.islink(target) else os.unlink(target)
    return target.encode()


def file(flags=os.O_RDWR):
    return os.open(path(), flags)


def vector(text=b"12345678"):
    buffer = ctypes.create_string_buffer(text)
    found = words(address(buffer), len(text))
    found.keep = buffer
    return found


def simple(number, *arguments):
    """A call whose arguments need no preparation, or are made by the functions given in their place."""
    USES[number] = lambda: kernel.call(number, *[a() if callable(a) else a for a in arguments])


# Files and directories.
simple(0, file, space, 4)
simple(1, file, b"1234", 4)
simple(17, file, space, 4, 0)
simple(18, file, b"1234", 4, 0)
simple(19, file, vector, 1)
simple(20, file, vector, 1)
simple(295, file, vector, 1, 0, 0)
simple(296, file, vector, 1, 0, 0)
simple(327, file, vector, 1, 0, 0, 0)
simple(328, file, vector, 1, 0, 0, 0)
simple(2, path, os.O_RDONLY, 0)
simple(257, HERE, path, os.O_RDONLY, 0)
simple(85, fresh, 0o644)
simple(3, file)
simple(436, 900, 901, 0)
simple(4, path, space)
simple(5, file, space)
simple(6, path, space)
simple(262, HERE, path, space, 0)
simple(332, HERE, path, 0, 0xFFF, space)
simple(8, file, 0, 2)
simple(21, path, 4)
simple(269, HERE, path, 4)
simple(439, HERE, path, 4, 0)
simple(89, b"/proc/self/exe", space, 256)
simple(267, HERE, b"/proc/self/exe", space, 256)
simple(78, lambda: os.open("/", os.O_RDONLY), space, 256)
simple(217, lambda: os.open("/", os.O_RDONLY), space, 256)
simple(79, space, 256)
simple(80, b"/")
simple(81, lambda: os.open("/", os.O_RDONLY))
simple(82, path, fresh)
simple(264, HERE, path, HERE, fresh)
simple(316, HERE, path, HERE, fresh, 1)
simple(83, fresh, 0o755)
simple(258, HERE, fresh, 0o755)
simple(86, path, fresh)
simple(265, HERE, path, HERE, fresh, 0)
simple(87, path)
simple(263, HERE, path, 0)
simple(88, b"target", fresh)
simple(266, b"target", HERE, fresh)
simple(95, 0o022)
simple(76, path, 2)
simple(77, file, 2)
simple(285, file, 0, 0, 100)
simple(74, file)
simple(75, file)
simple(277, file, 0, 1, 2)
simple(162)
simple(306, file)
simple(73, file, 2)
simple(72, file, 3, 0)
simple(32, 0)
simple(33, 0, 700)
simple(292, 0, 701, 0)
simple(22, space)
simple(293, space, 0)
simple(326, file, 0, lambda: os.open(fresh(), os.O_WRONLY | os.O_CREAT), 0, 4, 0)
simple(221, file, 0, 8, 3)
simple(187, file, 0, 8)
simple(137, b"/", space)
simple(138, file, space)
simple(132, path, 0)
simple(235, path, 0)
simple(261, HERE, path, 0)
simple(280, HERE, path, 0, 0)
simple(92, path, -1, -1)
simple(93, file, -1, -1)
simple(94, path, -1, -1)
simple(260, HERE, path, -1, -1, 0)
simple(90, path, 0o640)
simple(91, file, 0o640)
simple(268, HERE, path, 0o640)
simple(452, HERE, path, 0o640, 0)
simple(133, fresh, 0o100644, 0)
simple(259, HERE, fresh, 0o010644, 0)


@use(84)
def rmdir():
    target = fresh()
    os.mkdir(target)
    return kernel.call(84, target)


def _attribute(number, *arguments):
    """Reading an attribute that nobody set: the answer is that there is none."""
    word = kernel.call(number, *arguments)
    return "ok" if word == "ENODATA" else word


USES[191] = lambda: _attribute(191, path(), b"user.none", space(), 10)
USES[192] = lambda: _attribute(192, path(), b"user.none", space(), 10)
USES[193] = lambda: _attribute(193, file(), b"user.none", space(), 10)
simple(194, path, space, 256)
simple(195, path, space, 256)
simple(196, file, space, 256)

# Memory.
PAGE = 4096


def _pages(number=2):
    return raw(9, 0, number * PAGE, 3, 0x22, -1, 0)


simple(9, 0, PAGE, 3, 0x22, -1, 0)
simple(11, _pages, PAGE)
simple(10, _pages, PAGE, 1)
simple(25, _pages, PAGE, 2 * PAGE, 1)
simple(28, _pages, PAGE, 4)
simple(12, 0)
simple(26, _pages, PAGE, 4)
simple(27, _pages, PAGE, space)
simple(149, _pages, PAGE)
simple(150, _pages, PAGE)
simple(325, _pages, PAGE, 0)
simple(151, 2)  # MCL_FUTURE, in a process of its own that ends
simple(152)
simple(324, 0, 0, 0)


def _keys(number, *arguments):
    """Processors without protection keys say ENOSPC or EINVAL; the kernel was asked all the same."""
    word = kernel.call(number, *arguments)
    return "ok" if word in ("ENOSPC", "EINVAL") else word


USES[330] = lambda: _keys(330, 0, 0)
USES[331] = lambda: _keys(331, 15)
USES[329] = lambda: _keys(329, _pages(), PAGE, 3, -1)


# Processes.
def _ended(result):
    if result == 0:
        os._exit(0)
    if result < 0:
        return name_of(-result)
    os.waitpid(result, 0)
    return "ok"


USES[57] = lambda: _ended(raw(57))
USES[56] = lambda: _ended(raw(56, signal.SIGCHLD, 0, 0, 0, 0))


@use(58)
def vfork():
    # The child shares our stack, which Python cannot bear: it is machine code, with the return address in a register.
    # pop rsi; mov eax,58; syscall; push rsi; test eax,eax; jne end; xor edi,edi; mov eax,60; syscall; end: ret
    code = bytes.fromhex("5eb83a0000000f055685c0750931ffb83c0000000f05c3")
    page = mmap.mmap(-1, PAGE, prot=7)
    page.write(code)
    result = ctypes.CFUNCTYPE(ctypes.c_int64)(address(ctypes.c_char.from_buffer(page)))()
    return _ended(result)


def _program():
    program = os.path.realpath("/proc/self/exe").encode()
    return program, (ctypes.c_char_p * 5)(program, b"-S", b"-c", b"", None)


@use(59)
def execve():
    program, arguments = _program()
    return in_child(lambda: kernel.call(59, program, arguments, words(0))) or "ok"


@use(322)
def execveat():
    program, arguments = _program()
    return in_child(lambda: kernel.call(322, HERE, program, arguments, words(0), 0)) or "ok"


def _exit_code(number):
    pid = os.fork()
    if pid == 0:
        raw(number, 7)
    return "ok" if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7 else "other code"


USES[60] = lambda: _exit_code(60)
USES[231] = lambda: _exit_code(231)


def _child():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid


simple(61, _child, 0, 0, 0)
simple(247, 1, _child, space, 4, 0)
simple(62, os.getpid, 0)
simple(200, os.getpid, 0)
simple(234, os.getpid, os.getpid, 0)
for number in (39, 110, 186, 111, 102, 107, 104, 108):
    simple(number)
simple(121, 0)
USES[109] = lambda: in_child(lambda: kernel.call(109, 0, 0))
USES[112] = lambda: in_child(lambda: kernel.call(112))
simple(124, 0)
USES[218] = lambda: in_child(lambda: kernel.call(218, space()))
simple(274, 0, space, space)


@use(273)
def set_robust_list():
    head, size = words(0), words(0)
    raw(274, 0, head, size)
    return kernel.call(273, head[0], size[0])


@use(334)
def rseq():
    # The C library has registered its own: once more for another address is refused by the kernel, not by the filter.
    word = kernel.call(334, (address(space(4096)) + 1023) & ~1023, 32, 0, 0x53053053)
    return "ok" if word in ("ok", "EINVAL", "EBUSY") else word


simple(158, 0x1003, space)  # ARCH_GET_FS
simple(434, os.getpid, 0)
simple(424, lambda: raw(434, os.getpid(), 0), 0, 0, 0)

# Scheduling.
simple(24)
simple(204, 0, 128, space)


@use(203)
def sched_setaffinity():
    mask = space(128)
    raw(204, 0, 128, mask)
    return kernel.call(203, 0, 128, mask)


simple(143, 0, space)
simple(145, 0)
simple(146, 0)
simple(147, 0)
simple(315, 0, space, 48, 0)
simple(144, os.getpid, 3, space)  # SCHED_BATCH
simple(142, 0, space)
simple(252, 1, 0)
simple(251, 1, 0, 3 << 13 | 7)  # idle
simple(148, 0, space)
simple(140, 0, 0)
simple(141, 0, 0, 19)
simple(309, space, 0, 0)

# Limits and use.
simple(302, os.getpid, 7, 0, space)
simple(97, 7, space)


@use(160)
def setrlimit():
    limits = words(0, 0)
    raw(97, 7, limits)
    return kernel.call(160, 7, limits)


simple(98, 0, space)
simple(100, space)

# Signals.
simple(13, int(signal.SIGUSR1), 0, space, 8)
simple(14, 0, 0, space, 8)
simple(127, space, 8)
simple(131, 0, space)
simple(129, os.getpid, 0, lambda: (ctypes.c_int32 * 32)(0, 0, -1))
simple(297, os.getpid, os.getpid, 0, lambda: (ctypes.c_int32 * 32)(0, 0, -1))


def _interrupted(number, *arguments):
    """Waits for a signal that a timer sends; EINTR is success."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    word = kernel.call(number, *arguments)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return "ok" if word in ("EINTR", "EAGAIN") else word


USES[130] = lambda: _interrupted(130, space(8), 8)
USES[34] = lambda: _interrupted(34)
USES[128] = lambda: _interrupted(128, words(1 << (signal.SIGUSR2 - 1)), 0, words(0, 1000), 8)


@use(15)
def rt_sigreturn():
    # Every handler ends with it.
    signal.signal(signal.SIGUSR1, lambda *_: None)
    os.kill(os.getpid(), signal.SIGUSR1)
    return "ok"


@use(219)
def restart_syscall():
    # Nothing to restart: the kernel answers EINTR, the filter would say EPERM.
    word = kernel.call(219)
    return "ok" if word == "EINTR" else word


# Time.
simple(228, 1, space)
simple(229, 1, space)
simple(230, 1, 0, lambda: words(0, 1000), 0)
simple(35, lambda: words(0, 1000), 0)
simple(96, space, 0)
simple(201, 0)
simple(36, 0, space)
simple(38, 0, lambda: words(0, 0, 0, 0), 0)
simple(37, 0)


def _timer():
    timer = ctypes.c_int32()
    event = (ctypes.c_int32 * 16)(0, 0, 0, 1)  # SIGEV_NONE
    kernel.raw(222, 1, event, ctypes.byref(timer))
    return timer.value


simple(222, 1, lambda: (ctypes.c_int32 * 16)(0, 0, 0, 1), space)
simple(223, _timer, 0, lambda: words(0, 0, 1, 0), 0)
simple(224, _timer, space)
simple(225, _timer)
simple(226, _timer)
simple(283, 1, 0)
simple(286, lambda: raw(283, 1, 0), 0, lambda: words(0, 0, 1, 0), 0)
simple(287, lambda: raw(283, 1, 0), space)

# Locks.
simple(202, space, 1, 1, 0, 0, 0)  # FUTEX_WAKE


def _not_equal(number, *arguments):
    """Waiting for a value that is not there returns at once."""
    word = kernel.call(number, *arguments)
    return "ok" if word == "EAGAIN" else word


USES[449] = lambda: _not_equal(449, _waiter(), 1, 0, words(0, 1), 1)
USES[455] = lambda: _not_equal(455, space(8), 1, 0xFFFFFFFF, 0x82, 0, 1)
simple(454, lambda: space(8), 0xFFFFFFFF, 1, 0x82)


def _waiter():
    word = space(8)
    waiter = words(1, address(word), 0x82)
    waiter.keep = word
    return waiter


@use(456)
def futex_requeue():
    one, other = space(8), space(8)
    pair = words(0, address(one), 0x82, 0, address(other), 0x82)
    return kernel.call(456, pair, 0, 0, 0)


# Events.
simple(7, 0, 0, 1)
simple(271, 0, 0, lambda: words(0, 1000), 0, 8)
simple(23, 0, 0, 0, 0, lambda: words(0, 1000))
simple(270, 0, 0, 0, 0, lambda: words(0, 1000), 0)
simple(213, 1)
simple(291, 0)


def _epoll():
    return raw(291, 0)


simple(233, _epoll, 1, lambda: raw(290, 0, 0), space)
simple(232, _epoll, space, 1, 1)
simple(281, _epoll, space, 1, 1, 0, 8)
simple(441, _epoll, space, 1, lambda: words(0, 1000), 0, 8)
simple(284, 0)
simple(290, 0, 0)
simple(282, -1, lambda: words(1 << 9), 8)
simple(289, -1, lambda: words(1 << 9), 8, 0)
simple(253)
simple(294, 0)
simple(254, lambda: raw(294, 0), lambda: kernel.TMP.encode(), 2)


@use(255)
def inotify_rm_watch():
    watcher = raw(294, 0)
    return kernel.call(255, watcher, raw(254, watcher, kernel.TMP.encode(), 2))


# Who and where.
simple(118, space, lambda: space(8), lambda: space(8))
simple(120, space, lambda: space(8), lambda: space(8))
simple(115, 0, 0)
simple(125, lambda: (ctypes.c_uint32 * 2)(0x20080522, 0), space)
simple(126, lambda: (ctypes.c_uint32 * 2)(0x20080522, 0), space)  # none in any set
simple(105, os.getuid)
simple(106, os.getgid)
simple(113, -1, os.getuid)
simple(114, -1, os.getgid)
simple(117, os.getuid, os.getuid, -1)
simple(119, os.getgid, os.getgid, -1)
simple(63, lambda: space(400))
simple(99, space)
simple(318, space, 16, 0)

# Landlock of one's own.
simple(444, 0, 0, 1)


def _ruleset():
    return raw(444, words(4), 8, 0)


def _beneath():
    return (ctypes.c_char * 12).from_buffer_copy(struct.pack("=QI", 4, os.open("/", os.O_PATH)))


simple(445, _ruleset, 1, _beneath, 0)
USES[446] = lambda: in_child(lambda: (raw(157, 38, 1, 0, 0, 0), kernel.call(446, _ruleset(), 0))[1])

# With conditions.
simple(16, lambda: os.pipe()[0], 0x541B, space)  # FIONREAD
simple(135, 0xFFFFFFFF)

# Of prctl: names, death signals, dumpability, timer slack, huge pages, no_new_privs, and queries.
PRCTL = [(1, 0), (2, space), (3, 0), (4, 1), (15, b"name"), (16, space), (21, space), (23, 0), (27, 0), (29, 50000)]
PRCTL += [(30, 0), (36, 0), (37, space), (38, 1), (39, 0), (41, 0), (42, 0)]


@use(157)
def prctl():
    for option, value in PRCTL:
        word = in_child(lambda: kernel.call(157, option, value() if callable(value) else value, 0, 0, 0))
        if word != "ok":
            return f"{option}: {word}"
    return "ok"


# Local sockets.
simple(41, 1, 1, 0)
simple(53, 1, 1, 0, space)


def _socket():
    return raw(41, 1, 1, 0)


def _name(name="socket"):
    return struct.pack("=H", 1) + fresh(name) + b"\0"


def _bound():
    listener, name = _socket(), _name()
    raw(49, listener, name, len(name))
    raw(50, listener, 1)
    return listener, name


@use(49)
def bind():
    name = _name()
    return kernel.call(49, _socket(), name, len(name))


simple(50, lambda: _bind_only(), 1)


def _bind_only():
    listener, name = _socket(), _name()
    raw(49, listener, name, len(name))
    return listener


@use(42)
def connect():
    _listener, name = _bound()
    return kernel.call(42, _socket(), name, len(name))


@use(43, 288)
def accept():
    listener, name = _bound()
    raw(42, _socket(), name, len(name))
    first = kernel.call(43, listener, 0, 0)
    raw(42, _socket(), name, len(name))
    second = kernel.call(288, listener, 0, 0, 0)
    return first if first != "ok" else second


def _pair():
    left, right = socket.socketpair()
    return left.detach(), right.detach()


def _filled():
    left, right = _pair()
    os.write(left, b"12345678")
    return right


def _message(text=b"12345678"):
    # struct msghdr
    parts = vector(text)
    message = words(0, 0, address(parts), 1, 0, 0, 0, 0)
    message.keep = parts
    return message


simple(51, _socket, space, lambda: (ctypes.c_uint32 * 1)(110))
simple(52, lambda: _pair()[0], space, lambda: (ctypes.c_uint32 * 1)(110))
simple(44, lambda: _pair()[0], b"1234", 4, 0, 0, 0)
simple(45, _filled, space, 4, 0, 0, 0)
simple(46, lambda: _pair()[0], _message, 0)
simple(47, _filled, _message, 0)
simple(307, lambda: _pair()[0], _message, 1, 0)
simple(299, _filled, _message, 1, 0, 0)
simple(48, lambda: _pair()[0], 1)
simple(54, _socket, 1, 16, lambda: array.array("i", [1]).tobytes(), 4)
simple(55, _socket, 1, 3, space, lambda: (ctypes.c_uint32 * 1)(4))
