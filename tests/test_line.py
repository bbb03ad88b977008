"""The waiting line against a plain list."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pika_balancer.selection.wait_queue import WaitQueue
from tests.depth import examples

WISHES = st.none() | st.sampled_from("ab")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), WISHES),
        st.tuples(st.just("leave"), st.integers(0, 20)),
        st.tuples(st.just("first"), st.sampled_from("abc")),
    ),
    max_size=40,
)


@pytest.mark.deep
@examples(100, 2000)
@given(steps=STEPS)
def test_the_line_agrees_with_a_list(steps: list[tuple[str, object]]) -> None:
    # Waiters without an order of their own, as futures are.
    line: WaitQueue[object] = WaitQueue()
    model: list[tuple[object, str | None]] = []
    for step, value in steps:
        if step == "join":
            assert value is None or isinstance(value, str)
            model.append((object(), value))
            line.join(*model[-1])
        elif step == "leave":
            assert isinstance(value, int)
            if model:
                waiter, wish = model.pop(value % len(model))
                assert line.leave(waiter, wish)
                assert not line.leave(waiter, wish)
        else:
            assert isinstance(value, str)
            expected = next((item for item in model if item[1] in {None, value}), None)
            assert line.first(value) == expected
        assert list(line) == model
        assert line.size == len(model)


def test_leaving_costs_the_same_wherever_one_stands() -> None:
    line: WaitQueue[int] = WaitQueue()
    for waiter in range(100_000):
        line.join(waiter, None)
    for waiter in range(99_999):
        # A dict that only forgets from the front would search ever longer for its first entry here.
        assert line.first("a") == (waiter, None)
        line.leave(waiter, None)
    assert line.size == 1


def test_a_channel_without_waiters_takes_no_memory() -> None:
    line: WaitQueue[int] = WaitQueue()
    empty = len(pickle.dumps(line))
    for waiter in range(1000):
        line.join(waiter, str(waiter))
    assert len(pickle.dumps(line)) > empty + 1000
    for waiter in range(1000):
        line.leave(waiter, str(waiter))
    assert len(pickle.dumps(line)) < empty + 100
