"""The way to the server: the only room that sees `redis` (or `valkey`), and not before it is needed.

It runs scripts, listens on a channel of its own, and makes two kinds of failures of many: `Away`, which time
may heal, and `Refusal`, which it does not. Neither of them, nor anything that is shown, holds a credential.
"""

import asyncio
import inspect
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from pika_balancer.clock import Clock, Timer
from pika_balancer.errors import InvalidArgument
from pika_balancer.models import Secret
from pika_balancer.secret import Redactor
from pika_balancer.store.redis.scripts import KEYS, Script

_PLAIN: Final = {"redis": "redis", "valkey": "redis", "rediss": "rediss", "valkeys": "rediss", "unix": "unix"}
_AWAY: Final = (
    "OutOfMemoryError",  # its class alone tells it: the client takes the word out of the text
    "ConnectionError",
    "TimeoutError",
    "ClusterError",
    "ReadOnlyError",
    "AskError",
    "TryAgainError",
    "RedisClusterException",
    "ValkeyClusterException",
)
_REFUSED: Final = ("AuthenticationError", "AuthorizationError", "NoPermissionError")
_PASSING: Final = ("BUSY", "LOADING", "MASTERDOWN", "NOREPLICAS", "MISCONF", "CLUSTERDOWN", "READONLY", "OOM")
"""How a server says that it cannot right now, in whatever error the client makes of it."""


class Away(Exception):
    """The server could not be reached or cannot serve at present; what was sent may have been done."""


class ServerRefused(Exception):
    """The server refuses: the credentials, the rights or the kind of server are wrong."""


class Connection:
    """One client's way to the server.

    Args:
        source: A URL (see `RedisStore`), or an asyncio client of redis-py or valkey-py, which stays open. The
            library's client holds its credentials in the clear; nothing else here does.
        pool: Names the pool.
        patience: Seconds for which a connection that is made here waits for an answer.

    Raises:
        ImportError: Neither library is installed.
        InvalidArgument: The URL or the client is of no use.
    """

    def __init__(self, source: object, pool: str, *, patience: float) -> None:
        self._library, self._client, self._is_ours = (
            (*_from_url(source, patience), True) if isinstance(source, Secret) else (*_given(source), False)
        )
        self.address = _address(source) if isinstance(source, Secret) else type(source).__name__
        self.is_cluster = hasattr(self._client, "get_node_from_key")
        self._patience = patience
        self._connected: Any = None
        self._ear: Any = None
        prefix = f"pika:{{{pool}}}:"
        self._keys = tuple((prefix + key).encode() for key in KEYS)
        self._prefix = prefix
        errors = import_module(f"{self._library.__name__}.exceptions")
        self._away = (
            *(getattr(errors, name) for name in _AWAY if hasattr(errors, name)),
            OSError,
            EOFError,
            TimeoutError,
        )
        self._refused = tuple(getattr(errors, name) for name in _REFUSED)
        self._unknown_script: type[Exception] = errors.NoScriptError
        self._answered: type[Exception] = errors.ResponseError

    address: str
    """Where the server is, without credentials."""
    is_cluster: bool
    """Whether it is a cluster, in which the pool's keys lie on one node."""

    @property
    def verb(self) -> str:
        """How a script wakes the other processes."""
        return "SPUBLISH" if self.is_cluster else "PUBLISH"

    async def connect(self) -> None:
        """Connect, for `send` and `receive`.

        Raises:
            Away: It came not about; try again.
            Refusal: It will not.
        """
        try:
            if self.is_cluster:
                # Whose node the pool's keys are on may have changed.
                await self._client.nodes_manager.initialize()
                _heed_cancellation()
            connection = self._connection()
            try:
                # Not `wait_for`, which before Python 3.12 swallows a cancellation that comes in the very tick
                # of the success: and a program that ends would wait for this for ever.
                async with asyncio.timeout(self._patience):
                    await connection.connect()
                _heed_cancellation()
            except BaseException:
                await connection.disconnect()
                raise
        except Exception as error:  # noqa: BLE001 - every failure is one of two
            failure = self._failure(error)
        else:
            self._connected = connection
            return
        # Outside of the handler: the library's errors hold connections, and these their credentials.
        raise failure

    def send(self, script: Script, arguments: Sequence[object], *, whole: bool = False) -> None:
        """Have the server run the script on the pool's keys. Returns at once; `receive` has the answer.

        Args:
            script: What to run.
            arguments: Its ARGV.
            whole: Whether to send its text, because the server does not know it by its hash.
        """
        begin = (b"EVAL", script.text) if whole else (b"EVALSHA", script.sha)
        command = (*begin, len(KEYS), *self._keys, *arguments)
        parts = [b"*%d\r\n" % len(command)]
        for value in command:
            text = value if isinstance(value, bytes) else str(value).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
        # The library's own way to send may wait, and whoever releases a lease cannot.
        self._connected._writer.write(b"".join(parts))  # noqa: SLF001 - the stream, in redis-py and valkey-py

    async def receive(self) -> str | None:
        """Return the next answer; None if the server does not know the script.

        Raises:
            Away: The connection broke, or the server cannot at present.
            Refusal: The server refuses.
        """
        try:
            text: bytes = await self._connected.read_response(disable_decoding=True)
            return text.decode()
        except self._unknown_script:
            return None
        except Exception as error:  # noqa: BLE001 - every failure is one of two
            failure = self._failure(error)
        raise failure

    async def disconnect(self) -> None:
        """End the connection that `connect` made."""
        connection, self._connected = self._connected, None
        if connection is not None:
            await connection.disconnect()

    async def listen(
        self,
        process: str,
        heard: Callable[[str], object],
        ready: Callable[[], object],
        alive: Callable[[], object],
    ) -> None:
        """Hand on what is published for the process, until the connection breaks.

        Args:
            process: Who listens.
            heard: Is told of every message.
            ready: Called once messages arrive from now on.
            alive: Called when the server answers `probe`.

        Raises:
            Away: The connection broke or came not about.
            Refusal: There will be none.
        """
        try:
            if self.is_cluster:
                await self._client.initialize()
                _heed_cancellation()
            connection = self._connection()
            try:
                async with asyncio.timeout(self._patience):
                    await connection.connect()
                _heed_cancellation()
                self._ear = connection
                await self._listen(connection, process, heard, ready, alive)
            finally:
                self._ear = None
                await connection.disconnect()
        except Exception as error:  # noqa: BLE001 - every failure is one of two
            failure = self._failure(error)
        else:
            failure = Away("the connection was closed")
        raise failure

    def probe(self) -> bool:
        """Ask on the connection of `listen` for a sign of life; return False if there is none to ask on."""
        writer = None if self._ear is None else self._ear._writer  # noqa: SLF001 - as in `send`
        if writer is None:
            return False
        writer.write(b"*1\r\n$4\r\nPING\r\n")
        return True

    def cut(self) -> None:
        """End the connection of `listen` at once, whatever is still on its way: nothing arrives there."""
        if self._ear is not None and self._ear._writer is not None:  # noqa: SLF001 - as in `send`
            self._ear._writer.transport.abort()  # noqa: SLF001 - to close it properly may wait, too

    async def _listen(
        self,
        connection: Any,
        process: str,
        heard: Callable[[str], object],
        ready: Callable[[], object],
        alive: Callable[[], object],
    ) -> None:
        kind = "S" if self.is_cluster else ""
        channels = (f"{self._prefix}to:{process}", f"{self._prefix}news")
        await connection.send_command(f"{kind}SUBSCRIBE", *channels)
        confirmed = 0
        while True:
            said = await connection.read_response(disable_decoding=True)
            if said[0] in (b"message", b"smessage"):
                heard(said[2].decode())
            elif said[0] in (b"subscribe", b"ssubscribe"):
                confirmed += 1
                if confirmed == len(channels):
                    ready()
            elif said[0] == b"pong":
                alive()

    async def close(self) -> None:
        """Close what is still open."""
        await self.disconnect()
        if self._is_ours:
            await self._client.aclose()
            # The clients that ask the sentinels are nobody else's, and not closed with the one behind them.
            manager = getattr(getattr(self._client, "connection_pool", None), "sentinel_manager", None)
            for sentinel in () if manager is None else manager.sentinels:
                await sentinel.aclose()

    def _connection(self) -> Any:
        """Return a connection of its own that reads without a time limit and speaks RESP2."""
        client = self._client
        if self.is_cluster:
            node = client.get_node_from_key(self._keys[0].decode())
            kind, options = node.connection_class, dict(node.connection_kwargs)
        else:
            pool = client.connection_pool
            kind, options = pool.connection_class, dict(pool.connection_kwargs)
            if hasattr(pool, "service_name"):
                options["connection_pool"] = pool
        # Notices of maintenance need RESP3, which would mix messages with answers.
        options = {key: value for key, value in options.items() if not key.startswith("maint_")}
        return kind(**options | {"socket_timeout": None, "protocol": 2})

    def _failure(self, error: Exception) -> Exception:
        name = type(error).__name__
        if isinstance(error, self._refused):
            return ServerRefused(f"the server refuses with {name}")
        if isinstance(error, self._away):
            return Away(name)
        if isinstance(error, self._answered):
            text = str(error)
            if any(word in text for word in _PASSING):
                return Away(text.split(maxsplit=1)[0])
            return ServerRefused(f"the server answers: {Redactor(_passwords(self._client)).words(text)}")
        return error if isinstance(error, InvalidArgument) else ServerRefused(f"the client fails with {name}")


def _heed_cancellation() -> None:
    """Raise the cancellation that the library has swallowed; whoever ends this task would wait for ever."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _passwords(client: Any) -> Iterator[Secret]:
    """Yield what the client logs in with: a server that does not know AUTH quotes it in its answer."""
    pool = getattr(client, "connection_pool", client)
    manager = getattr(pool, "sentinel_manager", None)
    for holder, name in ((pool, "connection_kwargs"), (manager, "sentinel_kwargs")):
        options: dict[str, Any] = getattr(holder, name, None) or {}
        password = options.get("password")
        if isinstance(password, str | bytes):
            yield Secret(password if isinstance(password, str) else password.decode(errors="replace"))


def _library() -> ModuleType:
    for name in ("redis", "valkey"):
        try:
            import_module(f"{name}.asyncio")
        except ImportError:
            continue
        return import_module(name)
    raise ImportError("a shared store needs an extra: pip install 'pika-balancer[redis]'")


def _given(client: object) -> tuple[ModuleType, Any]:
    name = type(client).__module__.split(".")[0]
    usable = callable(getattr(client, "execute_command", None)) and inspect.iscoroutinefunction(
        getattr(type(client), "execute_command", None)
    )
    if not usable:
        raise InvalidArgument(
            f"a store takes a URL or an asyncio client of redis-py or valkey-py, not {type(client).__name__}",
            field="url_or_client",
        )
    try:
        import_module(f"{name}.exceptions")
    except ImportError:
        # A client of somebody's own, built on one of the two.
        bases = {base.__module__.split(".")[0] for base in type(client).__mro__}
        name = next((known for known in ("redis", "valkey") if known in bases), "redis")
    return import_module(name), client


def _from_url(url: Secret, patience: float) -> tuple[ModuleType, Any]:
    library = _library()
    try:
        return library, _client(library, url.reveal(), patience)
    except Exception:  # noqa: BLE001, S110 - whatever it is, its words and frames could have the password
        pass
    raise InvalidArgument(
        "the store's URL cannot be read; it looks like redis://user:password@host:6379/0, "
        "redis+cluster://host:6379 or redis+sentinel://host1:26379,host2:26379/service",
        field="url_or_client",
    )


def _client(library: ModuleType, url: str, patience: float) -> Any:
    asyncio_side = import_module(f"{library.__name__}.asyncio")
    name = library.__name__.capitalize()
    retry = import_module(f"{library.__name__}.asyncio.retry").Retry(
        import_module(f"{library.__name__}.backoff").NoBackoff(), 0
    )
    options: dict[str, Any] = {"socket_timeout": patience, "socket_connect_timeout": patience}
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    plain = f"{_PLAIN[base]}://{rest}"
    if kind == "cluster":
        return getattr(asyncio_side, f"{name}Cluster").from_url(plain, **options)
    if kind == "sentinel":
        return _behind_sentinels(asyncio_side, name, plain, options | {"retry": retry})
    if kind:
        raise ValueError("no such kind")
    connections = asyncio_side.BlockingConnectionPool.from_url(
        plain, max_connections=4, timeout=patience, retry=retry, **options
    )
    client = getattr(asyncio_side, name)(connection_pool=connections)
    client.auto_close_connection_pool = True
    return client


def _behind_sentinels(library: Any, name: str, url: str, options: dict[str, Any]) -> Any:
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    places = [(host.rpartition(":")[0] or host, int(host.rpartition(":")[2])) for host in hosts]
    service, _, db = parts.path.strip("/").partition("/")
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    userinfo = parts.netloc.rpartition("@")[0]
    username, _, password = (unquote(text) for text in userinfo.partition(":"))
    options |= {
        key: value
        for key, value in {"username": username, "password": password, "db": int(db or 0)}.items()
        if value
    }
    if parts.scheme == "rediss":
        options["ssl"] = True
    sentinel_options = {key.removeprefix("sentinel_"): value for key, value in query.items()}
    sentinel = library.Sentinel(places, sentinel_kwargs=sentinel_options | {"socket_timeout": 1}, **options)
    return sentinel.master_for(service, getattr(library, name))


def _address(url: Secret) -> str:
    """Return the URL's host and port, and nothing that could be a secret."""
    scheme, _, rest = url.reveal().partition("://")
    place, _, query = rest.partition("?")
    # An @ that late may stand behind a password that has a question mark in it.
    return f"{scheme}://{'' if '@' in query else place.rpartition('@')[2]}"


_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


class Subscriber:
    """Listens from `start` to `stop`.

    Args:
        link: The way to the server.
        process: Who listens.
        heard: Is told of every message.
        ready: Called whenever messages arrive again: what was said before that is lost.
        patience: Seconds for which an answer to `check` is waited for.
        rng: Spreads the attempts.
        clock: Measures the pauses.
    """

    def __init__(
        self,
        connection: Connection,
        process: str,
        heard: Callable[[str], object],
        ready: Callable[[], object],
        *,
        patience: float,
        rng: random.Random,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._process = process
        self._heard = heard
        self._ready = ready
        self._patience = patience
        self._rng = rng
        self._clock = clock
        self._failures = 0
        self._check: Timer | None = None
        self._asked: deque[asyncio.Future[None]] = deque()
        self._task: asyncio.Task[None] | None = None
        self.is_listening = False

    is_listening: bool
    """Whether messages arrive."""

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Listen no more, and disconnect."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def check(self) -> None:
        """Make the connection again unless the server soon gives a sign of life there."""
        if self._check is None and self._ask() is not None:
            self._check = self._clock.call_later(self._patience, self._connection.cut)

    async def caught_up(self) -> None:
        """Return once every message has arrived that was published before this call, if any can arrive."""
        if self.is_listening and (answered := self._ask()) is not None:
            await answered

    async def _run(self) -> None:
        while True:
            try:
                await self._connection.listen(self._process, self._hear, self._is_ready, self._alive)
            except (Away, ServerRefused):
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**self._failures)
                self._failures += 1
            else:
                pause = _FIRST_PAUSE
            finally:
                self.is_listening = False
                while self._asked:
                    self._alive()
                self._checked()
            await self._clock.sleep(pause * self._rng.uniform(0.5, 1.5))

    def _ask(self) -> asyncio.Future[None] | None:
        """Return what is done once the server answers there: messages and answers come in order."""
        if not self._connection.probe():
            return None
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(answered)
        return answered

    def _alive(self) -> None:
        if self._asked and not (answered := self._asked.popleft()).done():
            answered.set_result(None)
        self._checked()

    def _checked(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None

    def _hear(self, text: str) -> None:
        self._heard(text)

    def _is_ready(self) -> None:
        self._failures = 0
        self.is_listening = True
        self._ready()
