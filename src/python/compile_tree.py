"""Compiles every .py below some directories to unchecked-hash bytecode, without importing any of it.

usage: compile_tree.py --output DIR --jobs N [--skip DIR]... -- ROOT...
Writes DIR/<path of the pyc> for each source, DIR/.failed with one JSON line per source that does not compile, and
DIR/.magic with the interpreter's magic number. The same sources give the same bytes.

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


def compile_one(path, output):
    with open(path, "rb") as file:
        source = file.read()
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
        data = external._code_to_hash_pyc(code, importlib.util.source_hash(source), False)
    except Exception as error:
        return json.dumps({
            "path": path,
            "line": getattr(error, "lineno", None) or 0,
            "offset": getattr(error, "offset", None) or 0,
            "text": (getattr(error, "text", None) or "").rstrip("\n"),
            "message": getattr(error, "msg", None) or str(error),
        })
    target = output + importlib.util.cache_from_source(path, optimization="")
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(data)
    except OSError as error:
        # The name of the bytecode is longer than that of its source; Python itself could not write it either.
        if error.errno != errno.ENAMETOOLONG:
            raise
    return None


def work(paths, output):
    import warnings
    warnings.simplefilter("ignore")
    failed = [line for line in (compile_one(path, output) for path in paths) if line]
    if failed:
        with open(output + "/.failed", "a") as file:
            file.write("".join(line + "\n" for line in failed))


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
    for share in shares[1:]:
        if share:
            child = os.fork()
            if child == 0:
                try:
                    work(share, output)
                    os._exit(0)
                except BaseException as error:
                    os.write(2, repr(error).encode())
                    os._exit(1)
            children.append(child)
    work(shares[0], output)
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))


main()
