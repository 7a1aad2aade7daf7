"""The report of `wayfare export --to html`: one file, opened as a file."""

import os
import subprocess

import pytest

HOSTILE_ID = "</script><script>alert(1)</script><img/src=x/onerror=alert(2)>"


@pytest.fixture
def open_report(browser):
    """Makes a report of a journey file and opens it; fails when the page asks for anything else, or says anything."""
    contexts, lines = [], []

    def open_report(journeys, report, address=""):
        program = os.environ["WAYFARE_PROGRAM"]
        subprocess.run([program, "export", journeys, "--to", "html", "-o", report], check=True, env={**os.environ, "RUST_LOG": "error"})
        context = browser.new_context(viewport={"width": 1100, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: lines.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: lines.append(f"thrown: {error}"))
        page.on("dialog", lambda dialog: (lines.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: lines.append(f"asked for {request.url}") if not request.url.startswith(f"file://{report}") else None)
        page.goto(f"file://{report}{address}")
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert lines == [], "in the browser's console, or asked for"


def test_a_report_shows_why_and_opens_its_requests(serve, open_report, tmp_path):
    journeys = tmp_path / "journeys.jsonl"
    server = serve("--journey-file", str(journeys), "--max-num-seqs", "1", "--num-gpu-blocks-override", "600", "--max-model-len", "2000")
    for number in range(6):
        assert server.complete(f"one-{number}", tokens=4 + number) == 200
    assert server.complete(HOSTILE_ID, tokens=40) == 200
    server.process.terminate()
    server.process.wait()
    page = open_report(journeys, tmp_path / "report.html")
    page.wait_for_selector(".findings article")
    assert page.locator(".integrity").inner_text().count("7 journeys") == 1
    assert page.locator(".latencies tbody tr").count() == 7
    assert page.locator(".scatter canvas").is_visible()
    # The longest is first, and opens; what a client called it stays text.
    link = page.locator(".slowest a").first
    assert link.inner_text() == f"cmpl-{HOSTILE_ID}"
    link.click()
    page.wait_for_selector("article.journey")
    assert page.locator("article.journey h1").inner_text() == f"cmpl-{HOSTILE_ID}"
    assert "40 tokens of output" in page.locator(".story").inner_text()
    assert page.locator("article.journey .track").count() >= 2
