"""The flights pipeline's question, answered by hand with pandas: `python -m tests.bench.flights_pandas DATA OUT`.

Written without a look at the product's operators: the demo is tested against it, and measured against it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd


def enriched_flights(data: Path) -> pd.DataFrame:
    flights = pd.read_csv(data / "flights.csv.zip")
    weather = pd.read_csv(data / "weather.csv", usecols=["origin", "time_hour", "wind_speed", "precip", "visib"])
    airlines = pd.read_csv(data / "airlines.csv")
    bad = (
        flights.dep_delay.isna()
        | flights.arr_delay.isna()
        | (flights.distance < 50)
        | (flights.dep_delay < -120)
        | ~flights.origin.isin(["EWR", "JFK", "LGA"])
        | flights.duplicated(["time_hour", "carrier", "flight", "origin"], keep=False)
    )
    flights = flights[~bad]
    windy = weather.wind_speed.notna() & ~weather.wind_speed.between(0, 120)
    weather = weather[~windy & weather.visib.between(0, 10)]
    joined = flights.merge(weather, on=["origin", "time_hour"], how="left").merge(airlines, on="carrier", how="left")
    speed = joined.wind_speed
    joined["wind"] = np.select([speed.isna(), speed < 10, speed < 20], ["unknown", "calm", "breeze"], "strong")
    joined["late"] = joined.arr_delay > 15
    return joined


def answer(joined: pd.DataFrame) -> pd.DataFrame:
    grouped = joined.groupby(["name", "wind"]).late.agg(["size", "mean"]).unstack("wind")
    calm, strong = grouped.xs("calm", axis=1, level=1), grouped.xs("strong", axis=1, level=1)
    table = pd.DataFrame(
        {
            "flights": calm["size"] + strong["size"],
            "late_in_calm": 100 * calm["mean"],
            "late_in_wind": 100 * strong["mean"],
            "difference": 100 * (strong["mean"] - calm["mean"]),
        }
    )
    table = table[strong["size"] >= 100].round(1).rename_axis("airline").reset_index()
    table["flights"] = table.flights.astype(int)
    return table.sort_values(["difference", "airline"], ignore_index=True)


def main(data: Path, out: Path) -> None:
    joined = enriched_flights(data)
    joined.to_parquet(out / "flights-pandas.parquet")
    table = answer(joined)
    table.to_csv(out / "answer-pandas.csv", index=False)
    print(table.to_string())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
