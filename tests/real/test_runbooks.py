"""Prometheus understands every query of the runbooks, and those of the alerts that users feel find what there is to find."""

import contextlib
import json
import re
import socket
import subprocess
import threading
import time

import programs
import pytest
from test_prometheus import api
from wire import Connection, request


def test_prometheus_understands_every_query(tmp_path):
    pages = sorted((programs.ROOT / "docs/runbooks").glob("Streamgauge*.md"))
    queries = [query for page in pages for query in queries_of(page.read_text())]
    assert len(queries) >= 3 * len(pages) > 60
    rules = [{"record": f"runbook:{place}", "expr": query} for place, query in enumerate(queries)]
    assert check(tmp_path, rules) == (0, f"SUCCESS: {len(rules)} rules found")

    wrong = [{"record": "runbook:wrong", "expr": "sum by (le (rate(up[5m]))"}]
    assert check(tmp_path, wrong)[0] != 0


def queries_of(page: str) -> list[str]:
    blocks = re.findall(r"```promql\n(.*?)```", page, re.DOTALL)
    # In a sentence an expression stands in backticks: what calls a function is meant to be pasted.
    inline = re.findall(r"`((?:sum|max|min|topk|histogram_quantile)\b[^`]*\([^`]*streamgauge_[^`]*)`", page)
    return blocks + inline


def check(folder, rules: list[dict]) -> tuple[int, str]:
    path = folder / "rules.yaml"  # JSON is YAML too
    path.write_text(json.dumps({"groups": [{"name": "runbooks", "rules": rules}]}))
    command = [programs.installed("promtool", "prometheus"), "check", "rules", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout.strip().splitlines()[-1].strip() if done.returncode == 0 else done.stderr


# The pages whose queries must all have an answer when requests hang, break off and get 503.
PAGES = [
    *("Hung", "SLOBurnFast", "SLOBurnSlow", "SLOThreshold", "UpstreamErrors", "TruncatedStreams"),
    *("DecodeSlow", "QueueGrowing"),
]
CONFIG = """
upstream: http://{}:{}
models: [{{match: [sim], name: sim}}]
slos: [{{name: chat, objective: 99%, ttft: 1s}}]
"""


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    """A Prometheus that has watched a sidecar whose upstream serves some requests and fails others."""
    folder = tmp_path_factory.mktemp("troubled")
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(programs.simulated(folder, "--ttft", "50ms", "--tokens", "20"))
        config = folder / "config.yaml"
        config.write_text(CONFIG.format(*upstream))
        sidecar = stack.enter_context(programs.sidecar(None, folder, "--config", str(config)))
        server = stack.enter_context(programs.prometheus(sidecar.metrics_url, folder))
        hanging = stack.enter_context(Connection(sidecar.address))
        stack.callback(hanging.socket.shutdown, socket.SHUT_RDWR)  # closing it would not wake who reads it
        threading.Thread(target=ask, args=(hanging, sidecar.address, "hang"), daemon=True).start()
        deadline = time.monotonic() + 13  # the first query of Hung asks for more than 10 s
        while time.monotonic() < deadline:
            for fault in ("none", "status=503", "cut@5"):
                with Connection(sidecar.address) as connection:
                    ask(connection, sidecar.address, fault)
        yield server


def ask(connection: Connection, address: tuple[str, int], fault: str) -> None:
    body = {"model": "sim", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    body["stream_options"] = {"include_usage": True}
    with contextlib.suppress(EOFError, OSError):  # what is cut, or hangs until its connection is closed
        connection.exchange(request("POST", "/v1/chat/completions", address, body, f"x-sim-fault: {fault}"))


@pytest.mark.parametrize("name", PAGES)
def test_its_queries_find_the_trouble(troubled, name):
    page = (programs.ROOT / f"docs/runbooks/Streamgauge{name}.md").read_text()
    for query in re.findall(r"```promql\n(.*?)```", page, re.DOTALL):
        if "offset" in query:
            continue  # asks for what was before the test
        assert api(troubled, "query", query=query)["result"], query
