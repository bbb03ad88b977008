"""The compiled engine, made once for all processes of a test run."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pika_balancer.simulate import Constant, Poisson, Scenario, simulate

SMALL = Scenario("1", Poisson(1.0), Constant(1.0))


@contextmanager
def alone(path: Path) -> Generator[bool]:
    """Let one process at a time through, and yield whether it is the first one.

    A process that ends early, however it does, lets the next one through.
    """
    if sys.platform == "win32":
        yield True
        return
    import fcntl  # noqa: PLC0415 - there is none on Windows, where each process compiles for itself

    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield path.stat().st_size == 0
        file.write("compiled")


@pytest.fixture(scope="session", autouse=True)
def compiled_engine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile the engine, or load what another process of this test run has compiled.

    Numba keeps it beside the package or, where that cannot be written, where `NUMBA_CACHE_DIR` points; child
    processes of tests load it from there too.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which the workers share
    tracer = sys.gettrace()
    sys.settrace(None)  # the compiler is slow under a tracer
    try:
        with alone(folder / "engine.lock") as first:
            if first:
                simulate(SMALL, jobs=1, engine="numba")
        simulate(SMALL, jobs=1, engine="numba")
    finally:
        sys.settrace(tracer)
