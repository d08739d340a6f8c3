"""Writes the pictures of the inspector that the documents show: ``python -m tests.inspector.screenshots``.

Needs Chromium and playwright. Reads the conversation that ships with the package; ``--store`` keeps the store.
"""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, expect, sync_playwright

from nextmem_agents import NextMem
from nextmem_agents.evaluation.agent_loop import read
from nextmem_agents.evaluation.locomo import default_conversation, load_locomo
from nextmem_agents.inspector import running
from tests.inspector.browser import launch

SECONDS = 40_000
IMAGES = Path(__file__).parents[2] / "docs" / "images"
QUESTION = "When is the interview for the ultrasound training?"


def fill(memory: NextMem) -> None:
    """The packaged conversation, and a person's notes of which one has changed."""
    if memory.scopes():
        return
    for conversation in load_locomo(default_conversation()):
        read(memory.scope("harbour"), conversation)
    alice = memory.scope("alice")
    alice.remember(
        [
            "Alice is allergic to hazelnuts; walnuts are fine.",
            "Her sister Ruth plays the viola in the Ghent city orchestra.",
            "She prefers trains to planes for anything under ten hours.",
        ],
        session="onboarding",
        role="user",
        written_by="assistant-7",
        derived_from="chat:2026-05-02#14",
        importance=[0.9, 0.4, 0.5],
        occurred_at=datetime(2026, 5, 2, 9, 30, tzinfo=timezone.utc),
    )
    alice.remember(
        "Alice lives in Porto, Rua das Flores 12, and works for a publisher of maps.",
        id="where-she-lives",
        session="profile",
        role="user",
        written_by="assistant-7",
        derived_from="chat:2026-05-02#3",
        metadata={"source": "chat", "verified": False},
    )
    alice.update(
        "where-she-lives",
        "Alice moved to Lisbon in May; her new flat is at Travessa da Espera 41, on the third floor, and she still "
        "works for the same publisher of maps, two days a week from home.",
        written_by="assistant-9",
        derived_from="chat:2026-06-11#27",
        metadata={"source": "chat", "verified": True},
    )
    memory.scope("support/tickets").remember("Ticket 4711: the export fails with error E-1029 since Monday.")


def fill_rough(memory: NextMem) -> None:
    """Texts that one bit a number does not quite hold."""
    if not memory.scopes():
        memory.scope("notes").remember(
            [
                "The Wi-Fi at the cabin is fjällstuga-5G, its key q7Zr-Xv2K-9mLt; the alarm code is 7719#.",
                "She signed the lease at Łąkowa 3/8 in Gdańsk; her locker is 5Q-ωβ7, the spare key is with Małgorzata.",
            ],
            role="user",
            session="moving",
        )


def settle(page: Page) -> None:
    """Until nothing is being decoded any more."""
    page.wait_for_load_state("networkidle", timeout=SECONDS)
    expect(page.locator(".waiting, .wait, [aria-busy]")).to_have_count(0, timeout=SECONDS)
    page.wait_for_timeout(250)


def shoot(page: Page, name: str) -> None:
    settle(page)
    page.screenshot(path=IMAGES / f"inspector-{name}.png")


def pictures(url: str) -> None:
    with sync_playwright() as playwright, launch(playwright) as browser:
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": 1440, "height": 900}, color_scheme=scheme, device_scale_factor=1
            )
            page = context.new_page()
            page.set_default_timeout(SECONDS)
            page.goto(url)
            page.get_by_role("button", name="alice").click()
            settle(page)
            page.locator(".row").first.click()
            page.get_by_role("heading", name="The decoder alone").wait_for()
            shoot(page, f"memory-{scheme}")
            page.get_by_role("button", name="harbour").click()
            page.get_by_label("Search this scope").fill(QUESTION)
            page.get_by_role("button", name="Search").click()
            settle(page)
            page.locator(".row").first.click()
            page.get_by_role("heading", name="The decoder alone").wait_for()
            settle(page)
            shoot(page, f"search-{scheme}")
            if scheme == "light":
                page.get_by_role("button", name="Measure").click()
                page.get_by_role("heading", name="Measured").wait_for()
                page.locator("#detail").evaluate("box => box.scrollTo(0, 480)")
                shoot(page, "sensitivity")
            page.get_by_role("button", name="Map").click()
            page.locator("canvas[role=application]").wait_for()
            settle(page)
            page.locator("canvas[role=application]").focus()
            for key in ("ArrowRight", "ArrowUp"):
                page.keyboard.press(key)
            shoot(page, f"map-{scheme}")
            context.close()
        phone = browser.new_context(
            viewport={"width": 390, "height": 844}, color_scheme="light", device_scale_factor=1
        )
        page = phone.new_page()
        page.set_default_timeout(SECONDS)
        page.goto(url)
        page.get_by_role("button", name="harbour").click()
        shoot(page, "narrow-list")
        page.locator(".row").first.click()
        page.get_by_role("heading", name="The decoder alone").wait_for()
        shoot(page, "narrow-memory")


def picture_of_repair(url: str) -> None:
    with sync_playwright() as playwright, launch(playwright) as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="light")
        page.set_default_timeout(SECONDS)
        page.goto(url)
        page.locator(".row").first.click()
        page.get_by_role("heading", name="The decoder alone").wait_for()
        settle(page)
        page.locator("#detail").evaluate("box => box.scrollTo(0, 600)")
        shoot(page, "repair")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path)
    store = parser.parse_args().store
    with TemporaryDirectory() as folder:
        place = store or Path(folder)
        with NextMem.open(place / "mini") as memory:
            fill(memory)
            with running(memory) as url:
                pictures(url)
        with NextMem.open(place / "mini-dense", codec="mini-dense") as memory:
            fill_rough(memory)
            with running(memory) as url:
                picture_of_repair(url)


if __name__ == "__main__":
    main()
