"""callers.py: who is local."""

from __future__ import annotations

import pytest
from support import each

from callers import is_local
from wire import Request


def asked(method: str = "GET", path: str = "/ping", /, authority: str = "localhost:3000", **fields: str) -> Request:
    """A request of the owner's; `fields` are header fields, with _ for -."""
    headers = {"host": authority} | {name.replace("_", "-"): value for name, value in fields.items()}
    return Request(method, path, path, {}, headers, authority, "127.0.0.1", None)


# --- who is asking -----------------------------------------------------------------------------------------------


@each(
    "host", ["localhost", "LOCALHOST:3000", "127.0.0.1", "127.0.0.1.:80", "127.1:3000", "[::1]", "[::1]:3000"]
)
def test_a_caller_from_loopback_to_a_loopback_host_is_local(host: str) -> None:
    assert is_local(asked(authority=host))
    assert is_local(asked(authority=host, origin=f"http://{host}"))
    assert is_local(asked()._replace(peer="::1"))


@each(
    "host", ["example.com", "localhost.example", "127.0.0.1.nip.io", "10.0.0.1", "[::2]:3000", "[::1].x", ":3000"]
)
def test_a_caller_to_another_host_is_a_stranger(host: str) -> None:
    assert not is_local(asked(authority=host))
    assert not is_local(asked(host=host))
    assert not is_local(asked()._replace(authority=host))


def test_a_caller_without_a_host_or_from_the_network_is_a_stranger() -> None:
    assert not is_local(asked()._replace(authority="", headers={}))
    assert not is_local(asked()._replace(peer="192.168.1.5"))


@each("origin", ["null", "", "https://localhost:3000", "http://localhost", "http://evil.example"])
def test_a_page_of_another_origin_is_a_stranger(origin: str) -> None:
    assert not is_local(asked(origin=origin))


PROXIES = """
    forwarded x-forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-by via x-real-ip cf-ray
    cf-connecting-ip true-client-ip x-client-ip fastly-client-ip fly-client-ip fly-region x-original-host
    x-original-forwarded-for x-envoy-external-address x-envoy-peer-metadata x-cluster-client-ip client-ip cdn-loop
    tailscale-user-login tailscale-user-name x-amzn-trace-id x-azure-clientip ngrok-auth-user-email
"""


@each("name", PROXIES.split())
def test_a_request_that_came_through_a_proxy_is_a_strangers(name: str) -> None:
    for spelling in (name, name.replace("-", "_"), name.replace("-", "_", 1)):
        assert not is_local(asked()._replace(headers={"host": "localhost:3000", spelling: ""}))


def test_a_request_in_http_1_0_is_a_strangers() -> None:
    """Nginx forwards like this by default, with our own address as Host and no field that tells of it."""
    assert not is_local(asked(connection="close")._replace(version="1.0"))
    assert is_local(asked(connection="close"))


def test_fields_of_clients_do_not_make_them_strangers() -> None:
    for name in (
        "user-agent",
        "x-request-id",
        "viable",
        "x-original",
        "client",
        "x-real",
        "cfx",
        "prefer",
        "x-hub-signature",
    ):
        assert is_local(asked()._replace(headers={"host": "localhost:3000", name: "x"})), name


EFFECTS = [
    ("GET", "/ping"),
    ("HEAD", "/ping"),
    ("GET", "/deliveries/stream"),
    ("POST", "/trigger"),
    ("GET", "/webhooks"),
]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Same-Origin", "none, none", "", "new-word"])
@pytest.mark.parametrize(("method", "path"), EFFECTS)
def test_a_browser_that_another_site_sends_here_is_a_stranger(method: str, path: str, site: str) -> None:
    for mode, dest in (("no-cors", "image"), ("navigate", "document"), ("navigate", "iframe"), ("cors", "empty")):
        assert not is_local(asked(method, path, sec_fetch_site=site, sec_fetch_mode=mode, sec_fetch_dest=dest))
    assert not is_local(asked(method, path, sec_fetch_site=site))


@each("site", ["same-origin", "none"])
def test_a_browser_that_our_page_or_its_user_sends_here_is_local(site: str) -> None:
    for method, path in EFFECTS:
        assert is_local(asked(method, path, sec_fetch_site=site, sec_fetch_mode="cors", sec_fetch_dest="empty"))


@each("site", ["cross-site", "same-site"])
def test_a_link_to_our_page_may_stand_anywhere_and_may_only_show_it(site: str) -> None:
    def local(method: str, path: str, mode: str, dest: str, **more: str) -> bool:
        return is_local(asked(method, path, sec_fetch_site=site, sec_fetch_mode=mode, sec_fetch_dest=dest, **more))

    assert local("GET", "/", "navigate", "document")
    assert not local("GET", "/", "navigate", "document", authority="evil.example")
    assert not local("POST", "/", "navigate", "document")
    assert not local("GET", "/webhooks", "navigate", "document")
    for mode, dest in (("navigate", "iframe"), ("no-cors", "document"), ("no-cors", "script"), ("navigate", "")):
        assert not local("GET", "/", mode, dest), (mode, dest)
