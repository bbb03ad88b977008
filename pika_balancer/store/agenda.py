"""What a process has to say to the server next."""

import asyncio
from itertools import islice
from typing import Final

from pika_balancer.store.batches import Acquire, Beat, Call, Release, Session
from pika_balancer.store.claims import Claims
from pika_balancer.store.lane import Batch

_CROWD: Final = 100
"""How many wishes or releases go into one call: the server serves nobody else meanwhile."""


class Agenda:
    """Puts what is to be said in order: who we are, then what frees slots, then what takes them.

    Args:
        session: Takes the answers.
        claims: What the process holds and waits for.
        label: Names the process for people.
        first_start: Whether an empty server has forgotten nothing.

    Attributes:
        takes_part: Whether there was anything to say that only a known process can; otherwise it just looks.
        known: Whether the server knows the process.
        must_beat: Whether everything is to be stated anew.
        must_look: Whether the accounts are to be looked at.
        leaving: Whether the process says goodbye once nothing else is left to be said.
        calls: Whatever else is to be said.
    """

    def __init__(self, session: Session, claims: Claims, label: str, *, first_start: bool) -> None:
        self._session = session
        self._claims = claims
        self._label = label
        self._first_start = first_start
        self.takes_part = self.known = self.must_beat = self.must_look = self.leaving = False
        self.calls: list[Call] = []

    def next(self) -> Batch | None:
        """Return what to say next; None if there is nothing."""
        claims = self._claims
        # Whoever was cancelled before it was said does not want it any more.
        self.calls = [call for call in self.calls if not (call.over or call.future.cancelled())]
        if self.leaving and not self.known and not claims.releases and not self.calls:
            return None
        batch: Batch | None = None
        if (self.must_beat or not self.known) and self.takes_part:
            self.must_beat = False
            batch = self._beat(leaves=False)
        elif claims.releases:
            batch = Release(self._session, claims.releases, _CROWD)
        elif self.calls:
            batch = self.calls[0]
        elif claims.unsent:
            wishes = list(islice(claims.unsent.values(), _CROWD))
            for wish in wishes:
                del claims.unsent[wish.name]
                claims.waiting[wish.name] = wish
            batch = Acquire(self._session, wishes)
        elif self.leaving:
            batch = self._beat(leaves=True)
        elif self.must_look:
            self.must_look = False
            batch = Call(self._session, "look", tuple, asyncio.get_running_loop().create_future())
        return batch

    def _beat(self, *, leaves: bool) -> Beat:
        statement = self._claims.statement()
        return Beat(self._session, self._label, statement, first=self._first_start, leaves=leaves)
