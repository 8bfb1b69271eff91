"""Every panel of the shipped dashboards has data from a real Prometheus during the demonstration: its story has a 429, an
error in a 200, a stream that breaks off and a request that hangs."""

from __future__ import annotations

import contextlib
import json
import re
import time
import urllib.request

import programs
from test_alerts import ROUND
from test_alerts import rules as rehearsed
from test_prometheus import api

VARIABLES = {"__rate_interval": "10s", "__range": "60s", "__interval": "5s"}  # every other one: all


def queries() -> dict[str, str]:
    """What each panel asks, as Grafana sends it: by dashboard, panel and query."""
    found = {}
    for file in sorted((programs.ROOT / "dashboards").glob("*.json")):
        board = json.loads(file.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                name = f"{board['title']} / {panel['title']} / {target['refId']}"
                assert name not in found
                expr = target["expr"]
                found[name] = re.sub(r"\$\{?(\w+)(?::\w+)?\}?", lambda it: VARIABLES.get(it[1], ".*"), expr)
    return found


def test_every_panel_has_data_during_the_demonstration(tmp_path):
    with contextlib.ExitStack() as stack:
        demo = stack.enter_context(programs.demo(tmp_path))
        config = tmp_path / "config.yaml"
        config.write_bytes(urllib.request.urlopen(demo.metrics_url.replace("/metrics", "/config"), timeout=10).read())
        drill = rehearsed(config, tmp_path)
        server = stack.enter_context(programs.prometheus(demo.metrics_url, tmp_path, rules=drill))
        wanted = queries()
        assert len(wanted) > 80
        deadline = time.monotonic() + ROUND + 30
        while wanted and time.monotonic() < deadline:
            time.sleep(1)
            wanted = {name: query for name, query in wanted.items() if not api(server, "query", query=query)["result"]}
        assert not wanted, "\n".join(f"{name}: {query}" for name, query in wanted.items())
