"""By keyboard, on a phone, in light and dark."""

import pytest

VIEWS = ["#/now", "#/recent", "#/why", "#/journey/cmpl-request-1"]
LOADED = {"#/now": ".now-table", "#/recent": ".recent-table a", "#/why": ".cohort"}


@pytest.fixture(scope="module")
def server(serve):
    server = serve("--max-num-seqs", "3")
    server.complete_all([(f"request-{number}", 30, "hello " * 20 * number) for number in range(8)])
    server.kept(8)
    return server


def show(page, server, view):
    page.goto(f"{server.url}/journeys{view}")
    page.wait_for_selector(LOADED.get(view, "article.journey"))


def test_everything_can_be_reached_by_keyboard(server, open_page):
    page = open_page(server, "#/recent")
    page.wait_for_selector(".recent-table a")
    focused = "[document.activeElement.id, document.activeElement.className, document.activeElement.getAttribute('name'), document.activeElement.textContent.slice(0, 30)].join('|')"
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(focused))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.evaluate("document.activeElement === document.body"), seen[-1]
        if "recent-table" in seen[-1]:
            break
    else:
        raise AssertionError(f"the table is not reached: {seen}")
    assert any("Skip to the content" in one for one in seen)
    assert any("Recent" in one for one in seen) and any("text" in one for one in seen)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    active = page.locator(".recent-table .grid-row[aria-selected=true]")
    assert active.get_attribute("aria-rowindex") == "3"
    assert page.locator(".recent-table").get_attribute("aria-activedescendant") == active.get_attribute("id")
    wanted = active.locator(".cell-request").inner_text()
    page.keyboard.press("Enter")
    page.wait_for_selector(f"h1:has-text('{wanted}')")


def test_the_skip_link_moves_the_focus_and_not_the_view(server, open_page):
    page = open_page(server, "#/why")
    page.wait_for_selector(".why")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.url.endswith("#/why")


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_shows_it_without_scrolling_sideways(server, open_page, view):
    page = open_page(server, viewport={"width": 390, "height": 844})
    show(page, server, view)
    page.wait_for_timeout(300)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    small = page.evaluate("""[...document.querySelectorAll("main *")].filter((one) => one.childNodes.length && [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) && parseFloat(getComputedStyle(one).fontSize) < 11).length""")
    assert small == 0, "no text is smaller than 11 pixels"


CONTRASTS = """() => {
  const probe = document.createElement("span");
  document.body.append(probe);
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = (name) => {
    probe.style.setProperty("color", `var(--${name})`);
    pen.fillStyle = getComputedStyle(probe).color;
    pen.fillRect(0, 0, 1, 1);
    const [red, green, blue] = pen.getImageData(0, 0, 1, 1).data;
    return 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const found = {};
  for (const text of ["ink", "ink-soft", "accent", "good", "bad", "warn"]) {
    for (const ground of ["paper", "sheet", "sunk"]) found[`${text} on ${ground}`] = [contrast(text, ground), 4.5];
  }
  found["accent on accent-wash"] = [contrast("accent", "accent-wash"), 4.5];
  found["on-bucket on accent"] = [contrast("on-bucket", "accent"), 4.5];
  const buckets = ["receive", "prepare", "admit", "queue", "prefill", "prefill_wait", "decode", "interference", "preempted", "recompute", "deliver"];
  for (const bucket of buckets) {
    found[`bucket-${bucket} on sheet`] = [contrast(`bucket-${bucket}`, "sheet"), 3];
  }
  for (const bucket of buckets) {
    found[`name on bucket-${bucket}`] = [contrast(bucket === "queue" ? "on-queue" : "on-bucket", `bucket-${bucket}`), 4.5];
  }
  return Object.entries(found).filter(([, [is, least]]) => is < least).map(([what, [is]]) => `${what}: ${is.toFixed(2)}`);
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_is_enough(server, open_page, theme):
    page = open_page(server, "#/recent", color_scheme=theme)
    assert page.evaluate(CONTRASTS) == []


def test_the_theme_follows_the_system_until_it_is_chosen(server, open_page):
    page = open_page(server, "#/recent", color_scheme="dark")
    ground = lambda: page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    dark = ground()
    page.click("#theme")
    light = ground()
    assert light != dark and page.locator("#theme").get_attribute("title") == "Theme: light"
    page.reload()
    assert ground() == light
    page.emulate_media(color_scheme="light")
    page.click("#theme")
    assert ground() == dark
    page.click("#theme")
    assert ground() == light and page.locator("#theme").get_attribute("title") == "Theme: auto"


@pytest.mark.parametrize("ns,expected", [
    (0, "0 ns"), (840, "840 ns"), (999.6, "1.00 µs"), (12_345, "12.3 µs"), (3_050_000, "3.05 ms"), (999_600_000, "1.00 s"),
    (1_234_000_000, "1.23 s"), (59_996_000_000, "1 min 00 s"), (125_000_000_000, "2 min 05 s"), (7_380_000_000_000, "2 h 03 min"),
])
def test_durations_have_three_digits_that_count(server, open_page, ns, expected):
    page = open_page(server, "#/recent")
    shown = page.evaluate("async (ns) => (await import('/journeys/assets/lib/format.js')).duration(ns)", ns)
    assert shown == expected
