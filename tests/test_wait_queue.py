"""The wait queue, compared with a plain list."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pika_balancer.selection.wait_queue import WaitQueue
from tests.depth import examples

PINS = st.none() | st.sampled_from("ab")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), PINS),
        st.tuples(st.just("remove"), st.integers(0, 20)),
        st.tuples(st.just("first"), st.sampled_from("abc")),
    ),
    max_size=40,
)


@pytest.mark.deep
@examples(100, 2000)
@given(steps=STEPS)
def test_the_queue_agrees_with_a_list(steps: list[tuple[str, object]]) -> None:
    # Waiters without an order of their own, as futures are.
    queue: WaitQueue[object] = WaitQueue()
    model: list[tuple[object, str | None]] = []
    for step, value in steps:
        if step == "add":
            assert value is None or isinstance(value, str)
            model.append((object(), value))
            queue.add(*model[-1])
        elif step == "remove":
            assert isinstance(value, int)
            if model:
                waiter, pin = model.pop(value % len(model))
                assert queue.remove(waiter, pin)
                assert not queue.remove(waiter, pin)
        else:
            assert isinstance(value, str)
            expected = next((item for item in model if item[1] in {None, value}), None)
            assert queue.first(value) == expected
        assert list(queue) == model
        assert queue.size == len(model)


def test_removing_the_first_waiter_is_constant_time() -> None:
    queue: WaitQueue[int] = WaitQueue()
    for waiter in range(100_000):
        queue.add(waiter, None)
    for waiter in range(99_999):
        # A dict that only forgets from the front would search ever longer for its first entry here.
        assert queue.first("a") == (waiter, None)
        queue.remove(waiter, None)
    assert queue.size == 1


def test_a_channel_without_waiters_takes_no_memory() -> None:
    queue: WaitQueue[int] = WaitQueue()
    empty = len(pickle.dumps(queue))
    for waiter in range(1000):
        queue.add(waiter, str(waiter))
    assert len(pickle.dumps(queue)) > empty + 1000
    for waiter in range(1000):
        queue.remove(waiter, str(waiter))
    assert len(pickle.dumps(queue)) < empty + 100
