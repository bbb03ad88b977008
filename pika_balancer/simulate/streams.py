"""Separate random streams from one seed, so that scenarios that differ in one point share everything else.

Arrivals, service times and patience are drawn in order, each from its own stream. Everything that happens to
a job afterwards (its account, faults, delays between tries) is a function of the seed, the job's number and a
counter: a job gets the same numbers whatever other jobs do.
"""

import random
from typing import TYPE_CHECKING, Final

import attrs

from pika_balancer._util.validators import whole

if TYPE_CHECKING:
    import numpy as np

PICK: Final = 1
"""The stream of picks among accounts; two numbers per pick."""
FAULT: Final = 2
"""The stream of faults; one number per submit."""
DELAY: Final = 3
"""The stream of delays between tries."""

MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
STEP: Final = 0x9E37_79B9_7F4A_7C15
TURN: Final = 0xD1B5_4A32_D192_ED03
FIRST: Final = 0xBF58_476D_1CE4_E5B9
SECOND: Final = 0x94D0_49BB_1331_11EB
ULP: Final = 2.0**-53


def mix(z: int) -> int:
    """Return the 64 bits well mixed: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    z &= MASK
    z = ((z ^ (z >> 30)) * FIRST) & MASK
    z = ((z ^ (z >> 27)) * SECOND) & MASK
    return z ^ (z >> 31)


def uniform(key: int, job: int, turn: int) -> float:
    """Return the number in [0, 1) of a job and a turn, on the stream of that key."""
    return (mix(key + (job + 1) * STEP + turn * TURN) >> 11) * ULP


@attrs.frozen
class Streams:
    """All streams of one run."""

    seed: int = attrs.field(validator=whole(least=0))
    """Fixes every random number."""

    def key(self, stream: int) -> int:
        """Return the key of a stream for `uniform`, 64 bits."""
        key = mix(stream * STEP)
        left = self.seed
        while True:  # a seed may have any length
            key = mix(key ^ (left & MASK))
            left >>= 64
            if not left:
                return key

    def plain(self, name: str) -> random.Random:
        """Return a generator of that name from the standard library."""
        return random.Random(f"{self.seed}/{name}")  # noqa: S311 - a simulation, not cryptography

    def vector(self, name: str) -> "np.random.Generator":
        """Return a generator of that name that draws arrays; needs NumPy."""
        import numpy as np  # noqa: PLC0415 - an extra

        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, *name.encode()])))
