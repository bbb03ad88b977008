"""Closed forms: exact figures of queueing theory for accounts, loads and waits.

erlang             Erlang B and C, for real numbers of slots, with their inverses
station            loss, a limited wait queue, impatience: M/G/c/c, M/M/c/K, Erlang A
retrial            retries: the retrial queue M/M/c
shared_accounts    unequal speeds under the policy `weighted`, and accounts picked blindly
"""

from pika_balancer.simulate.theory.erlang import (
    erlang_b,
    erlang_b_load,
    erlang_b_slots,
    erlang_c,
    erlang_c_beyond,
    erlang_c_load,
    erlang_c_quantile,
    erlang_c_slots,
    erlang_c_wait,
)
from pika_balancer.simulate.theory.retrial import Retrial, retrial
from pika_balancer.simulate.theory.shared_accounts import Shared, blind, weighted
from pika_balancer.simulate.theory.station import (
    Station,
    constant_patience,
    erlang_a,
    mgcc,
    mmck,
    mmck_quantile,
)

__all__ = [
    "Retrial",
    "Shared",
    "Station",
    "blind",
    "constant_patience",
    "erlang_a",
    "erlang_b",
    "erlang_b_load",
    "erlang_b_slots",
    "erlang_c",
    "erlang_c_beyond",
    "erlang_c_load",
    "erlang_c_quantile",
    "erlang_c_slots",
    "erlang_c_wait",
    "mgcc",
    "mmck",
    "mmck_quantile",
    "retrial",
    "weighted",
]
