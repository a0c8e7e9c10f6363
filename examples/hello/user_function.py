"""The smallest function: the standard library alone."""
import json
import statistics

samples = [2.5, 3.5, 4.0, 6.0]
print(json.dumps({"mean": statistics.mean(samples), "stdev": round(statistics.stdev(samples), 6)}))
