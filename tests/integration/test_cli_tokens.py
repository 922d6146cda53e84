"""Tokens from the command line: the secret alone on stdout, once."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.program import flexiroaster


def test_the_life_of_a_token_from_creation_to_revocation(tmp_path: Path) -> None:
    made = flexiroaster("token", "create", "airflow", "--role", "operator", "--expires", "90d")
    assert made.returncode == 0
    secret = made.stdout.strip()
    assert secret.startswith("frt_")
    assert len(secret) == 47
    assert made.stderr == "Save this token now: it is shown only once. Send it as: Authorization: Bearer TOKEN\n"

    listed = flexiroaster("token", "list", "--json")
    assert secret not in listed.stdout
    token = json.loads(listed.stdout)["tokens"][0]
    assert (token["name"], token["role"], token["state"], token["last_used_at"]) == (
        "airflow", "operator", "in force", None,
    )  # fmt: skip
    assert token["expires_at"] > token["created_at"]

    revoked = flexiroaster("token", "revoke", "airflow")
    assert (revoked.returncode, revoked.stdout) == (0, f"revoked: airflow ({token['id']})\n")
    shown = flexiroaster("token", "list")
    assert "revoked" in shown.stdout
    again = flexiroaster("token", "revoke", "airflow")
    assert (again.returncode, again.stderr) == (1, "Error: No token in force has the name or id: airflow\n")


def test_invalid_arguments_are_refused(tmp_path: Path) -> None:
    bad = flexiroaster("token", "create", "x", "--expires", "soon")
    assert (bad.returncode, bad.stderr) == (
        2,
        "Error: --expires 'soon': must be a number followed by d, h, m or s, such as 90d\n",
    )
    assert flexiroaster("token", "create", "x", "--role", "king").returncode == 2
    nameless = flexiroaster("token", "create", "")
    assert (nameless.returncode, nameless.stderr) == (1, "Error: the name of a token must have 1 to 255 characters\n")
