"""The list of finished journeys, and what is computed from it."""

import pytest

from wayfare import until


@pytest.fixture(scope="module")
def server(serve):
    server = serve("--max-num-seqs", "4")
    server.complete_all([(f"short-{number}", 2, "hello") for number in range(6)])
    server.complete_all([(f"long-{number}", 60, "hello " * 300) for number in range(6)])
    server.complete("refused", tokens=-1)
    server.kept(13)
    return server


def ids(page):
    return page.locator(".recent-table .grid-window .cell-request").all_inner_texts()


def rows(page, count):
    until(lambda: page.locator(".recent-table .grid-window .grid-row").count() == count)


def test_filters_choose_and_are_part_of_the_address(server, open_page):
    page = open_page(server, "#/recent")
    rows(page, 13)
    page.fill("[name=text]", "LONG-")
    rows(page, 6)
    assert all("long-" in one for one in ids(page))
    assert "text=LONG-" in page.url
    page.reload()
    rows(page, 6)
    assert page.input_value("[name=text]") == "LONG-"
    page.fill("[name=text]", "")
    rows(page, 13)
    page.select_option("[name=outcome]", "aborted")
    rows(page, 1)
    assert "outcome=aborted" in page.url
    page.select_option("[name=outcome]", "all")
    longest = max(one["duration_ns"] for one in server.get("/journeys/recent")["journeys"])
    page.fill("[name=min]", str(longest / 1e6))
    rows(page, 1)


def test_milliseconds_that_were_read_off_are_the_same_nanoseconds_again(server, open_page):
    page = open_page(server, "#/recent")
    ns = 66_321_200
    assert ns / 1e6 * 1e6 > ns
    read = page.evaluate(
        "async (ms) => { const { nsOfMs } = await import('/journeys/assets/lib/format.js'); return nsOfMs(ms); }", str(ns / 1e6))
    assert read == ns


def test_the_columns_sort(server, open_page):
    page = open_page(server, "#/recent")
    rows(page, 13)
    by_duration = [one["request_id"] or one["trace_id"] for one in sorted(server.get("/journeys/recent")["journeys"], key=lambda one: -one["duration_ns"])]
    page.click("[data-sort=duration]")
    page.wait_for_selector("[aria-sort=descending] [data-sort=duration]")
    shown = page.locator(".recent-table .grid-window .grid-row").evaluate_all(
        "rows => rows.sort((a, b) => a.dataset.index - b.dataset.index).map((row) => row.querySelector('.cell-request').textContent)")
    assert shown == by_duration
    page.click("[data-sort=duration]")
    page.wait_for_selector("[aria-sort=ascending] [data-sort=duration]")
    assert "sort=duration" in page.url and "order=up" in page.url


def test_new_journeys_come_by_themselves(server, open_page):
    page = open_page(server, "#/recent?text=newcomer")
    page.wait_for_selector(".recent-table .notice")
    server.complete("newcomer")
    page.wait_for_selector(".recent-table .grid-row:has-text('cmpl-newcomer')")


def test_percentiles_are_those_of_the_journeys_shown(server, open_page):
    page = open_page(server, "#/recent?text=long-")
    rows(page, 6)
    durations = sorted(one["duration_ns"] for one in server.get("/journeys/recent")["journeys"] if "long-" in (one["request_id"] or ""))
    # Nearest rank: of six, the third, the sixth and the sixth.
    expected = page.evaluate(
        "async (values) => { const { duration } = await import('/journeys/assets/lib/format.js'); return values.map(duration); }",
        [durations[2], durations[5], durations[5]])
    assert page.locator(".figures dd").all_inner_texts() == expected


def test_a_summary_is_the_same_from_the_server_and_from_a_whole_journey(server, open_page):
    page = open_page(server, "#/recent")
    ours = page.evaluate("""async () => {
      const { summarize, readSummary } = await import("/journeys/assets/data/summary.js");
      const ask = async (query) => (await (await fetch(`/journeys/recent?limit=1000${query}`)).json()).journeys;
      const plain = (one) => JSON.parse(JSON.stringify({ ...one, serial: undefined }));
      const [whole, short] = [await ask(""), await ask("&fields=summary")];
      return [whole.map(summarize).map(plain), short.map(readSummary).map(plain)];
    }""")
    assert len(ours[0]) >= 13
    assert ours[0] == ours[1]


def test_why_adds_up_and_names_the_bucket_that_makes_the_slow_slow(server, open_page):
    page = open_page(server, "#/why")
    page.wait_for_selector(".cohort")
    assert page.locator(".cohort .ledger-bar").count() == 3
    found = page.evaluate("""async () => {
      const { summarize } = await import("/journeys/assets/data/summary.js");
      const { analyse } = await import("/journeys/assets/data/why.js");
      const all = (await (await fetch("/journeys/recent?limit=1000")).json()).journeys;
      return analyse(all.map(summarize));
    }""")
    for cohort in found["cohorts"]:
        assert abs(sum(one["ns"] for one in cohort["ledger"]) - cohort["meanNs"]) < 1
    journeys = server.get("/journeys/recent?limit=1000")["journeys"]
    waits = {one["reason"]: one["ns"] for one in found["waits"]}
    for reason, ns in waits.items():
        assert ns == sum(one["attributes"].get(f"journey.ledger.queue.{reason}_ns", 0) for one in journeys)
    # Twelve requests, four at a time: the limit is to blame.
    assert "max_num_seqs" in waits
    assert page.locator("[data-reason=max_num_seqs]").count() == 1
    outcomes = {one["outcome"]: one["number"] for one in found["outcomes"]}
    assert outcomes["validation_error"] == 1 and sum(outcomes.values()) == len(journeys)


def test_tens_of_thousands_stay_smooth(server, open_page):
    """The server's answers are made longer on the way; the page, its table and its scatter are the real ones."""
    number, page_size = 40_000, 1000
    template = server.get("/journeys/recent?fields=summary&limit=1&status=departed")
    start = int(template["journeys"][0]["start_unix_ns"])

    def fulfil(route):
        query = dict(part.split("=") for part in route.request.url.partition("?")[2].split("&"))
        before, after = int(query.get("before", number + 1)), int(query["after"])
        serials = range(before - 1, max(before - 1 - page_size, after), -1)
        journeys = [{
            **template["journeys"][0], "serial": serial, "request_id": f"cmpl-{serial}", "span_id": f"{serial:016x}",
            "start_unix_ns": str(start + serial * 1_000_000), "duration_ns": 1_000_000 + (serial * 7919 % 5_000_000_000),
        } for serial in serials]
        store = {**template["store"], "journeys": number, "newest_serial": number}
        route.fulfill(json={"journeys": journeys, "store": store})

    page = open_page(server, "#/why")
    page.route("**/journeys/recent?**", fulfil)
    page.goto(f"{server.url}/journeys#/recent")
    page.reload()
    until(lambda: "40\u2009000 journeys" in page.locator(".list .small").inner_text())
    assert page.locator(".recent-table .grid-row").count() < 80
    # Moving over the scatter and scrolling: no frame of the page's own work takes long.
    worst = page.evaluate("""async () => {
      const canvas = document.querySelector(".scatter canvas");
      const scroller = document.querySelector(".grid-scroller");
      const box = canvas.getBoundingClientRect();
      const times = [];
      for (let step = 0; step < 60; step += 1) {
        const began = performance.now();
        canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + 60 + step * 15, clientY: box.top + 40 + step }));
        scroller.scrollTop = step * 20_000;
        scroller.dispatchEvent(new Event("scroll"));
        times.push(performance.now() - began);
        await new Promise(requestAnimationFrame);
      }
      return times.sort((a, b) => a - b)[Math.floor(times.length * 0.9)];
    }""")
    assert worst < 50, f"nine of ten moves take at most {worst:.1f} ms"
    page.locator(".recent-table").focus()
    page.keyboard.press("End")
    assert page.locator(".grid-row[aria-selected=true]").get_attribute("aria-rowindex") == str(number + 1)


def test_a_restarted_server_does_not_leave_old_journeys_behind(serve, open_page):
    first = serve()
    for name in ("old-1", "old-2"):
        first.complete(name)
    first.kept(2)
    page = open_page(first, "#/recent")
    rows(page, 2)
    port = first.url.rpartition(":")[2]
    first.stop()
    open_page.expect("net::ERR_CONNECTION_REFUSED")
    page.wait_for_selector("#about.bad")
    second = serve(port=port)
    second.complete("new-1")
    second.kept(1)
    until(lambda: ids(page) == ["cmpl-new-1"])
    assert "bad" not in (page.locator("#about").get_attribute("class") or "")
