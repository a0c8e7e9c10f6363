"""Which functions a run calls, as a script for the linker: called by scripts/start-order.

trace OUT PROGRAM ARGUMENT...   steps through a program and the copies of itself that it starts, instruction by instruction,
                                and writes the addresses in the order of their first use
write MAP TRACE...              a script for the linker, of its map and of traces
"""

import bisect
import ctypes
import os
import re
import signal
import sys

# ptrace(2) of x86-64.
TRACEME, PEEKUSER, CONT, STEP, DETACH, SETOPTIONS = 0, 3, 7, 9, 17, 0x4200
# Children and what they execute, too; whatever is traced ends with the tracer.
FORK, VFORK, CLONE, EXEC, EXITKILL = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 20
EVENT_EXEC = 4
# `rip` in `struct user`, and `__WALL` of wait(2).
RIP, WALL = 16 * 8, 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def started(arguments):
    """A stopped child that will execute `arguments` when it goes on."""
    child = os.fork()
    if child == 0:
        libc.ptrace(TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.execv(arguments[0], arguments)
    os.waitpid(child, 0)
    libc.ptrace(SETOPTIONS, child, None, FORK | VFORK | CLONE | EXEC | EXITKILL)
    # What this interpreter does until then is of no interest.
    libc.ptrace(CONT, child, None, None)
    return child


def trace(out, arguments):
    """Writes to the file `out` what of the program `arguments[0]` runs; exits with its status."""
    first = started(arguments)
    seen, status = {}, 1
    while True:
        try:
            process, state = os.waitpid(-1, WALL)
        except ChildProcessError:
            break
        if os.WIFEXITED(state) or os.WIFSIGNALED(state):
            if process == first:
                status = os.waitstatus_to_exitcode(state)
            continue
        stopped, event = os.WSTOPSIG(state), state >> 16
        # What is executed is another program, and of no interest, unless it is this one again.
        if event == EVENT_EXEC and not os.path.samefile(f"/proc/{process}/exe", arguments[0]):
            libc.ptrace(DETACH, process, None, None)
            continue
        if stopped == signal.SIGTRAP and not event:
            seen.setdefault(libc.ptrace(PEEKUSER, process, RIP, None))
        elsewhere = stopped not in (signal.SIGTRAP, signal.SIGSTOP)
        libc.ptrace(STEP, process, None, stopped if elsewhere else None)
    with open(out, "w") as file:
        file.writelines(f"{address:x}\n" for address in seen)
    sys.exit(status)


def sections(path):
    """The input sections of code in a map of GNU ld: sorted (start, end, section, object)."""
    # A long name has a line of its own, before its address.
    with open(path) as file:
        _, begun, text = file.read().partition("Linker script and memory map")
    if not begun:
        sys.exit(f"{path}: want a map of GNU ld")
    found = re.findall(r"^ (\.text\S*)\s+0x([0-9a-f]+)\s+0x([0-9a-f]+) (\S+)$", text, re.MULTILINE)
    return sorted((int(at, 16), int(at, 16) + int(size, 16), name, item) for name, at, size, item in found if int(size, 16))


def pattern(section, item):
    """What finds a section of any later build: without the hash of a compiler, or the temporary name of an object."""
    member = re.search(r"(libc\.a)\((.+\.o)\)$", item)
    if member:
        return f"*{member[1]}:{member[2]}(.text .text.*)"
    # `Cs…_` and the length of a name is a crate, `.llvm.…` a copy that was made while linking.
    name = re.sub(r"Cs[0-9A-Za-z]+_(?=[0-9])", "Cs*_", section)
    name = re.sub(r"\.llvm\.[0-9]+$", "*", name)
    # The standard library may be compiled with the older names, that end in a hash.
    name = re.sub(r"17h[0-9a-f]{16}E$", "17h*", name)
    return f"*({name})" if re.search(r"\._R|\._ZN", name) else None


def write(path, traces):
    """Prints the script of the linker."""
    known = sections(path)
    starts = [section[0] for section in known]
    patterns = {}
    for trace_of_run in traces:
        with open(trace_of_run) as file:
            addresses = [int(line, 16) for line in file]
        for address in addresses:
            at = bisect.bisect(starts, address) - 1
            if at >= 0 and address < known[at][1]:
                patterns.setdefault(pattern(*known[at][2:]))
    print("/* Made by scripts/start-order: what a run calls lies together, so that few pages of the binary are mapped for it.")
    print("   Whatever a pattern does not find stays where it was. */")
    print("SECTIONS\n{\n  .text.start : ALIGN(65536)\n  {")
    for found in patterns:
        if found:
            print(f"    {found}")
    print("  }\n}\nINSERT BEFORE .text;")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["trace", out, *arguments] if arguments:
            trace(out, arguments)
        case ["write", path, *traces] if traces:
            write(path, traces)
        case _:
            sys.exit(__doc__)
