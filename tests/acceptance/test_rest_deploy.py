"""The files of deploy/: each parses, each command in it exists, each variable is one of Settings, no secret is in one.

And the topology that they describe, as plain processes.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from flexiroaster.cli.app import app
from flexiroaster.config import Settings, load_settings
from tests.integration.graphql_api.served import served
from tests.integration.program import flexiroaster, started
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes/flexiroaster.yaml").read_text()))
ALERTS = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
EXAMPLE = dict(
    line.split("=", 1) for line in (DEPLOY / ".env.example").read_text().splitlines() if line and line[0] != "#"
)
OURS = {name for name, service in COMPOSE["services"].items() if service["image"] == "flexiroaster"}
VARIABLES = {name.upper() for name in Settings.model_fields}
NOT_OURS = {"POSTGRES_PASSWORD"}


def check_command(arguments: list[str]) -> None:
    """The program has such a command with such options; nothing is run."""
    command: Any = get_command(app)
    rest = [str(argument) for argument in arguments]
    while hasattr(command, "commands"):
        name, *rest = rest
        assert name in command.commands, arguments
        command = command.commands[name]
    command.make_context(command.name, rest)  # raises for an option that it has not


def container_arguments() -> list[list[str]]:
    pods = [document["spec"]["template"]["spec"] for document in KUBERNETES if document["kind"] == "Deployment"]
    containers = [each for pod in pods for each in [*pod.get("initContainers", []), *pod["containers"]]]
    return [container["args"] for container in containers]


def commands_of_text() -> list[list[str]]:
    """What comments and the page tell people to run with compose."""
    text = "\n".join((DEPLOY / "docker-compose.yml").read_text().splitlines()[:8])
    text += (ROOT / "docs/operations.md").read_text()
    found = re.findall(r"docker-compose.yml run --rm (\w+)(.*)", text)
    assert found
    return [rest.split() or COMPOSE["services"][service]["command"] for service, rest in found]


def page_commands() -> list[list[str]]:
    """The commands that the page names in passing."""
    found = re.findall(r"`flexiroaster ([a-z]+(?: [a-z]+| --[a-z-]+)*)`", (ROOT / "docs/operations.md").read_text())
    return [words.split() for words in found]


@pytest.mark.parametrize(
    "arguments",
    [COMPOSE["services"][name]["command"] for name in sorted(OURS)] + container_arguments() + commands_of_text(),
    ids=" ".join,
)
def test_every_command_exists(arguments: list[str]) -> None:
    check_command(arguments)


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


def test_every_variable_is_one_of_settings() -> None:
    compose = {name for service in OURS for name in COMPOSE["services"][service]["environment"]}
    kubernetes = {name for document in KUBERNETES if document["kind"] == "ConfigMap" for name in document["data"]}
    secrets = set(re.findall(r"--from-literal=(\w+)", (DEPLOY / "kubernetes/flexiroaster.yaml").read_text()))
    image = set(re.findall(r"^\s+(?:ENV )?([A-Z_]+)=", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE))
    asked = set(re.findall(r"\$\{(\w+)", (DEPLOY / "docker-compose.yml").read_text()))
    assert compose | kubernetes | secrets | (image - {"PYTHONUNBUFFERED"}) <= VARIABLES
    assert asked == set(EXAMPLE)
    assert set(EXAMPLE) - NOT_OURS <= VARIABLES


def test_the_example_of_variables_is_read_and_holds_no_secret(tmp_path: Path) -> None:
    Path(".env").write_text((DEPLOY / ".env.example").read_text())
    settings = load_settings()
    assert settings.cors_origins == ()
    assert settings.airflow_callback_secret == ""
    assert EXAMPLE["POSTGRES_PASSWORD"] == ""
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not re.search(r"(?i)(password|secret)[:=] *['\"]?[a-z0-9]{4,}(?!.*set it in)", text), path


def test_values_that_are_given_can_be_read() -> None:
    """Each value of an example is one that Settings take."""
    for document in KUBERNETES:
        if document["kind"] == "ConfigMap":
            environment = {name.lower(): value for name, value in document["data"].items()}
            with pytest.MonkeyPatch.context() as patch:
                for name, value in environment.items():
                    patch.setenv(name.upper(), value)
                assert load_settings().file_roots == ("/data/files",)


def test_the_image_runs_as_nobody_special_and_has_both_entry_points() -> None:
    lines = (DEPLOY / "Dockerfile").read_text()
    final = lines[lines.rindex("FROM ") :]
    assert re.search(r"^USER 10001$", final, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["flexiroaster"\]$', final, re.MULTILINE)
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", lines, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name


def test_containers_may_do_little() -> None:
    for name in OURS:
        service = COMPOSE["services"][name]
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for document in KUBERNETES:
        if document["kind"] == "Deployment":
            assert document["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True


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
        "ARTIFACTS_URL": str(tmp_path / "artifacts"),
        "EXECUTOR_WORKERS": "2",
        "LOG_LEVEL": "WARNING",
        "PYTHON_MODULES": '["tests.integration.stages"]',
        "PYTHONPATH": str(ROOT),
    }
    assert flexiroaster(*services["upgrade"]["command"], **env).returncode == 0
    refused = flexiroaster(*services["api"]["command"], **env)
    assert refused.returncode == 2
    assert "there is no access token" in refused.stderr
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
    """Several executions at once, on both workers, all to their end."""
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
    """Every figure that a rule or the page names is exposed."""
    text = http.get("/metrics", headers={"accept": "text/plain; version=0.0.4"}).text
    families = {family.name for family in text_string_to_metric_families(text)}
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    named = {name for rule in rules for name in re.findall(r"flexiroaster_\w+", rule["expr"])}
    named |= set(re.findall(r"`(flexiroaster_\w+)", (ROOT / "docs/operations.md").read_text()))
    assert {name.removesuffix("_total") for name in named} <= families
