"""What gantry was started with and the workload must not see: descriptors, variables, the controlling terminal."""

import os
import stat

from kernel import attempt


def descriptors():
    kinds = []
    for number in range(1024):
        try:
            kinds.append((number, stat.S_IFMT(os.fstat(number).st_mode)))
        except OSError:
            continue
    # The pipe of our own answer is one more.
    numbers = [number for number, _ in kinds]
    return "streams alone" if numbers[:3] == [0, 1, 2] and len(numbers) <= 4 else "others"


def streams_are_pipes():
    return all(stat.S_ISFIFO(os.fstat(number).st_mode) for number in range(3))


def directory_descriptor():
    """fchdir through whatever is open: a planted descriptor of the host's root is the way out."""
    for number in range(3, 1024):
        if attempt(os.fchdir, number) == "ok":
            return "escaped"
    return "none"


def planted_contents():
    """Reads every descriptor above the streams for the planted word."""
    for number in range(3, 1024):
        try:
            if b"planted-canary" in os.pread(number, 4096, 0):
                return "read"
        except OSError:
            continue
    return "none"


def variables():
    return " ".join(sorted(name for name in os.environ if name.startswith(("PLANTED", "LISTEN_", "XDG_", "DBUS", "SSH_"))))


def initial_environment():
    with open("/proc/self/environ", "rb") as file:
        return "planted" if b"PLANTED" in file.read() else "clean"
