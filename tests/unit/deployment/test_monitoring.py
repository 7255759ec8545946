"""The alerts, the dashboard and docs/metrics.md name existing metrics. The page lists and describes all of them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import vsyncd.app
import vsyncd.observability.sync_metrics  # noqa: F401  these imports register every metric
import yaml
from vsyncd.observability.metrics import REGISTRY

ROOT = Path(__file__).parents[3]
RULES: dict[str, Any] = yaml.safe_load((ROOT / "deploy/prometheus-rules.yml").read_text())
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
# The anchors of the runbook's headings.
ANCHORS = {
    re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
    for heading in re.findall(r"^#+ (.*)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
}
PAGE = (ROOT / "docs/metrics.md").read_text()
_NAME = re.compile(r"\b(?:grpc_server|vsyncd|process|python)_\w+")
_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|", re.MULTILINE)
_MEANING = re.compile(r"^\| `(\w+)` \|[^|]*\|[^|]*\| (.*) \|$", re.MULTILINE)


class Described(NamedTuple):
    """A metric: its name as in a query, without a histogram's suffixes; its type and its HELP text."""

    name: str
    kind: str
    help: str


def registered() -> Iterator[Described]:
    """Yields every metric."""
    for family in REGISTRY.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        yield Described(family.name + suffix, family.type, family.documentation)


def series() -> set[str]:
    """Returns every name that a query can use."""
    names = set()
    for name, kind, _ in registered():
        names |= {f"{name}{end}" for end in ("_bucket", "_count", "_sum")} if kind == "histogram" else {name}
    return names


def alerts() -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


def dashboard_queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())] + [
        variable["query"]["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"
    ]


def test_the_page_lists_every_metric_with_its_type() -> None:
    expected = {(name, kind) for name, kind, _ in registered() if not name.startswith(("process_", "python_"))}
    assert set(_ROW.findall(PAGE)) == expected


def test_each_meaning_on_the_page_begins_with_the_help_text() -> None:
    meanings = {name: meaning.replace("`", "") for name, meaning in _MEANING.findall(PAGE)}
    helps = {name: text for name, _, text in registered() if name in meanings}
    assert all(helps.values())
    assert {name: text for name, text in helps.items() if not meanings[name].startswith(text)} == {}


def test_alerts_use_existing_metrics() -> None:
    assert alerts()
    for alert in alerts():
        used = set(_NAME.findall(alert["expr"]))
        # `up` is Prometheus's own.
        assert used or 'up{job="vsyncd"}' in alert["expr"], alert["alert"]
        assert used <= series(), alert["alert"]
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert alert["annotations"]["summary"]
        page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert page == "https://example.org/vsyncd/docs/runbook.md"
        assert anchor in ANCHORS, alert["alert"]


def test_inhibition_names_existing_alerts() -> None:
    names = {alert["alert"] for alert in alerts()}
    rules = yaml.safe_load((ROOT / "deploy/alertmanager.yml").read_text())["inhibit_rules"]
    assert rules
    for rule in rules:
        for matcher in [*rule["source_matchers"], *rule["target_matchers"]]:
            name, operator, value = matcher.split()
            matching = {each for each in names if re.fullmatch(value, each)}
            assert (name, bool(matching)) == ("alertname", True), matcher
            assert operator in {"=~", "=", "!="}, matcher


def test_the_dashboard_uses_existing_metrics() -> None:
    for query in dashboard_queries():
        used = set(_NAME.findall(query))
        assert used, query
        assert used <= series(), query


def test_alerts_and_panels_have_unique_names() -> None:
    names = [alert["alert"] for alert in alerts()]
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    assert (len(set(names)), len(set(titles))) == (len(names), len(titles))
