"""The source position of a held lease, and which records still count."""

import sys

from pika_balancer.balancer.held import AdoptedLease, Place, describe, is_adopted, is_revoked
from pika_balancer.models import Account, Lease
from pika_balancer.selection.selector import Selector


def here() -> tuple[Place, int]:
    frame = sys._getframe()
    return (frame.f_code, frame.f_lasti), frame.f_lineno


async def waits(gate: object) -> None:
    async with gate:  # type: ignore[attr-defined]  # only its code is looked at
        pass


def test_a_place_is_told_by_its_line_whatever_instruction_it_is() -> None:
    (code, instruction), line = here()
    assert describe((code, instruction)) == f"{__file__}:{line} in here"
    code, unknown = waits.__code__, 0
    for start, end, number in code.co_lines():
        unknown += number is None
        # What the compiler put in by itself has no line: then it is the function's.
        expected = f"{__file__}:{number or code.co_firstlineno} in waits"
        assert describe((code, start)) == describe((code, end - 1)) == expected
    assert unknown
    assert describe((code, len(code.co_code))) == f"{__file__}:{code.co_firstlineno} in waits"


class Revoked(Lease):
    """A lease that a shared store has stopped counting."""

    @property
    def revoked(self) -> bool:
        return True


def test_an_entry_is_of_that_very_lease_or_of_none() -> None:
    selector = Selector([Account("0", 3)])
    adopted = Revoked(selector, 0, "job:a")
    place, _ = here()
    held: dict[int | str, object] = {"job:a": AdoptedLease(adopted, 0.0, place), 1: object()}
    assert is_adopted(held, adopted)
    assert not is_adopted(held, Lease(selector, 0, "job:a"))
    assert not is_adopted(held, Lease(selector, 0, 1))
    assert is_revoked(held, Revoked(selector, 0, 1))
    assert not is_revoked(held, Lease(selector, 0, 1))
    assert not is_revoked(held, Revoked(selector, 0, 2))
    assert not is_revoked(held, adopted)
