"""The connection to the server: the only module that imports `redis` or `valkey`, and only when one is made.

It sends scripts, subscribes to the process's messages, and turns every failure into one of two: `Away`, which
may pass, and `ServerRefused`, which does not. Neither of them, nor any message, contains a credential.
"""

import asyncio
import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from pika_balancer.clock import Clock
from pika_balancer.errors import InvalidArgument
from pika_balancer.models import Secret
from pika_balancer.secret import Redactor
from pika_balancer.store.redis.scripts import KEYS, Script

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_PLAIN: Final = {"redis": "redis", "valkey": "redis", "rediss": "rediss", "valkeys": "rediss", "unix": "unix"}
_AWAY: Final = (
    "OutOfMemoryError",  # recognised by its class: the client removes the word from the text
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
"""Words by which a server says that it cannot serve now, whatever class of error the client raises."""


class Away(Exception):
    """The server cannot be reached or cannot serve now; a command that was sent may have been executed."""


class ServerRefused(Exception):
    """The server refuses: the credentials, the rights or the kind of server are wrong."""


class Backoff:
    """Pauses between attempts to connect: twice as long after each failure, from 0.1 s to 5 s, and spread.

    Args:
        rng: Spreads the pauses, so that the processes of a pool do not come back at the same moment.
        clock: Measures the pauses.
    """

    def __init__(self, rng: random.Random, clock: Clock) -> None:
        self._rng = rng
        self._clock = clock
        self._failures = 0

    def reset(self) -> None:
        """Start again with the shortest pause."""
        self._failures = 0

    async def pause(self) -> None:
        seconds = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**self._failures)
        self._failures += 1
        await self._clock.sleep(seconds * self._rng.uniform(0.5, 1.5))


class Connection:
    """The two connections of a process to the server: one for commands, one for messages.

    Args:
        source: A URL (see `RedisStore`), or an asyncio client of redis-py or valkey-py, which stays open.
            Credentials are in clear text only in that library's client.
        pool: Name of the pool.
        timeout: Seconds to wait while connecting.

    Raises:
        ImportError: Neither library is installed.
        InvalidArgument: The URL or the client cannot be used.
    """

    def __init__(self, source: object, pool: str, *, timeout: float) -> None:
        if isinstance(source, Secret):
            self._library, self._client = _from_url(source, timeout)
            self.address = _address(source)
        else:
            self._library, self._client = _given(source)
            self.address = type(source).__name__
        self._is_ours = isinstance(source, Secret)
        self.is_cluster = hasattr(self._client, "get_node_from_key")
        self._timeout = timeout
        self._commands: Any = None
        self._messages: Any = None
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
    """Address of the server, without credentials."""
    is_cluster: bool
    """Whether it is a cluster; all keys of a pool are on one of its nodes."""

    @property
    def verb(self) -> str:
        """The command with which a script sends messages to other processes."""
        return "SPUBLISH" if self.is_cluster else "PUBLISH"

    async def connect(self) -> None:
        """Connect, for `send` and `receive`.

        Raises:
            Away: The server cannot be reached now.
            ServerRefused: It cannot be used.
        """
        try:
            self._commands = await self._open(refresh=True)
        except Exception as error:  # noqa: BLE001 - every failure is one of two
            failure = self._failure(error)
        else:
            return
        # Outside of the handler: the library's errors refer to connections, and these to their credentials.
        raise failure

    def send(self, script: Script, arguments: Sequence[object], *, whole: bool = False) -> None:
        """Send a script for the pool's keys and return at once; `receive` returns the reply.

        Args:
            script: The script.
            arguments: Its ARGV.
            whole: Whether to send its text, because the server does not know its hash.
        """
        begin = (b"EVAL", script.text) if whole else (b"EVALSHA", script.sha)
        command = (*begin, len(KEYS), *self._keys, *arguments)
        parts = [b"*%d\r\n" % len(command)]
        for value in command:
            text = value if isinstance(value, bytes) else str(value).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
        # The library's own method is a coroutine, and `release` must not wait.
        self._commands._writer.write(b"".join(parts))  # noqa: SLF001 - the stream, in redis-py and valkey-py

    async def receive(self) -> str | None:
        """Return the next reply; None if the server does not know the script's hash.

        Raises:
            Away: The connection broke, or the server cannot serve now.
            ServerRefused: The server refuses.
        """
        try:
            text: bytes = await self._commands.read_response(disable_decoding=True)
            return text.decode()
        except self._unknown_script:
            return None
        except Exception as error:  # noqa: BLE001 - every failure is one of two
            failure = self._failure(error)
        raise failure

    async def disconnect(self) -> None:
        """Close the connection that `connect` made."""
        connection, self._commands = self._commands, None
        if connection is not None:
            await connection.disconnect()

    async def listen(
        self,
        process: str,
        on_message: Callable[[str], object],
        on_ready: Callable[[], object],
        on_pong: Callable[[], object],
    ) -> None:
        """Subscribe to the messages for a process until the connection breaks.

        Args:
            process: Id of the process.
            on_message: Called with each message.
            on_ready: Called once the subscription is confirmed.
            on_pong: Called when the server replies to `ping`.

        Raises:
            Away: The connection broke or could not be made.
            ServerRefused: The server refuses.
        """
        try:
            connection = await self._open(refresh=False)
            self._messages = connection
            try:
                await self._listen(connection, process, on_message, on_ready, on_pong)
            finally:
                self._messages = None
                await connection.disconnect()
        except Exception as error:  # noqa: BLE001 - every failure is one of two
            failure = self._failure(error)
        else:
            failure = Away("the connection was closed")
        raise failure

    def ping(self) -> bool:
        """Send a PING on the connection for messages; return False if there is none."""
        writer = None if self._messages is None else self._messages._writer  # noqa: SLF001 - as in `send`
        if writer is None:
            return False
        writer.write(b"*1\r\n$4\r\nPING\r\n")
        return True

    def abort_listening(self) -> None:
        """Break the connection for messages at once."""
        if self._messages is not None and self._messages._writer is not None:  # noqa: SLF001 - as in `send`
            self._messages._writer.transport.abort()  # noqa: SLF001 - a proper close may wait, too

    async def _listen(
        self,
        connection: Any,
        process: str,
        on_message: Callable[[str], object],
        on_ready: Callable[[], object],
        on_pong: Callable[[], object],
    ) -> None:
        kind = "S" if self.is_cluster else ""
        channels = (f"{self._prefix}to:{process}", f"{self._prefix}news")
        await connection.send_command(f"{kind}SUBSCRIBE", *channels)
        confirmed = 0
        while True:
            message = await connection.read_response(disable_decoding=True)
            if message[0] in (b"message", b"smessage"):
                on_message(message[2].decode())
            elif message[0] in (b"subscribe", b"ssubscribe"):
                confirmed += 1
                if confirmed == len(channels):
                    on_ready()
            elif message[0] == b"pong":
                on_pong()

    async def close(self) -> None:
        """Close every connection that was made here."""
        await self.disconnect()
        if self._is_ours:
            await self._client.aclose()
            # Closing the client does not close its own clients of the sentinels.
            manager = getattr(getattr(self._client, "connection_pool", None), "sentinel_manager", None)
            for sentinel in () if manager is None else manager.sentinels:
                await sentinel.aclose()

    async def _open(self, *, refresh: bool) -> Any:
        """Return an open connection; with `refresh` ask a cluster again which node has the pool's keys."""
        if self.is_cluster:
            await (self._client.nodes_manager if refresh else self._client).initialize()
            _raise_if_cancelled()
        connection = self._new_connection()
        try:
            # Not `wait_for`: before Python 3.12 it swallows a cancellation in the tick of the success, and
            # whatever cancels this task then waits for ever.
            async with asyncio.timeout(self._timeout):
                await connection.connect()
            _raise_if_cancelled()
        except BaseException:
            await connection.disconnect()
            raise
        return connection

    def _new_connection(self) -> Any:
        """Return a connection, not open yet, that reads without a time limit and speaks RESP2."""
        client = self._client
        if self.is_cluster:
            node = client.get_node_from_key(self._keys[0].decode())
            kind, options = node.connection_class, dict(node.connection_kwargs)
        else:
            pool = client.connection_pool
            kind, options = pool.connection_class, dict(pool.connection_kwargs)
            if hasattr(pool, "service_name"):
                options["connection_pool"] = pool
        # Maintenance notices need RESP3, which mixes messages with replies.
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


def _raise_if_cancelled() -> None:
    """Raise a cancellation that the library has swallowed, which another task waits for."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _passwords(client: Any) -> Iterator[Secret]:
    """Yield the client's passwords: a server that does not know AUTH quotes them in its error."""
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
        # A user's own class, derived from a client of one of the two.
        bases = {base.__module__.split(".")[0] for base in type(client).__mro__}
        name = next((known for known in ("redis", "valkey") if known in bases), "redis")
    return import_module(name), client


def _from_url(url: Secret, timeout: float) -> tuple[ModuleType, Any]:
    library = _library()
    try:
        return library, _client(library, url.reveal(), timeout)
    except Exception:  # noqa: BLE001, S110 - its text and traceback could contain the password
        pass
    raise InvalidArgument(
        "the store's URL cannot be read; it looks like redis://user:password@host:6379/0, "
        "redis+cluster://host:6379 or redis+sentinel://host1:26379,host2:26379/service",
        field="url_or_client",
    )


def _client(library: ModuleType, url: str, timeout: float) -> Any:
    asyncio_side = import_module(f"{library.__name__}.asyncio")
    name = library.__name__.capitalize()
    retry = import_module(f"{library.__name__}.asyncio.retry").Retry(
        import_module(f"{library.__name__}.backoff").NoBackoff(), 0
    )
    options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    plain = f"{_PLAIN[base]}://{rest}"
    if kind == "cluster":
        return getattr(asyncio_side, f"{name}Cluster").from_url(plain, **options)
    if kind == "sentinel":
        return _behind_sentinels(asyncio_side, name, plain, options | {"retry": retry})
    if kind:
        raise ValueError("unknown kind")
    connections = asyncio_side.BlockingConnectionPool.from_url(
        plain, max_connections=4, timeout=timeout, retry=retry, **options
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
    """Return the URL's scheme, host and port, without anything that could be secret."""
    scheme, _, rest = url.reveal().partition("://")
    place, _, query = rest.partition("?")
    # An @ after the question mark may end a password that contains the question mark.
    return f"{scheme}://{'' if '@' in query else place.rpartition('@')[2]}"
