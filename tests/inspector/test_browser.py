"""The page in a real browser: what strangers stored or ask for gets nowhere, and everybody can use it.

Needs Chromium and the Python package playwright; ``NEXTMEM_CHROMIUM`` names another browser of its family.
"""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.inspector import running
from tests.inspector.browser import chromium, launch
from tests.inspector.conftest import SCRIPT, fill
from tests.inspector.large import fill_many

playwright_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")

pytestmark = [
    pytest.mark.allow_hosts(["127.0.0.1"]),
    pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium"),
]

SECONDS = 30_000
MANY = int(os.environ.get("NEXTMEM_INSPECTED", "1000"))  # 100000 takes minutes


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    with playwright_api.sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Any) -> Iterator[Any]:
    with launch(playwright) as browser:
        yield browser


@pytest.fixture(scope="module")
def shared(codec: LatentCodec) -> Iterator[NextMem]:
    """A memory that the tests here only read: the hostile one, and a scope of a thousand."""
    with NextMem.open(":memory:", codec=codec) as memory:
        fill(memory)
        fill_many(memory, "many", MANY)
        yield memory


@pytest.fixture(scope="module")
def url(shared: NextMem) -> Iterator[str]:
    with running(shared) as url:
        yield url


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A page at an address; whatever the page's scripts complain about fails the test."""
    context = browser.new_context(viewport=options.pop("viewport", {"width": 1280, "height": 800}), **options)
    page = context.new_page()
    page.set_default_timeout(SECONDS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    try:
        yield page
        assert not wrong
    finally:
        context.close()


def settle(page: Any) -> None:
    # By a locator: a script of playwright's in words would be refused by the page's policy.
    playwright_api.expect(page.locator(".waiting, .wait, [aria-busy]")).to_have_count(0, timeout=SECONDS)


def scope(page: Any, name: str) -> None:
    page.locator("button.scope", has_text=name).click()
    page.locator(".row").first.wait_for()
    settle(page)


def open_memory(page: Any, text: str) -> None:
    page.locator(".row", has_text=text).first.click()
    page.get_by_role("heading", name="The decoder alone").wait_for()
    settle(page)


def test_the_token_leaves_the_address_and_survives_a_reload(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        scope(page, "alice")
        assert "token" not in page.url
        assert page.context.cookies() == []
        page.reload()
        page.locator("button.scope[aria-current]", has_text="alice").wait_for()


def test_without_the_token_there_is_nothing_to_see(browser: Any, url: str) -> None:
    base, _, token = url.partition("#token=")
    with opened(browser, base) as page:
        page.get_by_text("This page needs its token").wait_for()
        assert "alice" not in page.content()
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Open").click()
        page.get_by_text("token is missing or wrong").wait_for()
        assert not page.locator("#frame").is_visible()
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Open").click()
        page.locator("button.scope", has_text="alice").wait_for()


def test_a_stored_script_is_text_everywhere(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        scope(page, "alice")
        assert SCRIPT in page.locator(".row", has_text="window.owned").first.text_content()
        open_memory(page, "window.owned")
        assert SCRIPT in page.locator("#detail .text").first.text_content()
        page.get_by_role("button", name="Measure").click()
        page.get_by_role("heading", name="Measured").wait_for()
        page.get_by_label("Search this scope").fill(SCRIPT)
        page.get_by_role("button", name="Search").click()
        page.locator(".row .score").first.wait_for()
        page.get_by_role("button", name="Map").click()
        page.locator(".map canvas").focus()
        for key in ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"):
            page.keyboard.press(key)
        settle(page)
        # Nothing ran, and nothing of it became an element, in any of these.
        assert page.evaluate("window.owned") is None
        assert page.locator("img[src=x], #frame script, b:text('key'), i:text('value')").count() == 0


def test_no_string_becomes_markup_or_code(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        for attempt in (
            "document.body.innerHTML = '<img src=x onerror=1>'",
            "document.write('<p>')",
            "new DOMParser().parseFromString('<p>', 'text/html')",
            "document.createElement('script').text = '1'",
        ):
            assert "Error" in page.evaluate(
                f"() => {{ try {{ {attempt}; return 'done' }} catch (e) {{ return String(e) }} }}"
            )
        page.evaluate(
            """() => { const script = document.createElement('script');
                script.append('window.owned = 1'); document.body.append(script) }"""
        )
        assert page.evaluate("window.owned") is None


class _Evil(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>evil</title>")

    def log_message(self, *_: Any) -> None:
        pass


def test_another_origin_gets_nowhere_even_with_the_token(browser: Any, shared: NextMem, url: str) -> None:
    base, _, token = url.partition("/#token=")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Evil)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with opened(browser, f"http://127.0.0.1:{server.server_port}/") as page:
            ask = """([url, options]) => fetch(url, options).then(
                (answer) => `${answer.type} ${answer.status}`, (error) => String(error))"""
            bearer = {"authorization": f"Bearer {token}"}
            body = '{"scope": "bob", "confirm": "bob"}'
            for path, options in (
                ("/api/store", {"headers": bearer}),
                ("/api/store", {}),
                ("/static/app.js", {}),
                (
                    "/api/erase",
                    {
                        "method": "POST",
                        "body": body,
                        "headers": bearer | {"content-type": "application/json"},
                    },
                ),
                ("/api/erase", {"method": "POST", "body": body}),
                ("/api/erase", {"method": "POST", "body": body, "mode": "no-cors"}),
            ):
                answer = page.evaluate(ask, [base + path, options])
                assert "Failed to fetch" in answer, (path, options, answer)
            # Nor as a script, a picture or a frame of its own.
            for tag, attribute in (("script", "src"), ("img", "src"), ("link", "href")):
                path = (
                    "/static/style.css"
                    if tag == "link"
                    else "/static/icon.svg"
                    if tag == "img"
                    else "/static/app.js"
                )
                loaded = page.evaluate(
                    """([tag, attribute, url]) => new Promise((done) => {
                        const element = document.createElement(tag);
                        if (tag === 'link') element.rel = 'stylesheet';
                        element.onload = () => done(true); element.onerror = () => done(false);
                        element.setAttribute(attribute, url); document.head.append(element) })""",
                    [tag, attribute, base + path],
                )
                assert loaded is False, tag
            page.evaluate(
                "url => { const f = document.createElement('iframe'); f.src = url; document.body.append(f) }",
                url,
            )
            page.wait_for_timeout(500)
            [frame] = [frame for frame in page.frames if frame != page.main_frame]
            assert "nextmem" not in frame.evaluate("document.title")
    finally:
        server.shutdown()
        server.server_close()
    assert shared.scope("bob").count() == 1


def test_a_name_that_is_rebound_to_this_machine_gets_nowhere(playwright: Any, url: str) -> None:
    port = urlsplit(url).port
    rule = "--host-resolver-rules=MAP evil.test 127.0.0.1"
    with launch(playwright, rule) as browser:
        page = browser.new_page()
        answer = page.goto(f"http://evil.test:{port}/#{urlsplit(url).fragment}")
        assert answer.status == 421
        assert "alice" not in page.content()
        status = page.evaluate(
            "token => fetch('/api/store', {headers: {authorization: `Bearer ${token}`}}).then((a) => a.status)",
            urlsplit(url).fragment.removeprefix("token="),
        )
        assert status == 421


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_object_to(browser: Any, url: str, scheme: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python"
    ).Axe()

    def check(page: Any, view: str) -> None:
        found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
        told = [(v["id"], v["impact"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found]
        assert not told, (view, told)

    # axe is injected into the page, which the page's own policy rightly refuses.
    with opened(browser, url, color_scheme=scheme, bypass_csp=True) as page:
        scope(page, "alice")
        check(page, "list")
        open_memory(page, "moved to Lisbon")
        page.get_by_role("button", name="Measure").click()
        page.get_by_role("heading", name="Measured").wait_for()
        check(page, "memory")
        page.get_by_label("Search this scope").fill("Where does she live?")
        page.get_by_role("button", name="Search").click()
        page.locator(".row .score").first.wait_for()
        page.locator(".row").first.click()
        page.get_by_role("heading", name="Why it was found").wait_for()
        settle(page)
        check(page, "search")
        page.get_by_role("button", name="Forget this memory").click()
        check(page, "dialog")
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Map").click()
        page.locator(".map canvas").wait_for()
        check(page, "map")
        page.set_viewport_size({"width": 390, "height": 800})
        check(page, "narrow")
        page.evaluate("sessionStorage.clear()")
        page.reload()
        page.get_by_text("This page needs its token").wait_for()
        check(page, "locked")


def test_a_memory_can_be_read_by_the_keyboard_alone(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        page.locator(".row").first.wait_for()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the memories"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "list"
        for key in ("ArrowDown", "ArrowDown", "ArrowUp", "End", "Home"):
            page.keyboard.press(key)
        active = page.get_attribute("#list", "aria-activedescendant")
        assert active == "row-0"
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="The decoder alone").wait_for()
        assert page.get_attribute("#row-0", "aria-selected") == "true"


@pytest.mark.parametrize("width", [320, 390, 768, 1024, 1920])
def test_nothing_runs_out_of_the_page_at_any_width(browser: Any, url: str, width: int) -> None:
    with opened(browser, url, viewport={"width": width, "height": 800}) as page:
        scope(page, "alice")
        fits = "document.documentElement.scrollWidth <= innerWidth"
        assert page.evaluate(fits)
        open_memory(page, "moved to Lisbon")
        assert page.evaluate(fits)
        assert page.evaluate("(box => box.scrollWidth <= box.clientWidth)(document.getElementById('detail'))")
        if width < 800:
            page.get_by_role("button", name="‹ Memories").click()
            page.locator(".row").first.wait_for()


def test_a_thousand_memories_are_a_few_elements(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        scope(page, "many")
        for _ in range(40 + MANY // 20):
            page.locator("#list").evaluate("box => { box.scrollTop = box.scrollHeight }")
            page.wait_for_timeout(30)
            assert page.locator(".row").count() < 60
            if page.get_by_text(f"{MANY:,} memories", exact=True).is_visible():
                break
        page.get_by_text(f"{MANY:,} memories", exact=True).wait_for()
        settle(page)
        page.locator("#list").evaluate("box => { box.scrollTop = box.scrollHeight }")
        last = page.locator(f"#row-{MANY - 1}")
        assert last.get_attribute("aria-posinset") == str(MANY)
        assert last.locator(".words").text_content()


def test_a_search_shows_the_parts_of_its_scores(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        scope(page, "alice")
        page.get_by_label("Search this scope").fill("Who plays the viola?")
        page.get_by_label("Filter").fill("role=user")
        page.keyboard.press("Enter")
        page.locator(".row .score").first.wait_for()
        assert "lexical" in page.locator(".row .parts").first.text_content()
        assert page.locator(".row", has_text="Ghent").count() == 0
        page.locator(".row", has_text="viola").click()
        page.get_by_role("heading", name="Why it was found").wait_for()
        adds = [float(text) for text in page.locator(".why tbody td:nth-of-type(3)").all_text_contents()]
        total = float(page.locator(".why tfoot td:nth-of-type(3)").text_content())
        assert total == pytest.approx(sum(adds), abs=0.004)


def test_history_shows_what_was_there_before(browser: Any, url: str) -> None:
    with opened(browser, url) as page:
        scope(page, "alice")
        open_memory(page, "moved to Lisbon")
        page.get_by_role("button", name="Look at version 1").click()
        page.get_by_text("version 1 of 2").wait_for()
        assert page.locator("#detail .text").first.text_content() == "She lives in Porto."


def test_forget_and_erase_take_the_typed_word(browser: Any, own: NextMem) -> None:
    with running(own) as url, opened(browser, url) as page:
        scope(page, "alice")
        open_memory(page, "viola")
        page.get_by_role("button", name="Forget this memory").click()
        yes = page.get_by_role("dialog").get_by_role("button", name="Forget")
        assert yes.is_disabled()
        page.get_by_label("Type forget").fill("forge")
        assert yes.is_disabled()
        page.get_by_label("Type forget").press("Enter")
        assert own.scope("alice").count() == 4
        page.get_by_label("Type forget").fill("forget")
        yes.click()
        page.get_by_text("Forgotten.").wait_for()
        assert own.scope("alice").count() == 3
        assert page.locator(".row", has_text="viola").count() == 0
        page.get_by_role("button", name="Erase scope").click()
        page.get_by_label("Type alice").fill("alice")
        page.get_by_role("dialog").get_by_role("button", name="Erase").click()
        page.get_by_role("heading", name="Erased").wait_for()
        page.get_by_role("button", name="Close").click()
        assert own.scopes() == ["bob"]
        page.locator("button.scope[aria-current]", has_text="bob").wait_for()
        assert page.locator("button.scope").count() == 1
