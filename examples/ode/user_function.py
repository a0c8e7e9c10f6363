"""A damped oscillator integrated with scipy, against its closed form."""
import numpy as np
from scipy.integrate import solve_ivp

OMEGA, DAMPING = 2.0, 0.1


def motion(_time, state):
    position, velocity = state
    return [velocity, -2.0 * DAMPING * OMEGA * velocity - OMEGA**2 * position]


times = np.linspace(0.0, 5.0, 6)
solution = solve_ivp(motion, (0.0, 5.0), [1.0, 0.0], t_eval=times, rtol=1e-10, atol=1e-12)
damped = OMEGA * np.sqrt(1.0 - DAMPING**2)
exact = np.exp(-DAMPING * OMEGA * times) * (np.cos(damped * times) + DAMPING * OMEGA / damped * np.sin(damped * times))
for time, position in zip(times, solution.y[0]):
    print(f"t={time:.1f} x={position:+.5f}")
print("agrees with the closed form:", bool(np.allclose(solution.y[0], exact, atol=1e-7)))
