"""Attacks that show from outside: what is left after the run, what comes out of it, who else is hit."""

import ctypes
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time

import kernel


def daemon(marker):
    """Leaves a daemon that ignores everything and holds the output open; the marker is in its command line."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    continue
            code = "import time\nprint('daemon', flush=True)\ntime.sleep(600)"
            os.execv(sys.executable, [sys.executable, "-S", "-c", code, marker])
        os._exit(0)
    os.wait()
    # Until it is there: its command line is that of the exec.
    while not any(marker.encode() in _command(name) and b"time.sleep" in _command(name) for name in os.listdir("/proc")):
        time.sleep(0.01)
    print("left", flush=True)


def _command(name):
    try:
        with open(f"/proc/{name}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def deaf(marker):
    """Ignores every signal it may and works on."""
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    print("up", flush=True)
    while True:
        pass


def frozen(marker):
    print("up", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)


def kill_everyone():
    print("up", flush=True)
    print(kernel.attempt(os.kill, -1, signal.SIGKILL), flush=True)


def plant(*directories):
    for directory in directories:
        word = kernel.attempt(lambda: open(os.path.join(directory, "gantry-attack-planted"), "w").close())
        print(directory, word)


def look(*directories):
    for directory in directories:
        print(directory, "found" if os.path.exists(os.path.join(directory, "gantry-attack-planted")) else "clean")


def flood(count):
    """More output than is passed on, on both streams; then it goes on and ends by itself."""
    chunk = b"x" * 65536
    for _ in range(int(count)):
        os.write(1, chunk)
        os.write(2, chunk)
    sys.exit(9)


def closed_streams():
    os.close(1)
    os.close(2)
    time.sleep(0.05)
    os._exit(8)


def forge():
    """Writes the init's own last word to whatever is open, and looks for its socket."""
    frame = b'{"Exited":0}'
    frame = b"J" + struct.pack("=I", len(frame)) + frame
    for number in range(1024):
        kernel.attempt(os.write, number, frame)
    for number in range(3, 32):
        kernel.attempt(lambda: os.write(os.open(f"/proc/1/fd/{number}", os.O_RDWR), frame))
    with open("/proc/net/unix") if os.path.exists("/proc/net/unix") else open("/proc/self/net/unix") as names:
        for line in names.readlines()[1:]:
            name = line.split()[7:]
            for address in name:
                kernel.attempt(lambda: socket.socket(socket.AF_UNIX).connect(address.replace("@", "\0")))
    sys.exit(7)


def hold(*_words):
    """Stays until it is killed, so that the test can look at it; reads its secrets first."""
    for name in os.listdir(kernel.SECRETS) if os.path.isdir(kernel.SECRETS) else []:
        with open(os.path.join(kernel.SECRETS, name)) as file:
            globals()["_kept"] = file.read()
    print("up", flush=True)
    time.sleep(600)


def take(mebibytes, seconds):
    kept = []
    for _ in range(mebibytes):
        kept.append(b"x" * (1 << 20))
        time.sleep(0.001)
    time.sleep(seconds)
    print("taken", flush=True)
    return kept


def take_unmapped(mebibytes, seconds):
    """Shared memory without a name stays when its pages are no longer mapped."""
    kept = mmap.mmap(-1, mebibytes << 20)
    for at in range(mebibytes):
        kept[at << 20 : (at + 1) << 20] = b"x" * (1 << 20)
        kept.madvise(mmap.MADV_DONTNEED, at << 20, 1 << 20)
        time.sleep(0.001)
    time.sleep(seconds)
    print("taken", flush=True)


def take_cut(mebibytes, seconds):
    """The same: of each mapping one page stays, and with it all pages; mremap brings them back."""
    piece = 50 << 20
    for _ in range((mebibytes << 20) // piece):
        start = kernel.raw(9, 0, piece, 3, 0x21, -1, 0)
        for at in range(0, piece, 1 << 20):
            ctypes.memset(start + at, 1, 1 << 20)
            time.sleep(0.002)
        # What is cut before it was seen whole is not counted.
        time.sleep(seconds)
        assert kernel.raw(11, start + 4096, piece - 4096) == 0
    start = kernel.raw(25, start, 4096, piece, 1, 0)
    print("taken" if ctypes.string_at(start + piece - 1, 1) == b"\1" else "lost", flush=True)


def take_headless(mebibytes, seconds):
    """A process whose first thread has ended shows no memory of its own."""
    threading.Thread(target=lambda: (take(mebibytes, seconds), os._exit(0))).start()
    kernel.raw(60, 0)  # exit of this thread alone


def hide_memory(how, mebibytes, seconds):
    """A process that forbids looking at it, without a parent and in a session of its own, takes the memory and keeps it
    for a while: whoever only looks from time to time may be slow on a busy machine."""
    ended, held = os.pipe()
    if os.fork() == 0:
        os.setsid()
        kernel.raw(157, 4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
        if os.fork() == 0:
            takes = {"plain": take, "unmapped": take_unmapped, "cut": take_cut, "headless": take_headless}
            takes[how](int(mebibytes), float(seconds))
        os._exit(0)
    os.close(held)
    os.wait()
    os.read(ended, 1)  # until the last holder of the other end is gone


def descriptors_under_way():
    """Sends descriptors that nobody receives until the kernel refuses; says how many there are, and holds them."""
    count, kept = 0, []
    try:
        while count < 4096:
            kept.append(socket.socketpair())
            socket.send_fds(kept[-1][0], [b"x"], [1] * 253)
            count += 253
    except OSError as error:
        print("up", kernel.name_of(error.errno), count, flush=True)
    time.sleep(600)


def packets(seconds):
    """Single bytes, each a packet, so that the reader gets no more than one at a time; then what it cost ourselves."""
    import fcntl

    flags = fcntl.fcntl(1, fcntl.F_GETFL)
    fcntl.fcntl(1, fcntl.F_SETFL, flags | os.O_DIRECT)
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        os.write(1, b"x")


def many_mappings(processes, mappings):
    """More mappings than anyone can look through between two looks; each process says when it has its own."""
    ended, end = os.pipe()
    for _ in range(int(processes)):
        if os.fork() == 0:
            size = 4096 * int(mappings)
            start = kernel.raw(9, 0, size, 1, 0x4022, -1, 0)
            for at in range(4096, size, 8192):
                kernel.LIBC.mprotect(ctypes.c_void_p(start + at), ctypes.c_size_t(4096), 0)
            os.write(end, b"x")
            time.sleep(600)
    for _ in range(int(processes)):
        os.read(ended, 1)
    print("up", flush=True)
    time.sleep(600)


def escapes():
    print("\x1b]0;owned\x07\x1b[2Jtext", flush=True)


def output(kind):
    """One trap for the collector in /output."""
    os.chdir("/output")
    if kind == "symlink":
        os.symlink("/etc/passwd", "results.csv")
    elif kind == "symlinked_directory":
        os.symlink("/", "results")
    elif kind == "fifo":
        os.mkfifo("results.csv")
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind("results.csv")
    elif kind == "device":
        print(kernel.call(133, b"results.csv", 0o020666, 0))
    elif kind == "hard_links":
        open("one", "w").write("data")
        os.link("one", "two")
    elif kind == "deep":
        for _ in range(300):
            os.mkdir("d")
            os.chdir("d")
    elif kind == "newline":
        open("a\nb", "w").write("data")
    elif kind == "escape":
        os.symlink("x", "\x1b[2J\x1b]0;owned\x07")
    elif kind == "not_text":
        open(b"\xff\xfe", "w").write("data")
    elif kind == "unreadable":
        open("secret", "w").write("data")
        os.chmod("secret", 0)
    elif kind == "unreadable_directory":
        os.mkdir("closed")
        os.chmod("closed", 0)
    elif kind == "set_uid":
        # It has the bits here, where they count for nothing; the copy is plain whatever it is.
        kernel.raw(2, b"program", os.O_CREAT | os.O_WRONLY, 0o6755)
        assert os.stat("program").st_mode & 0o6111 == 0o6111
        # Writing to it takes the bits away, as the kernel has it.
        open("program", "a").write("data")
        os.chmod("program", 0o6755)
        assert os.stat("program").st_mode & 0o6111 == 0o6111
    elif kind == "sparse":
        with open("giant", "wb") as file:
            print(kernel.attempt(os.ftruncate, file.fileno(), 1 << 40))
    elif kind == "dots":
        open("...", "w").write("data")
        open(".gantry-1-0", "w").write("data")
    elif kind == "held_open":
        # Written to as long as anyone lives: what is collected is what is there when the last one is dead.
        open("data", "w").write("final")
        if os.fork() == 0:
            while True:
                open("data", "w").write("torn")
    print("done", flush=True)


def refusals():
    """Issues each system call of refusals.txt, which the test writes from the golden table; prints the kernel's answers."""
    with open(os.path.join(kernel.APP, "refusals.txt")) as table:
        for line in table:
            number, *arguments = (int(word, 0) for word in line.split())
            print(line.strip(), _answer(number, arguments), flush=True)


def _answer(number, arguments):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)
        word = kernel.call(number, *arguments)
        os.write(write, word.encode())
        os._exit(0)
    os.close(write)
    word = os.read(read, 100).decode()
    os.close(read)
    status = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else word
