"""What the local server raises: bad configuration, and a request that it refuses."""

from collections.abc import Mapping
from typing import Any


class ConfigError(ValueError):
    """A setting of the local server cannot work; `field` names it."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field

    def __reduce__(self) -> tuple[Any, ...]:
        # A keyword-only argument does not survive the default pickle of an exception.
        return (_config_error, (str(self), self.field))


def _config_error(message: str, field: str) -> ConfigError:
    return ConfigError(message, field=field)


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
