"""System calls by number, and where things are inside and outside the sandbox."""

import ctypes
import errno
import os
import subprocess

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

# Places, the same attack works on either side.
INIT = 1
TMP = "/tmp"
OUTPUT = "/output"
SECRETS = "/run/secrets"
APP = os.path.dirname(os.path.abspath(__file__))
CALLS = set()
_stand_in = None


def start(outside):
    """Outside, a process that would be as easy to attack as an unprotected init takes its place."""
    global INIT, TMP, OUTPUT, SECRETS, _stand_in
    if not outside:
        return
    TMP = OUTPUT = SECRETS = os.environ["ATTACK_SCRATCH"]
    _stand_in = subprocess.Popen(["/bin/sleep", "600"], env={"CANARY": "x"})
    INIT = _stand_in.pid


def stop():
    if _stand_in:
        _stand_in.kill()
        _stand_in.wait()


def name_of(number):
    # It has two names, and versions of Python differ in which they say.
    if number == errno.EOPNOTSUPP:
        return "EOPNOTSUPP"
    return errno.errorcode.get(number, str(number))


def raw(number, *args):
    """The result, or minus errno; kept in CALLS, for the test that asks which rules of the filter were met."""
    ctypes.set_errno(0)
    wide = [a if not isinstance(a, int) else ctypes.c_ulong(a & 0xFFFFFFFFFFFFFFFF) for a in args]
    result = LIBC.syscall(ctypes.c_long(number), *wide)
    result = -ctypes.get_errno() if result == -1 else result
    CALLS.add((number & 0xFFFFFFFF, min(result, 0)))
    return result


def call(number, *args):
    """The word: "ok" or the name of the errno."""
    result = raw(number, *args)
    return name_of(-result) if result < 0 else "ok"


def attempt(function, *args, **keywords):
    try:
        function(*args, **keywords)
        return "ok"
    except OSError as error:
        return name_of(error.errno)


def opened(path, flags=os.O_RDONLY, mode=0o600):
    return attempt(os.open, path, flags, mode)


def status(key):
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(key + ":"):
                return line.split(":", 1)[1].strip()
    return ""


def scratch(name, contents=b"x", where=None):
    path = os.path.join(where or TMP, name)
    with open(path, "wb") as file:
        file.write(contents)
    return path


def in_child(function):
    """Runs `function` in a child and returns its word, or the signal that ended it."""
    import signal

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            word = function()
        except OSError as error:
            word = name_of(error.errno)
        os.write(write, str(word).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        word = pipe.read().decode()
    code = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(code)).name if os.WIFSIGNALED(code) else word


def cloned(flags):
    """clone(2) as fork with `flags`; the child ends at once."""
    result = raw(56, flags, 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    if result < 0:
        return name_of(-result)
    os.waitpid(result, 0x40000000)  # __WALL: an odd exit signal is no reason to wait for ever
    return "ok"
