"""Every public coroutine is cancelled at every await, in every way, and nothing is lost, doubled or left."""

import gc
from collections.abc import Iterator

import pytest

from tests.cancelling import SCENARIOS
from tests.cancelling.cancel_point import (
    AGAIN,
    HOWS,
    IN_SHORT,
    Scenario,
    at_every_await,
    every_way,
    one_way_each,
)
from tests.cancelling.stores import INSIDE
from tests.cancelling.surface import public_coroutines
from tests.depth import sized
from tests.redis_servers import Servers

pytestmark = pytest.mark.no_cover  # by the hundred what other tests run once

ALL = list(
    {scenario: None for registered in SCENARIOS.values() for scenario in registered} | dict.fromkeys(INSIDE)
)


@pytest.fixture(autouse=True, scope="module")
def quick_collections() -> Iterator[None]:
    """Have the many collections of garbage look at what the tests make, and not at everything else again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_there_is_a_scenario_for_every_public_coroutine() -> None:
    assert set(SCENARIOS) == public_coroutines()


@pytest.mark.deep
@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.__name__)
async def test_cancelled_at_any_await_nothing_is_lost_doubled_or_left(
    scenario: Scenario, servers: Servers
) -> None:
    """In short each await is struck in one way, and the ways take turns; in full each await in every way."""
    hows = IN_SHORT if scenario in AGAIN else HOWS
    runs = sized(one_way_each(hows, ALL.index(scenario)), every_way(hows))
    struck = await at_every_await(scenario, servers["valkey"], runs)
    assert struck["at once"] >= 1
