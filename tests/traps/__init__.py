"""The traps that other balancers, queues and clients fell into.

Each test sets the trap and walks into it twice: once the obvious way, which has to fall in, so that the test
is known to tell the difference, and once with the real thing, which must not.
"""
