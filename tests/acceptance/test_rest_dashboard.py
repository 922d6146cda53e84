"""The dashboard and its provisioning: they match Grafana's schema, and the files refer to each other correctly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.acceptance.promql import Asked, asked_of

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/flexiroaster.json").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())["services"]
ROWS = ["Overview", "Executions", "Stages", "Risk and safety", "Database and Redis", "Streams"]
WIDTH = 24


def panels(kind: str | None = None) -> list[dict[str, Any]]:
    """The panels that show data, or those of one type."""
    return [each for each in DASHBOARD["panels"] if (each["type"] == kind if kind else each["type"] != "row")]


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """The parts that are missing or different after a round trip."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            yield from lost(value, kept[name], f"{path}.{name}") if name in kept else [f"{path}.{name}"]
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, pair in enumerate(zip(given, kept, strict=True)):
            yield from lost(*pair, f"{path}[{number}]")
    elif given != kept:
        yield path


def test_grafanas_types_keep_the_whole_dashboard() -> None:
    """A round trip loses fields that the types do not know."""
    register_default_plugins()
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert list(lost(DASHBOARD, kept)) == []
    wrong = {**DASHBOARD, "rows": [], "panels": [{**DASHBOARD["panels"][1], "gridpos": {}}]}
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(wrong)))
    assert sorted(lost(wrong, kept)) == [".panels[0].gridpos", ".rows"]


def test_it_can_be_imported_anywhere() -> None:
    """It has no id of another Grafana: the data source is a variable, and each panel and query uses it."""
    assert "id" not in DASHBOARD
    assert DASHBOARD["uid"] == "flexiroaster"
    first, *others = DASHBOARD["templating"]["list"]
    assert (first["type"], first["name"], first["query"]) == ("datasource", "datasource", "prometheus")
    sources = [each["datasource"] for each in (*others, *panels())]
    sources += [target["datasource"] for panel in panels() for target in panel["targets"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_its_rows_and_panels_do_not_overlap() -> None:
    assert [row["title"] for row in panels("row")] == ROWS
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= WIDTH
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert all(panel["description"].endswith(".") for panel in panels())


def test_no_counter_is_summed_over_apis() -> None:
    """Each API counts the work of all workers, so only its own streams are summed."""
    for expression in expressions(DASHBOARD):
        assert "max" in expression or "min" in expression or "sum by" in expression, expression
        for asked in asked_of(expression):
            assert asked.values["job"] == ".*"
            if asked.name.endswith(("_total", "_count", "_bucket")):
                assert "max" in expression, expression


def test_the_expression_parser_finds_names_and_labels() -> None:
    assert asked_of('sum by (a) (rate(x_total{b="c"}[$__rate_interval])) > y') == [
        Asked("x_total", {"b": "c"}, frozenset({"a"})),
        Asked("y"),
    ]
    with pytest.raises(ValueError):
        asked_of("sum by (")


def mounts(service: str) -> dict[str, Path]:
    """The files of deploy/ in a container, by their path there."""
    pairs = [volume.split(":") for volume in COMPOSE[service]["volumes"] if volume.startswith("./")]
    return {at: (DEPLOY / source).resolve() for source, at, _ in pairs}


def test_grafana_finds_its_data_source_and_dashboard() -> None:
    seen = mounts("grafana")
    provisioning = seen["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards/flexiroaster.yml").read_text())["providers"]
    assert seen[f"{provider['options']['path']}/flexiroaster.json"] == DEPLOY / "grafana/flexiroaster.json"


def test_prometheus_finds_the_api_the_rules_and_its_token() -> None:
    seen = mounts("prometheus")
    config = yaml.safe_load(seen["/etc/prometheus/prometheus.yml"].read_text())
    assert [seen[name] for name in config["rule_files"]] == [DEPLOY / "prometheus/alerts.yml"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in COMPOSE["prometheus"]["command"]
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["api:8000"]}]
    assert COMPOSE["api"]["command"][-1] == "8000"
    (secret,) = COMPOSE["prometheus"]["secrets"]
    assert job["authorization"] == {"type": "Bearer", "credentials_file": f"/run/secrets/{secret}"}


def test_monitoring_runs_only_with_its_profile() -> None:
    assert [name for name, service in COMPOSE.items() if service.get("profiles") == ["monitoring"]] == [
        "prometheus",
        "grafana",
    ]
