"""Compiles every .py below some directories to unchecked-hash bytecode, without importing any of it.

usage: compile_tree.py --output DIR --jobs N [--skip DIR]... -- ROOT...
Writes DIR/<number of a job> with one record per source, DIR/.failed with one JSON line per source that does not
compile, and DIR/.magic with the interpreter's magic number. A record is the length of the path of the pyc (4 bytes,
little-endian), that of the bytecode (8 bytes), the path and the bytecode: however many sources there are, they take a
few files. The same sources give the same records. Ends with FULL when there is no room for them.

Run with an empty environment but PYTHONHASHSEED=0, which -I would ignore: before Python 3.11 sets among constants are
written in the order of their hashes. What -I does besides is done here, before anything is imported from a file.
"""
import sys
if sys.path[:1] == [""]:
    del sys.path[0]
import errno
import importlib._bootstrap_external as external
import importlib.util
import json
import os

FULL = 3
NAME_MAX = 255

# Where wheels lie, and the name by which they are imported: a link that every base has (src/base/synthesise.rs).
# Bytecode that has another name than it is imported by is gone through once more at every import.
SITE = "/opt/py/site/"
NAMED = "/opt/py/lib/python%d.%d/site-packages/" % sys.version_info[:2]


def arguments(argv):
    options = {"--skip": []}
    while argv and argv[0] != "--":
        name, value = argv[0], argv[1]
        if name == "--skip":
            options[name].append(value)
        else:
            options[name] = value
        argv = argv[2:]
    return options["--output"], int(options["--jobs"]), options["--skip"], argv[1:]


def sources(roots, skip):
    found = []
    for root in roots:
        for directory, names, files in os.walk(root):
            names[:] = sorted(
                name for name in names
                if name not in ("__pycache__", "tests", "test") and os.path.join(directory, name) not in skip
            )
            for name in sorted(files):
                path = os.path.join(directory, name)
                if name.endswith(".py") and os.path.isfile(path) and not os.path.islink(path):
                    found.append((os.path.getsize(path), path))
    return found


def compile_one(path):
    """The path of the bytecode and the bytecode, or none of both and why not."""
    with open(path, "rb") as file:
        source = file.read()
    try:
        name = NAMED + path[len(SITE):] if path.startswith(SITE) else path
        code = compile(source, name, "exec", dont_inherit=True, optimize=0)
        data = external._code_to_hash_pyc(code, importlib.util.source_hash(source), False)
    except Exception as error:
        return None, None, json.dumps({
            "path": path,
            "line": getattr(error, "lineno", None) or 0,
            "offset": getattr(error, "offset", None) or 0,
            "text": (getattr(error, "text", None) or "").rstrip("\n"),
            "message": getattr(error, "msg", None) or str(error),
        })
    target = os.fsencode(importlib.util.cache_from_source(path, optimization=""))
    if len(os.path.basename(target)) > NAME_MAX:
        # It is longer than the name of its source; Python itself could not write it either.
        return None, None, None
    return target, data, None


def work(number, paths, output):
    import warnings
    warnings.simplefilter("ignore")
    failed = []
    with open("%s/%d" % (output, number), "wb") as file:
        for path in paths:
            target, data, failure = compile_one(path)
            if target:
                file.write(len(target).to_bytes(4, "little") + len(data).to_bytes(8, "little") + target)
                file.write(data)
            if failure:
                failed.append(failure + "\n")
    if failed:
        with open(output + "/.failed", "a") as file:
            file.write("".join(failed))


def try_work(number, paths, output):
    """The exit code that the work of one job comes to."""
    try:
        work(number, paths, output)
        return 0
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return FULL
        os.write(2, repr(error).encode())
    except BaseException as error:
        os.write(2, repr(error).encode())
    return 1


def main():
    output, jobs, skip, roots = arguments(sys.argv[1:])
    with open(output + "/.magic", "w") as file:
        file.write(importlib.util.MAGIC_NUMBER.hex())
    # The longest first, always to the least loaded: the jobs end together.
    loads, shares = [0] * jobs, [[] for _ in range(jobs)]
    for size, path in sorted(sources(roots, set(skip)), reverse=True):
        job = loads.index(min(loads))
        loads[job] += size + 500
        shares[job].append(path)
    children = []
    for number, share in enumerate(shares[1:], 1):
        if share:
            child = os.fork()
            if child == 0:
                os._exit(try_work(number, share, output))
            children.append(child)
    codes = [try_work(0, shares[0], output)]
    for child in children:
        status = os.waitpid(child, 0)[1]
        codes.append(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)
    sys.exit(max(codes))


main()
