"""Remakes the picture of the page in the README, docs/console.png, with ten minutes of a small shop's business on it.

    python tests/tools/screenshots.py                 the picture of the README
    python tests/tools/screenshots.py --all FOLDER    each size, light and dark; empty, 5 URLs, 500 URLs, failures

Needs chromium and chromedriver, as test_browser.py does.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # support.py, which knows where everything else is

from support import ROOT, eventually  # noqa: I001 (it makes the others importable)
from browser import Browser, Console, Missing

from server import Server
from wire import Answer, Problem, Request

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the one of the Standard Webhooks specification
STORY_SECONDS = 570  # that the page looks back on
SIZES = {"wide": (1280, 800), "narrow": (390, 780)}


@contextmanager
def receiver(port: int, answer: Callable[[Request], Answer]) -> Iterator[str]:
    """A receiver's host and port: the given one if it is free, for a picture that always looks the same."""
    routes = {"/webhook-receiver": {"POST": answer}}
    try:
        server = Server(("127.0.0.1", port), routes)
    except OSError:
        server = Server(("127.0.0.1", 0), routes)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}/webhook-receiver"
    finally:
        server.stop()
        thread.join()


def shop(request: Request) -> Answer:
    return Answer(204)


def accounting() -> Callable[[Request], Answer]:
    """Overloaded now and then: each such delivery is answered with 503 once or twice."""
    count = itertools.count()

    def answer(request: Request) -> Answer:
        if next(count) % 7 in (3, 4):
            raise Problem(503, "the ledger is being closed, come back later")
        return Answer(200, {"booked": True})

    return answer


def play(console: Console, behind: list[float], urls: list[str]) -> None:
    """Let ten minutes pass in a second: `behind` is how far the exposee's clock is behind."""
    chance = random.Random(7)
    shop_url, accounting_url, gone_url = urls
    console.pair.register(shop_url, "payment_received", "payment_processed", "invoice_completed", secret=SECRET)
    console.pair.register(accounting_url, "payment_received", "invoice_processing", "invoice_completed", secret=SECRET)
    console.pair.register(gone_url, "invoice_completed")
    console.pair.register(f"{shop_url}?for=mail", "payment_processed")
    console.pair.register(f"{shop_url}?for=stock", "payment_received", "invoice_processing")
    events = ["payment_received"] * 5 + ["payment_processed"] * 4 + ["invoice_processing", "invoice_completed"]
    moments = sorted(chance.uniform(0, STORY_SECONDS) ** 1.1 % STORY_SECONDS for _ in range(70))
    for number, moment in enumerate(moments):
        behind[0] = STORY_SECONDS - moment
        data = {"payment_id": f"pay_{1001 + number}", "amount": chance.randrange(900, 99_000, 10), "currency": "EUR"}
        if number % 20 == 10:
            console.pair.call("GET", "/ping")
        console.pair.trigger(chance.choice(events), data, Prefer="wait=5")
    behind[0] = 0
    console.pair.trigger("payment_received", {"payment_id": "pay_1071", "amount": 4990, "note": "Zoë’s order"})

    def retried() -> bool:
        waiting = console.pair.call("GET", "/deliveries?state=retrying").json()["deliveries"]
        return all(delivery["attempt_count"] > 1 for delivery in waiting)

    eventually(retried)


def crowd(console: Console, url: str) -> None:
    """500 URLs, each with a delivery."""
    for number in range(500):
        console.pair.register(f"{url}?shop={number}", "payment_received", "invoice_completed")
    console.pair.trigger("payment_received", {"amount": 4990}, Prefer="wait=5")


def ill(request: Request) -> Answer:
    raise Problem(500, "the database is away")


def fail(console: Console, urls: list[str]) -> None:
    """Deliveries that fail, some of them before a byte was sent."""
    for url in urls:
        console.pair.register(url, "payment_received", "invoice_completed")
    for number in range(4):
        console.pair.trigger("payment_received", {"amount": 100 * number}, Prefer="wait=5")


def show(browser: Browser, console: Console) -> None:
    browser.open(console.url)
    browser.wait_for_text("#connection", "live")
    browser.wait_for("document.querySelector('#trigger-data').value")
    browser.wait_for("document.querySelector('#list li, .empty:not([hidden])')")
    time.sleep(1.2)  # the page's own clock: health and timeline are drawn once a second


def open_one(browser: Browser) -> None:
    """Open a delivery with several attempts, if there is one."""
    browser.run("""
        const rows = [...document.querySelectorAll("#list li")];
        (rows.find((row) => row.textContent.includes("2 attempts")) ?? rows[0]).querySelector("a").click();
    """)
    browser.wait_for_text("#attempts summary", "Attempt")


def take_all(browser: Browser, consoles: dict[str, Console], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    variants = itertools.product(consoles.items(), SIZES.items(), ("light", "dark"))
    for (name, console), (size, (width, height)), scheme in variants:
        browser.resize(width, height, mobile=size == "narrow")
        browser.scheme(scheme)
        show(browser, console)
        browser.screenshot(folder / f"{size}-{scheme}-{name}.png", whole=name in ("empty", "five"))
        if name != "empty":
            open_one(browser)
            browser.screenshot(folder / f"{size}-{scheme}-{name}-open.png")


def main(argv: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(description="Remake the picture of the page.")
    options.add_argument("--all", type=Path, metavar="FOLDER", help="all variants, into this folder")
    folder = options.parse_args(argv).all
    behind = [float(STORY_SECONDS)]
    nobody = "http://localhost:8099/webhook-receiver"
    with ExitStack() as stack, Browser() as browser:
        shop_url = stack.enter_context(receiver(8080, shop))
        accounting_url = stack.enter_context(receiver(8081, accounting()))

        def console(**options: Any) -> Console:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            return stack.enter_context(Console(place, **options))

        five = console(clock=lambda: time.time() - behind[0])
        play(five, behind, [shop_url, accounting_url, nobody])
        if folder:
            many, failing = console(), console(schedule=())
            crowd(many, shop_url)
            fail(failing, [stack.enter_context(receiver(8082, ill)), nobody])
            take_all(browser, {"empty": console(), "five": five, "many": many, "failing": failing}, folder)
        else:
            show(browser, five)
            open_one(browser)
            target = ROOT / "docs" / "console.png"
            target.parent.mkdir(exist_ok=True)
            browser.screenshot(target)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Missing as missing:
        sys.exit(f"error: {missing}")
