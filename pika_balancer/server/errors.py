"""The answer to a request that the local server refuses."""

from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """A request is answered with an error status and a JSON body.

    Attributes:
        status: HTTP status of the answer.
        body: The JSON object of the answer: `error`, `code` and what the case adds.
        headers: Extra headers of the answer.
    """

    def __init__(
        self, status: int, error: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(error)
        self.status = status
        self.body: dict[str, Any] = {"error": error, "code": status, **more}
        self.headers = dict(headers or {})
