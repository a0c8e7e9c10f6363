"""Sockets of every family, and those of the host."""

import ctypes
import os
import socket
import struct

from kernel import attempt, call

# A type no family has: the kernel answers EINVAL before it asks whether it was built with the family.
NO_TYPE = 15
FAMILIES = 46


def _socket(family, kind=1, protocol=0):
    return call(41, family, kind, protocol)


def inet_stream():
    return _socket(2)


def inet_datagram():
    return _socket(2, 2)


def inet6_stream():
    return _socket(10, NO_TYPE)


def netlink_route():
    return _socket(16, 3, 0)


def packet_raw():
    return _socket(17, 3, 0x300)


def inet_raw():
    return _socket(2, 3, 1)


def alg():
    return _socket(38, NO_TYPE)


def vsock():
    return _socket(40, NO_TYPE)


def bluetooth():
    return _socket(31, NO_TYPE)


def xdp():
    return _socket(44, NO_TYPE)


def rxrpc():
    return _socket(33, NO_TYPE)


def every_family_but_unix():
    return " ".join(sorted({_socket(family, NO_TYPE) for family in range(FAMILIES) if family != 1}))


def family_with_high_bits():
    # Looks like AF_UNIX to one who compares 64 bits badly, is AF_INET to the kernel.
    return _socket(2 | 1 << 32)


def socketpair_inet():
    return call(53, 2, NO_TYPE, 0, 1)


def socketpair_netlink():
    return call(53, 16, NO_TYPE, 0, 1)


def socketpair_tipc():
    return call(53, 30, NO_TYPE, 0, 1)


MSG_OOB = 1


def _message():
    buffer = ctypes.create_string_buffer(b"x", 1)
    part = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 1)
    message = (ctypes.c_uint64 * 8)(0, 0, ctypes.addressof(part), 1)
    message.keep = (buffer, part)
    return message


def _out_of_band(number, *arguments):
    """A pair, lest the kernel look for the other end first."""
    left, _right = socket.socketpair()
    return call(number, left.fileno(), *arguments)


def out_of_band_sendto():
    return _out_of_band(44, b"x", 1, MSG_OOB, 0, 0)


def out_of_band_recvfrom():
    return _out_of_band(45, ctypes.create_string_buffer(1), 1, MSG_OOB, 0, 0)


def out_of_band_sendmsg():
    return _out_of_band(46, _message(), MSG_OOB)


def out_of_band_recvmsg():
    return _out_of_band(47, _message(), MSG_OOB)


def out_of_band_sendmmsg():
    return _out_of_band(307, _message(), 1, MSG_OOB)


def out_of_band_recvmmsg():
    return _out_of_band(299, _message(), 1, MSG_OOB, 0)


def out_of_band_high_bits():
    return _out_of_band(44, b"x", 1, MSG_OOB | 0xFFFFFFFF << 32, 0, 0)


def _attached(option, value):
    return _out_of_band(54, 1, option, value, len(value))


def _accept_all():
    code = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0xFFFF), 8)
    program = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", 1, ctypes.addressof(code)), 16)
    program.keep = code
    return program


def attach_filter():
    return _attached(26, _accept_all())


def attach_bpf():
    return _attached(50, struct.pack("=i", -1))


def attach_reuseport():
    return _attached(51, _accept_all())


def abstract_socket_of_the_host():
    return attempt(lambda: socket.socket(socket.AF_UNIX).connect("\0" + os.environ["ATTACK_ABSTRACT"]))


def path_socket_of_the_host():
    return attempt(lambda: socket.socket(socket.AF_UNIX).connect(os.environ["ATTACK_PATH"]))


def abstract_names_listed():
    with open("/proc/self/net/unix") as file:
        return "seen" if os.environ["ATTACK_ABSTRACT"] in file.read() else "unseen"


def interfaces():
    with open("/proc/self/net/dev") as file:
        names = {line.split(":")[0].strip() for line in file.readlines()[2:]}
    return "lo alone" if names == {"lo"} else "others"
