"""How long an account that fails has to rest: longer each time, until it succeeds again."""

import random
from typing import Final

import attrs

_SHORTEST: Final = 10.0
_FIRST_AT_MOST: Final = 30.0
_LONGEST: Final = 300.0
_LATER: Final = 0.25


@attrs.define
class _Record:
    strikes: int = 0
    rested_at: float = -1.0


class Cooldown:
    """Counts faults in a row by account.

    Args:
        rng: Spreads the rests, so that accounts that failed together do not come back together.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._records: dict[str, _Record] = {}

    def fault(self, channel: str, *, began: float, now: float, retry_after: float | None = None) -> float:
        """Note a fault of the account, and return the seconds that it should rest from now.

        10–30 s, or what the service asks for; twice as long with each fault in a row, up to 5 minutes.
        Faults of submits that began before the account's last rest are one with the fault that led to it.

        Args:
            channel: The account's channel.
            began: When the submit that failed was begun.
            now: The moment, on the same clock.
            retry_after: Seconds for which the service asks; it is never less than that.
        """
        record = self._records.setdefault(channel, _Record())
        if began > record.rested_at or not record.strikes:
            record.strikes += 1
            record.rested_at = now
        asked = retry_after or 0.0
        base = asked * self._rng.uniform(1, 1 + _LATER) or self._rng.uniform(_SHORTEST, _FIRST_AT_MOST)
        return max(asked, min(_LONGEST, base * 2.0 ** min(record.strikes - 1, 32)))

    def success(self, channel: str, *, began: float) -> None:
        """Forget the account's faults, unless the submit that succeeded began before the last of them."""
        record = self._records.get(channel)
        if record is not None and began > record.rested_at:
            del self._records[channel]
