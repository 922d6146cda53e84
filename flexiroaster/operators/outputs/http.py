"""`destination: http`: rows sent to a receiver in batches, at least once, each batch with an idempotency key."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import quote, urlsplit

import httpx
from pydantic import Field

from flexiroaster.errors import ErrorClass, Problem, StageError
from flexiroaster.model.pipeline import StageType
from flexiroaster.operators.access.network_guard import (
    PASSING,
    PATIENCE,
    RETRYABLE_STATUS_CODES,
    RetryRequest,
    attempts,
    checked_headers,
    redact_url,
    seconds_until,
)
from flexiroaster.operators.base import (
    ONE,
    Access,
    OperatorConfig,
    OutputOperator,
    Result,
    SecretRef,
    StageContext,
    resolve_secret,
)
from flexiroaster.operators.outputs.effects import fill, gone, outcome

if TYPE_CHECKING:
    import polars as pl

__all__ = ["KEY_HEADER", "Delivery", "HttpOutput", "HttpOutputConfig", "UndoRequest"]


Headers = Mapping[str, str | SecretRef]

_OURS = frozenset({"idempotency-key", "content-length", "transfer-encoding"})
_TYPES = {"json": "application/json", "ndjson": "application/x-ndjson"}


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

    stage_type = StageType.OUTPUT
    name = "http"
    config_model = HttpOutputConfig
    arity = ONE
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
        from flexiroaster.operators.access.network_guard import redact_url

        config = self.config
        self._refuse_problems(context.access)
        headers = _merged({"Content-Type": _TYPES[config.format]}, config.headers)
        with self._delivery(config.method, config.url, headers, context) as delivery:
            sent = self._send_all(delivery, context)
        if not sent["batches"]:
            context.logger.warning("the input has no rows: nothing is sent")
        undoable = config.undo is not None or not sent["batches"]
        return outcome({"kind": "http", "url": redact_url(config.url), **sent, "undoable": undoable}, context)

    def undo(self, effect: Mapping[str, Any], context: StageContext) -> str:
        """Send the request declared as `undo`; 404 and 410 are fine, because its target is already gone.

        Raises StageError: configuration if no request is declared, else as `run`.
        """
        from flexiroaster.operators.access.network_guard import redact_url

        if effect.get("batches") == 0:
            return "nothing was sent"
        request = self.config.undo
        if request is None:
            raise gone("the stage declares no `undo` request")
        self._refuse_problems(context.access)
        names = {"execution_id": context.execution_id, "stage_id": context.stage_id}
        url = fill(request.url, {name: quote(value, safe="") for name, value in names.items()})
        with self._delivery(request.method, url, self._undo_headers(request, url), context) as delivery:
            key = f"{context.execution_id}/{context.stage_id}/undo"
            status = delivery.send(_encoded(fill(request.body, names)), key, gone_is_fine=request.method == "DELETE")
        return f"{request.method} {redact_url(url)} answered {status}"

    @contextmanager
    def _delivery(self, method: str, url: str, headers: Headers, context: StageContext) -> Iterator[Delivery]:
        from flexiroaster.operators.access.network_guard import guarded_client
        from flexiroaster.operators.outputs.http import Delivery

        revealed = {name: resolve_secret(value, context.access) for name, value in headers.items()}
        secrets = {revealed[name] for name, value in headers.items() if isinstance(value, SecretRef)}
        with guarded_client(context.access, timeout=self.config.timeout) as client:
            retries, logger = self.config.max_retries, context.logger
            yield Delivery(client, method, url, revealed, secrets=secrets, max_retries=retries, logger=logger)

    def _send_all(self, delivery: Delivery, context: StageContext) -> dict[str, Any]:
        from flexiroaster.operators.outputs.rows import batches, count_rows

        total, rows, statuses = count_rows(context.table), 0, Counter[str]()
        for number, batch in enumerate(batches(context.table, self.config.batch_size)):
            key = f"{context.execution_id}/{context.stage_id}/{number}"
            statuses[str(delivery.send(self._body(batch), key))] += 1
            rows += batch.height
            context.report_progress(rows / total, f"{rows:,} of {total:,} rows sent")
        return {"batches": statuses.total(), "rows": rows, "statuses": dict(statuses)}

    def _body(self, batch: pl.DataFrame) -> bytes:
        import orjson

        from flexiroaster.operators.outputs.rows import as_records

        if self.config.format == "ndjson":
            return b"".join(record + b"\n" for record in as_records(batch))
        array = b"[" + b",".join(as_records(batch)) + b"]"
        return array if self.config.body_key is None else b"{%b:%b}" % (orjson.dumps(self.config.body_key), array)

    def _undo_headers(self, request: UndoRequest, url: str) -> Headers:
        """The output's credentials go only to its own origin."""
        import httpx

        from flexiroaster.operators.access.network_guard import same_origin

        at_home = same_origin(httpx.URL(self.config.url), httpx.URL(url))
        content: Headers = {} if request.body is None else {"Content-Type": _TYPES["json"]}
        return _merged(self.config.headers if at_home else {}, content, request.headers)

    def _refuse_problems(self, access: Access) -> None:
        for problem in self.check((), access):
            raise StageError(f"config.{problem}", ErrorClass.CONFIGURATION)


def _request_problems(where: str, url: str, headers: Headers, access: Access) -> Iterator[Problem]:
    from flexiroaster.operators.access.network_guard import require_public_literal

    parts = _parsed(url)
    if parts is None:
        yield Problem(f"{where}url", "must be an http:// or https:// URL", "url")
    else:
        try:
            require_public_literal(parts, access)
        except StageError as error:
            yield Problem(f"{where}url", error.message, "address")
    for name in headers:
        if name.lower() in _OURS:
            yield Problem(f"{where}headers.{name}", "is set by this output itself", "reserved")


def _parsed(url: str) -> str | None:
    """The host of a web address, None if the URL is not one."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError if the port is out of range
    except ValueError:
        return None
    return parts.hostname if parts.scheme.lower() in {"http", "https"} else None


def _merged(*parts: Headers) -> Headers:
    """Merge headers; later ones override earlier ones, regardless of the case of their names."""
    merged: dict[str, tuple[str, str | SecretRef]] = {}
    for part in parts:
        merged |= {name.lower(): (name, value) for name, value in part.items()}
    return dict(merged.values())


def _encoded(body: Any) -> bytes | None:  # noqa: ANN401 - any JSON value
    import orjson

    return None if body is None else orjson.dumps(body)


# HTTP delivery: requests with an idempotency key, with retries, and with errors that explain a refusal.
KEY_HEADER = "Idempotency-Key"
"""A receiver that remembers the values of this header can apply a repeated request once."""

_DATA_ERROR_STATUSES = frozenset({400, 409, 413, 415, 422})
_GONE = frozenset({404, 410})
_EXCERPT = 200


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
        try:
            return attempts(self._max_retries, self._logger)(self._attempt, body, key, gone_is_fine)
        except RetryRequest as error:
            raise StageError(str(error), ErrorClass.TRANSIENT, retry_after=error.retry_after) from error

    def _attempt(self, body: bytes | None, key: str, gone_is_fine: bool) -> int:
        headers = {**self._headers, KEY_HEADER: key}
        try:
            with self._client.stream(self._method, self._url, content=body, headers=headers) as response:
                status = response.status_code
                if not (response.is_success or (gone_is_fine and status in _GONE)):
                    self._refuse(response)
                return status
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL) as error:
            raise _configuration(
                f"{self._shown}: cannot build a valid request; check the URL and the headers"
            ) from error
        except httpx.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise _configuration(f"{self._shown}: the server's certificate is not valid: {error}") from error
            raise RetryRequest(f"{self._shown}: {str(error) or type(error).__name__}") from error

    def _refuse(self, response: httpx.Response) -> None:
        """Raise the error that an unsuccessful response means."""
        status = response.status_code
        said = f"{self._shown}: {status} {response.reason_phrase}".rstrip()
        wait = seconds_until(response.headers.get("retry-after"))
        if status in RETRYABLE_STATUS_CODES and (wait is None or wait <= PATIENCE):
            raise RetryRequest(said, wait)
        if response.is_server_error or status in PASSING or status in RETRYABLE_STATUS_CODES:
            raise StageError(said, ErrorClass.TRANSIENT, retry_after=wait)
        if response.is_redirect:
            raise _configuration(f"{said}; redirects are not followed, so use the URL that this one leads to")
        kind = ErrorClass.DATA if status in _DATA_ERROR_STATUSES else ErrorClass.CONFIGURATION
        raise StageError(f"{said}{self._excerpt(response)}", kind)

    def _excerpt(self, response: httpx.Response) -> str:
        """The beginning of the response body, with our secrets masked in case it repeats them."""
        received = b""
        for block in response.iter_bytes():
            received += block
            if len(received) > 4 * _EXCERPT:
                break
        text = " ".join(received.decode("utf-8", "replace").split())
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return f": {text[:_EXCERPT]}" if text else ""


def _configuration(message: str) -> StageError:
    return StageError(message, ErrorClass.CONFIGURATION)
