"""`destination: http`: rows sent to a receiver in batches, at least once, each batch with an idempotency key."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import quote

import httpx
import orjson
from pydantic import Field

from flexiroaster.errors import Problem, StageError, configuration_error, data_error
from flexiroaster.operators.access.network_guard import (
    call_with_retries,
    checked_headers,
    convert_request_errors,
    guarded_client,
    raise_if_transient,
    redact_url,
    require_public_literal,
    same_origin,
    web_host,
)
from flexiroaster.operators.base import (
    Access,
    OperatorConfig,
    OutputOperator,
    Result,
    SecretRef,
    StageContext,
    resolve_secret,
)
from flexiroaster.operators.outputs.effects import cannot_undo_error, effect_result, fill_placeholders
from flexiroaster.operators.outputs.rows import as_records, batches, count_rows

if TYPE_CHECKING:
    import polars as pl

__all__ = ["HttpOutput"]

Headers = Mapping[str, str | SecretRef]

_RESERVED_HEADERS = frozenset({"idempotency-key", "content-length", "transfer-encoding"})
_TYPES = {"json": "application/json", "ndjson": "application/x-ndjson"}

KEY_HEADER = "Idempotency-Key"
"""A receiver that remembers the values of this header can apply a repeated request once."""

_DATA_ERROR_STATUSES = frozenset({400, 409, 413, 415, 422})
_GONE_STATUSES = frozenset({404, 410})
_MAX_EXCERPT = 200


class UndoRequest(OperatorConfig):
    """The request that reverts a delivery. `{execution_id}` and `{stage_id}` are replaced in `url` and `body`."""

    url: str = Field(min_length=1)
    method: Literal["DELETE", "POST"] = "DELETE"
    headers: dict[str, str | SecretRef] = Field(
        default_factory=dict, description="Override the headers of the output, which are sent only to its own origin."
    )
    body: Any | None = Field(default=None, description="Any JSON value.")


class HttpOutputConfig(OperatorConfig):
    """Where and how the rows are sent."""

    url: str = Field(min_length=1)
    method: Literal["POST", "PUT"] = "POST"
    headers: dict[str, str | SecretRef] = Field(default_factory=dict)
    batch_size: int = Field(default=500, ge=1, le=1_000_000, description="Rows per request.")
    format: Literal["json", "ndjson"] = Field(default="json", description="json: one array per request.")
    body_key: str | None = Field(default=None, description="Wraps the array in an object, under this key.")
    timeout: float = Field(default=30.0, gt=0, description="Seconds, for connecting and for each wait for data.")
    max_retries: int = Field(default=5, ge=0, le=20, description="Retries of each request.")
    undo: UndoRequest | None = Field(default=None, description="The request that reverts the delivery.")


class HttpOutput(OutputOperator[HttpOutputConfig]):
    """Send the rows to a web address, in batches.

    Delivery is at least once: a request whose response is lost is sent again, and so are all batches when the stage is
    attempted again. Each batch has the header `Idempotency-Key: execution/stage/number`, the same with the same rows in
    every attempt, so that a receiver can apply it once. An undo is possible only if the config declares a request for
    it. Times are ISO 8601; NaN and infinities, which JSON cannot represent, become null. Private addresses are refused
    unless HTTP_ALLOWED_HOSTS lists the host.
    """

    name = "http"
    config_model = HttpOutputConfig
    example: ClassVar[Mapping[str, Any]] = {
        "id": "notify",
        "type": "output",
        "config": {
            "destination": "http",
            "url": "https://example.com/sales",
            "headers": {"Authorization": {"secret": "SALES_TOKEN"}},
            "undo": {"url": "https://example.com/sales?execution={execution_id}"},
        },
        "dependencies": ["sales"],
    }

    def check(self, dependencies: tuple[str, ...], access: Access) -> Iterator[Problem]:  # noqa: ARG002 - the contract
        """Report invalid or private addresses, headers that a config cannot set, and a key without an object."""
        config = self.config
        yield from _request_problems("", config.url, config.headers, access)
        if config.undo is not None:
            yield from _request_problems("undo.", config.undo.url, config.undo.headers, access)
        if config.body_key is not None and config.format == "ndjson":
            yield Problem("body_key", "applies to json: ndjson has no object around its lines", "unused")

    def run(self, context: StageContext) -> Result:
        """Send all batches. Raises StageError: transient, data, configuration."""
        config = self.config
        self.refuse_problems(context.access)
        headers = _merged({"Content-Type": _TYPES[config.format]}, config.headers)
        with self._delivery(config.method, config.url, headers, context) as delivery:
            sent = self._send_all(delivery, context)
        if not sent["batches"]:
            context.logger.warning("the input has no rows: nothing is sent")
        undoable = config.undo is not None or not sent["batches"]
        return effect_result({"kind": "http", "url": redact_url(config.url), **sent, "undoable": undoable}, context)

    def undo(self, effect: Mapping[str, Any], context: StageContext) -> str:
        """Send the request declared as `undo`; 404 and 410 are fine, because its target is already gone.

        Raises StageError: configuration if no request is declared, else as `run`.
        """
        if effect.get("batches") == 0:
            return "nothing was sent"
        request = self.config.undo
        if request is None:
            raise cannot_undo_error("the stage declares no `undo` request")
        self.refuse_problems(context.access)
        names = {"execution_id": context.execution_id, "stage_id": context.stage_id}
        url = fill_placeholders(request.url, {name: quote(value, safe="") for name, value in names.items()})
        with self._delivery(request.method, url, self._undo_headers(request, url), context) as delivery:
            key = f"{context.execution_id}/{context.stage_id}/undo"
            body = None if request.body is None else orjson.dumps(fill_placeholders(request.body, names))
            status = delivery.send(body, key, gone_is_fine=request.method == "DELETE")
        return f"{request.method} {redact_url(url)} answered {status}"

    @contextmanager
    def _delivery(self, method: str, url: str, headers: Headers, context: StageContext) -> Iterator[Delivery]:
        revealed = {name: resolve_secret(value, context.access) for name, value in headers.items()}
        secrets = {revealed[name] for name, value in headers.items() if isinstance(value, SecretRef)}
        with guarded_client(context.access, timeout=self.config.timeout) as client:
            retries, logger = self.config.max_retries, context.logger
            yield Delivery(client, method, url, revealed, secrets=secrets, max_retries=retries, logger=logger)

    def _send_all(self, delivery: Delivery, context: StageContext) -> dict[str, Any]:
        total, rows, statuses = count_rows(context.table), 0, Counter[str]()
        for number, batch in enumerate(batches(context.table, self.config.batch_size)):
            key = f"{context.execution_id}/{context.stage_id}/{number}"
            statuses[str(delivery.send(self._body(batch), key))] += 1
            rows += batch.height
            context.report_progress(rows / total, f"{rows:,} of {total:,} rows sent")
        return {"batches": statuses.total(), "rows": rows, "statuses": dict(statuses)}

    def _body(self, batch: pl.DataFrame) -> bytes:
        if self.config.format == "ndjson":
            return b"".join(record + b"\n" for record in as_records(batch))
        array = b"[" + b",".join(as_records(batch)) + b"]"
        return array if self.config.body_key is None else b"{%b:%b}" % (orjson.dumps(self.config.body_key), array)

    def _undo_headers(self, request: UndoRequest, url: str) -> Headers:
        """The output's credentials go only to its own origin."""
        is_same_origin = same_origin(httpx.URL(self.config.url), httpx.URL(url))
        content: Headers = {} if request.body is None else {"Content-Type": _TYPES["json"]}
        return _merged(self.config.headers if is_same_origin else {}, content, request.headers)


def _request_problems(where: str, url: str, headers: Headers, access: Access) -> Iterator[Problem]:
    try:
        require_public_literal(web_host(url), access)
    except ValueError as error:
        yield Problem(f"{where}url", str(error), "url")
    except StageError as error:
        yield Problem(f"{where}url", error.message, "address")
    for name in headers:
        if name.lower() in _RESERVED_HEADERS:
            yield Problem(f"{where}headers.{name}", "is set by this output itself", "reserved")


def _merged(*parts: Headers) -> Headers:
    """Merge headers; later ones override earlier ones, regardless of the case of their names."""
    merged: dict[str, tuple[str, str | SecretRef]] = {}
    for part in parts:
        merged |= {name.lower(): (name, value) for name, value in part.items()}
    return dict(merged.values())


class Delivery:
    """Sends requests of one kind to one URL. `headers` contain revealed secrets; no error shows one of `secrets`."""

    def __init__(
        self,
        client: httpx.Client,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        secrets: Collection[str],
        max_retries: int,
        logger: logging.Logger,
    ) -> None:
        self._client, self._method, self._url, self._headers = client, method, url, checked_headers(headers)
        self._secrets, self._max_retries, self._logger = [s for s in secrets if s], max_retries, logger
        self._shown = f"{method} {redact_url(url)}"

    def send(self, body: bytes | None, key: str, *, gone_is_fine: bool = False) -> int:
        """Send one request, with retries; return the response status: 2xx, or 404 and 410 if `gone_is_fine`.

        Raises StageError: transient once the attempts are used up, data or configuration if the receiver refuses the
        request.
        """
        return call_with_retries(self._max_retries, self._logger, self._attempt, body, key, gone_is_fine)

    def _attempt(self, body: bytes | None, key: str, gone_is_fine: bool) -> int:
        headers = {**self._headers, KEY_HEADER: key}
        with (
            convert_request_errors(self._shown),
            self._client.stream(self._method, self._url, content=body, headers=headers) as response,
        ):
            if not (response.is_success or (gone_is_fine and response.status_code in _GONE_STATUSES)):
                self._refuse(response)
            return response.status_code

    def _refuse(self, response: httpx.Response) -> None:
        """Raise the error that an unsuccessful response means."""
        message = f"{self._shown}: {response.status_code} {response.reason_phrase}".rstrip()
        raise_if_transient(response, message)
        if response.is_redirect:
            raise configuration_error(f"{message}; redirects are not followed, so use the URL that this one leads to")
        error = data_error if response.status_code in _DATA_ERROR_STATUSES else configuration_error
        raise error(f"{message}{self._excerpt(response)}")

    def _excerpt(self, response: httpx.Response) -> str:
        """The beginning of the response body, with our secrets masked in case it repeats them."""
        received = b""
        for block in response.iter_bytes():
            received += block
            if len(received) > 4 * _MAX_EXCERPT:
                break
        text = " ".join(received.decode("utf-8", "replace").split())
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return f": {text[:_MAX_EXCERPT]}" if text else ""
