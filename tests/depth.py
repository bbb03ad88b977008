"""How much a test does: its short form by default, its full size with `--deep`.

A test whose size changes is marked `@pytest.mark.deep`, so that `pytest --deep -m deep` runs just those.
"""

from typing import Any, TypeVar

from hypothesis import settings

T = TypeVar("T")

_deep = False


def choose(*, deep: bool) -> None:
    """Set the depth; `conftest.py` calls this before it collects any test."""
    global _deep  # noqa: PLW0603 - sizes stand in decorators, which run when a module is imported
    _deep = deep


def sized(short: T, deep: T) -> T:
    """Return the size of this run: a number, or a list of cases for `parametrize`."""
    return deep if _deep else short


def examples(short: int, deep: int, **options: Any) -> settings:
    """Return Hypothesis settings with that many examples and no time limit."""
    return settings(max_examples=sized(short, deep), deadline=None, **options)
