"""Options and fixtures of all tests: depth, a mock of aiohttp, servers for the shared store."""

import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from functools import partial
from unittest.mock import Mock

import aiohttp
import hypothesis
import pytest
from aioresponses import aioresponses, core

from tests import depth
from tests.redis_servers import Servers, running


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--deep` and `--random`."""
    group = parser.getgroup("pika_balancer")
    group.addoption("--deep", action="store_true", help="run long tests at their full size")
    group.addoption("--random", action="store_true", help="let Hypothesis draw new examples on each run")


def pytest_configure(config: pytest.Config) -> None:
    """Set the depth and the source of Hypothesis examples before any test module is imported."""
    config.addinivalue_line("markers", "deep: this test has a full size; `--deep` runs it")
    if depth.DEEP:
        os.environ[depth.VARIABLE] = "1"
    hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
    hypothesis.settings.register_profile("random", derandomize=False, deadline=None, print_blob=True)
    hypothesis.settings.load_profile("random" if config.getoption("--random") else "fixed")
    if not os.access(config.rootpath / "pika_balancer", os.W_OK) and "NUMBA_CACHE_DIR" not in os.environ:
        # Workers and children inherit it: the engine is compiled once, even if the package is read-only.
        os.environ["NUMBA_CACHE_DIR"] = cache = tempfile.mkdtemp(prefix="numba-")
        config.add_cleanup(partial(shutil.rmtree, cache, ignore_errors=True))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return two more than there are processors: tests that wait for processes and timers leave them idle."""
    return (os.cpu_count() or 1) + 2


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Trace nothing while a test runs that is marked with `no_cover`.

    pytest-cov pauses its collector then; in a process of xdist another one, beneath it, takes over.
    """
    if item.get_closest_marker("no_cover") is None:
        return (yield)
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)


@pytest.fixture
def mocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    """Answer requests from what the test registers; no socket is opened."""
    match = core.RequestMatch("http://localhost/")
    try:
        match._build_response("http://localhost/")
    except TypeError:
        # aioresponses 0.7.9 does not know an argument that aiohttp 3.14 requires.
        response = partial(aiohttp.ClientResponse, stream_writer=Mock(output_size=0))
        monkeypatch.setattr(core, "ClientResponse", response)
    with aioresponses() as mock:
        yield mock


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Return servers for the shared store, by kind."""
    with running() as servers:
        yield servers
