#!/usr/bin/env python3
"""Runs the jobs of standard input, a JSON document on each line, four at once; prints what became of each."""
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

TRIES = int(sys.argv[1]) if len(sys.argv) > 1 else 3
COMMAND = ["gantry", "run", "--job", "-", "--report", "-"]
# No outcome means that gantry itself was killed.
NOTHING = '{"status": "lost", "code": null, "action": "retry", "retry_after": 0}'

def run(job: dict) -> dict:
    for attempt in range(1, TRIES + 1):
        document = json.dumps(job | {"attempt": attempt}).encode()
        gantry = subprocess.run(COMMAND, input=document, stdout=subprocess.PIPE, check=False)
        outcome = json.loads(gantry.stdout or NOTHING)
        if outcome["action"] != "retry" or attempt == TRIES:
            return {"id": job["id"]} | {key: outcome[key] for key in ("status", "code", "action")}
        time.sleep(outcome["retry_after"])

with ThreadPoolExecutor(4) as pool:
    for end in pool.map(run, map(json.loads, sys.stdin)):
        print(json.dumps(end), flush=True)
