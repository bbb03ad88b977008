"""The documented Pika API as a local server, for demos and tests.

It shares no code with the client side, so that one misreading of the API cannot be in both.

    local       LocalServer: settings, run, statistics
    app         routes, host and token checks        submit    job calls
    form        reading bodies                       params    checking parameters
    state       accounts, slots, statistics          jobs      the life of jobs
    timeline    moments, wall time, due calls        callback  POST to `replyUrl`
    faults      scripted faults                      accounts  account values and their file
    answers     JSON answers and refusals
"""

from pika_balancer.server.accounts import ServerAccount, parse_accounts
from pika_balancer.server.faults import FAULTS, ScriptedFault, parse_fault
from pika_balancer.server.local import LocalServer
from pika_balancer.server.state import ChannelStatistics, ServerStatistics

__all__ = [
    "FAULTS",
    "ChannelStatistics",
    "LocalServer",
    "ScriptedFault",
    "ServerAccount",
    "ServerStatistics",
    "parse_accounts",
    "parse_fault",
]
