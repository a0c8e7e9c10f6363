"""Runs the commands of a list, two at a time, each with a limit of time; says how each ended and the most memory it had."""

import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

SECONDS = 600


def run(job):
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, job["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    words = job["words"]
    process = os.posix_spawn(words[0], words, job["environment"], file_actions=actions)
    late = threading.Timer(SECONDS, os.kill, (process, signal.SIGKILL))
    late.start()
    _, status, usage = os.wait4(process, 0)
    late.cancel()
    return {"code": os.waitstatus_to_exitcode(status), "kilobytes": usage.ru_maxrss}


with ThreadPoolExecutor(2) as pool:
    json.dump(list(pool.map(run, json.load(sys.stdin))), sys.stdout)
