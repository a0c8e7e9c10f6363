import time
import warnings

warnings.simplefilter("error")
import psutil  # noqa: E402

own = psutil.Process()
with open("/proc/loadavg") as file:
    loads = tuple(float(load) for load in file.read().split()[:3])
print(psutil.virtual_memory().total >> 20, psutil.virtual_memory().available >> 20, psutil.swap_memory().total)
print(psutil.cpu_count(), psutil.cpu_count(logical=False), len(psutil.cpu_times(percpu=True)))
print(psutil.cpu_percent(0.05), psutil.cpu_times().idle > 0, psutil.cpu_stats().ctx_switches, loads)
print(psutil.cpu_freq().current > 0, len(psutil.disk_partitions(all=True)) > 0, psutil.disk_usage("/tmp").total >> 20)
print(abs(own.create_time() - time.time()) < 60, psutil.boot_time() < time.time(), own.pid in psutil.pids())
