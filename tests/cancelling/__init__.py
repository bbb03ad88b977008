"""Every public coroutine, cancelled at every await.

surface     what coroutines there are, found from the package itself
turn        one run, in which a coroutine is cancelled at one of its awaits, and what may not be left of it
client, balancer, dispatcher, stores, servers, load
            a scenario for each coroutine: what has to hold after it was cancelled
"""

from tests.cancelling import balancer, client, dispatcher, load, servers, stores
from tests.cancelling.turn import SCENARIOS

__all__ = ["SCENARIOS", "balancer", "client", "dispatcher", "load", "servers", "stores"]
