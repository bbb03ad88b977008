"""Every public coroutine, cancelled at every await.

surface       finds the coroutines of the package
cancel_point  one run of a scenario in which a coroutine is cancelled, and the checks after it
client, balancer, dispatcher, stores, servers, load
              a scenario for each coroutine, with what must hold after it was cancelled
"""

from tests.cancelling import balancer, client, dispatcher, load, servers, stores
from tests.cancelling.cancel_point import SCENARIOS

__all__ = ["SCENARIOS", "balancer", "client", "dispatcher", "load", "servers", "stores"]
