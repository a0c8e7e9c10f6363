"""What the limit tests run in the sandbox: `[hold] COMMAND ARG...`, each a bomb or a known amount of use.

Prints what it did as JSON, for what a bomb managed before it was stopped is half of each test.
"""
import errno
import json
import mmap
import os
import signal
import sys
import threading
import time

MIB = 1 << 20
# From Linux 5.14: fault all pages in, in one call. Single faults are slow in User-Mode Linux: 10 ms a MiB.
MADV_POPULATE_WRITE = 23
kept = []


def say(**facts):
    print(json.dumps(facts), flush=True)


def allocate(mib):
    """Occupies that much anonymous memory, for good."""
    memory = mmap.mmap(-1, mib * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(MADV_POPULATE_WRITE)
    kept.append(memory)


def start(count, work):
    """Runs `work` in `count` processes; they end when it returns."""
    for _ in range(count):
        if os.fork() == 0:
            work()
            os._exit(0)


def wait_for_all(count):
    for _ in range(count):
        os.wait()


def memory(mib):
    """One process that allocates."""
    allocate(int(mib))
    say(allocated=int(mib))


def spread(mib, processes):
    """Many processes that allocate a part each and keep it; no single one is large."""
    mib, processes = int(mib), int(processes)

    def work():
        allocate(mib // processes)
        signal.pause()

    start(processes, work)
    say(started=processes)
    os.wait()


def memfd(mib):
    """A file without a name, in memory."""
    file = os.memfd_create("bomb")
    for _ in range(int(mib)):
        os.write(file, bytes(MIB))
    say(written=int(mib))


def files(directory, mib):
    """A file on a memory file system of the sandbox."""
    with open(f"{directory}/bomb", "wb") as file:
        for _ in range(int(mib)):
            file.write(bytes(MIB))
    say(written=int(mib))


def forks(count):
    """Processes that wait, until there are enough or no more are allowed."""
    made, refused = 0, None
    for _ in range(int(count)):
        try:
            if os.fork() == 0:
                signal.pause()
            made += 1
        except OSError as error:
            refused = errno.errorcode[error.errno]
            break
    say(made=made, refused=refused)


def threads(count):
    """The same with threads."""
    made, refused = 0, None
    for _ in range(int(count)):
        try:
            threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
            made += 1
        except RuntimeError as error:
            refused = str(error)
            break
    say(made=made, refused=refused)
    sys.stdout.flush()
    os._exit(0)


def fork_bomb():
    """Every process makes processes, for ever."""
    say(started=True)
    while True:
        try:
            os.fork()
        except OSError:
            pass


def busy(seconds, processes):
    """Keeps every processor it gets busy, and says how much it had by its own clocks."""
    begun = time.monotonic()
    end = begun + float(seconds)

    def work():
        while time.monotonic() < end:
            pass

    start(int(processes), work)
    wait_for_all(int(processes))
    used = os.times()
    say(
        wall=time.monotonic() - begun,
        cpu=used.children_user + used.children_system,
        cpu_of_all=sum(used[:4]),
    )


def hold(command, *arguments):
    """Does that, then waits to be ended."""
    globals()[command](*arguments)
    signal.pause()


def daemons(count):
    """Processes in sessions of their own that ignore what can be ignored."""
    ready, told = os.pipe()
    for _ in range(int(count)):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
                    signal.signal(number, signal.SIG_IGN)
                os.write(told, b".")
                while True:
                    time.sleep(3600)
            os._exit(0)
    for _ in range(int(count)):
        os.read(ready, 1)
    say(ready=True)


def kill_self():
    """Ends as the victim of the memory limit would."""
    os.kill(os.getpid(), signal.SIGKILL)


def nothing():
    """Shows that a function runs at all, and what that costs."""
    say(ready=True, cpu_of_all=sum(os.times()[:4]))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    globals()[command](*arguments)
