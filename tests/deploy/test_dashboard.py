"""The queries of the dashboard are ones that Prometheus and Tempo would take."""

import json
import re
import subprocess

import promql_parser
import pytest
from manifests import REPOSITORY, dashboard


def with_values(query: str) -> str:
    """As Grafana sends it: its variables replaced."""
    query = query.replace("$__rate_interval", "1m").replace("$__range", "1h")
    return re.sub(r"\$\{?\w+\}?", "wayfare", query)


def queries(source: str, key: str) -> list[str]:
    board = dashboard()
    targets = [target for panel in board["panels"] for target in panel.get("targets", [])]
    return [target[key] for target in targets if target["datasource"]["type"] == source]


def test_every_metric_query_is_promql():
    expressions = queries("prometheus", "expr")
    assert len(expressions) > 50
    for expression in expressions:
        promql_parser.parse(with_values(expression))
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            call = variable["query"]["query"]
            series, label = re.fullmatch(r"label_values\((.+), *(\w+)\)", call).groups()
            promql_parser.parse(with_values(series))
            assert label in {"model_name", "instance"}


def test_what_is_not_promql_is_noticed():
    with pytest.raises(ValueError):
        promql_parser.parse("sum(rate(vllm:a[5m])")
    with pytest.raises(ValueError):
        promql_parser.parse("rate(vllm:a)")


def refused(traceql: list[str], checker) -> list[dict]:
    done = subprocess.run(["node", checker], input=json.dumps(traceql), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_trace_query_is_traceql(traceql_checker):
    of_board = [with_values(query) for query in queries("tempo", "query")]
    assert len(of_board) >= 6
    page = (REPOSITORY / "docs" / "journey-tracing.md").read_text()
    # In a table the bar of a pipeline is written `\|`.
    of_page = [found.replace("\\|", "|") for found in re.findall(r"`(\{ .+?)`", page)]
    assert len(of_page) > 4
    assert refused(of_board + of_page, traceql_checker) == []


def test_what_is_not_traceql_is_noticed(traceql_checker):
    assert refused(["{ name = }", "{ true }"], traceql_checker) == [{"query": "{ name = }", "at": "}"}]
