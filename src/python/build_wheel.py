"""Builds the wheel of a source distribution (PEP 517), inside the sandbox: everything it starts is a stranger's code.

usage: build_wheel.py ARCHIVE [KNOWN]
ARCHIVE lies in /input. Without KNOWN, writes /output/requires.json: the requirements of its [build-system] table. With
KNOWN, a JSON list of the requirements that are installed: asks the backend for more and writes them there if there are
any, else writes the wheel into /output.
"""
import importlib
import json
import os
import shutil
import sys
import tarfile
import tomllib
import zipfile

SOURCE = "/tmp/source"
WHEELS = "/tmp/wheels"


def unpack(archive):
    if archive.endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            file.extractall(SOURCE)
    else:
        with tarfile.open(archive) as file:
            # The sandbox is the wall; the filter, where this Python has it, keeps modes and links sensible.
            if hasattr(tarfile, "data_filter"):
                file.extractall(SOURCE, filter="data")
            else:
                file.extractall(SOURCE)
    for name in sorted(os.listdir(SOURCE)):
        directory = os.path.join(SOURCE, name)
        if any(os.path.isfile(os.path.join(directory, file)) for file in ("pyproject.toml", "setup.py")):
            return directory
    sys.exit("there is neither a pyproject.toml nor a setup.py in it")


def build_system():
    table = {}
    if os.path.isfile("pyproject.toml"):
        with open("pyproject.toml", "rb") as file:
            table = tomllib.load(file).get("build-system", {})
    if "requires" not in table:
        # PEP 517, "Source trees"; the oldest setuptools that has the backend.
        table = {**table, "requires": ["setuptools>=40.8.0", "wheel"]}
    return table


def backend(table):
    for path in reversed(table.get("backend-path", [])):
        sys.path.insert(0, os.path.abspath(path))
    module, _, attributes = table.get("build-backend", "setuptools.build_meta:__legacy__").partition(":")
    found = importlib.import_module(module)
    for name in filter(None, attributes.split(".")):
        found = getattr(found, name)
    return found


def asked(table):
    """What the backend's hook asks for; in a process of its own, for hooks leave traces in theirs."""
    answer = "/tmp/asked.json"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            hook = getattr(backend(table), "get_requires_for_build_wheel", None)
            lines = [str(line) for line in hook(None)] if hook else []
            with open(answer, "w") as file:
                json.dump(lines, file)
            code = 0
        except SystemExit as error:
            print(f"the backend ended with {error.code!r}")
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("the backend does not say what it needs to build a wheel")
    with open(answer) as file:
        return json.load(file)


def require(lines):
    with open("/output/requires.json", "w") as file:
        json.dump(lines, file)
    sys.exit(0)


def main():
    # One stream: what a compiler says stays beside what started it.
    os.dup2(2, 1)
    archive, known = os.path.join("/input", sys.argv[1]), sys.argv[2:]
    os.makedirs(SOURCE)
    os.makedirs(WHEELS)
    os.chdir(unpack(archive))
    table = build_system()
    if not known:
        require(table["requires"])
    known = json.loads(known[0])
    more = [line for line in asked(table) if line not in known]
    if more:
        require(known + more)
    name = backend(table).build_wheel(WHEELS, None, None)
    shutil.copyfile(os.path.join(WHEELS, name), os.path.join("/output", os.path.basename(name)))


main()
