"""The drawings without a server: a page that is one file, as a report is."""

import json
import os
import subprocess

REPORT = """
import { summarize, MEASURES } from "./data/summary.js";
import { readJourney } from "./data/journey.js";
import { analyse } from "./data/why.js";
import { drawJourney } from "./draw/journey.js";
import { drawWhy } from "./draw/why.js";
import { Scatter } from "./draw/scatter.js";

const journeys = JSON.parse(document.getElementById("journeys").textContent);
const linkTo = (id) => `#${id}`;
document.body.append(drawWhy(analyse(journeys.map(summarize)), { linkTo }));
const scatter = new Scatter({ open: () => {}, describe: (one) => one.request_id });
document.body.append(scatter.element);
scatter.show(journeys.map(summarize), MEASURES.duration);
for (const journey of journeys) document.body.append(drawJourney(readJourney(journey), { linkTo }));
"""


def bundled(*arguments, source=""):
    return subprocess.run([os.environ["WAYFARE_BUNDLE"], *arguments], input=source, text=True, capture_output=True, check=True).stdout


def test_a_report_in_one_file_draws_with_the_same_modules(serve, open_page, tmp_path):
    server = serve()
    hostile = "</script><script>alert(1)</script>"
    for name in ("one", "two", hostile):
        server.complete(name, tokens=20)
    journeys = server.kept(3)
    server.stop()
    data = json.dumps(journeys).replace("<", "\\u003c")
    report = tmp_path / "report.html"
    report.write_text(
        f'<!doctype html><meta charset="utf-8"><style>{bundled("--style")}</style>'
        f'<script type="application/json" id="journeys">{data}</script>'
        f'<body><script type="module">{bundled(source=REPORT)}</script>'
    )
    page = open_page(server, at=report.as_uri())
    page.wait_for_selector("article.journey >> nth=2")
    heads = page.locator("article.journey h1").all_inner_texts()
    assert sorted(heads) == sorted(["cmpl-one", "cmpl-two", f"cmpl-{hostile}"])
    assert page.locator(".cohort").count() == 3 and page.locator(".waterfall").count() == 3
    lives = page.locator(".ledger-table tfoot [data-sum]").evaluate_all("cells => cells.map((cell) => [cell.dataset.sum, cell.dataset.life])")
    assert all(total == life for total, life in lives) and len(lives) == 3
    assert page.locator(".ledger-bar").first.bounding_box()["height"] > 10, "it has its styles"
