"""Settings: names and defaults are a contract; a bad value stops with one line that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexiroaster.config import Settings, load_settings, psycopg_url, secrets_from
from flexiroaster.errors import SettingsError

CONTRACT = {
    "DATABASE_POOL_SIZE": 10,
    "DATABASE_MAX_OVERFLOW": 20,
    "REDIS_URL": "redis://localhost:6379/0",
    "REDIS_SOCKET_TIMEOUT": 5.0,
    "EXECUTOR_STAGE_TIMEOUT": 120,
    "EXECUTOR_MAX_RETRIES": 3,
    "EXECUTOR_RETRY_DELAY": 1.0,
    "EXECUTOR_RETRY_BACKOFF": 2.0,
    "AI_BLOCK_HIGH_RISK": False,
    "AI_RISK_THRESHOLD_HIGH": 0.7,
    "AI_RISK_THRESHOLD_MEDIUM": 0.4,
    "AI_ANOMALY_DETECTION_ENABLED": True,
    "AI_ANOMALY_TIME_MULTIPLIER": 3.0,
    "AI_ANOMALY_ERROR_THRESHOLD": 5,
    "LOG_LEVEL": "INFO",
    "PORT": 8000,
    "API_PREFIX": "/api",
    "DEBUG": False,
}
ALSO = {
    "DATABASE_URL", "EXECUTION_LOCK_TTL", "HEARTBEAT_INTERVAL", "HEARTBEAT_TTL", "EXECUTOR_DEFAULT_TIMEOUT",
    "LOG_FORMAT", "HOST", "CORS_ORIGINS", "AIRFLOW_CALLBACK_SECRET",
}  # fmt: skip


def test_names_and_defaults_of_the_contract() -> None:
    settings = load_settings()
    assert {name: getattr(settings, name.lower()) for name in CONTRACT} == CONTRACT
    assert {name.lower() for name in ALSO} <= set(Settings.model_fields)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DATABASE_POOL_SIZE", "many", 'DATABASE_POOL_SIZE: must be a whole number, not "many"'),
        ("PORT", "70000", 'PORT: must be at most 65535, not "70000"'),
        ("LOG_FORMAT", "xml", "LOG_FORMAT: must be 'json' or 'text', not \"xml\""),
        ("LOG_LEVEL", "loud",
         "LOG_LEVEL: must be one of 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL', not \"LOUD\""),
        ("CORS_ORIGINS", "http://a", "CORS_ORIGINS: must be valid JSON"),
        ("AI_RISK_THRESHOLD_HIGH", "1.5", 'AI_RISK_THRESHOLD_HIGH: must be at most 1, not "1.5"'),
        ("DATABASE_URL", "mysql://u:pw@h/d", "DATABASE_URL: must be a postgresql:// or sqlite:/// URL"),
        ("API_PREFIX", "api",
         'API_PREFIX: must be empty, or start with / and not end with /, such as /api, not "api"'),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317",
         "OTEL_EXPORTER_OTLP_ENDPOINT: must be an http:// or https:// URL"),
        ("CONNECTIONS", '{"a": 3}', "CONNECTIONS.a: must be text"),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == message
    assert "pw" not in str(caught.value)


def test_all_bad_values_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("DEBUG", "perhaps")
    with pytest.raises(SettingsError, match=r"^PORT: .*; DEBUG: [^\n]*$"):
        load_settings()


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PORT=1234\nLOG_LEVEL=debug\nFLEXIROASTER_SECRET_KEY=from-file\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("PORT", "4321")
    settings = load_settings()
    assert (settings.port, settings.log_level) == (4321, "DEBUG")
    assert secrets_from({"FLEXIROASTER_SECRET_TOKEN": "x"}) == {"KEY": "from-file", "TOKEN": "x"}


def test_settings_are_frozen_and_show_no_secret() -> None:
    settings = load_settings(database_url="postgresql://u:hunter2@h/d", airflow_callback_secret="hunter2")
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_runs_on_psycopg_3(scheme: str) -> None:
    assert psycopg_url(f"{scheme}://u@h/d?x=1") == "postgresql+psycopg://u@h/d?x=1"


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        ({}, ""),
        ({"ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces"),
        ({"ENDPOINT": "http://c:4318/x/"}, "http://c:4318/x/v1/traces"),
        ({"ENDPOINT": "http://c:4318", "TRACES_ENDPOINT": "https://t/in"}, "https://t/in"),
    ],
)
@pytest.mark.parametrize(("disabled", "on"), [("", True), ("false", True), ("1", True), ("TRUE", False)])
def test_where_traces_go(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], endpoint: str, disabled: str, on: bool
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    monkeypatch.setenv("OTEL_SDK_DISABLED", disabled)
    assert load_settings().traces_endpoint == (endpoint if on else "")


def test_other_urls_stay() -> None:
    assert psycopg_url("sqlite:///x.db") == "sqlite:///x.db"


def as_documented(value: object) -> str:
    if value is None:
        return "unset"
    if value == "":
        return "empty"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def test_every_setting_is_documented_with_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    settings = load_settings()
    for name in Settings.model_fields:
        assert f"| `{name.upper()}` | {as_documented(getattr(settings, name))} |" in text
