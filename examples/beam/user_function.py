"""Deflection of a steel cantilever under a tip load, by Euler-Bernoulli finite elements."""
import numpy as np

LENGTH = 2.0          # m
YOUNG = 210e9         # Pa
INERTIA = 8.0e-6      # m^4
LOAD = 1000.0         # N, at the tip
ELEMENTS = 16


def element_stiffness(length):
    return YOUNG * INERTIA / length**3 * np.array([
        [12.0, 6.0 * length, -12.0, 6.0 * length],
        [6.0 * length, 4.0 * length**2, -6.0 * length, 2.0 * length**2],
        [-12.0, -6.0 * length, 12.0, -6.0 * length],
        [6.0 * length, 2.0 * length**2, -6.0 * length, 4.0 * length**2],
    ])


def solve():
    size = 2 * (ELEMENTS + 1)
    stiffness, load = np.zeros((size, size)), np.zeros(size)
    for element in range(ELEMENTS):
        at = slice(2 * element, 2 * element + 4)
        stiffness[at, at] += element_stiffness(LENGTH / ELEMENTS)
    load[-2] = LOAD
    # The first node is clamped: its two degrees of freedom are left out.
    return np.linalg.solve(stiffness[2:, 2:], load[2:])


tip = solve()[-2]
exact = LOAD * LENGTH**3 / (3.0 * YOUNG * INERTIA)
print(f"tip deflection: {tip * 1e3:.4f} mm ({ELEMENTS} elements)")
print(f"exact:          {exact * 1e3:.4f} mm")
