"""Reads `/metrics` as a scraper does, and checks on every scrape what must always hold."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: \d+)?$')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
PREFIX = "streamgauge_"


class Scrape:
    """One page of Prometheus text 0.0.4."""

    def __init__(self, text: str):
        self.text = text
        self.samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for line in text.splitlines():
            if not line or line.startswith("#"):
                continue
            found = SAMPLE.match(line)
            assert found, f"not a sample: {line!r}"
            labels = {key: value for key, value in LABEL.findall(found[2] or "")}
            self.samples.setdefault(found[1], []).append((labels, float(found[3])))

    def each(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        samples = self.samples.get(name if name.startswith("process_") else PREFIX + name, [])
        return [(own, value) for own, value in samples if labels.items() <= own.items()]

    def sum(self, name: str, **labels: str) -> float:
        """0 where there is no such series."""
        return sum(value for _, value in self.each(name, **labels))

    def only(self, name: str, **labels: str) -> float:
        values = self.each(name, **labels)
        assert len(values) == 1, f"{len(values)} series of {name} {labels}, not one: {values}"
        return values[0][1]

    def by(self, name: str, label: str) -> Counter:
        sums: Counter = Counter()
        for labels, value in self.each(name):
            sums[labels.get(label, "")] += value
        return sums

    @property
    def settled(self) -> bool:
        """Nothing is open and each ended exchange has its full record, or is counted as dropped."""
        return self.sum("requests_in_flight") == 0 and self.unrecorded() == 0

    def unrecorded(self) -> float:
        return self.sum("requests_ended_total") - self.sum("requests_total") - self.sum("records_dropped_total", stage="channel")

    def settled_tokens(self, direction: str) -> float:
        """The token counter, less what live counting added too much and still owes."""
        owed = self.sum("unsettled_tokens", direction=direction, state="owed")
        return self.sum(f"{direction}_tokens_total") - owed

    def check_identity(self) -> None:
        """started = ended + in flight, for each upstream, at this very scrape."""
        started, ended, open_ = (
            self.by(name, "upstream") for name in ("requests_started_total", "requests_ended_total", "requests_in_flight")
        )
        for upstream in started.keys() | ended.keys() | open_.keys():
            counted = (started[upstream], ended[upstream], open_[upstream])
            assert counted[0] == counted[1] + counted[2], f"started, ended, in flight of {upstream!r}: {counted}"
            assert counted[2] >= 0, f"{upstream!r} has {counted[2]} exchanges in flight"


class Scraper:
    """Asks for `/metrics` over one connection that stays open."""

    def __init__(self, url: str):
        self.url = urlsplit(url)
        self._connection: http.client.HTTPConnection | None = None

    def text(self, accept: str = "text/plain") -> str:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=30)
        try:
            self._connection.request("GET", self.url.path, headers={"Accept": accept})
            answer = self._connection.getresponse()
            body = answer.read().decode()
        except (http.client.HTTPException, OSError):
            self._connection = None
            raise
        assert answer.status == 200, f"{self.url.geturl()} answered {answer.status}: {body[:200]}"
        return body

    def scrape(self) -> Scrape:
        return Scrape(self.text())

    def wait(self, what: str, holds, timeout: float = 10) -> Scrape:
        """Scrapes until `holds(scrape)`, and says what was waited for in vain."""
        deadline = time.monotonic() + timeout
        while True:
            scrape = self.scrape()
            scrape.check_identity()
            if holds(scrape):
                return scrape
            if time.monotonic() > deadline:
                lines = [line for line in scrape.text.splitlines() if "requests" in line and line[0] != "#"]
                raise AssertionError(f"waited {timeout} s in vain: {what}\n" + "\n".join(lines))
            time.sleep(0.02)

    def settled(self, started: int, timeout: float = 10) -> Scrape:
        """The page once `started` exchanges have begun and all of them are in the books."""
        return self.wait(
            f"{started} exchanges started, all settled",
            lambda scrape: scrape.sum("requests_started_total") >= started and scrape.settled,
            timeout,
        )


class Watch:
    """Scrapes all the time in the background; leaving it raises what any scrape found wrong."""

    def __init__(self, url: str, pause: float = 0.02, check=None):
        self._scraper = Scraper(url)
        self._pause = pause
        self._check = check
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.scrapes = 0
        self.most_in_flight = 0.0
        self._wrong: BaseException | None = None
        self._last: dict[str, float] = {}

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self._over.set()
        self._thread.join(60)
        if self._wrong is not None and kind is None:
            raise self._wrong

    def _run(self) -> None:
        try:
            while not self._over.wait(self._pause):
                scrape = self._scraper.scrape()
                scrape.check_identity()
                self._never_down(scrape)
                if self._check is not None:
                    self._check(scrape)
                self.most_in_flight = max(self.most_in_flight, scrape.sum("requests_in_flight"))
                self.scrapes += 1
        except BaseException as error:  # handed to the test's own thread
            self._wrong = error

    def _never_down(self, scrape: Scrape) -> None:
        names = ["requests_started_total", "requests_ended_total", "requests_total"]
        for name in [*names, "input_tokens_total", "output_tokens_total"]:
            value = scrape.sum(name)
            assert value >= self._last.get(name, 0), f"{name} went down: {self._last[name]} to {value}"
            self._last[name] = value
