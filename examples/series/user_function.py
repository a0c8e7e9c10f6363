"""Daily means of the sensors in /input, written to /output/summary.csv."""
from pathlib import Path

import pandas as pd

frames = [pd.read_csv(path, parse_dates=["time"]) for path in sorted(Path("/input").glob("*.csv"))]
data = pd.concat(frames, ignore_index=True)
summary = data.groupby([data["time"].dt.date.rename("day"), "sensor"])["value"].mean().round(3).unstack()
summary.to_csv("/output/summary.csv")
print(f"{len(data)} rows, {len(summary)} days, sensors {', '.join(summary.columns)}")
