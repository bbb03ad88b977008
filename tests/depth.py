"""How much a test does: its short form by default, its full size with `--deep`.

A test whose size changes is marked `@pytest.mark.deep`, so that `pytest --deep -m deep` runs just those.
"""

import os
import sys
from typing import Any, TypeVar

from hypothesis import settings

T = TypeVar("T")

VARIABLE = "PIKA_TESTS_DEEP"
"""Set in the environment of worker processes and children if this run is deep."""

# Sizes stand in decorators, which run when a module is imported: before pytest has parsed its options for a
# `conftest.py` in a folder that is named on the command line.
DEEP = "--deep" in sys.argv or VARIABLE in os.environ


def sized(short: T, deep: T) -> T:
    """Return the size of this run: a number, or a list of cases for `parametrize`."""
    return deep if DEEP else short


def examples(short: int, deep: int, **options: Any) -> settings:
    """Return Hypothesis settings with that many examples and no time limit."""
    return settings(max_examples=sized(short, deep), deadline=None, **options)
