"""One journey, on a server whose KV cache is too small for all that runs."""

import json
import re

import pytest

from wayfare import until


def whole(text):
    """The number in a text, thin spaces and all."""
    return int(re.sub(r"\D", "", text))


@pytest.fixture(scope="module")
def server(serve):
    server = serve(
        "--num-gpu-blocks-override", "60", "--max-num-seqs", "6", "--max-num-batched-tokens", "256",
        "--no-enable-prefix-caching", "--trace-url-template", "http://traces.example/trace/{trace_id}",
    )
    server.complete_all([(f"crowd-{number}", 120, f"{number} " * (20 + 60 * number % 300)) for number in range(10)])
    server.complete("two", tokens=20, n=2)
    server.complete("refused", tokens=-1)
    server.kept(12)
    return server


@pytest.fixture(scope="module")
def preempted(server):
    found = server.get("/journeys/recent?preempted=true&limit=1000")["journeys"]
    assert found, "somebody was preempted"
    return found[0]


def test_a_journey_opens_from_the_list_and_the_scatter(server, open_page):
    page = open_page(server, "#/recent")
    row = page.locator(".recent-table .grid-window .grid-row", has_text="cmpl-crowd-3")
    row.locator(".cell-duration").click()
    page.wait_for_selector("h1:has-text('cmpl-crowd-3')")
    assert "#/journey/cmpl-crowd-3?span=" in page.url
    page.go_back()
    canvas = page.locator(".scatter canvas")
    canvas.wait_for()
    canvas.focus()
    page.keyboard.press("End")
    shown = page.locator(".tip").inner_text().splitlines()[0]
    page.keyboard.press("ArrowLeft")
    other = page.locator(".tip").inner_text().splitlines()[0]
    assert shown != other
    page.keyboard.press("Enter")
    # A request that was refused has no id but its trace's.
    page.wait_for_selector(f"h1:has-text('{other}')")


def test_a_point_of_the_scatter_opens_with_the_mouse(server, open_page, preempted):
    page = open_page(server, f"#/recent?text={preempted['trace_id']}")
    until(lambda: page.locator(".list .small").inner_text().startswith("1 of"))
    box = page.locator(".scatter canvas").bounding_box()
    # The only point: find where the tip comes up.
    for x in range(int(box["x"]) + 50, int(box["x"] + box["width"]), 12):
        page.mouse.move(x, box["y"] + box["height"] / 2)
        if page.locator(".tip").is_visible():
            break
        for share in (0.2, 0.35, 0.65, 0.8, 0.9, 0.95):
            page.mouse.move(x, box["y"] + box["height"] * share)
            if page.locator(".tip").is_visible():
                break
        else:
            continue
        break
    assert page.locator(".tip").inner_text().startswith(preempted["request_id"])
    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector(f"h1:has-text('{preempted['request_id']}')")


def test_the_ledger_adds_up_on_the_screen(server, open_page):
    page = open_page(server)
    for journey in server.get("/journeys/recent?limit=1000")["journeys"]:
        page.goto(f"{server.url}/journeys#/journey/{journey['request_id'] or journey['trace_id']}?span={journey['span_id']}")
        page.wait_for_selector(f".trace-id:has-text('{journey['trace_id']}')")
        buckets = page.locator(".ledger-table tbody tr[data-bucket] td.exact").all_inner_texts()
        reasons = page.locator(".ledger-table tbody tr:not([data-bucket]) td.exact").all_inner_texts()
        assert sum(map(whole, buckets)) == journey["duration_ns"]
        assert whole(page.locator(".ledger-table tfoot td.exact").inner_text()) == journey["duration_ns"]
        assert "exactly the life of the request" in page.locator(".ledger-table tfoot").inner_text()
        assert sum(map(whole, reasons)) == journey["attributes"].get("journey.ledger.queue_ns", 0)
        # The bar, as it is on the screen: as wide in all as its parts, each as wide as its share.
        parts = page.locator(".journey > section > .ledger-bar .part").evaluate_all(
            "parts => parts.map((part) => [Number(part.dataset.ns), part.getBoundingClientRect().width])")
        bar = page.locator(".journey > section > .ledger-bar").bounding_box()["width"]
        assert sum(ns for ns, _ in parts) == journey["duration_ns"]
        assert abs(sum(width for _, width in parts) - bar) < 1
        for ns, width in parts:
            assert abs(width - bar * ns / journey["duration_ns"]) < 1


def test_both_spans_are_on_one_axis_with_their_events(server, open_page, preempted):
    page = open_page(server, f"#/journey/{preempted['trace_id']}")
    page.wait_for_selector(".waterfall")
    names = page.locator(".lane-name").all_inner_texts()
    assert [name for name in names if name] == ["llm_request", "llm_core"]
    wanted = [event["name"].split(".")[1] for event in preempted["events"] + preempted["sequences"][0]["events"]]
    assert page.locator(".mark").evaluate_all("marks => marks.map((mark) => mark.dataset.event)") == wanted
    assert "PREEMPTED" in wanted
    # A mark is where its time is, on the axis that both lanes share.
    tracks = page.locator(".waterfall .lane:not(.axis) .track").evaluate_all(
        "tracks => tracks.map((track) => [track.getBoundingClientRect().left, track.getBoundingClientRect().width])")
    assert tracks[0] == tracks[1]
    left, width = tracks[0]
    places = page.locator(".mark").evaluate_all("marks => marks.map((mark) => mark.getBoundingClientRect().left + 3.5)")
    offsets = [event["offset_ns"] for event in preempted["events"] + preempted["sequences"][0]["events"]]
    for place, offset in zip(places, offsets):
        assert abs(place - left - width * offset / preempted["duration_ns"]) < 1.5
    # The engine's side has no gap from QUEUED to FINISHED.
    segments = page.locator(".lane:last-child .segment").evaluate_all(
        "all => all.map((one) => { const box = one.getBoundingClientRect(); return [box.left, box.right]; })")
    assert all(abs(after[0] - before[1]) < 1.5 for before, after in zip(segments, segments[1:]))
    assert page.locator(".segment[data-segment=preempted]").count() >= 1
    rows = page.locator(".events tbody tr .event-name").all_inner_texts()
    assert sorted(rows) == sorted(wanted)


def test_the_sentence_names_the_largest_bucket_and_the_preemption(server, open_page, preempted):
    page = open_page(server, f"#/journey/{preempted['trace_id']}")
    said = page.locator(".sentences").inner_text()
    ledger = {row.split("\t")[0].strip(): whole(row.split("\t")[-1]) for row in page.locator(".ledger-table tbody tr[data-bucket]").all_inner_texts()}
    assert max(ledger, key=ledger.get) in said
    assert "It was preempted" in said and "computed again" in said


def test_who_shared_its_steps(server, open_page, preempted):
    page = open_page(server, f"#/journey/{preempted['trace_id']}")
    page.wait_for_selector(".company tbody tr")
    shown = set(page.locator(".company tbody tr td:first-child").all_inner_texts())

    def steps(journey):
        found = [event["attributes"]["scheduler.step"] for sequence in journey["sequences"] for event in sequence["events"] if event["name"] != "journey.QUEUED"]
        return (min(found), max(found)) if found else None

    first, last = steps(preempted)
    together = {
        other["request_id"] for other in server.get("/journeys/recent?limit=1000")["journeys"]
        if other["trace_id"] != preempted["trace_id"] and (ran := steps(other)) and ran[0] <= last and ran[1] >= first
    }
    assert together and together <= shown


def test_the_trace_opens_elsewhere(server, open_page, preempted):
    page = open_page(server, f"#/journey/{preempted['trace_id']}")
    link = page.locator("a.trace-link")
    assert link.get_attribute("href") == f"http://traces.example/trace/{preempted['trace_id']}"
    assert "noopener" in link.get_attribute("rel")


def test_the_json_is_the_servers(server, open_page, preempted):
    page = open_page(server, f"#/journey/{preempted['trace_id']}")
    page.locator("details summary").click()
    shown = json.loads(until(lambda: page.locator("pre.raw").text_content()))
    # The serial is its place in the list.
    assert shown | {"serial": preempted["serial"]} == preempted


def test_a_refused_request_says_why(server, open_page):
    refused = server.get("/journeys/recent?status=validation_error")["journeys"][0]
    page = open_page(server, f"#/journey/{refused['trace_id']}")
    said = page.locator(".sentences").inner_text()
    assert said.startswith("Refused after") and "the request was not valid" in said and "(400)" in said


def test_an_id_of_several_journeys_lets_one_choose(server, open_page):
    server.complete("twin")
    server.complete("twin")
    server.kept(14)
    page = open_page(server, "#/journey/twin")
    page.wait_for_selector("h1:has-text('2 journeys have this id')")
    page.locator("tbody a").first.click()
    page.wait_for_selector("h1:has-text('cmpl-twin')")


def test_every_sequence_has_a_lane(server, open_page):
    page = open_page(server, "#/journey/cmpl-two")
    page.wait_for_selector(".waterfall")
    names = page.locator(".lane-name").all_inner_texts()
    assert [name for name in names if name] == ["llm_request", "llm_core 0", "llm_core 1"]


def test_the_timeline_zooms_by_key_and_comes_back(server, open_page, preempted):
    page = open_page(server, f"#/journey/{preempted['trace_id']}")
    page.locator(".timeline").focus()
    widest = "Math.max(...[...document.querySelectorAll('.segment')].map((one) => one.getBoundingClientRect().width))"
    ticks = lambda: page.locator(".tick").all_inner_texts()
    before = ticks()
    for key in ["+", "+", "ArrowLeft", "ArrowRight"]:
        page.keyboard.press(key)
    assert ticks() != before and page.evaluate(widest) <= page.locator(".track").first.bounding_box()["width"] + 1
    page.keyboard.press("0")
    assert ticks() == before


def test_an_id_that_is_not_known_is_said_to_be(server, open_page):
    open_page.expect("status of 404")
    page = open_page(server, "#/journey/nobody")
    page.wait_for_selector(".notice:has-text(\"no finished journey of 'nobody' is kept\")")
