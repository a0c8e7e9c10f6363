"""Putting words into the caller's terminal."""

import os

from kernel import call, opened

TIOCSTI, TIOCLINUX, TIOCSETD, TIOCCONS = 0x5412, 0x541C, 0x5423, 0x541D
HIGH = 1 << 32


def inject_input():
    return call(16, 0, TIOCSTI, b"x")


def inject_input_high_bits():
    return call(16, 0, TIOCSTI | HIGH, b"x")


def inject_input_all_high_bits():
    return call(16, 0, TIOCSTI | 0xFFFFFFFF << 32, b"x")


def paste_selection():
    return call(16, 0, TIOCLINUX, b"\x03")


def paste_selection_high_bits():
    return call(16, 0, TIOCLINUX | HIGH, b"\x03")


def line_discipline():
    return call(16, 0, TIOCSETD, b"\0\0\0\0")


def redirect_console():
    return call(16, 0, TIOCCONS, 0)


def controlling_terminal():
    return opened("/dev/tty", os.O_RDWR)
