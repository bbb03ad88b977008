"""Where a connection may lead: decided by the address that it is really made to, never by a name.

A name can mean another machine at the second look than it meant at the first, and an address can be written
in many ways. Neither matters to a check of the very address for which a socket is made.
"""

import errno
import ipaddress
import socket
from collections.abc import Callable, Collection
from typing import Any, Final, Literal, get_args

Place = Literal["loopback", "link-local", "private", "public"]
"""This machine; its wire, where clouds hand out credentials; a network of somebody's own; the internet."""

PLACES: Final = frozenset[Place](get_args(Place))
"""All of them."""

SocketFactory = Callable[[tuple[Any, ...]], socket.socket]
"""Makes a socket for one of the answers of `getaddrinfo`."""

REFUSED: Final = "it leads to an address that is not allowed"
"""What the error says of a connection that was refused here."""

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


def place(address: str) -> Place:
    """Return where an address is; IPv4 in the clothes of IPv6 counts as what it is.

    Raises:
        ValueError: It is no address.
    """
    known = _plain(ipaddress.ip_address(address))
    if known.is_loopback or known.is_unspecified:  # a connection to 0.0.0.0 is made to this machine
        return "loopback"
    if known.is_link_local:
        return "link-local"
    return "public" if known.is_global and not (known.is_multicast or known.is_reserved) else "private"


def sockets_to(places: Collection[Place]) -> SocketFactory:
    """Return what makes sockets for connections to these places, and raises `OSError` for any other."""

    def make(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        if place(address[0]) not in places:
            raise OSError(errno.EACCES, REFUSED)
        return socket.socket(family, kind, protocol)

    return make


def _plain(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address
