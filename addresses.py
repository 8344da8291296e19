"""What is local: destinations that strangers must not reach, and callers at this machine. And what a URL must be.

The attack is called server-side request forgery: a stranger registers http://192.168.1.1/ or the cloud's metadata
address as a webhook, and the exposee sends requests there from inside its network. A name resolves to any address, and
to another one tomorrow: so a host is judged by its spelling at registration, and each address at every connect.

Callers who are not at this machine are strangers: they came through a tunnel, a proxy, the network or a page of
another site.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
from typing import Any, NamedTuple

from strict_json import shown
from wire import Request

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
KINDS = ("public", "private", "loopback", "metadata", "link-local")  # from the most to the least open
SPECIAL = {  # our own, as `ipaddress.is_global` differs between versions (CVE-2024-4032). The first that fits counts
    # link-local has the metadata of most clouds; these are of Azure, Alibaba, Oracle, AWS, Google and Scaleway
    "metadata": "168.63.129.16 100.100.100.200 192.0.0.192 fd00:ec2::/32 fd20:ce::254 fd00:42::42",
    "link-local": "169.254.0.0/16 fe80::/10",
    "loopback": "127.0.0.0/8 0.0.0.0 ::1 ::",  # 0.0.0.0 reaches the machine itself on Linux
    # IANA's special-purpose registries: exceptions, then the rest. Only 2000::/3 of IPv6 is in public use at all
    "public": "192.0.0.9 192.0.0.10 2001:1::1 2001:1::2 2001:1::3 2001:3::/32 2001:4:112::/48 2001:20::/28 "
    "2001:30::/28",
    "private": "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 "
    "192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3 ::/3 2001::/23 2001:db8::/32 3fff::/20 "
    "4000::/2 8000::/1",
}
NETWORKS = [(ipaddress.ip_network(network), kind) for kind, text in SPECIAL.items() for network in text.split()]
LOCAL_SUFFIXES = (".local", ".test", ".internal", ".lan", ".home.arpa")
MAX_URL = 2_048  # characters; what browsers and proxies take
URL = re.compile(r"https?://(\[[0-9a-f]*:[0-9a-f:.]*(?<!\.)\]|[a-z0-9_.-]+)(?::(\d{0,5}))?(?:[/?].*)?", re.IGNORECASE)
LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"  # RFC 1123, 2.1; and _, which some networks use
NAME = re.compile(rf"(?:{LABEL}\.)*(?!(?:\d+|0x[0-9a-f]*)$){LABEL}", re.IGNORECASE)  # it does not end in a number
PROXY_FIELD = re.compile(  # how the fields begin that proxies and tunnels add
    "(?:x-)?forwarded|via$|(?:x-|x-cluster-|true-)?client-ip|x-(?:real-ip|original-|envoy-|amzn-|azure-|remote-)|"
    "cdn-loop|cf-|fastly-|fly-|ngrok-|tailscale-"
)
HINT = "; the owner can start the exposee with --allow-private"


class Guard(NamedTuple):
    """Which destinations may be called; each method gives the reason for a refusal, or None.

    A private spelling that is registered came from a local caller, so it may lead to private addresses; a public name
    may not, unless `allow_private`. Loopback and metadata are reached by such a spelling only, link-local by none.
    """

    allow_private: bool = False

    def refuse_spelling(self, host: str) -> str | None:
        """For a stranger who registers `host`."""
        what = "destination, which strangers may not register"
        return self._refuse(spelled(host), f"{host} is a", what)

    def refuse_address(self, host: str, address: str) -> str | None:
        """For a connection to `host` at `address`."""
        kind = reach(ipaddress.ip_address(address.partition("%")[0]))
        if kind == spelled(host) != "link-local":
            return None
        return self._refuse(kind, f"{host} resolves to the", f"address {address}")

    def _refuse(self, kind: str, before: str, after: str) -> str | None:
        if kind == "public" or (kind == "private" and self.allow_private):
            return None
        return f"{before} {kind} {after}{HINT if kind == 'private' else ''}"


def reach(address: Address) -> str:
    """One of KINDS. An IPv4 address inside an IPv6 address counts; of several, the least open one."""
    if isinstance(address, ipaddress.IPv6Address) and (inside := _embedded(int(address))):
        return max((reach(ipaddress.IPv4Address(bits & 0xFFFFFFFF)) for bits in inside), key=KINDS.index)
    return next((kind for network, kind in NETWORKS if address in network), "public")


def _embedded(bits: int) -> list[int]:
    """The IPv4 addresses, as their lowest 32 bits, that lie in an IPv6 address."""
    if bits >> 32 in (0xFFFF, 0xFFFF0000, 0x64FF9B << 64) or 1 < bits < 1 << 32:
        return [bits]  # mapped, SIIT (RFC 2765), NAT64 (RFC 6052), compatible (RFC 4291)
    if bits >> 80 == 0x64FF9B0001:
        return [bits, 10 << 24]  # NAT64 for local use (RFC 8215): private at the best
    if bits >> 112 == 0x2002:
        return [bits >> 80]  # 6to4 (RFC 3056)
    return [bits >> 64, ~bits] if bits >> 96 == 0x20010000 else []  # Teredo (RFC 4380): server and client


def literal(host: str) -> Address | None:
    """`host` as an address if it spells one in any notation that a resolver accepts (2130706433, 0x7f.1)."""
    try:
        return ipaddress.IPv6Address(host) if ":" in host else ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


@functools.lru_cache(4_096)
def spelled(host: str) -> str:
    """One of KINDS, from a host's spelling alone."""
    host = host.rstrip(".").lower()
    if address := literal(host):
        return reach(address)
    if host == "localhost" or host.endswith(".localhost"):
        return "loopback"
    return "private" if "." not in host or host.endswith(LOCAL_SUFFIXES) else "public"


def url_problem(value: Any) -> str | None:
    """What is wrong with a URL that requests are to be sent to; None if nothing is."""
    if not isinstance(value, str) or not re.match("https?://", value, re.IGNORECASE):
        return f"url is {shown(value)}, expected an absolute http or https URL"
    if len(value) > MAX_URL:
        return f"url has {len(value):,} characters, expected {MAX_URL:,} at most"
    if re.search(r"[^\x21-\x7e]", value):
        return f"url is {shown(value)}, expected visible ASCII only: percent-encode the rest, and use xn-- for hosts"
    if "#" in value:
        return "url has a fragment, which is never sent, expected none"
    if "@" in re.split("[/?]", value)[2]:
        return "url has credentials, expected none: use a secret"
    match = URL.fullmatch(value)
    host = match[1].strip("[]").removesuffix(".") if match else ""
    if match and (NAME.fullmatch(host) or literal(host)) and len(host) <= 253 and 0 < int(match[2] or 80) < 65_536:
        return None
    return f"url is {shown(value)}, expected a valid host and a port from 1 to 65535"


def is_local(request: Request) -> bool:
    """Whether the caller sits at this machine: see "who may do what" in SECURITY.md.

    Each condition alone can be met from outside: a tunnel's end and a web page in the owner's browser connect from
    loopback, a name of the attacker's can resolve to 127.0.0.1, and nginx names us as the Host by default. A browser
    tells which site made it ask (Fetch Metadata); a link to our page may stand anywhere, as it shows it to the owner
    alone.
    """
    site, mode, goal = (request.headers.get(f"sec-fetch-{name}") for name in ("site", "mode", "dest"))
    follows_link = (request.method, request.path, mode, goal) == ("GET", "/", "navigate", "document")
    return (
        request.version == "1.1"  # nginx speaks HTTP/1.0 by default, the owner's programs do not
        and spelled(request.peer) == "loopback"
        and _is_loopback(request.authority)
        and _is_loopback(request.headers.get("host", request.authority))
        and request.headers.get("origin") in (None, f"http://{request.authority}")
        and (site in (None, "same-origin", "none") or follows_link)
        and not any(PROXY_FIELD.match(name.replace("_", "-")) for name in request.headers)
    )


@functools.lru_cache(1_024)
def _is_loopback(authority: str) -> bool:
    return spelled(re.sub(r":\d*$", "", authority).strip("[]")) == "loopback"
