"""By keyboard, on a phone, in light and dark."""

import itertools
import math

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


# What people with a colour blindness see of a linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.
SIGHTS = {
    "full": [(1, 0, 0), (0, 1, 0), (0, 0, 1)],
    "protanopia": [(0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)],
    "deuteranopia": [(0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)],
    "tritanopia": [(1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)],
}
HATCHED = {"queue", "prefill_wait", "interference", "preempted"}
ENGINE_BUCKETS = [*sorted(HATCHED), "prefill", "decode", "recompute"]


def lab(rgb):
    """CIE L*a*b* of a linear RGB."""
    red, green, blue = (min(max(channel, 0), 1) for channel in rgb)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883
    x, y, z = (value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x, y, z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_buckets_can_be_told_apart_with_any_colour_blindness(server, open_page, theme):
    page = open_page(server, "#/recent", color_scheme=theme)
    shown = page.evaluate("""async (names) => {
      const { colorsOf } = await import("/journeys/assets/lib/colors.js");
      const colors = colorsOf(document.body, names.map((name) => `bucket-${name}`));
      return names.map((name) => colors[`bucket-${name}`].match(/[0-9.]+/g).slice(0, 3).map(Number));
    }""", ENGINE_BUCKETS)
    linear = [[(c / 255 + 0.055) ** 2.4 / 1.055 ** 2.4 if c > 10 else c / 255 / 12.92 for c in rgb] for rgb in shown]
    for sight, matrix in SIGHTS.items():
        seen = [lab([sum(weight * c for weight, c in zip(row, rgb)) for row in matrix]) for rgb in linear]
        for (one, other) in itertools.combinations(range(len(seen)), 2):
            names = {ENGINE_BUCKETS[one], ENGINE_BUCKETS[other]}
            # One hatched and one solid differ by that as well.
            least = 13 if len(names & HATCHED) == 1 else 20
            assert math.dist(seen[one], seen[other]) >= least, f"{names} with {sight}"


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
    assert shown == expected.replace(" ", "\u00a0")
