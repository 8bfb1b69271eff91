"""The numbers, before a real inference server with real weights: against its own usage and the client's own clock."""

import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean

import programs
from exposition import Scraper, Watch
from wire import Arrival, Connection, request

EACH = 50
CLIENTS = 4


def ask(number: int, address: tuple[str, int], stream: bool) -> bytes:
    body = {
        "model": programs.MODEL,
        "max_tokens": 8 + number % 9,
        "seed": number,
        "messages": [{"role": "user", "content": f"{'word ' * (number % 13)}Tell me about the number {number}."}],
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    headers = (f"X-Tenant-Id: team-{number % 3}", f"X-Request-Id: number-{number}")
    return request("POST", "/v1/chat/completions", address, body, *headers)


def test_tokens_equal_the_servers_usage_and_ttft_the_clients_clock(llama, tmp_path):
    with programs.sidecar(llama, tmp_path) as sidecar, Watch(sidecar.metrics_url) as watch:
        asked = [(number, stream) for number in range(EACH) for stream in (True, False)]
        random.Random(1).shuffle(asked)
        arrivals = drive(sidecar.address, asked)
        page = Scraper(sidecar.metrics_url).settled(started=2 * EACH)

    assert all(arrival.answer.status == 200 for arrival in arrivals)
    usages = [arrival.usage() for arrival in arrivals]
    assert page.settled_tokens("input") == sum(usage["prompt_tokens"] for usage in usages)
    assert page.settled_tokens("output") == sum(usage["completion_tokens"] for usage in usages)
    for tenant in range(3):
        own = [usage for (number, _), usage in zip(asked, usages, strict=True) if number % 3 == tenant]
        counted = page.sum("output_tokens_total", tenant=f"team-{tenant}")
        owed = page.sum("unsettled_tokens", direction="output", state="owed")
        assert counted - owed <= sum(usage["completion_tokens"] for usage in own) <= counted

    exchanges = page.each("requests_total", outcome="completed", code="200", dialect="openai_chat")
    assert sum(value for _, value in exchanges) == 2 * EACH == page.sum("requests_total")
    assert page.sum("requests_total", stream="true") == EACH
    for direction in ("input", "output"):
        assert page.sum("token_counts_total", direction=direction, source="reported") == 2 * EACH

    seen = [first for arrival in arrivals if (first := arrival.first_content_after()) is not None]
    assert page.sum("time_to_first_token_seconds_count") == len(seen) > EACH / 2
    measured = page.sum("time_to_first_token_seconds_sum") / len(seen)
    print(f"mean TTFT: client {fmean(seen) * 1e3:.3f} ms, sidecar {measured * 1e3:.3f} ms; {watch.scrapes} scrapes")
    assert abs(measured - fmean(seen)) < 0.002
    assert watch.scrapes > 100 and watch.most_in_flight > 1


def test_log_agrees_with_metrics(llama, tmp_path):
    """The request log has one line for each exchange, and its numbers add up to the counters."""
    with programs.sidecar(llama, tmp_path) as sidecar:
        arrivals = drive(sidecar.address, [(number, number % 2 == 0) for number in range(6)])
        page = Scraper(sidecar.metrics_url).settled(started=6)
        sidecar.program.stop()
        lines = sidecar.log()

    assert len(lines) == 6
    assert sum(line["output_tokens"] for line in lines) == page.settled_tokens("output")
    assert sum(line["input_tokens"] for line in lines) == page.settled_tokens("input")
    assert {line["input_source"] for line in lines} == {line["output_source"] for line in lines} == {"reported"}
    by_stream = [line for line in lines if line["stream"]]
    assert len(by_stream) == 3
    assert all("ttft_seconds" not in line for line in lines if not line["stream"])
    measured = {line["request_id"]: line.get("ttft_seconds") for line in by_stream}
    seen = {f"number-{number}": arrivals[number] for number in range(0, 6, 2)}
    assert measured.keys() == seen.keys()
    for request_id, arrival in seen.items():
        first = arrival.first_content_after()
        assert (measured[request_id] is None) == (first is None), "a model may say nothing at all"
        # The client's clock starts before the sidecar's and stops after it; the server's runs in between.
        assert first is None or arrival.prompt_seconds() <= measured[request_id] <= first
    assert any(measured.values())
    text = sidecar.program.out.read_text() + sidecar.program.err.read_text()
    assert "Tell me about" not in text, "a prompt in the log"


def drive(address: tuple[str, int], asked: list[tuple[int, bool]]) -> list[Arrival]:
    """All exchanges, some at a time, each client over a connection that it keeps."""
    numbered = itertools.count()
    arrivals: dict[int, Arrival] = {}

    def client(_: int) -> None:
        with Connection(address) as connection:
            while (turn := next(numbered)) < len(asked):
                number, stream = asked[turn]
                arrivals[turn] = connection.exchange(ask(number, address, stream))

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    return [arrivals[turn] for turn in range(len(asked))]
