"""Growing without end, and lifting the limits that end it."""

import ctypes
import errno
import mmap
import os
import resource
import signal
import threading

from kernel import attempt, name_of, raw
import kernel

# More than any limit the test gives: --pids 32, --tmp-size and --output-size 8M.
MANY = 200
MIB = 1 << 20


def processes():
    children, word = [], "ok"
    try:
        while len(children) < MANY:
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            children.append(pid)
    except OSError as error:
        word = f"{name_of(error.errno)} below 32" if len(children) < 32 else name_of(error.errno)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return word


def threads():
    stop, started = threading.Event(), []
    try:
        while len(started) < MANY:
            thread = threading.Thread(target=stop.wait)
            thread.start()
            started.append(thread)
        word = "ok"
    except RuntimeError:
        word = "refused below 32" if len(started) < 32 else "refused"
    stop.set()
    for thread in started:
        thread.join()
    return word


def _fill_with_files(where, mib):
    """Files of 1 MiB each: no limit on the size of one file helps."""
    made = []
    try:
        for number in range(mib):
            path = os.path.join(where, f"part{number}")
            made.append(path)
            with open(path, "wb", buffering=0) as file:
                if file.write(b"x" * MIB) != MIB:
                    return "ENOSPC"
        return "ok"
    except OSError as error:
        return name_of(error.errno)
    finally:
        for path in made:
            attempt(os.remove, path)


def bytes_of_tmp():
    return _fill_with_files(kernel.TMP, 16)


def bytes_of_output():
    return _fill_with_files(kernel.OUTPUT, 16)


def bytes_of_shared_memory():
    return _fill_with_files("/dev/shm" if kernel.INIT == 1 else kernel.TMP, 20)


def _inodes(where):
    # Outside always in memory, for a disk takes its time over so many files.
    directory = os.path.join(where if kernel.INIT == 1 else "/dev/shm", f"gantry-attack-{os.getpid()}")
    os.mkdir(directory)
    word = "ok"
    try:
        for number in range(17_000):
            os.close(os.open(os.path.join(directory, str(number)), os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        word = name_of(error.errno)
    for name in os.listdir(directory):
        os.remove(os.path.join(directory, name))
    os.rmdir(directory)
    return word


def inodes_of_tmp():
    return _inodes(kernel.TMP)


def inodes_of_output():
    return _inodes(kernel.OUTPUT)


def inodes_of_shared_memory():
    return _inodes("/dev/shm")


def sparse_giant():
    with open(os.path.join(kernel.TMP, "giant"), "wb") as file:
        return attempt(os.ftruncate, file.fileno(), 1 << 40)


def sparse_seek():
    with open(os.path.join(kernel.TMP, "seek"), "wb") as file:
        return attempt(os.pwrite, file.fileno(), b"x", 1 << 40)


def locked_memory():
    page = mmap.mmap(-1, MIB)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    result = raw(149, address, MIB)
    return name_of(-result) if result < 0 else "ok"


def huge_pages():
    """Of the host's pool. It is empty on most hosts: that is the kernel's answer, and not a refusal to ask."""
    result = raw(9, 0, 2 << 20, 3, 0x22 | 0x40000, -1, 0)
    refused = -4096 < result < 0 and -result != errno.ENOMEM
    return name_of(-result) if refused else "ok"


def open_files():
    opened_files = []
    try:
        for _ in range(2000):
            opened_files.append(os.dup(0))
        return "ok"
    except OSError as error:
        return name_of(error.errno)
    finally:
        for number in opened_files:
            os.close(number)


def _raise(which, to):
    try:
        resource.setrlimit(which, (to, to))
        return "ok"
    except (OSError, ValueError):
        return "EPERM"


def _until_refused(number, *arguments):
    """How often a call that makes a descriptor succeeds, up to more than anyone needs; they are closed again."""
    made, word = [], "ok"
    while len(made) < 20 and word == "ok":
        result = raw(number, *arguments)
        made.append(result) if result >= 0 else None
        word = name_of(-result) if result < 0 else "ok"
    for descriptor in made:
        os.close(descriptor)
    return word


def inotify_instances():
    """The kernel counts them for all processes of the user, 128 by default."""
    return _until_refused(294, 0)


def inotify_watches():
    directory = os.path.join(kernel.TMP, "watched")
    os.mkdir(directory)
    watcher, word, names = raw(294, 0), "ok", []
    for number in range(1100):
        names.append(os.path.join(directory, str(number)))
        os.close(os.open(names[-1], os.O_CREAT | os.O_WRONLY))
        result = raw(254, watcher, names[-1].encode(), 2)
        if result < 0:
            word = name_of(-result)
            break
    os.close(watcher)
    for name in names:
        os.remove(name)
    os.rmdir(directory)
    return word


def raise_open_files():
    return _raise(resource.RLIMIT_NOFILE, 2048)


def raise_processes():
    return _raise(resource.RLIMIT_NPROC, 4000)


def raise_core():
    return _raise(resource.RLIMIT_CORE, 1 << 20)


def raise_locked_memory():
    return _raise(resource.RLIMIT_MEMLOCK, MIB)


def raise_file_size():
    return _raise(resource.RLIMIT_FSIZE, 1 << 40)


def raise_stack():
    return _raise(resource.RLIMIT_STACK, 1 << 30)


def raise_pending_signals():
    return _raise(resource.RLIMIT_SIGPENDING, 1000)


def raise_message_queues():
    return _raise(resource.RLIMIT_MSGQUEUE, 1000)


def signals_in_the_queue():
    """rt_sigqueueinfo to ourselves with the signal blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
    information = (ctypes.c_int32 * 32)(signal.SIGRTMIN, 0, -1)
    for _ in range(2000):
        result = raw(129, os.getpid(), int(signal.SIGRTMIN), information)
        if result < 0:
            return name_of(-result)
    return "ok"
