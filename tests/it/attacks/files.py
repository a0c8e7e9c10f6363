"""Changing the image, running what was just written, and looking beyond the root."""

import ctypes
import glob
import mmap
import os
import subprocess
import sys

from kernel import attempt, call, in_child, name_of, opened, scratch
import kernel

WRITE = os.O_WRONLY | os.O_CREAT


def _app(name):
    return os.path.join(kernel.APP, name)


def write_root():
    return opened("/mine", WRITE) if kernel.INIT == 1 else opened(os.path.join(kernel.TMP, "mine"), WRITE)


def append_to_code():
    return opened(_app("kernel.py"), os.O_WRONLY | os.O_APPEND)


def replace_code():
    word = attempt(os.rename, _app("scenes.py"), _app("renamed.py"))
    if word == "ok":
        os.rename(_app("renamed.py"), _app("scenes.py"))
    return word


def remove_code():
    return attempt(os.unlink, _app("removable.py"))


def truncate_code():
    return attempt(os.truncate, _app("kernel.py"), os.path.getsize(_app("kernel.py")))


def chmod_code():
    return attempt(os.chmod, _app("kernel.py"), 0o644)


def touch_code():
    return attempt(os.utime, _app("kernel.py"))


def link_code_inside():
    return attempt(os.link, _app("kernel.py"), _app("linked.py"))


def link_code_to_tmp():
    return attempt(os.link, _app("kernel.py"), os.path.join(kernel.TMP, "linked.py"))


def symlink_in_code():
    return attempt(os.symlink, "/etc/passwd", _app("passwd"))


def rename_code_directory():
    word = attempt(os.rename, kernel.APP, kernel.APP + "-old")
    if word == "ok":
        os.rename(kernel.APP + "-old", kernel.APP)
    return word


def poison_own_bytecode():
    directory = _app("__pycache__")
    made = "ok" if os.path.isdir(directory) else attempt(os.mkdir, directory)
    return opened(os.path.join(directory, "poisoned.pyc"), WRITE) if made == "ok" else made


def poison_library_bytecode():
    """The bytecode of the standard library is shared by every run of every image on this base."""
    return opened(sorted(glob.glob(os.path.dirname(os.__file__) + "/__pycache__/os.*.pyc"))[0], os.O_WRONLY)


def poison_library_source():
    return opened(os.__file__, os.O_WRONLY)


def poison_site_packages():
    """Wheels and the site's start-up files; outside, a directory of ours stands in for it."""
    site = "/opt/py/site" if os.path.isdir("/opt/py/site") else kernel.TMP
    return opened(os.path.join(site, "sitecustomize.py"), WRITE)


def poison_interpreter():
    return opened(os.path.realpath(sys.executable), os.O_WRONLY)


def poison_loader_configuration():
    return opened("/etc/ld.so.preload", WRITE)


def write_passwd():
    return opened("/etc/passwd", os.O_WRONLY)


def write_certificates():
    return opened("/etc/ssl/certs/ca-certificates.crt", os.O_WRONLY)


def _program(where):
    path = scratch("program", open("/proc/self/exe", "rb").read(), where)
    os.chmod(path, 0o755)
    return path


def _executed(path):
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(path, [path, "-S", "-c", ""])
        except OSError as error:
            os._exit(error.errno)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "ok" if code == 0 else name_of(code)


def execute_in_tmp():
    return _executed(_program(kernel.TMP))


def execute_in_output():
    return _executed(_program(kernel.OUTPUT))


def execute_in_shared_memory():
    path = _program("/dev/shm") if kernel.INIT == 1 else _program(kernel.TMP)
    return _executed(path)


def execute_through_loader():
    """The loader maps what noexec keeps from execve; noexec keeps the mapping as well."""
    done = subprocess.run(
        ["/lib64/ld-linux-x86-64.so.2", _program(kernel.TMP), "-S", "-c", ""], capture_output=True, check=False
    )
    return "ok" if done.returncode == 0 else "refused"


def execute_descriptor():
    path = os.open(_program(kernel.TMP), os.O_RDONLY)

    def _run():
        return call(322, path, b"", 0, 0, 0x1000)

    # A program that ran says nothing.
    return in_child(_run) or "ok"


def map_executable():
    with open(_program(kernel.TMP), "rb") as file:
        return attempt(mmap.mmap, file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)


def protect_executable():
    with open(_program(kernel.TMP), "r+b") as file:
        page = mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        return call(10, address, 4096, mmap.PROT_READ | mmap.PROT_EXEC)


def load_library():
    path = scratch("library.so", open(_library(), "rb").read())
    try:
        ctypes.CDLL(path)
        return "ok"
    except OSError:
        return "refused"


def _library():
    with open("/proc/self/maps") as maps:
        return next(line.split()[-1] for line in maps if "libm.so" in line or "libc.so" in line)


def landlock_after_exec():
    code = "try: open('/proc/self/oom_score_adj', 'w'); print(0)\nexcept OSError as e: print(e.errno)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    return name_of(int(done.stdout)) if int(done.stdout) else "ok"


def link_out_of_tmp():
    """A link is only a name: what it points to is as closed as before."""
    link = os.path.join(kernel.TMP, "link")
    os.symlink("/etc/passwd", link)
    return opened(link, os.O_WRONLY)


def path_of_the_host():
    return opened(os.environ["ATTACK_CANARY"])


def path_beyond_the_root():
    return opened("/../../../.." + os.environ["ATTACK_CANARY"])


def path_through_own_root():
    return opened("/proc/self/root" + os.environ["ATTACK_CANARY"])


def path_through_init_root():
    return opened(f"/proc/{kernel.INIT}/root" + os.environ["ATTACK_CANARY"])


def read_shadow():
    return opened("/etc/shadow")


def home_directories():
    return "some" if os.path.isdir("/home") and os.listdir("/home") else "none"


def write_secrets():
    return opened(os.path.join(kernel.SECRETS, "KEY"), os.O_WRONLY)


def add_secret():
    return opened(os.path.join(kernel.SECRETS, "MORE"), WRITE)


def write_input():
    path = "/input/data" if kernel.INIT == 1 else os.path.join(kernel.TMP, "data")
    return opened(path, WRITE)
