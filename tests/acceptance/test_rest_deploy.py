"""The files of deploy/: each parses, its commands exist, its variables are settings, and it contains no secret.

The topology that they describe also runs as plain processes.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from flexiroaster.cli.app import app
from flexiroaster.config import Settings, load_settings
from tests.acceptance.promql import asked_of, values_of
from tests.acceptance.test_rest_dashboard import DASHBOARD, expressions
from tests.integration.graphql_api.served import served
from tests.integration.program import flexiroaster, started
from tests.integration.rest_compat.exposition_lint import problems
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())
KUBERNETES = [
    document
    for name in ("upgrade.yaml", "flexiroaster.yaml")
    for document in yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text())
]
ALERTS = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
EXAMPLE = dict(
    line.split("=", 1) for line in (DEPLOY / ".env.example").read_text().splitlines() if line and line[0] != "#"
)
OURS = {name for name, service in COMPOSE["services"].items() if service["image"] == "flexiroaster"}
VARIABLES = {name.upper() for name in Settings.model_fields}
AIRFLOW = {name for name, service in COMPOSE["services"].items() if service["image"].startswith("apache/airflow:3.3")}
NOT_OURS = {
    *("POSTGRES_PASSWORD", "AIRFLOW_POSTGRES_PASSWORD", "AIRFLOW_ADMIN_PASSWORD", "AIRFLOW_FERNET_KEY"),
    *("AIRFLOW_SECRET_KEY", "AIRFLOW_JWT_SECRET", "GRAFANA_PASSWORD", "METRICS_TOKEN"),
}
OF_IMAGES = {
    # https://hub.docker.com/_/postgres
    *("POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"),
    # https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html
    *("AIRFLOW__CORE__EXECUTOR", "AIRFLOW__CORE__AUTH_MANAGER", "AIRFLOW__CORE__FERNET_KEY"),
    *("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "AIRFLOW__CORE__LOAD_EXAMPLES"),
    *("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__API__SECRET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET"),
    "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK",
    # https://airflow.apache.org/docs/docker-stack/entrypoint.html
    *("_AIRFLOW_DB_MIGRATE", "_AIRFLOW_WWW_USER_CREATE"),
    *("_AIRFLOW_WWW_USER_USERNAME", "_AIRFLOW_WWW_USER_PASSWORD"),
    # https://grafana.com/docs/grafana/latest/setup-grafana/configure-grafana/
    *("GF_SECURITY_ADMIN_PASSWORD", "GF_USERS_ALLOW_SIGN_UP"),
    *("GF_ANALYTICS_REPORTING_ENABLED", "GF_ANALYTICS_CHECK_FOR_UPDATES"),
}
"""The variables that the documentation of these images names, as far as they are used."""

AIRFLOW_COMMANDS = [["api-server"], ["dag-processor"], ["db", "check-migrations"], ["scheduler"], ["triggerer"]]
"""https://airflow.apache.org/docs/apache-airflow/stable/cli-and-env-variables-ref.html"""


def check_command(arguments: list[str]) -> None:
    """Check that the program has this command with these options, without running it."""
    command: Any = get_command(app)
    rest = [str(argument) for argument in arguments]
    while hasattr(command, "commands"):
        name, *rest = rest
        assert name in command.commands, arguments
        command = command.commands[name]
    command.make_context(command.name, rest)  # raises for an option that it has not


def pods() -> list[dict[str, Any]]:
    """The pod of each Deployment, Job and CronJob."""
    specs = [document["spec"] for document in KUBERNETES if document["kind"] in {"Deployment", "Job", "CronJob"}]
    return [spec.get("jobTemplate", {}).get("spec", spec)["template"]["spec"] for spec in specs]


def containers() -> list[dict[str, Any]]:
    return [each for pod in pods() for each in [*pod.get("initContainers", []), *pod["containers"]]]


def container_arguments() -> list[list[str]]:
    return [container["args"] for container in containers()]


def commands_of_text() -> list[list[str]]:
    """The compose commands in comments and on the page."""
    text = "\n".join((DEPLOY / "docker-compose.yml").read_text().splitlines()[:10])
    text += (ROOT / "docs/operations.md").read_text()
    found = re.findall(r"docker-compose.yml run --rm (\w+)(.*)", text)
    assert found
    return [rest.split() or COMPOSE["services"][service]["command"] for service, rest in found]


def page_commands() -> list[list[str]]:
    """The commands that the page mentions."""
    found = re.findall(r"`flexiroaster ([a-z]+(?: [a-z]+| --[a-z-]+)*)`", (ROOT / "docs/operations.md").read_text())
    return [words.split() for words in found]


@pytest.mark.parametrize(
    "arguments",
    [COMPOSE["services"][name]["command"] for name in sorted(OURS)] + container_arguments() + commands_of_text(),
    ids=" ".join,
)
def test_every_command_exists(arguments: list[str]) -> None:
    check_command(arguments)


def test_the_commands_of_kubernetes_comments_exist() -> None:
    text = "".join(path.read_text() for path in (DEPLOY / "kubernetes").iterdir())
    told = re.findall(r"-- flexiroaster (.+)", text)
    assert told
    for each in told:
        check_command(each.split())
    names = {f"{document['kind'].lower()}/{document['metadata']['name']}" for document in KUBERNETES}
    named = re.findall(r"(?:deploy|job)/flexiroaster-\w+", text)
    assert {name.replace("deploy/", "deployment/") for name in named} <= names


def test_every_command_of_the_page_exists() -> None:
    names = page_commands()
    assert ["db", "prune"] in names
    for words in names:
        command: Any = get_command(app)
        for word in words:
            if word.startswith("--"):
                assert word in {option for each in command.params for option in each.opts}, words
            else:
                assert word in command.commands, words
                command = command.commands[word]


def test_every_variable_is_a_setting() -> None:
    compose = {name for service in OURS for name in COMPOSE["services"][service]["environment"]}
    kubernetes = {name for document in KUBERNETES if document["kind"] == "ConfigMap" for name in document["data"]}
    kubernetes |= {each["name"] for container in containers() for each in container.get("env", [])}
    secrets = set(re.findall(r"--from-literal=(\w+)", (DEPLOY / "kubernetes/flexiroaster.yaml").read_text()))
    image = set(re.findall(r"^\s+(?:ENV )?([A-Z_]+)=", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE))
    asked = set(re.findall(r"\$\{(\w+)", (DEPLOY / "docker-compose.yml").read_text()))
    asked |= {secret["environment"] for secret in COMPOSE["secrets"].values()}
    assert compose | kubernetes | secrets | (image - {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}) <= VARIABLES
    assert asked == set(EXAMPLE)
    assert set(EXAMPLE) - NOT_OURS <= VARIABLES


def test_every_other_variable_is_documented_by_its_image() -> None:
    others = [service for name, service in COMPOSE["services"].items() if name not in OURS]
    given = {name for service in others for name in service.get("environment", {})}
    assert given == OF_IMAGES


def test_every_secret_is_required() -> None:
    """None has a default, and compose refuses to start without it."""
    for name, service in COMPOSE["services"].items():
        for variable, value in service.get("environment", {}).items():
            names_secret = re.search(r"PASSWORD|SECRET|KEY$|TOKEN", variable) or re.search("://.*@", value)
            if names_secret and variable != "AIRFLOW_CALLBACK_SECRET":
                assert re.search(r"\$\{\w+:\?set it in deploy/.env\}", value), f"{name}: {variable}"
    for name, value in EXAMPLE.items():
        if re.search(r"PASSWORD|SECRET|KEY$|TOKEN", name):
            assert value == "", name


def test_the_compose_file_matches_its_schema() -> None:
    arguments = ["--builtin-schema", "vendor.compose-spec", str(DEPLOY / "docker-compose.yml")]
    checked = subprocess.run([sys.executable, "-m", "check_jsonschema", *arguments], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_everything_compose_refers_to_exists() -> None:
    """Services that others wait for, with their health checks; volumes, secrets and mounted files."""
    services = COMPOSE["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, name
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other], name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"]), name


def test_airflow_is_complete_and_has_health_checks() -> None:
    assert sorted(COMPOSE["services"][name]["command"] for name in AIRFLOW) == AIRFLOW_COMMANDS
    for name in AIRFLOW - {"airflow-init"}:
        service = COMPOSE["services"][name]
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["depends_on"]["airflow-init"] == {"condition": "service_completed_successfully"}
        assert "networks" not in service, "it shares the network with the API"
    environment = COMPOSE["services"]["airflow-scheduler"]["environment"]
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://airflow-apiserver:8080/execution/"
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].endswith("@airflow-postgres:5432/airflow")


@pytest.mark.parametrize("document", KUBERNETES, ids=lambda document: document["metadata"]["name"])
@pytest.mark.parametrize("version", ["1.30", "1.34"])
def test_the_kubernetes_files_match_their_schemas(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_the_example_env_file_is_readable_and_contains_no_secret(tmp_path: Path) -> None:
    Path(".env").write_text((DEPLOY / ".env.example").read_text())
    settings = load_settings()
    assert settings.cors_origins == ()
    assert settings.airflow_callback_secret == ""
    assert EXAMPLE["POSTGRES_PASSWORD"] == ""
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not re.search(r"(?i)(password|secret)[:=] *['\"]?[a-z0-9]{4,}(?!.*set it in)", text), path


def test_the_example_values_are_valid() -> None:
    """Settings accept each value of the example."""
    for document in KUBERNETES:
        if document["kind"] == "ConfigMap":
            environment = {name.lower(): value for name, value in document["data"].items()}
            with pytest.MonkeyPatch.context() as patch:
                for name, value in environment.items():
                    patch.setenv(name.upper(), value)
                assert load_settings().file_roots == ("/data/files",)


def test_the_image_runs_unprivileged_and_has_both_entry_points() -> None:
    lines = (DEPLOY / "Dockerfile").read_text()
    final = lines[lines.rindex("FROM ") :]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["tini", "--", "flexiroaster"\]$', final, re.MULTILINE)
    sent = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert "**" in sent, "nothing is sent to the builder unless it is named"
    allowed = {line[1:].removesuffix("/*.txt") for line in sent if line.startswith("!")}
    copied = {name for found in re.findall(r"^COPY (?!--from)(.+) \S+$", lines, re.MULTILINE) for name in found.split()}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_containers_have_few_privileges() -> None:
    for name, service in COMPOSE["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        if name in OURS:
            assert service["read_only"] is True
        if "postgres" not in name and name != "redis":  # these change their user when they start
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
    for pod in pods():
        security = pod["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"], security["runAsGroup"]) == (True, 10001, 10001)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            written = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {"/tmp", "/var/lib/flexiroaster"} <= written


# --- the same as plain processes --------------------------------------------------------------------------------------


@contextmanager
def worker(env: dict[str, str], log: Path) -> Iterator[Any]:
    with log.open("w") as file:
        process = started("worker", env=env, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, log.read_text()


def test_the_topology_works_as_plain_processes(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    """PostgreSQL, Redis, an API that drives nothing, and two workers: all commands are those of docker-compose.yml."""
    services = COMPOSE["services"]
    env = {
        "DATABASE_URL": postgres_url,
        "REDIS_URL": redis_url,
        "REDIS_SOCKET_TIMEOUT": "20",  # it stays, however slow the machine is
        "ARTIFACTS_URL": str(tmp_path / "artifacts"),
        "EXECUTOR_WORKERS": "2",
        "LOG_LEVEL": "WARNING",
        "PYTHON_MODULES": '["tests.integration.stages"]',
        "PYTHONPATH": str(ROOT),
    }
    assert flexiroaster(*services["upgrade"]["command"], **env).returncode == 0
    refused = flexiroaster(*services["api"]["command"], **env)
    assert refused.returncode == 2
    assert "no access token exists" in refused.stderr
    made = flexiroaster("token", "create", "me", "--role", "admin", **env)
    (token,) = re.findall(r"frt_[\w-]+", made.stdout)
    flags = [flag for flag in services["api"]["command"] if flag == "--no-executor"]
    with ExitStack() as running:
        server = running.enter_context(served(*flags, **env))
        for name in ("worker-1", "worker-2"):
            assert services[name]["command"] == ["worker"]
            running.enter_context(worker(env, tmp_path / f"{name}.log"))
        http = running.enter_context(httpx.Client(base_url=server.url, timeout=60))
        assert http.get("/api/pipelines").status_code == 401
        http.headers["authorization"] = f"Bearer {token}"
        check_work(http)
        health = http.get("/health").json()
        assert health["status"] == "healthy"
        assert health["services"]["redis"]["details"]["fallback_mode"] is False
        check_alerts(http)


def check_work(http: httpx.Client) -> None:
    """Run several executions at once on both workers, all to completion."""
    stages = [
        {"id": "load", "type": "input", "config": {"source": "api", "data": [{"n": 1}, {"n": 2}]}},
        {"id": "save", "type": "output", "config": {"destination": "database"}, "dependencies": ["load"]},
    ]
    created = http.post("/api/pipelines", json={"name": "topology", "stages": stages, "concurrency": None})
    path = f"/api/executions/{created.json()['id']}/execute"
    ids = [http.post(path).json()["execution_id"] for _ in range(10)]

    def completed() -> bool:
        return all(http.get(f"/api/executions/{each}").json()["status"] == "completed" for each in ids)

    eventually(completed, within=120)


def check_alerts(http: httpx.Client) -> None:
    """Check that every metric and label in a rule, the dashboard or the page is exposed."""

    def told() -> str:
        return http.get("/metrics", headers={"accept": "text/plain; version=0.0.4"}).text

    eventually(lambda: "flexiroaster_stage_retries_total{" in told(), within=60)  # what has ended a little ago
    text = told()
    assert problems(text) == []
    exposed: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            exposed.setdefault(sample.name, []).append(sample.labels)
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for expression in [*(rule["expr"] for rule in rules), *expressions(DASHBOARD)]:
        for asked in asked_of(expression):
            assert asked.name in exposed, expression
            for labels in exposed[asked.name]:
                assert asked.labels <= set(labels), expression
            for label in set(asked.values) & {"service", "status", "level", "transport"}:
                known = {labels[label] for labels in exposed[asked.name]}
                assert set(values_of(asked.values[label])) <= known, expression
    page = set(re.findall(r"`(flexiroaster_\w+)", (ROOT / "docs/operations.md").read_text()))
    assert {name.removesuffix("_total") for name in page} <= {
        family.name for family in text_string_to_metric_families(text)
    }
    told_of = re.findall(r"^\| `(FlexiRoaster\w+)`", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert set(told_of) == {rule["alert"] for rule in rules}
    every = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed}
    assert every == page, "the page tells of every figure"
