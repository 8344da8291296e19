"""Which destinations are private: what keeps a stranger from using the exposee to reach what only it can reach.

The attack is called server-side request forgery: register http://192.168.1.1/ or the cloud's metadata address
as a webhook, and the exposee becomes your hand in its network. A name helps the attacker twice, because it may
resolve to anything, and to something else tomorrow. So a host is judged by its spelling when it is registered,
and each address it resolves to is judged again at every connect.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
from typing import NamedTuple

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address
NOT_GLOBAL = ipaddress.ip_network("64:ff9b:1::/48")  # RFC 8215: local use; older Pythons call it global
LOCAL_SUFFIXES = (".localhost", ".local", ".test", ".internal", ".lan", ".home.arpa")


class Guard(NamedTuple):
    """Which destinations may be called. A guard judges twice: a host's spelling when a stranger gives it,
    and every address that it resolves to at each connect (the name may have changed its address since).

    A private spelling that is registered must have come from a local caller, so at connect time it may
    lead to private addresses; a public name may not, unless `allow_private`. Loopback is reached by a
    loopback spelling only, link-local (where clouds keep their metadata) by none.
    """

    allow_private: bool = False

    def refuse_spelling(self, host: str) -> str | None:
        """Why a stranger may not register `host`; None if they may."""
        kind = spelled(host)
        if kind == "public" or (kind == "private" and self.allow_private):
            return None
        hint = "; the owner can start the exposee with --allow-private" if kind == "private" else ""
        return f"{host} is a {kind} destination, which strangers may not register{hint}"

    def refuse_address(self, host: str, address: str) -> str | None:
        """Why `host` may not be connected to at `address`; None if it may."""
        kind, found = spelled(host), reach(ipaddress.ip_address(address.partition("%")[0]))
        if found == "public" or found == kind == "loopback":
            return None
        if found == "private" and (self.allow_private or kind == "private"):
            return None
        hint = "; the owner can start the exposee with --allow-private" if found == "private" else ""
        return f"{host} resolves to the {found} address {address}{hint}"


def reach(address: Address) -> str:
    """'link-local', 'loopback', 'private' or 'public'; an embedded IPv4 address is what counts."""
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in NAT64 or int(address) >> 32 == 0 and int(address) > 1:  # the latter: RFC 4291, 2.5.5.1
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if embedded is not None:
            return reach(embedded)
        if address in NOT_GLOBAL or address.is_site_local:
            return "private"
    if address.is_link_local:
        return "link-local"
    if address.is_loopback or address.is_unspecified:  # 0.0.0.0 reaches the machine itself on Linux
        return "loopback"
    return "public" if address.is_global and not address.is_multicast else "private"


def literal(host: str) -> Address | None:
    """`host` as an address if it spells one in any notation that a resolver accepts (2130706433, 0x7f.1)."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            return None


@functools.lru_cache(4_096)
def spelled(host: str) -> str:
    """What a host's spelling alone tells: as `reach` for addresses, and by its suffix for names."""
    host = host.rstrip(".").lower()
    address = literal(host)
    if address is not None:
        return reach(address)
    if host == "localhost" or host.endswith(".localhost"):
        return "loopback"
    return "private" if "." not in host or host.endswith(LOCAL_SUFFIXES) else "public"
