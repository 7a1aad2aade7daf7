"""What a page that shows strangers' strings must withstand."""

import json
import urllib.request

from wayfare import until

HOSTILE_MODEL = '<img src=x onerror="alert(1)">&amp;"\'</script>'
HOSTILE_ID = "<script>alert(2)</script><img/src=x/onerror=alert(3)>'\"&lt;"


def test_hostile_names_are_shown_as_text(serve, open_page):
    server = serve("--served-model-name", HOSTILE_MODEL)
    assert server.complete(HOSTILE_ID) == 200
    assert server.complete("wrong-model", model="</td><svg onload=alert(4)>") == 404
    server.kept(2)
    page = open_page(server, "#/recent")
    link = page.locator(".recent-table a", has_text="<script>")
    assert link.inner_text() == f"cmpl-{HOSTILE_ID}"
    assert page.locator(".recent-table .grid-row", has=page.locator("a", has_text="<script>")).locator(".cell-model").inner_text() == HOSTILE_MODEL
    assert HOSTILE_MODEL in page.locator("#about").inner_text()
    link.click()
    page.wait_for_selector("article.journey")
    assert page.locator("h1").inner_text() == f"cmpl-{HOSTILE_ID}"
    assert HOSTILE_MODEL in page.locator(".facts").inner_text()
    page.locator("details summary").click()
    assert HOSTILE_ID in json.loads(until(lambda: page.locator("pre.raw").text_content()))["request_id"]
    # And by way of the search, and the tip of the scatter.
    page.fill("#find-id", f"cmpl-{HOSTILE_ID}")
    page.press("#find-id", "Enter")
    page.wait_for_selector("article.journey")
    page.goto(f"{server.url}/journeys#/why")
    page.wait_for_selector(".why")
    page.goto(f"{server.url}/journeys#/recent")
    page.locator(".scatter canvas").focus()
    page.keyboard.press("Home")
    page.wait_for_selector(".tip:not([hidden])")
    assert page.locator("main img, main script, main svg[onload]").count() == 0


def test_the_policy_holds(serve, open_page):
    server = serve()
    page = open_page(server, "#/recent")
    page.wait_for_selector(".recent-table")
    ran = page.evaluate("""async () => {
      const script = document.createElement("script");
      script.textContent = "window.ranInline = true";
      document.body.append(script);
      const handler = document.createElement("div");
      handler.setAttribute("onclick", "window.ranHandler = true");
      document.body.append(handler);
      handler.click();
      const styled = document.createElement("div");
      styled.setAttribute("style", "position: fixed");
      document.body.append(styled);
      let reached = true;
      try { await fetch("http://127.0.0.1:1/"); } catch { reached = false; }
      return [window.ranInline ?? false, window.ranHandler ?? false, getComputedStyle(styled).position, reached];
    }""")
    assert ran == [False, False, "static", False]
    open_page.expect("Content Security Policy")
    open_page.expect("policy: ")
    blocked = lambda: {line.split("policy: ")[1].split()[0] for line in open_page.lines if "policy: " in line}
    until(lambda: page.evaluate("1") and blocked() >= {"script-src-elem", "script-src-attr", "style-src-attr", "connect-src"})


def test_the_page_is_in_no_frame(serve, open_page):
    server = serve()
    with urllib.request.urlopen(f"{server.url}/journeys") as response:
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        body = response.read().decode()
    assert "style=" not in body and "<script>" not in body and "onclick" not in body


def test_the_key_is_asked_for_once(serve, open_page):
    open_page.expect("status of 401")
    server = serve(key="s3cret")
    server.complete("behind-the-key")
    server.kept(1)
    page = open_page(server, "#/recent")
    dialog = page.locator("dialog[open]")
    dialog.wait_for()
    assert page.locator("dialog").count() == 1
    assert page.evaluate("document.activeElement.id") == "api-key"
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog [role=alert]")
    assert page.locator("dialog").count() == 1
    page.keyboard.type("s3cret")
    page.keyboard.press("Enter")
    page.wait_for_selector(".recent-table a:has-text('cmpl-behind-the-key')")
    assert page.locator("dialog").count() == 0
    # Neither another view nor loading the page anew asks again.
    for address in ["#/why", "#/journey/behind-the-key", "#/recent"]:
        page.goto(f"{server.url}/journeys{address}")
        page.reload()
        page.wait_for_selector({"#/why": ".why", "#/recent": ".recent-table a"}.get(address, "article.journey"))
        assert page.locator("dialog").count() == 0
    assert "s3cret" not in page.url
    assert page.evaluate("[sessionStorage.getItem('wayfare-api-key'), JSON.stringify({...localStorage}).includes('s3cret'), document.cookie]") == ["s3cret", False, ""]
