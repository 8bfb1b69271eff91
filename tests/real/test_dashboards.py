"""Every panel of the shipped dashboards has data from a real Prometheus during the demonstration: its story has a 429, an
error in a 200, a stream that breaks off and a request that hangs."""

from __future__ import annotations

import json
import re
import time

import programs
from test_alerts import ROUND, demonstration
from test_prometheus import api

VARIABLES = {"__rate_interval": "10s", "__range": "60s"}


def queries() -> dict[str, str]:
    """What each panel asks, as Grafana sends it: by dashboard, panel and query."""
    found = {}
    for file in sorted((programs.ROOT / "dashboards").glob("*.json")):
        board = json.loads(file.read_text())
        all_of_them = {one["name"]: one.get("allValue") for one in board["templating"]["list"]}
        variables = VARIABLES | all_of_them
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                name = f"{board['title']} / {panel['title']} / {target['refId']}"
                assert name not in found
                expr = target["expr"]
                found[name] = re.sub(r"\$\{?(\w+)(?::\w+)?\}?", lambda it: variables[it[1]], expr)
    return found


def has_data(server: str, query: str) -> bool:
    """Whether a query has a number: a quantile of nothing is a NaN, which Grafana shows as none."""
    return any(one["value"][1] != "NaN" for one in api(server, "query", query=query)["result"])


def test_every_panel_has_data_during_the_demonstration(tmp_path):
    with demonstration(tmp_path) as server:
        wanted = queries()
        assert len(wanted) > 80
        deadline = time.monotonic() + ROUND + 30
        while wanted and time.monotonic() < deadline:
            time.sleep(1)
            wanted = {name: query for name, query in wanted.items() if not has_data(server, query)}
        assert not wanted, "\n".join(f"{name}: {query}" for name, query in wanted.items())
