"""The flights pipeline's question, answered by hand with polars: `python -m tests.bench.flights_polars DATA OUT`."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import polars as pl


def enriched_flights(data: Path) -> pl.DataFrame:
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        text = archive.read("flights.csv")
    flights = pl.read_csv(text, null_values=["", "NA"], infer_schema_length=10_000)
    numbers = dict.fromkeys(("wind_speed", "precip", "visib"), pl.Float64)
    weather = pl.read_csv(data / "weather.csv", null_values=["", "NA"], schema_overrides=numbers)
    weather = weather.select("origin", "time_hour", "wind_speed", "precip", "visib")
    airlines = pl.read_csv(data / "airlines.csv")
    good = flights.filter(
        pl.col("dep_delay").is_not_null(),
        pl.col("arr_delay").is_not_null(),
        pl.col("distance") >= 50,
        pl.col("dep_delay") >= -120,
        pl.col("origin").is_in(["EWR", "JFK", "LGA"]),
        pl.struct("time_hour", "carrier", "flight", "origin").is_unique(),
    )
    calm = weather.filter(
        pl.col("wind_speed").is_between(0, 120) | pl.col("wind_speed").is_null(),
        pl.col("visib").is_between(0, 10),
        pl.struct("origin", "time_hour").is_unique(),
    )
    speed = pl.col("wind_speed")
    wind = (
        pl.when(speed.is_null())
        .then(pl.lit("unknown"))
        .when(speed < 10)
        .then(pl.lit("calm"))
        .when(speed < 20)
        .then(pl.lit("breeze"))
        .otherwise(pl.lit("strong"))
    )
    joined = good.join(calm, on=["origin", "time_hour"], how="left").join(airlines, on="carrier", how="left")
    return joined.with_columns(wind=wind, late=pl.col("arr_delay") > 15)


def answer(joined: pl.DataFrame) -> pl.DataFrame:
    grouped = joined.group_by("name", "wind").agg(pl.len().alias("flights"), pl.col("late").mean())
    calm, strong = grouped.filter(pl.col("wind") == "calm"), grouped.filter(pl.col("wind") == "strong")
    return (
        calm.join(strong, on="name", suffix="_strong")
        .filter(pl.col("flights_strong") >= 100)
        .select(
            pl.col("name").alias("airline"),
            (pl.col("flights") + pl.col("flights_strong")).cast(pl.Int64).alias("flights"),
            (100 * pl.col("late")).round(1).alias("late_in_calm"),
            (100 * pl.col("late_strong")).round(1).alias("late_in_wind"),
            (100 * (pl.col("late_strong") - pl.col("late"))).round(1).alias("difference"),
        )
        .sort("difference", "airline")
    )


def main(data: Path, out: Path) -> None:
    joined = enriched_flights(data)
    joined.write_parquet(out / "flights-polars.parquet")
    table = answer(joined)
    table.write_csv(out / "answer-polars.csv")
    print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
