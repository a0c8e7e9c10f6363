import os

NAMES = "OMP OPENBLAS MKL NUMEXPR RAYON NUMBA".split()
print(os.cpu_count(), *(os.environ.get(f"{name}_NUM_THREADS") for name in NAMES), os.environ.get("POLARS_MAX_THREADS"))
for path in (
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
    "/sys/devices/system/cpu/present",
    "/sys/fs/cgroup/cgroup.controllers",
    "/sys/fs/cgroup/cpu.max",
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory.swap.max",
    "/sys/fs/cgroup/memory.current",
    "/sys/fs/cgroup/pids.max",
):
    with open(path) as file:
        print(os.path.basename(path), file.read().strip())
