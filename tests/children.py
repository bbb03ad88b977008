"""Child processes of tests, started as a user's terminal would start them."""

import signal


def default_signals() -> None:
    """Restore the default SIGINT and SIGTERM handlers; pass as `preexec_fn` to a child that gets signals."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
