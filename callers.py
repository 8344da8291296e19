"""Who is asking, for both servers: a caller is local, somebody at this machine, or a stranger.

A stranger came through a tunnel, a proxy, the network or a web page of another site.
"""

from __future__ import annotations

import re

from addresses import spelled
from wire import Request

PROXY_FIELD = re.compile(  # how the fields begin that proxies and tunnels add
    "(?:x-)?forwarded|via$|(?:x-|x-cluster-|true-)?client-ip|x-(?:real-ip|original-|envoy-|amzn-|azure-|remote-)|"
    "cdn-loop|cf-|fastly-|fly-|ngrok-|tailscale-"
)


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


def _is_loopback(authority: str) -> bool:
    return spelled(re.sub(r":\d*$", "", authority).strip("[]")) == "loopback"


def is_delivery(request: Request) -> bool:
    """Whether an exposee sent this: a webhook that leads to its /trigger would never end."""
    return "webhook-id" in request.headers and request.headers.get("user-agent", "").startswith("Exposee/")
