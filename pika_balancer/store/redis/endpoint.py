"""The server of a pool: the only module that imports `redis` or `valkey`, and only when a store is made.

Every failure becomes one of two: `Away`, which may pass, and `ServerRefused`, which does not. Neither
contains a credential, nor does any message.
"""

import inspect
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from pika_balancer.errors import InvalidArgument
from pika_balancer.models import Secret
from pika_balancer.secret import Redactor
from pika_balancer.store.redis.scripts import KEYS

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


class Endpoint:
    """The server of a pool, through a client of redis-py or valkey-py.

    Args:
        source: A URL (see `RedisStore`), or an asyncio client of redis-py or valkey-py, which stays open.
            Credentials are in clear text only in that library's client.
        pool: Name of the pool.
        timeout: Seconds to wait while connecting.

    Attributes:
        address: Address of the server, without credentials.
        is_cluster: Whether it is a cluster; all keys of a pool are on one of its nodes.
        prefix: First part of the names of the pool's keys and channels.
        keys: The pool's keys, in the order of `KEYS`.
        timeout: Seconds to wait while connecting.
        unknown_script: The library's error for a script that the server does not know.

    Raises:
        ImportError: Neither library is installed.
        InvalidArgument: The URL or the client cannot be used.
    """

    def __init__(self, source: object, pool: str, *, timeout: float) -> None:
        self._is_own = isinstance(source, Secret)
        if isinstance(source, Secret):
            library, self.client = _from_url(source, timeout)
            self.address = _address(source)
        else:
            library, self.client = _given(source)
            self.address = type(source).__name__
        self.is_cluster = hasattr(self.client, "get_node_from_key")
        self.prefix = f"pika:{{{pool}}}:"
        self.keys = tuple((self.prefix + key).encode() for key in KEYS)
        self.timeout = timeout
        errors = import_module(f"{library.__name__}.exceptions")
        names = (name for name in _AWAY if hasattr(errors, name))
        self._away = (*(getattr(errors, name) for name in names), OSError, EOFError, TimeoutError)
        self._refused = tuple(getattr(errors, name) for name in _REFUSED)
        self._error_reply: type[Exception] = errors.ResponseError
        self.unknown_script: type[Exception] = errors.NoScriptError

    async def locate(self, *, refresh: bool) -> None:
        """Learn which node of a cluster has the pool's keys; with `refresh` again."""
        if self.is_cluster:
            await (self.client.nodes_manager if refresh else self.client).initialize()

    async def close(self) -> None:
        """Close the client if it was made here."""
        if self._is_own:
            await self.client.aclose()
            # Closing the client does not close its own clients of the sentinels.
            manager = getattr(getattr(self.client, "connection_pool", None), "sentinel_manager", None)
            for sentinel in () if manager is None else manager.sentinels:
                await sentinel.aclose()

    def new_connection(self) -> Any:
        """Return a connection, not open yet, that reads without a time limit and speaks RESP2."""
        client = self.client
        if self.is_cluster:
            node = client.get_node_from_key(self.keys[0].decode())
            kind, options = node.connection_class, dict(node.connection_kwargs)
        else:
            pool = client.connection_pool
            kind, options = pool.connection_class, dict(pool.connection_kwargs)
            if hasattr(pool, "service_name"):
                options["connection_pool"] = pool
        # Maintenance notices need RESP3, which mixes messages with replies.
        options = {key: value for key, value in options.items() if not key.startswith("maint_")}
        return kind(**options | {"socket_timeout": None, "protocol": 2})

    def failure(self, error: Exception) -> Exception:
        """Return the `Away` or `ServerRefused` that stands for an error of the library."""
        name = type(error).__name__
        if isinstance(error, self._refused):
            return ServerRefused(f"the server refuses with {name}")
        if isinstance(error, self._away):
            return Away(name)
        if isinstance(error, self._error_reply):
            text = str(error)
            if any(word in text for word in _PASSING):
                return Away(text.split(maxsplit=1)[0])
            return ServerRefused(f"the server answers: {Redactor(_passwords(self.client)).words(text)}")
        return error if isinstance(error, InvalidArgument) else ServerRefused(f"the client fails with {name}")


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
