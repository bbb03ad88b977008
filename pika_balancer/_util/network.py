"""Restricts where a connection may lead, by the address of the socket and not by a host name.

A name can resolve to another address the second time, and an address can be written in many ways. A check of
the address for which the socket is made is safe from both.
"""

import errno
import ipaddress
import socket
from collections.abc import Callable, Collection
from typing import Any, Final, Literal, get_args

Scope = Literal["loopback", "link-local", "private", "public"]
"""Scope of an address; clouds serve credentials at link-local addresses."""

SCOPES: Final = frozenset[Scope](get_args(Scope))

SocketFactory = Callable[[tuple[Any, ...]], socket.socket]
"""Makes a socket for an answer of `getaddrinfo`."""

REFUSED: Final = "it leads to an address that is not allowed"
"""Message of the error for a refused connection."""

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


def scope(address: str) -> Scope:
    """Return the scope of an address; IPv4-mapped addresses are classified as IPv4.

    Raises:
        ValueError: It is not an IP address.
    """
    known = _plain(ipaddress.ip_address(address))
    if known.is_loopback or known.is_unspecified:  # a connection to 0.0.0.0 is made to this machine
        return "loopback"
    if known.is_link_local:
        return "link-local"
    return "public" if known.is_global and not (known.is_multicast or known.is_reserved) else "private"


def sockets_to(scopes: Collection[Scope]) -> SocketFactory:
    """Return a socket factory that raises `OSError` for addresses outside these scopes."""

    def make(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        if scope(address[0]) not in scopes:
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
