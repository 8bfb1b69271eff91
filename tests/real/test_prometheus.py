"""A real Prometheus reads the page: it is up, its queries have values, its exemplars are there, promtool is content."""

import json
import math
import subprocess
import threading
import time
import urllib.parse
import urllib.request

import programs
from exposition import Scraper
from upstreams import event, scripted
from wire import Connection, request

SECONDS = 10


def test_prometheus_scrapes_and_answers(tmp_path):
    def script(client):
        client.head()
        time.sleep(0.02)
        for word in ("one", " two", " three"):
            client.chunk(event(word))
            time.sleep(0.01)
        client.finish()

    with (
        scripted(script) as (upstream, _),
        programs.sidecar(upstream, tmp_path) as sidecar,
        programs.prometheus(sidecar.metrics_url, tmp_path) as server,
        traffic(sidecar.address) as sent,
    ):
        time.sleep(SECONDS)
        assert value(server, 'up{job="streamgauge"}') == 1
        quantile = value(
            server, "histogram_quantile(0.5, sum by (le) (rate(streamgauge_time_to_first_token_seconds_bucket[5s])))"
        )
        assert 0.01 < quantile <= 0.1, quantile
        assert value(server, "sum(rate(streamgauge_requests_total[5s]))") > 1
        assert value(server, "sum(rate(streamgauge_output_tokens_total[5s]))") > 3
        identity = "sum(streamgauge_requests_started_total - streamgauge_requests_ended_total - streamgauge_requests_in_flight)"
        assert value(server, identity) == 0

        exemplars = api(server, "query_exemplars", query="streamgauge_time_to_first_token_seconds_bucket", **window())
        labels = [exemplar["labels"] for series in exemplars for exemplar in series["exemplars"]]
        assert labels and all(own["request_id"].startswith("scraped-") for own in labels), labels[:3]
        assert any(own.get("trace_id") == TRACE for own in labels), labels[:3]
        assert sent.count > SECONDS

        check_with_promtool(Scraper(sidecar.metrics_url))


def check_with_promtool(scraper: Scraper) -> None:
    text = scraper.text("text/plain")
    assert "time_to_first_token_seconds_bucket" in text
    found = subprocess.run(
        [programs.installed("promtool", "prometheus"), "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", ""), found

    metrics = scraper.text("application/openmetrics-text;version=1.0.0")
    assert metrics.endswith("# EOF\n") and ' # {' in metrics


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class traffic:
    """One request after the other until it is left."""

    def __init__(self, address: tuple[str, int]):
        self.address = address
        self.count = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join(10)

    def _run(self) -> None:
        body = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        with Connection(self.address) as connection:
            while not self._over.is_set():
                own = (f"X-Request-Id: scraped-{self.count}", f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01")
                connection.exchange(request("POST", "/v1/chat/completions", self.address, body, *own))
                self.count += 1


def value(server: str, query: str) -> float:
    """An instant query's only value."""
    result = api(server, "query", query=query)["result"]
    assert len(result) == 1, f"{query}: {result}"
    number = float(result[0]["value"][1])
    assert not math.isnan(number), query
    return number


def window() -> dict[str, float]:
    return {"start": time.time() - 60, "end": time.time() + 1}


def api(server: str, endpoint: str, **parameters):
    with urllib.request.urlopen(f"{server}/api/v1/{endpoint}?{urllib.parse.urlencode(parameters)}") as answer:
        found = json.load(answer)
    assert found["status"] == "success", found
    return found["data"]
