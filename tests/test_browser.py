"""The exposee's page in a real browser: what a person sees, clicks and types."""

from __future__ import annotations

import base64
import hmac
import itertools
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, Console
from support import NO_CONTENT, SECONDS, Listener, eventually, fields, held, mostly_slow, request

import history
from messages import OPEN
from wire import Request

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
ROWS = "#list li"
MARKUP = "<img src=x onerror='window.hacked = 1'><script>window.hacked = 1</script>"

CONTRAST = """
const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const colour = numbers(getComputedStyle(e).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  throw "nothing is behind it";
};
const poor = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let text; text = texts.nextNode();) {
  const element = text.parentElement;
  if (!text.data.trim() || !element.checkVisibility() || element.closest("script, option")) continue;
  const [a, b] = [light(numbers(getComputedStyle(element).color)), light(behind(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${element.tagName} ${text.data.trim().slice(0, 40)}`);
}
return poor;
"""


@pytest.fixture
def browser(session: Browser) -> Iterator[Browser]:
    """The browser. After the test: nothing was refused by the CSP, and no script failed."""
    yield session
    log = session.log()
    session.open("about:blank")  # before its exposee goes
    assert [line for line in log if "Content Security Policy" in line or "Uncaught" in line] == []


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    with Console(tmp_path, schedule=(60.0,)) as it:
        yield it


def show(browser: Browser, console: Console) -> None:
    """Open the page, and wait until it is live."""
    browser.open(console.url)
    browser.wait_for_text("#connection", "live")


# --- by clicking -------------------------------------------------------------------------------------------------


def test_register_trigger_and_redeliver_by_clicking(browser: Browser, console: Console, listener: Listener) -> None:
    show(browser, console)
    browser.wait_for("document.querySelector('#register-box').open")  # once it knows that there is no webhook
    browser.wait_for("document.querySelector('#register-event_types input')")
    browser.write("#register-url", listener.url())
    browser.click("#register-event_types input[value=payment_received]")
    browser.click("#register button.main")
    browser.wait_for_text("#register .outcome", "Webhook registered for: payment_received")
    browser.wait_for_text("#webhooks .url", listener.url())

    browser.choose("#trigger-event", "payment_received")
    browser.write("#trigger-data", '{"amount": 12345678901234567890}')
    browser.click("#trigger button.main")
    browser.wait_for_text("#trigger .outcome", "payment_received delivered to 1 of 1 webhook(s)")
    first = listener.next()
    assert b'"amount": 12345678901234567890' in first
    browser.wait_for_text(f"{ROWS} .state", "delivered")

    browser.click(f"{ROWS} a")
    browser.wait_for_text("#attempts pre", first.decode())
    browser.wait_for_text("#attempts pre", "HTTP/1.1 204 No Content")
    browser.click("#redeliver")
    browser.wait_for_text("#attempts summary", "Attempt 2")
    assert webhook_id(listener.next()) == webhook_id(first)
    browser.wait_for_text(f"{ROWS} .result", "2 attempts")


def webhook_id(request: bytes) -> bytes:
    return request.split(b"webhook-id: ")[1].split(b"\r\n")[0]


def test_unregister_asks_and_removes(browser: Browser, console: Console, listener: Listener) -> None:
    console.pair.register(listener.url(), "payment_received", "invoice_completed")
    show(browser, console)
    browser.wait_for_text("#webhooks", "invoice_completed")
    browser.click("#webhooks [aria-label^='Unregister payment_received of']")
    assert listener.url() in browser.accept()
    browser.wait_for("!document.querySelector('#webhooks').textContent.includes('payment_received')")
    assert console.pair.store.webhooks() == [{"url": listener.url(), "event": "invoice_completed"}]

    console.pair.register(listener.url(), "payment_received", "payment_processed")
    console.pair.register(listener.url("/other"), "payment_received", "payment_processed")
    browser.wait_for_text("#webhooks-count", "5 at 2 URLs")
    browser.click(f"#webhooks [aria-label='Unregister all events of {listener.url()}']")
    assert listener.url() in browser.accept()
    browser.wait_for_text("#webhooks-outcome", "3 webhook(s) unregistered")
    browser.wait_for_text("#webhooks-count", "2 at 1 URL")
    assert {webhook["url"] for webhook in console.pair.store.webhooks()} == {listener.url("/other")}


def test_ping_shows_the_outcome_of_each_url(browser: Browser, console: Console, listener: Listener) -> None:
    with Listener(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n") as ill:
        console.pair.register(listener.url(), "payment_received")
        console.pair.register(ill.url(), "payment_received")
        show(browser, console)
        browser.wait_for_text("#webhooks", ill.url())
        browser.click("#ping")
        browser.wait_for_text("#webhooks-outcome", "Ping delivered to 1 of 2 webhook(s)")
        assert sorted(browser.texts("#webhooks-outcome li")) == sorted([f"204 {listener.url()}", f"503 {ill.url()}"])


def test_failed_deliveries_of_a_url_are_attempted_again(browser: Browser, tmp_path: Path, listener: Listener) -> None:
    with Console(tmp_path, schedule=()) as console:
        listener.answer = b"HTTP/1.1 503 Ill\r\nContent-Length: 0\r\n\r\n"
        console.pair.register(listener.url(), "payment_received")
        for number in range(2):
            console.pair.trigger("payment_received", number, Prefer="wait=5")
        console.pair.register("http://127.0.0.1:9/hook", "payment_received")
        console.pair.call("GET", "/ping")  # has failed at both URLs, and is not what can be attempted again
        show(browser, console)
        browser.wait_for("document.querySelectorAll('#webhooks > li').length === 2")
        offered = "[...document.querySelectorAll('[aria-label^=Attempt]')].filter((e) => e.checkVisibility())"
        browser.wait_for(f"{offered}.length === 1")
        listener.answer = NO_CONTENT
        browser.click(f"#webhooks [aria-label='Attempt failed ones again: {listener.url()}']")
        browser.wait_for_text("#webhooks-outcome", "2 deliveries will be attempted once more")
        browser.wait_for("document.querySelectorAll('#list .delivered').length === 2")
        browser.click("#search")  # the button keeps the focus, and so it stays until then
        browser.wait_for(f"{offered}.length === 0")
        browser.open("about:blank")


def test_trigger_waits_visibly_and_once(browser: Browser, console: Console, listener: Listener) -> None:
    gate = threading.Event()

    def answer_late(connection: socket.socket) -> None:
        gate.wait(SECONDS)
        connection.sendall(NO_CONTENT)

    listener.answer = answer_late
    console.pair.register(listener.url(), "payment_received")
    show(browser, console)
    with held(gate):
        for _ in range(2):
            browser.click("#trigger button.main")
            assert browser.texts("#trigger .outcome") == ["Waiting for the first attempts …"]
        listener.next()
    browser.wait_for_text("#trigger .outcome", "delivered to 1 of 1")
    assert browser.run("return document.querySelector('#trigger .main').ariaDisabled") == "false"
    assert listener.requests.empty()


def test_webhook_registered_elsewhere_appears(browser: Browser, console: Console) -> None:
    show(browser, console)
    browser.wait_for("!document.querySelector('#no-webhooks').hidden")
    console.pair.register("http://127.0.0.1:9/hook", "payment_received")
    browser.wait_for_text("#webhooks .url", "http://127.0.0.1:9/hook")


@pytest.mark.parametrize(
    ("form", "fields", "field", "problem"),
    mostly_slow([
        ("trigger", {"data": '{"a": }'}, "data", "not JSON"),
        ("register", {"url": "http://169.254.169.254/"}, "url", "link-local"),
        ("register", {"url": "http://example.org/"}, "event_types", "expected a list"),
        ("register", {"url": "http://example.org/", "secret": "abc"}, "secret", "secret is not whsec_"),
        ("trigger", {"data": '{"a": 1, "a": 2}'}, "data", "twice"),
        ("register", {"url": "ftp://example.org"}, "url", "expected an absolute http or https URL"),
    ], 4),
)  # fmt: skip
def test_problem_stands_beside_its_field(
    browser: Browser, console: Console, form: str, fields: dict[str, str], field: str, problem: str
) -> None:
    show(browser, console)
    browser.wait_for("document.querySelector('#register-box[open] #register-event_types input')")
    for name, value in fields.items():
        browser.write(f"#{form}-{name}", value)
    if form == "register" and field != "event_types":
        browser.click("#register-event_types input")
    browser.click(f"#{form} button.main")
    browser.wait_for_text(f"#{form}-{field}-problem", problem)
    assert browser.run("return document.activeElement.id") == f"{form}-{field}"
    assert browser.run("return document.activeElement.getAttribute('aria-invalid')") == "true"


def test_each_event_type_has_an_example_that_is_json(browser: Browser, console: Console, listener: Listener) -> None:
    show(browser, console)
    for event in ("payment_processed", "invoice_processing", "invoice_completed", "payment_received"):
        console.pair.register(listener.url(), event)
        browser.choose("#trigger-event", event)
        browser.click("#trigger button.main")
        browser.wait_for_text("#trigger .outcome", f"{event} delivered to 1 of 1")
        assert event.encode() in listener.next()


def test_empty_page_says_what_to_do_next(browser: Browser, console: Console) -> None:
    show(browser, console)
    browser.wait_for("!document.querySelector('#no-webhooks').hidden && !document.querySelector('#empty').hidden")
    assert f"register_webhook.py --exposee {console.url[:-1]}" in browser.texts("#no-webhooks pre")[0]
    assert f"{console.url}trigger" in browser.texts("#empty pre")[0]
    assert browser.run("return document.querySelector('#register-url').checkVisibility()")


# --- live --------------------------------------------------------------------------------------------------------


def test_delivery_arrives_live_and_changes_its_state(browser: Browser, console: Console, listener: Listener) -> None:
    gate = threading.Event()

    def fail_late(connection: socket.socket) -> None:
        gate.wait(SECONDS)
        connection.sendall(b"HTTP/1.1 500 Ill\r\nContent-Length: 0\r\n\r\n")

    listener.answer = fail_late
    console.pair.register(listener.url(), "payment_received")
    show(browser, console)
    with held(gate):
        console.pair.trigger("payment_received", 1)
        browser.wait_for_text(f"{ROWS} .state", "delivering")
    browser.wait_for_text(f"{ROWS} .state", "retrying")
    browser.wait_for_text("#webhooks p", "next retry ")
    assert len(browser.texts(ROWS)) == 1


def test_page_catches_up_after_a_dropped_connection(browser: Browser, console: Console, listener: Listener) -> None:
    console.pair.register(listener.url(), "payment_received", "invoice_completed")
    console.pair.trigger("invoice_completed", "before the page came", Prefer="wait=5")
    show(browser, console)
    browser.wait_for_text(ROWS, "invoice_completed")
    console.cut.set()
    console.pair.trigger("payment_received", "missed by the stream")
    browser.wait_for_text("#connection", "trying again")
    console.cut.clear()
    browser.wait_for_text("#connection", "live")
    browser.wait_for_text(ROWS, "payment_received")
    console.pair.trigger("invoice_completed", "seen by the next one")
    browser.wait_for("document.querySelectorAll('#list li').length === 3")
    assert browser.texts(f"{ROWS} .event") == ["invoice_completed", "payment_received", "invoice_completed"]
    assert console.streams == 2


def test_page_comes_back_when_all_streams_were_taken(browser: Browser, console: Console) -> None:
    path = "/deliveries/stream"
    asked = Request("GET", path, path, {}, {"host": "localhost"}, "localhost", "127.0.0.1", None)
    streams = [console.stream(asked) for _ in range(8)]
    browser.open(console.url)
    browser.wait_for_text("#connection", "trying again")
    for stream in streams:
        stream.__exit__(None)
    browser.wait_for_text("#connection", "live")


@pytest.mark.slow
def test_burst_does_not_freeze_the_page(browser: Browser, console: Console) -> None:
    with Listener() as listener:
        for number in range(50):
            console.pair.register(listener.url(f"/{number}"), "payment_received")
        show(browser, console)
        browser.run("""
            window.longest = 0;
            let last = performance.now();
            requestAnimationFrame(function next(now) {
              longest = Math.max(longest, now - last);
              last = now;
              requestAnimationFrame(next);
            });
        """)
        for number in range(100):
            console.pair.trigger("payment_received", number)
        for _ in range(5_000):
            listener.next()
        browser.wait_for("document.querySelectorAll('#list .delivered').length === 1000")
        longest = browser.run("return longest")
        print(f"longest pause between two frames: {longest:.0f} ms")
        assert longest < 1_000, f"{longest:.0f} ms between two frames"
        browser.wait_for("document.querySelectorAll('#list li').length === 1000")


# --- looking closer ----------------------------------------------------------------------------------------------


def test_nothing_shown_is_taken_as_html(browser: Browser, console: Console, listener: Listener) -> None:
    listener.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(MARKUP), MARKUP.encode())
    console.pair.register(listener.url("/<b>hook</b>"), "payment_received")
    console.pair.trigger("payment_received", {MARKUP: MARKUP}, Prefer="wait=5")
    show(browser, console)
    browser.wait_for_text(f"{ROWS} .url", "/<b>hook</b>")
    browser.click(f"{ROWS} a")
    browser.wait_for_text("#attempts pre", '{"event": "payment_received", "data": {"<img src=x')
    browser.wait_for_text("#attempts pre", "\r\n\r\n" + MARKUP)
    browser.click("#trigger button.main")
    browser.wait_for_text("#trigger .outcome li", "/<b>hook</b>")
    assert browser.run("return [window.hacked ?? 0, document.querySelectorAll('img, b, script').length]") == [0, 1]


def test_page_runs_no_script_but_its_own(session: Browser, console: Console) -> None:
    show(session, console)
    session.run("""
        const script = document.createElement("script");
        script.textContent = "window.hacked = 1";
        document.body.append(script);
    """)
    assert session.run("return window.hacked ?? 0") == 0
    assert any("Content Security Policy" in line for line in session.log())


def test_signed_content_is_what_the_signature_is_over(browser: Browser, console: Console, listener: Listener) -> None:
    console.pair.register(listener.url(), "payment_received", secret=SECRET)
    body = '{"event": "payment_received", "data": {"name": "Zoë → ©"}}'.encode()
    with console.pair.client() as client:
        assert client.ask(request("POST", "/trigger", body, Prefer="wait=5")).status == 200
    show(browser, console)
    browser.wait_for_text(f"{ROWS} .state", "delivered")
    browser.click(f"{ROWS} a")
    browser.wait_for_text("#attempts h4", "Signed content")
    signed = browser.texts("#attempts .whole pre")[0]
    signature = base64.b64encode(hmac.digest(bytes(range(32)), signed.encode(), "sha256"))
    assert b"webhook-signature: v1," + signature + b"\r\n" in listener.next()
    assert "Zoë → ©" in signed


def check_numbers(browser: Browser, rows: int, known: int, **states: int) -> None:
    """Wait for these numbers, and see that the rows agree with them."""
    tally = [f"{states.get(state, 0)} {state}" for state in ("delivered", "waiting", "failed")]
    tallied = "Array.from(document.querySelectorAll('#tally :not([hidden])'), (e) => e.textContent).join()"
    browser.wait_for_text("#shown-count", f"{rows} of {known} shown:")
    browser.wait_for(f"{tallied} === arguments[0]", ",".join(tally))
    shown = Counter(browser.texts(f"{ROWS} .state"))
    shown["waiting"] = sum(shown.pop(state, 0) for state in OPEN)
    assert +shown == states


def test_filters_and_search_and_their_numbers(browser: Browser, console: Console, listener: Listener) -> None:
    with Listener(b"HTTP/1.1 500 Ill\r\nContent-Length: 0\r\n\r\n") as ill:
        console.pair.register(listener.url(), "payment_received", "invoice_completed")
        console.pair.register(ill.url(), "payment_received")
        for event in ("payment_received", "invoice_completed"):
            console.pair.trigger(event, 1, Prefer="wait=5")
        show(browser, console)
        browser.wait_for_text("#webhooks-count", "3 at 2 URLs")
        check_numbers(browser, 3, 3, delivered=2, waiting=1)

        browser.choose("#filter-state", "retrying")
        check_numbers(browser, 1, 3, waiting=1)
        assert browser.texts(f"{ROWS} .url") == [ill.url()]
        console.pair.trigger("invoice_completed", 2, Prefer="wait=5")  # is not to be shown
        check_numbers(browser, 1, 4, waiting=1)
        browser.choose("#filter-state", "delivered")
        check_numbers(browser, 3, 4, delivered=3)
        browser.choose("#filter-event", "payment_received")
        check_numbers(browser, 1, 4, delivered=1)
        assert browser.texts("#counts") == ["1 waiting, 0 under way"]  # of all: the filter does not count
        browser.choose("#filter-url", ill.url())
        browser.wait_for_text("#no-match:not([hidden])", "No delivery matches the filter.")
        browser.click("#show-all")
        check_numbers(browser, 4, 4, delivered=3, waiting=1)
        assert all(re.fullmatch(r"\d+\.\d ms", text) for text in browser.texts(f"{ROWS} .took"))

        console.pair.register("http://127.0.0.1:9/hook", "invoice_processing")
        console.pair.call("GET", "/ping")  # is not retried, so that two fail
        check_numbers(browser, 7, 7, delivered=4, waiting=1, failed=2)
        name = browser.run("return document.querySelector('#list a').hash.slice(1)")
        for text, states in {
            "REFUSED": {"failed": 1},
            "invoice 204": {"delivered": 2},
            f":{ill.port}/": {"waiting": 1, "failed": 1},
            name: {browser.texts(f"{ROWS} .state")[0]: 1},
            "retrying": {"waiting": 1},
        }.items():
            browser.write("#search", text)
            check_numbers(browser, sum(states.values()), 7, **states)


def test_of_more_deliveries_than_the_page_holds_it_says_so_and_filters_fetch_the_others(
    browser: Browser, tmp_path: Path, listener: Listener
) -> None:
    entries = [{"url": f"http://127.0.0.1:9/{number}", "event": "payment_received"} for number in range(1_000)]
    (tmp_path / "webhooks.json").write_text(json.dumps(entries))
    with Console(tmp_path, schedule=()) as console:
        console.pair.register(listener.url(), "invoice_completed")
        console.pair.trigger("invoice_completed", "the oldest", Prefer="wait=5")
        show(browser, console)
        check_numbers(browser, 1, 1, delivered=1)
        assert not browser.run("return document.querySelector('#older').checkVisibility()")
        console.pair.trigger("payment_received", 1, Prefer="wait=5")
        show(browser, console)
        browser.wait_for_text("#shown-count", "1,000 of 1,000+ shown:")
        browser.wait_for_text("#older:not([hidden])", "The search and the event filter do not see them")
        browser.write("#search", "invoice_completed")
        browser.wait_for_text("#no-match:not([hidden])", "No delivery matches the filter.")
        browser.choose("#filter-state", "delivered")
        browser.wait_for_text("#shown-count", "1 of 1,001+ shown:")
        browser.open("about:blank")


def test_a_burst_within_a_millisecond_is_listed_newest_first(
    browser: Browser, tmp_path: Path, listener: Listener
) -> None:
    began, ticks = time.time(), itertools.count()
    with Console(tmp_path, clock=lambda: began + next(ticks) * 0.000_01) as console:
        console.pair.register(listener.url(), "payment_received")
        accepted = [console.pair.trigger("payment_received", number).json()["id"][4:] for number in range(8)]
        show(browser, console)
        browser.wait_for("document.querySelectorAll('#list li').length === 8")
        shown = browser.run("return [...document.querySelectorAll('#list a')].map((a) => a.hash)")
        assert shown == [f"#dlv_{name}_0" for name in reversed(accepted)]


def test_copied_commands_send_what_was_sent(browser: Browser, console: Console, listener: Listener) -> None:
    if not shutil.which("curl"):
        pytest.skip("no curl")
    console.pair.register(listener.url("/h?a[]={1}&b=.."), "payment_received", secret=SECRET)
    show(browser, console)
    browser.allow_clipboard(console.url)
    browser.wait_for("document.querySelector('#trigger-data').value")
    browser.write("#trigger-data", """{"it's": "$HOME", "amount": 1.10,\n "name": "Zoë → ©"}""")
    browser.click("#copy")
    browser.wait_for_text("#trigger .outcome", "Copied.")
    run(browser.run("return navigator.clipboard.readText()"))
    original = listener.next()
    assert '{"it\'s": "$HOME", "amount": 1.10, "name": "Zoë → ©"}'.encode() in original
    browser.wait_for_text(f"{ROWS} .state", "delivered")
    browser.click(f"{ROWS} a")
    browser.wait_for_text("#attempts h4", "Request")
    browser.run("""
        window.board = navigator.clipboard;
        Object.defineProperty(navigator, "clipboard", {value: undefined});  // as over http from another machine
    """)
    browser.click("#attempts button")
    browser.wait_for_text("#detail-outcome", "Copied:")
    run(browser.run("return board.readText()"))
    copy = listener.next()
    assert copy.splitlines()[0] == original.splitlines()[0]
    assert fields(copy) == fields(original)
    assert copy.split(b"\r\n\r\n")[1] == original.split(b"\r\n\r\n")[1]


def run(command: str) -> None:
    subprocess.run(["sh", "-c", command], timeout=SECONDS, check=True, capture_output=True)


def test_what_was_never_sent_is_called_that_and_can_be_edited_and_sent(
    browser: Browser, console: Console, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "RAW_ATTEMPTS", 1)
    console.pair.register(listener.url(), "invoice_processing")
    console.pair.trigger("invoice_processing", 1, Prefer="wait=5")
    listener.next()
    console.pair.register("http://127.0.0.1:9/hook", "invoice_completed")
    body = b'{"event": "invoice_completed", "data": {"total": 12345678901234567890, "tax": 1.10}}'
    with console.pair.client() as client:
        client.ask(request("POST", "/trigger", body, Prefer="wait=5"))
    show(browser, console)
    browser.wait_for("document.querySelectorAll('#list li').length === 2")
    browser.click(f"{ROWS}:last-child a")
    browser.wait_for_text("#attempts", "The bytes of this attempt are no longer kept.")
    browser.click(f"{ROWS} a")
    browser.wait_for_text("#attempts", "Nothing was sent.")
    assert browser.texts("#attempts pre, #attempts button") == []

    browser.click("#edit")
    assert browser.run("return document.activeElement.id") == "trigger-data"
    assert browser.run("return document.activeElement.value") == '{"total": 12345678901234567890, "tax": 1.10}'
    console.pair.register(listener.url(), "invoice_completed")
    browser.click("#trigger button.main")
    browser.wait_for_text("#trigger .outcome", "invoice_completed delivered to 1 of 2")
    assert listener.next().endswith(body)


def test_redelivery_keeps_the_retries_and_is_offered_for_what_exists(
    browser: Browser, console: Console, listener: Listener
) -> None:
    listener.answer = b"HTTP/1.1 500 Ill\r\nContent-Length: 0\r\n\r\n"
    console.pair.register(listener.url(), "payment_received")
    console.pair.trigger("payment_received", 1, Prefer="wait=5")
    show(browser, console)
    browser.wait_for_text(f"{ROWS} .state", "retrying")
    planned = browser.texts(f"{ROWS} .result")[0].partition(",")[0]
    browser.click(f"{ROWS} a")
    browser.wait_for_text("#detail-note", "one more attempt now; the planned retries stay")
    browser.click("#redeliver")
    browser.wait_for_text(f"{ROWS} .result", f"{planned}, 500 (2 attempts)")

    name = browser.run("return location.hash.slice(1)")
    for _ in range(21):  # more than the exposee remembers
        eventually(lambda: console.pair.call("POST", f"/deliveries/{name}/attempts").status == 202)
    browser.wait_for_text("#attempts summary", "Attempt 23: 500")
    browser.wait_for_text("#facts", "23, of which the newest 20 are kept")
    numbers = [int(text.split()[1][:-1]) for text in browser.texts("#attempts summary")]
    assert numbers == sorted(set(numbers), reverse=True)

    console.pair.call("DELETE", "/webhooks/unregister", {"url": listener.url(), "event": "payment_received"})
    browser.wait_for_text("#detail-note", "It cannot be redelivered: the URL is no longer registered.")
    assert not browser.run("return document.querySelector('#redeliver').checkVisibility()")
    browser.open(f"{console.url}#dlv_0123_0")
    browser.wait_for_text("#detail-outcome", "there is no delivery dlv_0123_0, or no longer")
    offered = "return ['redeliver', 'edit'].filter((id) => document.getElementById(id).checkVisibility())"
    assert browser.run(offered) == []


def test_keyboard_moves_opens_and_closes(browser: Browser, console: Console, listener: Listener) -> None:
    console.pair.register(listener.url(), "payment_received")
    for number in range(3):
        console.pair.trigger("payment_received", number, Prefer="wait=5")
    show(browser, console)
    browser.wait_for("document.querySelectorAll('#list .delivered').length === 3")
    rows = browser.run("return [...document.querySelectorAll('#list a')].map((a) => a.hash)")
    browser.run("document.querySelector('#filter-state').focus()")
    browser.press("Tab", "Down", "Down", "Up", "Enter")
    browser.wait_for_text("#facts", rows[1][1:])
    assert browser.run("return document.activeElement.id") == "detail-title"
    browser.wait_for_text("#attempts pre", '"data": 1}')
    browser.press("Escape")
    browser.wait_for("document.querySelector('#detail').hidden")
    assert browser.run("return document.activeElement.hash") == rows[1]
    browser.press("End")
    assert browser.run("return document.activeElement.hash") == rows[2]
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_back_closes_what_was_opened(browser: Browser, console: Console, listener: Listener) -> None:
    console.pair.register(listener.url(), "payment_received")
    console.pair.trigger("payment_received", 1, Prefer="wait=5")
    show(browser, console)
    browser.wait_for_text(f"{ROWS} .state", "delivered")
    browser.click(f"{ROWS} a")
    browser.wait_for_text("#attempts summary", "Attempt 1")
    browser.back()
    browser.wait_for("document.querySelector('#detail').hidden")


# --- for all eyes ------------------------------------------------------------------------------------------------


@pytest.fixture
def full(browser: Browser, console: Console, listener: Listener) -> Iterator[Browser]:
    """The page with something of everything on it."""
    with Listener(b"HTTP/1.1 500 Ill\r\nContent-Length: 0\r\n\r\n") as ill:
        console.pair.register(listener.url("/" + "long" * 80), "payment_received", secret=SECRET)
        console.pair.register(ill.url(), "payment_received")
        show(browser, console)
        browser.wait_for("document.querySelectorAll('#webhooks > li').length === 2")
        browser.click("#trigger button.main")
        browser.wait_for_text("#trigger .outcome", "delivered to 1 of 2")
        browser.click("#ping")
        browser.wait_for_text("#webhooks-outcome", "delivered to 1 of 2")
        browser.click(f"{ROWS} a")
        browser.wait_for_text("#attempts summary", "Attempt 1")
        browser.run("document.querySelector('#register-box').open = true")
        browser.click("#register button.main")
        browser.wait_for_text("#register-url-problem", "url is")
        yield browser
        browser.resize(1280, 800)
        browser.scheme("light")


def test_text_has_the_contrast_of_wcag_aa(full: Browser) -> None:
    for scheme in ("light", "dark"):
        full.scheme(scheme)
        assert full.run(CONTRAST) == [], scheme


def test_narrow_page_does_not_scroll_sideways_and_begins_with_deliveries(full: Browser) -> None:
    full.resize(360, 740)
    too_wide = """
      return [document.scrollingElement, ...document.querySelectorAll("section, ol, form")]
        .filter((e) => e.scrollWidth > e.clientWidth).map((e) => `${e.tagName} ${e.id} ${e.scrollWidth}`)
    """
    assert full.run(too_wide) == []

    full.resize(390, 780, mobile=True)
    full.click("#close")
    tops = [full.run(f"return document.querySelector('{id}').getBoundingClientRect().top") for id in ("#list", "#side")]
    assert tops == sorted(tops)
    full.click(f"{ROWS} a")  # it opens at its bytes
    full.wait_for_text("#attempts summary", "Attempt 1")
    bytes_at = "document.querySelector('#attempts pre').getBoundingClientRect().top"
    assert 0 < full.run(f"return {bytes_at}") < 780 / 2


def test_many_urls_leave_the_trigger_in_sight(browser: Browser, tmp_path: Path) -> None:
    entries = [{"url": f"http://127.0.0.1:9/{number}", "event": "payment_received"} for number in range(500)]
    (tmp_path / "webhooks.json").write_text(json.dumps(entries))
    with Console(tmp_path) as console:
        show(browser, console)
        browser.wait_for("document.querySelectorAll('#webhooks > li').length === 500")
        bottom = browser.run("return document.querySelector('#trigger .main').getBoundingClientRect().bottom")
        assert bottom <= 800
        browser.open("about:blank")
