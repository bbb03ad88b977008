"""The documented Pika API as a local server, for demos, tests and trying things out.

It shares no code with the client side, so that a misreading of the API cannot cancel itself out.

    local       LocalServer: settings, life, counts
    app         routes, host and token checks        submit    a job call from body to answer
    form        reading bodies                       params    checking parameters
    state       accounts, admission, statistics      jobs      the life of jobs
    timeline    what is due when                     callback  telling `replyUrl`
    faults      what goes wrong, as texts            accounts  account values, their file
    answers, errors
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
