"""Runs the attacks of one group and says what came of each: one JSON line {"name", "got", "calls"} each.

    user_function.py GROUP              in the sandbox: the target of attacks on the init is pid 1
    user_function.py GROUP --outside    the positive twin, on the host: a process of our own stands in for the init
    user_function.py scene NAME ARG...  one function of scenes.py, for attacks that a test watches from outside

Every attack is a function without arguments of the group's module that returns a word: "ok" when it succeeded, the name
of the errno when the kernel refused, or what it saw. It runs in a process of its own, so that one that is killed
("SIGSYS") or hangs ("hang") takes nothing with it.
"""

import importlib
import json
import os
import select
import signal
import sys
import traceback

import kernel
import scenes

# Far more than any attack takes on a busy machine.
PATIENCE = 60.0


def attacks(group):
    module = importlib.import_module(group)
    for number, function in getattr(module, "USES", {}).items():
        yield str(number), function
    if hasattr(module, "USES"):
        return
    for name, function in vars(module).items():
        if callable(function) and function.__module__ == group and not name.startswith("_"):
            yield name, function


def attempt(function):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            got = function()
        except OSError as error:
            got = kernel.name_of(error.errno)
        except BaseException:
            got = "error: " + traceback.format_exc()
        os.write(write, json.dumps({"got": str(got), "calls": sorted(kernel.CALLS)}).encode())
        os._exit(0)
    os.close(write)
    got, hangs = b"", False
    while select.select([read], [], [], PATIENCE)[0]:
        chunk = os.read(read, 65536)
        if not chunk:
            break
        got += chunk
    else:
        hangs = True
        os.kill(pid, signal.SIGKILL)
    os.close(read)
    status = os.waitpid(pid, 0)[1]
    if hangs:
        return {"got": "hang", "calls": []}
    if os.WIFSIGNALED(status):
        return {"got": signal.Signals(os.WTERMSIG(status)).name, "calls": []}
    return json.loads(got)


def main():
    if sys.argv[1] == "scene":
        getattr(scenes, sys.argv[2])(*sys.argv[3:])
        return
    kernel.start("--outside" in sys.argv)
    for name, function in attacks(sys.argv[1]):
        print(json.dumps({"name": name, **attempt(function)}), flush=True)
    kernel.stop()


if __name__ == "__main__":
    main()
