"""Defects that other balancers, queues and clients had.

Each test runs twice: with the obvious code, which must show the defect, so that the test is known to see it,
and with this package, which must not.
"""
