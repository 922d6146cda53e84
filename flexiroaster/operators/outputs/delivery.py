"""HTTP delivery: requests with an idempotency key, with retries, and with errors that explain a refusal."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import httpx

from flexiroaster.errors import ErrorClass, StageError
from flexiroaster.operators.access.network_guard import shown_url
from flexiroaster.operators.patience import (
    PASSING,
    PATIENCE,
    WORTH_ANOTHER,
    AnotherAttempt,
    attempts,
    checked_headers,
    seconds_until,
)

__all__ = ["KEY_HEADER", "Delivery"]

KEY_HEADER = "Idempotency-Key"
"""A receiver that remembers the values of this header can apply a repeated request once."""

_ABOUT_THE_DATA = frozenset({400, 409, 413, 415, 422})
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
        self._shown = f"{method} {shown_url(url)}"

    def send(self, body: bytes | None, key: str, *, gone_is_fine: bool = False) -> int:
        """Send one request, with retries; return the response status: 2xx, or 404 and 410 if `gone_is_fine`.

        Raises StageError: transient once the attempts are used up, data or configuration if the receiver refuses the
        request.
        """
        try:
            return attempts(self._max_retries, self._logger)(self._attempt, body, key, gone_is_fine)
        except AnotherAttempt as error:
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
            raise AnotherAttempt(f"{self._shown}: {str(error) or type(error).__name__}") from error

    def _refuse(self, response: httpx.Response) -> None:
        """Raise the error that an unsuccessful response means."""
        status = response.status_code
        said = f"{self._shown}: {status} {response.reason_phrase}".rstrip()
        wait = seconds_until(response.headers.get("retry-after"))
        if status in WORTH_ANOTHER and (wait is None or wait <= PATIENCE):
            raise AnotherAttempt(said, wait)
        if response.is_server_error or status in PASSING or status in WORTH_ANOTHER:
            raise StageError(said, ErrorClass.TRANSIENT, retry_after=wait)
        if response.is_redirect:
            raise _configuration(f"{said}; redirects are not followed, so use the URL that this one leads to")
        kind = ErrorClass.DATA if status in _ABOUT_THE_DATA else ErrorClass.CONFIGURATION
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
