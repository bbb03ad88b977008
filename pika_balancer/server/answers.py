"""Answers of the local server: JSON bodies for everything, even for what is not valid HTTP."""

import http
import json
import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import web

_log = logging.getLogger(__name__)


class Refusal(Exception):
    """Raised to answer a request with an error status and the JSON object `error`, `code` and `more`."""

    def __init__(
        self, status: int, error: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(error)
        self.status = status
        self.body: dict[str, Any] = {"error": error, "code": status, **more}
        self.headers = headers

    def answer(self) -> web.Response:
        return json_answer(self.status, self.body, self.headers)


def json_answer(status: int, body: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an answer with a JSON body."""
    return web.Response(
        status=status, body=json.dumps(body).encode(), headers=headers, content_type="application/json"
    )


def error_answer(status: int, error: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error in the API's documented shape."""
    return Refusal(status, error, headers=headers).answer()


class JsonProtocol(web.RequestHandler):
    """aiohttp's connection handler, with a JSON answer to requests that are not valid HTTP.

    aiohttp's own answer is text, and its log quotes the offending bytes, which may be a token.
    """

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's text, which may quote a header
    ) -> web.StreamResponse:
        """Return the answer to a request that failed outside every handler."""
        self.log_exception(exc_info=exc)
        if isinstance(exc, UnicodeEncodeError):
            # Without a route, aiohttp quotes an unknown `Expect` header and fails if it is not ASCII.
            status = 417
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has already begun")
        answer = error_answer(status, http.HTTPStatus(status).phrase)
        answer.force_close()
        return answer

    def log_exception(self, *_args: object, **facts: object) -> None:
        """Log the class of the error, but no value, which may be a token."""
        _log.info("a connection failed with %s", type(facts.get("exc_info")).__name__)
