#!/usr/bin/env python3
"""A plain login: a session of the worker's user that runs what the driver sends to its socket, one command a connection.

It answers with its own cgroup, and then with the command's exit code, output and errors.
"""
import json
import os
import pathlib
import socket
import subprocess
import threading

SOCKET = "/run/login/socket"
ENVIRONMENT = {"HOME": "/home/worker", "PATH": "/usr/bin:/bin", "GANTRY_ROOT": "/payload/store"}


def serve(connection):
    with connection, connection.makefile("rw") as file:
        words = json.loads(file.readline())
        own = pathlib.Path("/proc/self/cgroup").read_text().split("::")[1].strip()
        print(own, file=file, flush=True)
        done = subprocess.run(words, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        print(json.dumps([done.returncode, done.stdout, done.stderr]), file=file, flush=True)


def main():
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(SOCKET + ".new")
        listener.listen(16)
        # There once it can be connected to.
        os.rename(SOCKET + ".new", SOCKET)
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],)).start()


main()
