"""The requests in flight."""

import http.client
import json

import pytest

from wayfare import until


@pytest.fixture(scope="module")
def server(serve):
    # A token each 30 ms, two at a time: the third waits.
    return serve("--time-to-first-token", "30ms", "--inter-token-latency", "30ms", "--max-num-seqs", "2")


class Sent:
    """Requests that are under way while the page is looked at, until their clients leave."""

    def __init__(self, server, ids, tokens):
        address = server.url.removeprefix("http://")
        self.connections = []
        for one in ids:
            connection = http.client.HTTPConnection(address)
            body = {"prompt": "a prompt", "max_tokens": tokens, "ignore_eos": True, "stream": True}
            connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json", "x-request-id": one})
            self.connections.append(connection)

    def leave(self):
        for connection in self.connections:
            connection.close()


@pytest.fixture
def send(server):
    sent = []

    def send(ids, tokens):
        sent.append(Sent(server, ids, tokens))

    def leave():
        for one in sent:
            one.leave()

    send.leave = leave
    yield send
    leave()
    until(lambda: server.get("/journeys/live")["in_flight"] == 0)


def rows(page):
    """The live table as it is on the screen: the cells of each row by the request's id."""
    return page.evaluate("""() => Object.fromEntries([...document.querySelectorAll(".now-table .grid-window .grid-row")].map((row) => [
      row.querySelector(".cell-request").textContent,
      Object.fromEntries([...row.children].map((cell) => [cell.className.match(/cell-(\\w+)/)[1], cell.textContent])),
    ]))""")


def output_tokens(row):
    return int(row["progress"].split("·")[1].split("/")[0])


def test_the_live_table_moves(server, send, open_page):
    page = open_page(server)
    page.wait_for_selector(".now-table .notice:has-text('No request is in flight.')")
    send(["first", "second", "third"], 60)
    until(lambda: len(rows(page)) == 3)
    # Two run and the third waits for them, with its reason.
    until(lambda: sorted(row["state"] for row in rows(page).values()) == ["decode", "decode", "queued"])
    until(lambda: any("max_num_seqs" in row["wait"] for row in rows(page).values() if row["state"] == "queued"))
    running = next(name for name, row in rows(page).items() if row["state"] == "decode")
    before = output_tokens(rows(page)[running])
    until(lambda: output_tokens(rows(page)[running]) > before)
    until(lambda: float(rows(page)[running]["speed"] or 0) > 0)
    ages = rows(page)[running]["age"]
    until(lambda: rows(page)[running]["age"] != ages)
    # The oldest comes first, and the chips count the states.
    oldest_first = [one["request_id"] for one in server.get("/journeys/live?sort=age")["requests"]]
    places = page.locator(".now-table .grid-window .grid-row").evaluate_all(
        "rows => rows.map((row) => [Number(row.dataset.index), row.querySelector('.cell-request').textContent])")
    assert [name for _, name in sorted(places)] == oldest_first
    assert page.locator(".chips").inner_text().startswith("3 requests in flight")
    # When the two are done the third runs; at the end nothing is there.
    until(lambda: [row["state"] for row in rows(page).values()] == ["decode"])
    page.wait_for_selector(".now-table .notice")


def test_a_state_can_be_picked_out(server, send, open_page):
    page = open_page(server)
    send(["a", "b", "c"], 1000)
    page.locator(".state-chip", has_text="queued").click()
    until(lambda: [row["state"] for row in rows(page).values()] == ["queued"])
    assert "state=queued" in page.url
    page.locator(".state-chip", has_text="queued").click()
    until(lambda: len(rows(page)) == 3)


def test_gauges_follow_the_engine(server, send, open_page):
    page = open_page(server)
    value = lambda gauge: page.locator(f"[data-gauge={gauge}] dd").inner_text()
    until(lambda: value("running") == "0")
    send(["x", "y", "z"], 1000)
    until(lambda: (value("running"), value("waiting")) == ("2", "1"))
    until(lambda: float(value("output").replace("\u2009", "")) > 1)
    assert page.locator(".tile .chart-line").count() == 6
    send.leave()
    until(lambda: (value("running"), value("waiting")) == ("0", "0"))


def test_a_state_that_the_engine_has_not_said_has_a_question_mark(server, send, open_page):
    """As with vLLM's engines; the simulated one says everything."""
    page = open_page(server, "#/why")
    # The changes would say it as the engine does.
    page.route("**/journeys/events**", lambda route: route.fulfill(content_type="text/event-stream", body=""))

    def fulfil(route):
        live = route.fetch().json()
        for one in [request for request in live["requests"] if request["client_request_id"] == "concluded"]:
            for part in [one, *one["sequences"]]:
                part["inferred"] = True
        route.fulfill(json=live)

    page.route("**/journeys/live**", fulfil)
    send(["concluded", "said"], 1000)
    until(lambda: [one["state"] for one in server.get("/journeys/live")["requests"]] == ["decode", "decode"])
    page.goto(f"{server.url}/journeys#/now")
    page.reload()
    until(lambda: {row["request"][5:]: row["state"] for row in rows(page).values()} == {"concluded": "decode?", "said": "decode"})
    chip = page.locator(".now-table .chip", has_text="decode?")
    assert "as far as can be told" in chip.get_attribute("title")
    page.locator(".now-table a", has_text="cmpl-concluded").click()
    page.wait_for_selector("article.in-flight h1:has-text('cmpl-concluded')")
    assert "as far as can be told" in page.locator(".in-flight .sentences").inner_text()


def test_a_request_in_flight_becomes_its_journey(server, send, open_page):
    page = open_page(server)
    send(["watched"], 60)
    page.locator(".now-table a", has_text="cmpl-watched").click()
    page.wait_for_selector("article.in-flight h1:has-text('cmpl-watched')")
    progress = lambda: page.locator(".in-flight .progress-text").inner_text()
    before = progress()
    until(lambda: page.locator("article.journey").count() == 1 or progress() != before)
    # Without doing anything.
    page.wait_for_selector("article.journey h1:has-text('cmpl-watched')")
    assert "exactly the life of the request" in page.locator(".ledger-table tfoot").inner_text()


def test_an_id_that_comes_later_is_found(server, send, open_page):
    open_page.expect("status of 404")
    page = open_page(server, "#/journey/later")
    page.wait_for_selector(".notice:has-text(\"'later'\")")
    send(["later"], 30)
    page.wait_for_selector("article.journey h1:has-text('cmpl-later')")


def test_a_row_opens_by_keyboard(server, send, open_page):
    page = open_page(server)
    send(["keyed"], 1000)
    until(lambda: "cmpl-keyed" in rows(page))
    page.locator(".now-table").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('cmpl-keyed')")


def test_the_page_finds_a_server_again(serve, open_page):
    open_page.expect("net::ERR_")
    first = serve()
    page = open_page(first)
    page.wait_for_selector(".now-table .notice")
    port = first.url.rpartition(":")[2]
    first.stop()
    page.wait_for_selector("#about.bad")
    second = serve("--time-to-first-token", "30ms", "--inter-token-latency", "30ms", port=port)
    page.wait_for_selector("#about:not(.bad)")
    sent = Sent(second, ["after"], 1000)
    until(lambda: "cmpl-after" in rows(page))
    sent.leave()


def test_without_a_live_view_it_says_so(serve, open_page):
    page = open_page(serve("--disable-live-view"))
    page.wait_for_selector(".notice:has-text('--disable-live-view')")
    page.click("text=Recent")
    page.wait_for_selector(".recent-table")
