"""From a slow first token to the page: the shipped rules in a real Prometheus, a real Alertmanager, a webhook.

A fire drill (`streamgauge rules --rehearsal 60`): an hour is a minute, five minutes are five seconds.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import programs
from test_prometheus import api, value

CONFIG = """
upstreams:
  - {{name: main, url: "http://{host}:{port}"}}
  - {{name: idle, url: "http://{host}:{port}", match: {{host: idle.example}}}}
tenants: {{known: [search, support, quiet]}}
models: [{{name: small}}, {{name: large}}]
slos:
  - {{name: chat, objective: 99%, ttft: 300ms}}
"""

EVALUATION = 1  # second between two evaluations, and two scrapes
DELIVERY = 3  # through Alertmanager, on a machine that has other things to do


class Pager(ThreadingHTTPServer):
    """Takes Alertmanager's webhooks; remembers every alert that it was told of, and when."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Call)
        self.alerts: list[tuple[float, dict]] = []

    def wait(self, status: str, timeout: float, **labels: str) -> tuple[float, dict]:
        """The first alert of this status with these labels, and when it came."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = self.found(status, **labels)
            if found:
                return found[0]
            time.sleep(0.1)
        raise AssertionError(f"no {status} {labels} after {timeout} s; came: {[one['labels'] for _, one in self.alerts]}")

    def found(self, status: str, **labels: str) -> list[tuple[float, dict]]:
        return [
            (at, alert)
            for at, alert in list(self.alerts)
            if alert["status"] == status and labels.items() <= alert["labels"].items()
        ]


class Call(BaseHTTPRequestHandler):
    def do_POST(self):  # noqa: N802
        told = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.alerts += [(time.monotonic(), alert) for alert in told["alerts"]]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def pager() -> Iterator[Pager]:
    server = Pager()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()


class Clients:
    """Tenants that ask for streams, each so often, until the end of the `with`."""

    def __init__(self, address: tuple[str, int]):
        self.address = address
        self.slow = threading.Event()
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []

    def ask(self, tenant: str, model: str, timeout: float = 120, **headers: str) -> None:
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        own = {"x-tenant-id": tenant, "x-sim-tokens": "3", "content-type": "application/json"}
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("POST", "/v1/chat/completions", json.dumps(body), own | headers)
            connection.getresponse().read()
        connection.close()

    def send(self, tenant: str, model: str, pause: float, can_be_slow: bool = False, **headers: str) -> None:
        def run():
            while not self._end.wait(pause):
                slow = can_be_slow and self.slow.is_set()
                own = headers | ({"x-sim-ttft": "600ms"} if slow else {})
                # Whoever gets nothing leaves after a while.
                threading.Thread(target=self.ask, args=(tenant, model, 5), kwargs=own, daemon=True).start()

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def rules(config: Path, folder: Path) -> Path:
    arguments = ["rules", "--config", str(config), "--rehearsal", "60", "--runbooks", "https://runbooks.example"]
    made = subprocess.run([programs.streamgauge(), *arguments], capture_output=True, text=True, check=True)
    path = folder / "rules.yaml"
    path.write_text(made.stdout)
    return path


def alertmanager_config(pager: Pager, folder: Path) -> Path:
    """The shipped configuration, in a hurry, with receivers."""
    text = (programs.ROOT / "deploy/prometheus/alertmanager.yaml").read_text()
    for key, time_ in (("group_wait", "0s"), ("group_interval", "1s")):
        text, changed = re.subn(rf"{key}: \w+", f"{key}: {time_}", text)
        assert changed == 1, key
    webhook = f"\n    webhook_configs: [{{url: http://127.0.0.1:{pager.server_address[1]}, send_resolved: true}}]"
    text, changed = re.subn(r"(?m)^  - name: (pager)$", rf"  - name: \1{webhook}", text)
    assert changed == 1, text
    path = folder / "alertmanager.yaml"
    path.write_text(text)
    return path


def test_a_page_arrives_for_what_users_feel_and_for_nothing_else(tmp_path):
    with contextlib.ExitStack() as stack:
        start = stack.enter_context
        upstream = start(programs.simulated(tmp_path, "--ttft", "50ms", "--tps", "200"))
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG.format(host=upstream[0], port=upstream[1]))
        sidecar = start(programs.sidecar(None, tmp_path, "--config", str(config)))
        webhook = start(pager())
        alertmanager = start(programs.alertmanager(alertmanager_config(webhook, tmp_path), tmp_path))
        server = start(
            programs.prometheus(sidecar.metrics_url, tmp_path, rules=rules(config, tmp_path), alertmanager=alertmanager)
        )
        clients = start(Clients(sidecar.address))

        # One request to another upstream hangs from the beginning.
        hung = {"host": "idle.example", "x-sim-fault": "hang"}
        threading.Thread(target=clients.ask, args=("search", "small"), kwargs=hung, daemon=True).start()
        hung_at = time.monotonic()
        clients.send("search", "small", 0.2)
        clients.send("support", "large", 0.2, can_be_slow=True)
        # A quiet tenant's few requests are all slow: two in an hour page nobody.
        for _ in range(2):
            clients.ask("quiet", "small", **{"x-sim-ttft": "600ms"})

        at, alert = webhook.wait("firing", 100, alertname="StreamgaugeHung")
        assert 60 <= at - hung_at < 75, at - hung_at
        assert alert["labels"]["upstream"] == "idle"
        assert alert["annotations"]["runbook_url"] == "https://runbooks.example/StreamgaugeHung.md"
        assert re.search(r"1m \d+s", alert["annotations"]["summary"]), alert["annotations"]
        tokens = 'sum(streamgauge_time_to_first_token_seconds_count{upstream="idle"}) or vector(0)'
        assert value(server, tokens) == 0, "no histogram knows of it"
        burns = webhook.found("firing", alertname="StreamgaugeSLOBurnFast")
        assert not burns, burns

        clients.slow.set()
        slow_at = time.monotonic()
        at, alert = webhook.wait("firing", 60, alertname="StreamgaugeSLOBurnFast")
        labels, annotations = alert["labels"], alert["annotations"]
        assert (labels["slo"], labels["tenant"], labels["model"]) == ("chat", "support", "large"), labels
        share = float(re.search(r"([\d.]+)%", annotations["summary"])[1])
        assert 6 <= share <= 100, annotations  # six times as many as 99 % allow: a drill has no six hours of history
        assert annotations["runbook_url"] == "https://runbooks.example/StreamgaugeSLOBurnFast.md"
        over = [f'slo_tenant_model:streamgauge_slo_bad:ratio_rate{window}{{tenant="support"}} > 0.06' for window in ("6h", "30m")]
        since_breach = time.time() - (time.monotonic() - at) - first_over(server, " and ".join(over))
        print(f"the page came {at - slow_at:.1f} s after the first slow request, {since_breach:.1f} s after the breach")
        assert since_breach <= 2 * EVALUATION + DELIVERY

        clients.slow.clear()
        healed_at = time.monotonic()
        at, _ = webhook.wait("resolved", 60, alertname="StreamgaugeSLOBurnFast", tenant="support")
        print(f"resolved {at - healed_at:.1f} s after it healed")
        paged = {(alert["labels"]["alertname"], alert["labels"].get("tenant")) for _, alert in webhook.alerts}
        assert paged == {("StreamgaugeHung", None), ("StreamgaugeSLOBurnFast", "support")}, paged
        assert not unhealthy(server)


def first_over(server: str, query: str) -> float:
    """When a query first had a value."""
    now = time.time()
    found = api(server, "query_range", query=query, start=now - 60, end=now, step=1)["result"]
    return min(float(at) for series in found for at, _ in series["values"])


def unhealthy(server: str) -> list:
    """Rules that could not be evaluated."""
    all_rules = read_rules(server)
    assert len(all_rules) > 30
    return [(rule["name"], rule["lastError"]) for rule in all_rules if rule["health"] != "ok"]


SELECTOR = re.compile(r"(?:[a-z_]+:)?(?:streamgauge_[a-z0-9_]+|\bup\b)(?::[a-z0-9_]+)?(?:\{[^}]*\})?")
COMPARISON = re.compile(r"\{[^}]*\}|unless [^)]*|(==|!=|>=|<=|>|<)(?! *bool)")  # what `unless` excepts stays so
ROUND = 120  # seconds, after which the demonstration's story begins again
ELSEWHERE = (
    "streamgauge_limit_store_up",  # where a Redis keeps limits: test_limits
    "2 * max_over_time(tenant_currency:",  # a day's history: deploy/prometheus/tests
)


@contextlib.contextmanager
def demonstration(folder: Path) -> Iterator[str]:
    """A Prometheus that watches a `streamgauge demo`, with the rules of its configuration: its URL."""
    with programs.demo(folder) as demo:
        config = folder / "config.yaml"
        config.write_bytes(urllib.request.urlopen(demo.metrics_url.replace("/metrics", "/config"), timeout=10).read())
        with programs.prometheus(demo.metrics_url, folder, rules=rules(config, folder)) as server:
            yield server


def test_every_rule_has_data_during_the_demonstration(tmp_path):
    """Every series that a rule asks for, and every rule as a whole where its comparisons only say yes or no."""
    with demonstration(tmp_path) as server:
        queries = {rule["query"] for rule in read_rules(server)}
        whole = {COMPARISON.sub(lambda found: found[0] + (" bool " if found[1] else ""), query) for query in queries}
        all_queries = whole | {found for query in queries for found in SELECTOR.findall(query)}
        wanted = sorted(query for query in all_queries if not any(each in query for each in ELSEWHERE))
        assert len(wanted) > 100 and len(wanted) + 3 == len(all_queries), wanted
        deadline = time.monotonic() + ROUND + 30
        while wanted and time.monotonic() < deadline:
            time.sleep(1)
            wanted = [query for query in wanted if not api(server, "query", query=query)["result"]]
        assert not wanted, "\n".join(wanted)
        assert not unhealthy(server)


def read_rules(server: str) -> list[dict]:
    return [rule for group in api(server, "rules")["groups"] for rule in group["rules"]]
