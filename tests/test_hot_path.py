"""The hot paths execute no more bytecode instructions than the recorded baseline."""

import pytest

from benchmarks import instructions
from pika_balancer.selection.selector import Selector


def test_the_hot_paths_cost_no_more_than_the_baseline() -> None:
    before = instructions.recorded()
    if before is None:
        pytest.skip(
            f"no baseline for Python {instructions.VERSION}; python -m benchmarks.instructions --record"
        )
    now = instructions.measured()
    assert before.keys() == now.keys(), "another hot path: python -m benchmarks.instructions --record"
    assert not instructions.complaints(now, before)


def test_counting_twice_gives_the_same() -> None:
    assert instructions.measured() == instructions.measured()


def test_a_slower_hot_path_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    before = instructions.measured()
    release = Selector.release
    look = Selector.explain

    def dearer(selector: Selector, lease: object) -> bool:
        look(selector)
        return release(selector, lease)  # type: ignore[arg-type] # whatever it is given

    monkeypatch.setattr(Selector, "release", dearer)
    told = instructions.complaints(instructions.measured(), before)
    assert any("acquire + release executes" in sentence and "--record" in sentence for sentence in told)


def test_a_small_increase_and_any_decrease_pass() -> None:
    assert instructions.complaints({"a": 110, "b": 10}, {"a": 100, "b": 100}) == []
    assert len(instructions.complaints({"a": 111}, {"a": 100})) == 1
