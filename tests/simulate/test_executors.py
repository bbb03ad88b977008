"""Results do not depend on the executor, and an interrupt loses none that is done."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pika_balancer.errors import InvalidArgument, PikaError
from pika_balancer.simulate.replicate import RunProgress, TaskResult, run_all

ROOT = Path(__file__).parent.parent.parent


def square(number: int) -> int:
    return number * number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ZeroDivisionError("three")
    return number


def fail_or_sleep(seconds: int) -> float:
    time.sleep(seconds)
    return 1 / seconds


def call(task: Callable[[], int | bool]) -> int | bool:
    return task()


def die(number: int) -> int:
    os._exit(number)


class Backwards(Executor):
    """Does nothing until everything is handed in, then the last task first."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Any, Any]] = []
        self.room = 0

    def submit(self, fn: Any, /, *args: Any, **_kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, fn, args))
        if len(self.waiting) == self.room:
            threading.Thread(target=self.work).start()
        return future

    def work(self) -> None:
        while self.waiting:
            future, fn, args = self.waiting.pop()
            future.set_result(fn(*args))


EXPECTED = TaskResult(tuple(n * n for n in range(20)), interrupted=False)


def test_results_come_in_the_order_of_the_tasks() -> None:
    assert run_all(square, range(20), workers=1) == EXPECTED
    with ThreadPoolExecutor(3) as threads:
        assert run_all(square, range(20), executor=threads) == EXPECTED
        assert threads.submit(square, 5).result() == 25, "the caller's executor stays open"
    backwards = Backwards()
    backwards.room = 20
    assert run_all(square, range(20), executor=backwards) == EXPECTED


def test_processes_work_by_default() -> None:
    assert run_all(square, range(20), workers=2) == EXPECTED
    assert run_all(square, [], workers=2) == TaskResult((), interrupted=False)


def test_more_tasks_than_are_handed_out_at_once() -> None:
    with ThreadPoolExecutor(2) as threads:
        assert run_all(square, range(1000), executor=threads).results[-1] == 999 * 999


def test_an_error_in_a_task_calls_back_the_rest() -> None:
    with pytest.raises(ZeroDivisionError, match="three"):
        run_all(fail_at_three, range(500), workers=1)
    with ThreadPoolExecutor(2) as pool, pytest.raises(ZeroDivisionError, match="three"):
        run_all(fail_at_three, range(500), executor=pool)


def test_progress_tells_how_much_is_left() -> None:
    seen: list[RunProgress] = []
    run_all(square, range(4), workers=1, progress=seen.append)
    assert [(at.done, at.total) for at in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [at.left for at in seen] == [pytest.approx(at.elapsed / at.done * (4 - at.done)) for at in seen]


def test_progress_is_told_while_nothing_ends() -> None:
    seen: list[RunProgress] = []
    release = threading.Event()

    def progress(at: RunProgress) -> None:
        seen.append(at)
        release.set()

    def held(number: int) -> int:
        assert release.wait(120)
        return number

    with ThreadPoolExecutor(1) as pool:
        run_all(held, [7], executor=pool, progress=progress)
    assert seen[0].done == 0
    assert seen[0].left == math.inf


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_an_interrupt_keeps_what_is_done(where: str) -> None:
    def interrupt(at: RunProgress) -> None:
        if at.done == 3:
            raise KeyboardInterrupt

    if where == "here":
        outcome = run_all(square, range(20), workers=1, progress=interrupt)
        assert outcome.results == (0, 1, 4, *[None] * 17)
    else:
        hold = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            # The last task never ends by itself; all that had ended is kept, told of or not.
            tasks: list[Callable[[], int | bool]] = [*[lambda n=n: n * n for n in range(5)], hold.wait]
            outcome = run_all(call, tasks, executor=pool, progress=interrupt)
            hold.set()
        assert [result for result in outcome.results if result is not None] == [0, 1, 4, 9, 16][
            : 6 - outcome.results.count(None)
        ]
        assert 3 <= 6 - outcome.results.count(None) <= 5
    assert outcome.interrupted


SCRIPT = """
import signal
import sys
import time
from pika_balancer.simulate.replicate import run_all

def work(number):
    if number >= 2:
        sys.stdout.write("working\\n")  # in one piece, for others write too
        sys.stdout.flush()
        time.sleep(600)
    return number

if __name__ == "__main__":
    # As at a terminal: a test run that ignores SIGINT hands that on to this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    outcome = run_all(work, range(6), workers=2, progress=lambda at: print("done", at.done, flush=True))
    print(outcome.results, outcome.interrupted, flush=True)
"""


def test_ctrl_c_ends_a_pool_of_processes_at_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            seen = ""
            while "done 2" not in seen or seen.count("working") < 2:
                line = process.stdout.readline()
                assert line, process.communicate()[1]
                seen += line
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the job
            out, err = process.communicate(timeout=120)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # it would not end by itself
            raise
    assert out.endswith("(0, 1, None, None, None, None) True\n")
    assert not err, err
    assert process.returncode == 0


def test_an_error_ends_a_pool_of_processes_at_once() -> None:
    # The other task would sleep for ten minutes.
    with pytest.raises(ZeroDivisionError):
        run_all(fail_or_sleep, [0, 600], workers=2)


def test_a_pool_whose_processes_die_says_what_to_do() -> None:
    with pytest.raises(PikaError, match="__main__"):
        run_all(die, [1, 1], workers=2)


@pytest.mark.parametrize("workers", [0, -1, True])
def test_senseless_workers_are_refused(workers: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        run_all(square, [1], workers=workers)
    assert caught.value.field == "workers"
    with ProcessPoolExecutor(1) as pool, pytest.raises(InvalidArgument):
        run_all(square, [1], workers=2, executor=pool)
