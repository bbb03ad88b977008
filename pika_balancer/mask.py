"""Known secrets kept out of text from outside, which is then made fit to print."""

import base64
import json
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Final
from urllib.parse import quote

from pika_balancer.models import Secret
from pika_balancer.text import printable

HIDDEN: Final = "***"
"""What stands where a secret stood."""

_SEGMENT: Final = 64
_LONGEST: Final = 1024
_MANY: Final = 64
_REAL: Final = 8
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Mask:
    """Knows some secrets and keeps them out of text.

    Holds them in the clear: keep it out of frames that may end up in a traceback.
    """

    def __init__(self, secrets: Iterable[Secret] = (), found: Iterable[str] = ()) -> None:
        self._known = {secret.reveal() for secret in secrets} | set(found)
        self._known.discard("")
        self._lengths = sorted({len(secret) for secret in self._known})
        self._steps: dict[str, str] = {}

    def hides(self, text: str, *, shortest: int = 1) -> bool:
        """Return whether `text` is a known secret, or contains one of at least `shortest` characters.

        A very long text counts as if it did.
        """
        if text in self._known:
            return True
        if len(self._known) <= _MANY:
            return any(len(secret) >= shortest and secret in text for secret in self._known)
        if len(text) * len(self._lengths) > _LONGEST:
            return True
        # Slices looked up in the set: a body can name thousands of tokens, and thousands of faulty keys.
        return any(
            text[start : start + length] in self._known
            for length in self._lengths
            if length >= shortest
            for start in range(len(text) - length + 1)
        )

    def fact(self, value: object) -> str | None:
        """Return `value` if it is a usable string without a secret, else None.

        A secret of a few characters, as in tests, does not cost an id that happens to contain it.
        """
        if type(value) is not str or not value or self.hides(value, shortest=_REAL):
            return None
        try:
            value.encode()
        except UnicodeEncodeError:
            return None
        return value

    def path(self, where: Iterable[str | int]) -> str:
        """Return a JSON path such as `$['123'].maxJobs` that is safe to print."""
        path = "$"
        for step in where:
            path += f"[{step}]" if isinstance(step, int) else self._step(step)
            if len(path) > 4 * _SEGMENT:
                return path[: 4 * _SEGMENT - 1] + "…"
        return path

    def _step(self, step: str) -> str:
        if (shown := self._steps.get(step)) is None:
            if self.hides(step):
                shown = f"['{HIDDEN}']"
            elif _PLAIN_NAME.fullmatch(step):
                shown = f".{step}"
            else:
                quoted = step[: _SEGMENT + 1].replace("\\", "\\\\").replace("'", "\\'")
                shown = f"['{printable(quoted, _SEGMENT)}']"
            self._steps[step] = shown
        return shown

    def words(self, text: str) -> str:
        """Return somebody else's sentence, fit to print; empty where it cannot be made safe."""
        if len(self._known) > _MANY:
            return ""
        if self._variants is not None:
            text = self._variants.sub(HIDDEN, text)
        return printable(text.strip())

    @cached_property
    def _variants(self) -> re.Pattern[str] | None:
        """The known secrets as they are and as they look in a URL, in JSON and in base64."""
        looks: set[str] = set()
        for secret in self._known:
            raw = secret.encode("utf-8", "surrogatepass")
            percent = quote(raw, safe="")
            looks |= {secret, percent, re.sub("%..", lambda code: code[0].lower(), percent)}
            looks.add(json.dumps(secret)[1:-1])
            # Only the part of the base64 form that does not depend on what follows the secret.
            whole = len(raw) // 3 * 4
            if whole >= _REAL:  # below that it would hide ordinary words
                looks |= {
                    base64.b64encode(raw).decode()[:whole],
                    base64.urlsafe_b64encode(raw).decode()[:whole],
                }
        ordered = sorted(looks, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, ordered))) if ordered else None
