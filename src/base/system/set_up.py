"""Runs, in the sandbox, the programs of packages that list what other packages have installed.

Package scripts run these when a package is installed. What they write goes to /output, at its place in the image.
"""

import glob
import os
import shutil
import subprocess
import sys

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
OUTPUT = "/output"
# What is looked up in the database; the rest of it describes types to people.
MIME = "XMLnamespaces aliases generic-icons globs globs2 icons magic mime.cache subclasses treemagic types version"


def run(command, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace")[-1500:]
        sys.exit(f"{command[0]} ended with {done.returncode}: {said}")
    return done.stdout


def place(path):
    """The path under which /output keeps what belongs at path."""
    target = OUTPUT + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    return target


def is_program(path):
    return os.access(path, os.X_OK)


def file_types():
    program, database = "/usr/bin/update-mime-database", "/usr/share/mime"
    if not is_program(program) or not os.path.isdir(f"{database}/packages"):
        return
    shutil.copytree(f"{database}/packages", "/tmp/mime/packages")
    run([program, "/tmp/mime"])
    for name in MIME.split():
        if os.path.isfile(f"/tmp/mime/{name}"):
            shutil.copyfile(f"/tmp/mime/{name}", place(f"{database}/{name}"))


def picture_formats():
    program = f"{LIBRARIES}/gdk-pixbuf-2.0/gdk-pixbuf-query-loaders"
    if not is_program(program):
        return
    for directory in sorted(glob.glob(f"{LIBRARIES}/gdk-pixbuf-2.0/*/loaders")):
        listed = run([program, *sorted(glob.glob(f"{directory}/*.so"))])
        with open(place(f"{directory}.cache"), "wb") as file:
            file.write(listed)


def schemas():
    program, directory = f"{LIBRARIES}/glib-2.0/glib-compile-schemas", "/usr/share/glib-2.0/schemas"
    if is_program(program) and glob.glob(f"{directory}/*.xml"):
        place(f"{directory}/gschemas.compiled")
        run([program, f"--targetdir={OUTPUT}{directory}", directory])


def graph_plugins():
    program, directory = "/usr/sbin/libgvc6-config-update", f"{LIBRARIES}/graphviz"
    if not is_program(program):
        return
    os.mkdir("/tmp/graphviz")
    for plugin in glob.glob(f"{directory}/*.so*"):
        os.symlink(plugin, f"/tmp/graphviz/{os.path.basename(plugin)}")
    run([program, "-c"], env={**os.environ, "GVBINDIR": "/tmp/graphviz"})
    for name in sorted(os.listdir("/tmp/graphviz")):
        if name.startswith("config"):
            shutil.copyfile(f"/tmp/graphviz/{name}", place(f"{directory}/{name}"))


file_types()
picture_formats()
schemas()
graph_plugins()
