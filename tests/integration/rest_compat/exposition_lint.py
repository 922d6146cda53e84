"""The checks of `promtool check metrics`, and the reasons for which Prometheus rejects a scrape."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

__all__ = ["problems", "series"]

_NAME = re.compile(r"flexiroaster(_[a-z0-9]+)+")
_NOT_BASE = {
    *("milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "weeks", "percent", "percents"),
    *("ms", "us", "ns", "s", "m", "h", "kb", "mb", "gb", "kib", "mib", "gib", "kilobytes", "megabytes", "gigabytes"),
}
_TYPES = {"counter", "gauge", "histogram"}
_NEVER_LABELS = ("id", "pipeline", "execution", "stage", "host", "owner", "worker")
_MOST_SERIES = 200
"""Of one family without its buckets: operators are the label with most values."""


def problems(text: str) -> list[str]:
    """All problems of an exposition in the classic format."""
    found = list(_structure(text))
    for family in text_string_to_metric_families(text):
        found += [f"{family.name}: {told}" for told in (*_names(family), *_samples(family))]
    repeated = [line for line, times in Counter(series(text)).items() if times > 1]
    return found + [f"more than one sample of {line}" for line in repeated]


def series(text: str) -> Iterator[str]:
    """Each series by its name and its labels, in order of the labels' names."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            yield f"{sample.name}{{{labels}}}"


def _structure(text: str) -> Iterator[str]:
    """Every family is announced once, help before type, and its samples follow at once."""
    if not text.endswith("\n"):
        yield "the last line does not end"
    announced: list[str] = []
    for line in text.splitlines():
        match line.split(" ", 3):
            case ["#", "HELP", name, _]:
                if name in announced:
                    yield f"{name} is announced twice"
                announced.append(name)
            case ["#", "TYPE", name, kind]:
                if announced[-1:] != [name]:
                    yield f"{name}: its type does not follow its help"
                if kind not in _TYPES:
                    yield f"{name}: {kind} says too little"
                if kind == "counter" and not name.endswith("_total"):
                    yield f"{name}: a counter does not end in _total"
                if kind != "counter" and name.endswith("_total"):
                    yield f"{name}: ends in _total and is no counter"
            case ["#", *_]:
                yield f"a comment: {line}"
            case _:
                own = re.match(r"[a-z0-9_]+", line)
                if own is None or not announced or not own[0].startswith(announced[-1]):
                    yield f"a sample away from its family: {line}"


def _names(family: Metric) -> Iterator[str]:
    words = family.name.split("_")
    if not _NAME.fullmatch(family.name):
        yield "is not flexiroaster_ and small letters"
    if not family.documentation.endswith("."):
        yield "has no help that is a sentence"
    if set(words) & _NOT_BASE:
        yield "is not in a base unit"
    if {"metric", family.type, "total", "count", "sum", "bucket"} & set(words):
        yield "has a word in its name that its type says"


def _samples(family: Metric) -> Iterator[str]:
    for sample in family.samples:
        if family.type != "gauge" and sample.value < 0:
            yield f"{sample.name} is negative"
        named = set(sample.labels)
        yield from (f"the label {name} is not bounded" for name in named if any(n in name for n in _NEVER_LABELS))
        if "le" in named and family.type != "histogram":
            yield "le is a label of histograms"
    if family.type == "histogram":
        yield from _histogram(family.samples)
    if len([sample for sample in family.samples if "le" not in sample.labels]) > _MOST_SERIES:
        yield "has too many series"


def _histogram(samples: list[Sample]) -> Iterator[str]:
    """Check each series: buckets never decrease, and the last one is +Inf and equals the count."""
    buckets: dict[str, list[tuple[float, float]]] = {}
    counts: dict[str, float] = {}
    for sample in samples:
        key = str(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        if sample.name.endswith("_bucket"):
            buckets.setdefault(key, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_count"):
            counts[key] = sample.value
    if set(buckets) != set(counts):
        yield "has series without buckets, or without a count"
    for key, found in buckets.items():
        bounds, values = [bound for bound, _ in found], [value for _, value in found]
        if bounds != sorted(set(bounds)) or bounds[-1] != float("inf"):
            yield f"{key}: its bounds do not grow to +Inf"
        if values != sorted(values) or values[-1] != counts.get(key):
            yield f"{key}: its buckets do not add up to its count"
