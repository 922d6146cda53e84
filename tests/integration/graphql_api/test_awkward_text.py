"""Text that a database cannot store is a client error, and reported as one."""

from __future__ import annotations

from flexiroaster.config import Settings
from flexiroaster.service import pipelines
from tests.integration.graphql_api.running import serving

NUL = "a\0b"
START = """mutation ($by: String!, $key: String) {
  startExecution(input: {pipelineId: "p", triggeredBy: $by, idempotencyKey: $key}) {
    __typename ... on InputError { path message }
  }
}"""


def test_unstorable_text_is_refused_and_other_requests_are_served(settings: Settings) -> None:
    stage = {"id": "a", "type": "input", "config": {"source": "api"}}
    with serving(settings) as api:
        pipelines.create(api.installation, {"id": "p", "name": "P", "stages": [stage]})
        queries = (
            ("query ($v: ID!) { execution(id: $v) { id } }", {"v": NUL}),
            ("query ($v: String!) { executions(filter: {text: $v}) { nodes { id } } }", {"v": NUL}),
        )
        for query, variables in queries:
            errors = api.post(query, variables).json().get("errors", [])
            assert {error["extensions"]["code"] for error in errors} <= {"input.invalid"}, errors
        for by, key, field in (
            (NUL, None, "triggered_by"),
            ("x" * 256, None, "triggered_by"),
            ("x", NUL, "idempotency_key"),
        ):
            found = api.data(START, {"by": by, "key": key})["startExecution"]
            assert (found["__typename"], found["path"]) == ("InputError", ["input", field])
        assert api.data(START, {"by": "ana", "key": "k"})["startExecution"]["__typename"] == "ExecutionStarted"
