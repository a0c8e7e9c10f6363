from multiprocessing import cpu_count

import cpuinfo
import joblib
import numexpr
import polars

print(cpu_count(), joblib.cpu_count(), polars.thread_pool_size(), numexpr.detect_number_of_threads())
print(sum(joblib.Parallel(n_jobs=2)(joblib.delayed(pow)(n, 2) for n in range(10))))
print(polars.DataFrame({"a": range(1000)}).select(polars.col("a").sum()).item())
print(cpuinfo.get_cpu_info()["count"], len(cpuinfo.get_cpu_info()["flags"]) > 10)
