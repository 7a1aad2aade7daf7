"""The browser, servers, and the rule that nothing unexpected happens in the page."""

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

from wayfare import Server

CHROMIUMS = ["chromium", "chromium-browser", "google-chrome"]
WATCH = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy: ${event.violatedDirective} blocked ${event.blockedURI} ${event.sample}`);
});
"""


@pytest.fixture(scope="session")
def browser():
    program = os.environ.get("WAYFARE_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    assert program, "no Chromium was found: install one (on Debian, apt-get install chromium) or set WAYFARE_CHROMIUM"
    # Chromium's sandbox does not work for root, who runs containers.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def serve():
    servers = []

    def start(*arguments, **options):
        servers.append(Server(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def open_page(browser):
    """Opens pages in windows of their own: `open_page(server, "#/recent", viewport=…)`, or
    `at` an address of any kind. `expect(words)` names what a
    line of the console may contain; anything else there, or a script that throws, fails the test."""
    contexts, lines, allowed = [], [], []

    def open_page(server, address="", at=None, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(30_000)
        contexts.append(context)
        context.add_init_script(WATCH)
        page = context.new_page()
        page.on("console", lambda message: lines.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: lines.append(f"thrown: {error}"))
        page.on("dialog", lambda dialog: (lines.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(at or f"{server.url}/journeys{address}")
        return page

    open_page.expect = allowed.append
    open_page.lines = lines
    yield open_page
    for context in contexts:
        context.close()
    unexpected = [line for line in lines if not any(words in line for words in allowed)]
    assert unexpected == [], "in the browser's console"
