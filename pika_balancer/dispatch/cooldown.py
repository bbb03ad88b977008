"""The length of an account's cooldown: doubled with each fault in a row."""

import random
from typing import Final

import attrs

_SHORTEST: Final = 10.0
_FIRST_AT_MOST: Final = 30.0
_LONGEST: Final = 300.0
_JITTER: Final = 0.25


@attrs.define
class _Faults:
    in_a_row: int = 0
    cooldown_began: float = -1.0


class Cooldown:
    """Counts each account's faults in a row.

    Args:
        rng: Spreads the cooldowns, so that accounts that failed together do not return together.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._faults: dict[str, _Faults] = {}

    def fault(self, channel: str, *, began: float, now: float, retry_after: float | None = None) -> float:
        """Count a fault of the account and return the length of its cooldown in seconds.

        10–30 s, or what the service asks for; doubled with each fault in a row, up to 5 minutes, but never
        less than `retry_after`. A submit that began before the last cooldown is part of the fault that led
        to it.

        Args:
            channel: The account's channel.
            began: Start of the failed submit.
            now: The current time, on the same clock.
            retry_after: Seconds that the service asks for.
        """
        faults = self._faults.setdefault(channel, _Faults())
        if began > faults.cooldown_began or not faults.in_a_row:
            faults.in_a_row += 1
            faults.cooldown_began = now
        asked = retry_after or 0.0
        base = asked * self._rng.uniform(1, 1 + _JITTER) or self._rng.uniform(_SHORTEST, _FIRST_AT_MOST)
        return max(asked, min(_LONGEST, base * 2.0 ** min(faults.in_a_row - 1, 32)))

    def success(self, channel: str, *, began: float) -> None:
        """Forget the account's faults, unless the successful submit began before the last of them."""
        faults = self._faults.get(channel)
        if faults is not None and began > faults.cooldown_began:
            del self._faults[channel]
