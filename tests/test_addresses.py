"""Which hosts are private, however they are spelled, and which callers are local."""

from __future__ import annotations

import ipaddress
import random

import pytest
from support import each

from addresses import Guard, is_local, literal, reach, spelled
from wire import Request

SPELLED = {
    "public": """
        example.com EXAMPLE.COM. test.example local.example 8.8.8.8 8.8.8.8. 134744072 0x08080808 010.010.010.010
        2606:4700:4700::1111 ::ffff:8.8.8.8 ::ffff:0:8.8.8.8 ::8.8.8.8 2002:808:808::1 64:ff9b::808:808 2000:: 3ffe:ffff::
        192.0.0.9 192.0.0.10 192.0.1.0 191.255.255.255 ::ffff:192.0.0.9 223.255.255.255 3fff:1000:: 2001:200::1
        2001:0:808:808::f7f7:f7f7 2001:20::1 2001:4:112::1 168.63.129.15 100.63.255.255
        """,
    "loopback": """
        localhost LocalHost localhost. app.localhost APP.LOCALHOST. 127.0.0.1 127.0.0.1.
        127.255.255.254 127.1 2130706433 0x7f000001 0X7F.1 017700000001 0177.0.0.1 0 0.0.0.0 0x0 ::1 0:0:0:0:0:0:0:1
        :: ::ffff:127.0.0.1 ::ffff:7f00:1 ::127.0.0.1 2002:7f00:1:: 64:ff9b::7f00:1 ::ffff:0.0.0.0 ::ffff:0:127.0.0.1
        ::ffff:0:7f00:1 ::ffff:0:0.0.0.0 64:ff9b:1::7f00:1 2001:0:7f00:1::f7f7:f7f7 2001:0:808:808::80ff:fffe ::1%lo
        """,
    "private": """
        printer PRINTER. nas.local NAS.LOCAL. x.test x.internal metadata.google.internal x.lan x.home.arpa 10.0.0.1
        172.16.0.1 172.31.255.255 192.168.1.1 3232235777 0xc0a80101 0300.0250.1.1 192.168.257 100.64.0.1 100.127.255.255
        224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 192.0.2.1 198.18.0.1 0.1.2.3 fc00::1 fd12:3456::1 FD00::1
        fec0::1 ff02::1 ff0e::1 2001:db8::1 100::1 ::ffff:10.0.0.1 ::ffff:100.64.0.1 2002:a00:1:: 64:ff9b::a00:1
        64:ff9b::c0a8:101 64:ff9b:1::1 64:ff9b:1::808:808 64:ff9b:1:ffff::a00:1 2001:0:4136:e378:8000:63bf:f5ff:fffe
        192.0.0.0 192.0.0.1 192.0.0.8 192.0.0.11 192.0.0.170 192.0.0.255 ::ffff:192.0.0.1 2002:c000:1:: 64:ff9b::c000:1
        198.19.255.255 198.51.100.1 203.0.113.1 3fff::1 3fff:fff:ffff:: 5f00::1 100:0:0:1::1 2001:1::4 2001:2::1
        2001:10::1 ::ffff:0:192.168.1.1 ::10.0.0.1 2001:0:a00:1::f7f7:f7f7 4000::1 8000::1 1fff:: 200::1 fe00::1
        64:ff9b:2::808:808 64:ff9b:0:1::808:808 ::fffe:808:808 fd00:ec1::254
        """,
    "link-local": """
        169.254.169.254 169.254.169.254. 2852039166 0xa9fea9fe 0xA9.0xFE.0xA9.0xFE 0251.0376.0251.0376 169.254.43518
        fe80::1 FE80::1 febf::1 fe80::1%eth0 ::ffff:169.254.169.254 2002:a9fe:a9fe:: 64:ff9b::a9fe:a9fe
        ::ffff:0:169.254.169.254 ::169.254.169.254 64:ff9b:1::a9fe:a9fe 2001:0:a9fe:a9fe::f7f7:f7f7
        2001:0:7f00:1::5601:5601
        """,
    "metadata": """
        168.63.129.16 168.63.129.16. 2822734096 100.100.100.200 192.0.0.192 fd00:ec2::254 fd00:ec2::23 fd20:ce::254
        fd00:42::42 ::ffff:168.63.129.16 ::ffff:0:100.100.100.200 64:ff9b::c000:c0 2002:a83f:8110:: ::192.0.0.192
        64:ff9b:1::a83f:8110 2001:0:a83f:8110::f7f7:f7f7
        """,
}


@each("kind, host", [(kind, host) for kind, hosts in SPELLED.items() for host in hosts.split()])
def test_a_host_is_judged_by_its_spelling(kind: str, host: str) -> None:
    assert spelled(host) == kind


@each("host", ["example.com", "localhost", "", "1.2.3.4.5", "256.1.1.1", "0x", "é.example", "-1"])
def test_a_name_is_no_address(host: str) -> None:
    assert literal(host) is None


def test_another_notation_is_the_same_address() -> None:
    assert {literal(host) for host in ("2130706433", "0x7f.1", "0177.0.0.1")} == {ipaddress.ip_address("127.0.0.1")}


@each(
    "network, kind",
    [
        *((network, "private") for network in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16")),
        *((network, "private") for network in ("198.18.0.0/15", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")),
        *((network, "private") for network in ("192.0.0.0/24", "192.88.99.0/24", "2001:db8::/32")),
        ("169.254.0.0/16", "link-local"),
        ("127.0.0.0/8", "loopback"),
    ],
)
def test_a_network_is_judged_up_to_its_edges(network: str, kind: str) -> None:
    net = ipaddress.ip_network(network)
    assert reach(net[0]) == reach(net[-1]) == kind
    assert reach(net[0] - 1) == reach(net[-1] + 1) == "public"


@each(
    "host, stranger, with_option",
    [
        ("example.com", True, True),
        ("8.8.8.8", True, True),
        ("192.168.1.1", False, True),
        ("nas.local", False, True),
        ("localhost", False, False),
        ("127.0.0.1", False, False),
        ("169.254.169.254", False, False),
        ("168.63.129.16", False, False),
        ("100.100.100.200", False, False),
        ("fd00:ec2::254", False, False),
        ("fd00:ec1::254", False, True),
        ("192.0.0.192", False, False),
        ("::ffff:0:127.0.0.1", False, False),
    ],
)
def test_a_stranger_may_register_public_hosts_only(host: str, stranger: bool, with_option: bool) -> None:
    refusal = Guard().refuse_spelling(host)
    assert (refusal is None) == stranger
    assert (Guard(allow_private=True).refuse_spelling(host) is None) == with_option
    if refusal:
        assert host in refusal and ("--allow-private" in refusal) == with_option


@each(
    "host, address, allowed, with_option",
    [
        ("example.com", "8.8.8.8", True, True),
        ("example.com", "10.0.0.1", False, True),
        ("example.com", "100.64.0.1", False, True),
        ("example.com", "127.0.0.1", False, False),
        ("example.com", "::1", False, False),
        ("example.com", "::ffff:127.0.0.1", False, False),
        ("example.com", "64:ff9b::a9fe:a9fe", False, False),
        ("example.com", "169.254.169.254", False, False),
        ("nas.local", "192.168.1.7", True, True),
        ("nas.local", "127.0.0.1", False, False),
        ("nas.local", "fe80::1%2", False, False),
        ("nas.local", "8.8.8.8", True, True),
        ("localhost", "127.0.0.1", True, True),
        ("localhost", "::1", True, True),
        ("2130706433", "127.0.0.1", True, True),
        ("localhost", "169.254.169.254", False, False),
        ("169.254.169.254", "169.254.169.254", False, False),
        ("fe80::1", "fe80::1", False, False),
        ("example.com", "168.63.129.16", False, False),
        ("example.com", "::ffff:0:100.100.100.200", False, False),
        ("nas.local", "fd00:ec2::254", False, False),
        ("metadata.google.internal", "169.254.169.254", False, False),
        ("100.100.100.200", "100.100.100.200", True, True),
        ("example.com", "192.0.0.1", False, True),
        ("example.com", "192.0.0.9", True, True),
        ("example.com", "2001:0:7f00:1::f7f7:f7f7", False, False),
    ],
)
def test_a_host_is_connected_to_only_where_its_spelling_may_lead(
    host: str, address: str, allowed: bool, with_option: bool
) -> None:
    refusal = Guard().refuse_address(host, address)
    assert (refusal is None) == allowed
    assert (Guard(allow_private=True).refuse_address(host, address) is None) == with_option
    if refusal:
        assert host in refusal and address in refusal
        assert ("--allow-private" in refusal) == with_option


def test_what_python_calls_global_is_public_but_for_what_its_tables_do_not_know() -> None:
    """A sample of all addresses; where the two differ, ours is the stricter, on any version of Python."""
    dice = random.Random(1)
    for _ in range(20_000):
        address: ipaddress.IPv4Address | ipaddress.IPv6Address
        address = ipaddress.IPv4Address(dice.getrandbits(32))
        if dice.random() < 0.5:
            address = ipaddress.IPv6Address(1 << 125 | dice.getrandbits(125))
        known = reach(address) == "public" or not address.is_global or address.is_multicast or address.is_reserved
        assert known or any(address in ipaddress.ip_network(network) for network in OURS), address


OURS = ["2001::/23", "2002::/16", "3fff::/20", "192.0.0.0/24", "192.88.99.0/24"]


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
