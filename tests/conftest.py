"""Fixtures for all test modules; what they are made of is in support.py."""

from __future__ import annotations

import gc
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disks import Disk
from serving import ROUTES, Watched, serving
from support import SECONDS, Client, Listener, Pair, Transport, held

from browser import Browser, Missing, find_programs  # isort: skip  # support has added its folder to the path

import connections
from addresses import url_problem
from store import WebhookStore


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, default=2_000, metavar="N", help="mutated requests for each server (2000)")


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what is there for good is not looked through again by each later collection


@pytest.fixture(scope="session", autouse=True)
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a program has compiled, the next one finds: a start takes half the time, and nothing is left behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A receiver that answers 204, until the test sets `answer`."""
    with Listener() as it:
        yield it


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """An exposee in this process, on a free port, with an empty store."""
    with Pair(tmp_path) as it:
        yield it


@pytest.fixture(scope="module")
def server() -> Iterator[Watched]:
    """Our HTTP server with a few routes to try it on."""
    with serving(ROUTES) as it:
        yield it


@pytest.fixture
def client(server: Watched) -> Iterator[Client]:
    with server.client() as it:
        yield it


@pytest.fixture
def disk() -> Iterator[Disk]:
    """An fsync for a store or a journal, which fails and waits as it is told."""
    it = Disk()
    with held(it.gate):
        yield it


@pytest.fixture
def opened(tmp_path: Path, disk: Disk) -> Iterator[Callable[..., WebhookStore]]:
    """Opens tmp_path/webhooks.json, after closing what was opened before; its fsync is `disk`."""
    last: list[WebhookStore] = []

    def open_again(log: Callable[[str], None] = print) -> WebhookStore:
        for it in last:
            it.close()
        last[:] = [WebhookStore(tmp_path / "webhooks.json", url_problem, disk, log)]
        return last[0]

    yield open_again
    for it in last:
        it.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB, with 32 KiB taken by a file `ballast`."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("only root can mount a small file system")
    try:
        (folder / "ballast").write_bytes(b"x" * 32_768)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=SECONDS)


@pytest.fixture
def transport() -> Iterator[Transport]:
    """Our client, driven by the test's own thread."""
    it = Transport()
    yield it
    it.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that nobody has signed but itself, and its key; made anew for each run."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes a certificate with the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "certificate.pem", folder / "key.pem"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run([openssl, *command.split(), *names], check=True, capture_output=True)
    return files


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """What a receiver needs to speak TLS with this certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def trusted(
    tls: ssl.SSLContext, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[ssl.SSLContext]:
    """The same, and our side trusts the certificate, as it would one of the system's."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    connections.tls_context.cache_clear()
    yield tls
    connections.tls_context.cache_clear()


@pytest.fixture(scope="session")
def session() -> Iterator[Browser]:
    """A browser for all tests of a page; without one they are skipped, but not in CI."""
    try:
        find_programs()
    except Missing as missing:
        if "CI" in os.environ:
            raise
        pytest.skip(str(missing))
    with Browser() as it:
        yield it
