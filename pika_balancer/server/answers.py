"""Answers of the local server: JSON bodies, down to the answer to what is no HTTP at all."""

import http
import json
import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from pika_balancer.server.errors import Refusal

_log = logging.getLogger(__name__)


def json_answer(status: int, body: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an answer with a JSON body."""
    return web.Response(
        status=status, body=json.dumps(body).encode(), headers=headers, content_type="application/json"
    )


def error_answer(status: int, error: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error in the API's documented shape."""
    return json_answer(status, {"error": error, "code": status}, headers)


def refusal_answer(refusal: Refusal) -> web.Response:
    """Return a refusal as an answer."""
    return json_answer(refusal.status, refusal.body, refusal.headers)


class JsonProtocol(web.RequestHandler):
    """aiohttp's connection handler, with JSON for requests that are no valid HTTP.

    aiohttp's own answer is text, and its log quotes the offending bytes, perhaps those of a token.
    """

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's words, which may quote a header
    ) -> web.StreamResponse:
        """Return the answer to a request that failed outside every handler."""
        self.log_exception(exc_info=exc)
        if isinstance(exc, UnicodeEncodeError):
            # Where no route is found, aiohttp quotes an `Expect` that it does not know, and fails at bytes.
            status = 417
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was under way already")
        answer = error_answer(status, http.HTTPStatus(status).phrase)
        answer.force_close()
        return answer

    def log_exception(self, *_args: object, **facts: object) -> None:
        """Log what went wrong on a connection, but none of the values in it."""
        _log.info("a connection failed with %s", type(facts.get("exc_info")).__name__)
