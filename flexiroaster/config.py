"""Settings: every environment variable, read once into a frozen model.

Names and defaults are part of the contract with existing deployments. A `.env` file in the working directory is read;
the environment takes precedence over it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from flexiroaster.errors import SettingsError
from flexiroaster.model.validation_messages import problem_text, render_path, shown

__all__ = ["HOME", "LogFormat", "LogLevel", "PolicyMode", "Settings", "load_settings", "psycopg_url", "secrets_from"]

HOME = Path(".flexiroaster")
"""Folder of the embedded database and of local artifacts, below the working directory."""

SECRET_PREFIX = "FLEXIROASTER_SECRET_"  # noqa: S105 - a prefix of variable names, not a secret

_API_PREFIX = re.compile(r"(/[A-Za-z0-9_\-./]*[A-Za-z0-9_\-.])?")


class LogLevel(StrEnum):
    """Lowest level that is logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class LogFormat(StrEnum):
    """Format of a log line."""

    JSON = "json"
    TEXT = "text"


class PolicyMode(StrEnum):
    """Mode of the safety policy: off makes no decisions, shadow records them, act also carries them out."""

    OFF = "off"
    SHADOW = "shadow"
    ACT = "act"


def _days(default: int, description: str) -> Any:  # noqa: ANN401 - returns what pydantic's Field returns
    return Field(default=default, ge=0, le=36_500, description=f"{description} Days; 0 keeps them forever.")


class Settings(BaseSettings):
    """The configuration of one process. Times are seconds unless a name says otherwise."""

    model_config = SettingsConfigDict(frozen=True, env_file=".env", extra="ignore", case_sensitive=False)

    database_url: str = Field(default="", repr=False, description="SQLAlchemy URL; empty means embedded SQLite.")
    database_pool_size: int = Field(default=10, ge=1, description="Connections kept open.")
    database_max_overflow: int = Field(default=20, ge=0, description="Extra connections allowed at peak load.")
    redis_url: str = Field(default="redis://localhost:6379/0", repr=False, description="Redis, optional.")
    redis_socket_timeout: float = Field(default=5.0, gt=0)
    execution_lock_ttl: float = Field(default=15.0, gt=0, description="Seconds a lease lasts without renewal.")
    heartbeat_interval: float = Field(default=5.0, gt=0)
    heartbeat_ttl: float = Field(default=15.0, gt=0)
    executor_default_timeout: float = Field(default=3600.0, gt=0, description="Time limit of a whole execution.")
    executor_stage_timeout: float = Field(default=120.0, gt=0, description="Time limit of one stage attempt.")
    executor_max_retries: int = Field(default=3, ge=0)
    executor_retry_delay: float = Field(default=1.0, ge=0)
    executor_retry_backoff: float = Field(default=2.0, ge=1)
    executor_workers: int = Field(default=0, ge=0, description="Stage processes; 0 means one per core, at least two.")
    executor_stop_grace: float = Field(default=10.0, ge=0, description="Seconds from a stop to the kill of its stages.")
    ai_block_high_risk: bool = False
    ai_risk_threshold_high: float = Field(default=0.7, ge=0, le=1)
    ai_risk_threshold_medium: float = Field(default=0.4, ge=0, le=1)
    ai_gate_shadow: bool = Field(default=False, description="The risk gate records its verdict but blocks nothing.")
    ai_train_every: int | None = Field(default=None, ge=0, description="Finished runs between trainings; 0: never.")
    ai_anomaly_detection_enabled: bool = True
    ai_anomaly_time_multiplier: float = Field(default=3.0, gt=0)
    ai_anomaly_error_threshold: int = Field(default=5, ge=1)
    ai_policy: PolicyMode = Field(default=PolicyMode.ACT, description="Mode of decisions after a failure.")
    ai_policy_pause: bool = Field(default=False, description="The policy may pause runs; operators watch them.")
    ai_policy_rollback: bool = Field(default=False, description="The policy may roll back without a request.")
    ai_policy_attempt_cost: float = Field(default=1.0, gt=0, description="Cost of an attempt, in any unit.")
    ai_policy_failure_cost: float = Field(default=20.0, gt=0, description="Cost of a failed run, in the same unit.")
    retention_audit_days: int = _days(400, "Audit log, and expired or revoked tokens.")
    retention_decisions_days: int = _days(730, "Decisions and overrides of pruned executions.")
    retention_insights_days: int = _days(400, "Insights that were neither observed again nor resolved.")
    retention_history_days: int = _days(1825, "Run history that the safety engine learns from.")
    retention_models_days: int = _days(730, "Trainings of the risk model; the newest are always kept.")
    retention_revisions_days: int = _days(1095, "Replaced pipeline revisions that no execution uses.")
    log_level: LogLevel = LogLevel.INFO
    log_format: LogFormat = LogFormat.JSON
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_prefix: str = "/api"
    cors_origins: tuple[str, ...] = ()
    debug: bool = False
    airflow_callback_secret: str = Field(default="", repr=False)
    artifacts_url: str = Field(default=str(HOME / "artifacts"), description="Folder or fsspec URL of artifacts.")
    output_database_url: str = Field(default="", repr=False, description="Database that outputs write to; see docs.")
    connections: dict[str, str] = Field(default_factory=dict, repr=False, description="Name -> SQLAlchemy URL.")
    file_roots: tuple[str, ...] = Field(default=(".",), description="Folders and URL prefixes that stages may access.")
    python_modules: tuple[str, ...] = Field(default=(), description="Modules python stages may call, or pkg.*.")
    http_allowed_hosts: tuple[str, ...] = Field(default=(), description="Private hosts that stages may call.")
    otel_exporter_otlp_endpoint: str = Field(default="", repr=False, description="Trace collector; optional.")
    otel_exporter_otlp_traces_endpoint: str = Field(
        default="", repr=False, description="Traces endpoint, a full URL; optional."
    )
    otel_sdk_disabled: bool = False

    @field_validator("log_level", mode="before")
    @classmethod
    def _to_upper_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("ai_risk_threshold_medium")
    @classmethod
    def _check_threshold_order(cls, value: float, info: ValidationInfo) -> float:
        if value > info.data.get("ai_risk_threshold_high", 1.0):
            raise ValueError("must not exceed AI_RISK_THRESHOLD_HIGH")
        return value

    @field_validator("api_prefix")
    @classmethod
    def _check_api_prefix(cls, value: str) -> str:
        if not _API_PREFIX.fullmatch(value):
            raise ValueError(f"must be empty, or start with / and not end with /, such as /api, not {shown(value)}")
        return value

    @field_validator("otel_exporter_otlp_endpoint", "otel_exporter_otlp_traces_endpoint")
    @classmethod
    def _check_http_url(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must be an http:// or https:// URL")
        return value

    @field_validator("otel_sdk_disabled", mode="before")
    @classmethod
    def _parse_boolean(cls, value: object) -> object:  # as the OpenTelemetry specification says
        return value.strip().lower() == "true" if isinstance(value, str) else value

    @field_validator("database_url", "output_database_url")
    @classmethod
    def _check_database_url(cls, value: str) -> str:
        scheme = value.partition("://")[0]
        if value and scheme.partition("+")[0] not in {"sqlite", "postgresql", "postgres"}:
            raise ValueError("must be a postgresql:// or sqlite:/// URL")
        return value

    @property
    def traces_endpoint(self) -> str:
        """Full URL that traces are sent to; empty when tracing is off."""
        if self.otel_sdk_disabled:
            return ""
        base = self.otel_exporter_otlp_endpoint.rstrip("/")
        return self.otel_exporter_otlp_traces_endpoint or (f"{base}/v1/traces" if base else "")

    @property
    def traces_variable(self) -> str:
        """Name of the variable that sets the traces endpoint."""
        return f"OTEL_EXPORTER_OTLP_{'TRACES_' if self.otel_exporter_otlp_traces_endpoint else ''}ENDPOINT"


def load_settings(**overrides: Any) -> Settings:  # noqa: ANN401 - pydantic checks the types of the overrides
    """Read the environment and `.env`.

    Raises SettingsError, whose one-line message names every bad variable.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from error
    except ValueError as error:  # pydantic-settings raises its own error for invalid JSON
        name = str(error).partition('"')[2].partition('"')[0]
        raise SettingsError(f"{name.upper() or 'environment'}: must be valid JSON") from error


def secrets_from(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Secrets that stages may reference by name: `FLEXIROASTER_SECRET_NAME=value`."""
    merged = {**dotenv_values(".env"), **(os.environ if environment is None else environment)}
    return {k[len(SECRET_PREFIX) :]: v for k, v in merged.items() if k.startswith(SECRET_PREFIX) and v is not None}


def _one_line(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False):
        name, *inner = item["loc"]
        secret = not Settings.model_fields[str(name).lower()].repr
        parts.append(f"{render_path((str(name).upper(), *inner))}: {problem_text(item, secret=secret)}")
    return "; ".join(parts).replace("\n", " ")


def psycopg_url(url: str) -> str:
    """Map every PostgreSQL URL scheme to psycopg 3; return other URLs unchanged."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme in {"postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"}:
        return f"postgresql+psycopg://{rest}"
    return url
