"""The first signal cancels, the second hurries, the third aborts."""

import asyncio
import os
import signal
import threading

import pytest

from pika_balancer.cli.signals import supervise

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_cancels_and_lets_the_command_put_things_in_order(number: signal.Signals) -> None:
    story: list[str] = []

    async def command() -> int:
        try:
            send(number)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            story.append("in order")
        return 0

    with pytest.raises(asyncio.CancelledError):
        supervise(command)
    assert story == ["in order"]


def test_command_that_catches_the_cancellation_chooses_its_exit_code() -> None:
    async def command() -> int:
        try:
            send(signal.SIGINT)
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return 7
        return 0

    assert supervise(command) == 7


def test_second_signal_cancels_what_the_command_still_waits_for() -> None:
    story: list[str] = []

    async def command() -> int:
        try:
            send(signal.SIGINT)
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            story.append("first")
            try:
                send(signal.SIGTERM)
                await asyncio.sleep(60)
            finally:
                story.append("second")
        return 0

    with pytest.raises(asyncio.CancelledError):
        supervise(command)
    assert story == ["first", "second"]


def test_third_signal_breaks_into_whatever_runs() -> None:
    story: list[str] = []

    async def command() -> int:
        send(signal.SIGINT)
        send(signal.SIGINT)
        story.append("still here")
        send(signal.SIGINT)
        story.append("never here")
        return 0

    with pytest.raises(asyncio.CancelledError):
        supervise(command)
    assert story == ["still here"]


def test_signal_before_the_command_has_begun_keeps_it_from_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    really = asyncio.Runner

    def runner() -> asyncio.Runner:
        send(signal.SIGINT)
        return really()

    monkeypatch.setattr(asyncio, "Runner", runner)
    begun = False

    async def command() -> int:
        nonlocal begun
        begun = True
        return 0

    with pytest.raises(asyncio.CancelledError):
        supervise(command)
    assert not begun


def test_handlers_are_as_before_after_the_end() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    async def command() -> int:
        assert [signal.getsignal(number) for number in SIGNALS] != before
        return 0

    assert supervise(command) == 0
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_other_threads_run_commands_without_touching_the_signals() -> None:
    codes: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    async def command() -> int:
        assert signal.getsignal(signal.SIGINT) is before
        return 3

    thread = threading.Thread(target=lambda: codes.append(supervise(command)))
    thread.start()
    thread.join(60)
    assert codes == [3]
