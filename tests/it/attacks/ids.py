"""Becoming someone else, or more: user and group ids, set-id bits, capabilities, securebits."""

import ctypes
import errno
import os
import shutil

from kernel import LIBC, attempt, call, raw, scratch, status
import kernel

PR_CAPBSET_READ, PR_SET_SECUREBITS, PR_GET_SECUREBITS, PR_SET_KEEPCAPS = 23, 28, 27, 8
PR_GET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 39, 47, 2


def setuid_root():
    return call(105, 0)


def setgid_root():
    return call(106, 0)


def setreuid_root():
    return call(113, 0, 0)


def setregid_root():
    return call(114, 0, 0)


def setresuid_root():
    return call(117, 0, 0, 0)


def setresgid_root():
    return call(119, 0, 0, 0)


def setfsuid_root():
    # The kernel never answers with an error here: it is the filter that does.
    return call(122, 0)


def setfsgid_root():
    return call(123, 0)


def setgroups_none():
    return call(116, 0, 0)


def set_user_id_program():
    """A program that was given away by its owner, started by another user, where there is one: whose is the process?"""
    program = os.path.join(kernel.TMP, "set-user-id")
    shutil.copyfile(os.path.realpath("/proc/self/exe"), program)
    os.chmod(program, 0o6755)
    assert os.stat(program).st_mode & 0o6000 == 0o6000
    # By descriptor, for the other user cannot enter the directory.
    descriptor = os.open(program, os.O_RDONLY)
    pid = os.fork()
    if pid == 0:
        attempt(os.setresgid, 2, 2, 2)
        attempt(os.setresuid, 2, 2, 2)
        try:
            whose = "import os; os._exit(10 + (os.geteuid() != os.getuid()))"
            os.execve(descriptor, ["python3", "-I", "-S", "-c", whose], {})
        except OSError as error:
            os._exit(error.errno if error.errno == errno.EACCES else 1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {errno.EACCES: "EACCES", 10: "the starter's", 11: "the owner's"}.get(code, code)


def openat2_set_uid():
    how = (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_WRONLY, 0o4755, 0)
    return call(437, -100, (kernel.TMP + "/openat2-suid").encode(), how, 24)


def set_id_bits_honoured():
    """Whether a mount exists on which a set-user-id program of an image would take effect."""
    places = ("/", "/usr", "/tmp", "/dev", "/dev/shm", "/proc", "/output", "/input", "/run/secrets")
    places = filter(os.path.exists, places)
    honoured = [path for path in places if not os.statvfs(path).f_flag & os.ST_NOSUID]
    return "nowhere" if not honoured else "somewhere"


def set_id_bits_of_a_file_of_the_image():
    """The test gives the file both bits before it builds the image."""
    return oct(os.stat(os.path.join(kernel.APP, "removable.py")).st_mode & 0o6000)


def chown_root():
    return attempt(os.chown, scratch("chown"), 0, 0)


def file_capability():
    # struct vfs_cap_data, revision 2, cap_sys_admin permitted and effective.
    value = bytes.fromhex("01000002" + "00002000" + "00000000" + "00000000" + "00000000")
    return call(188, scratch("fcap").encode(), b"security.capability", value, len(value), 0)


def capability_sets():
    sets = {status(name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    return "empty" if sets == {"0" * 16} else "something"


def bounding_set():
    return "some" if any(LIBC.prctl(PR_CAPBSET_READ, n, 0, 0, 0) == 1 for n in range(64)) else "empty"


def _capset():
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    raw(125, header, sets)
    sets[2], sets[5] = sets[1], sets[4]
    sets[2] |= 1 << 21  # cap_sys_admin, inheritable
    sets[0] |= 1 << 21
    sets[1] |= 1 << 21
    return call(126, header, sets)


def capset_sys_admin():
    return _capset()


def ambient_raise():
    _capset()
    return call(157, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0)


def securebits_clear():
    return call(157, PR_SET_SECUREBITS, 0, 0, 0, 0)


def securebits_locked():
    return hex(raw(157, PR_GET_SECUREBITS, 0, 0, 0, 0))


def keep_capabilities():
    return call(157, PR_SET_KEEPCAPS, 1, 0, 0, 0)


def no_new_privs():
    return raw(157, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
