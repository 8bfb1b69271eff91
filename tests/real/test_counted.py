"""What nobody reports is counted: real weights behind a server that says nothing of tokens."""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import programs
import pytest
from exposition import Scraper

STREAMS = 100
LEARNING = 60  # streams whose tokens are reported, before those whose are not
TOPICS = "the sea, Zürich, 北京, a proof, שלום, an emoji 🌊, JSON, Rust code, 1 + 1, naïve façades".split(", ")


@pytest.fixture
def untimed(llama, tmp_path):
    with programs.python("untimed_upstream.py", tmp_path, "%s:%d" % llama) as address:
        yield address


def configuration(upstream, folder, tokenizer: str) -> list[str]:
    file = folder / "streamgauge.yaml"
    file.write_text(
        f"upstream: http://{upstream[0]}:{upstream[1]}\nmodels:\n  - {{name: {programs.MODEL}{tokenizer}}}\n"
    )
    return ["--config", str(file)]


def both(llama, untimed, folder) -> list[str]:
    """A configuration without tokenizer: who addresses the host `silent` gets the server that reports nothing."""
    file = folder / "streamgauge.yaml"
    file.write_text(f"""
upstreams:
  - {{name: silent, url: "http://{untimed[0]}:{untimed[1]}", match: {{host: silent}}}}
  - {{name: reporting, url: "http://{llama[0]}:{llama[1]}"}}
models:
  - {{name: {programs.MODEL}}}
""")
    return ["--config", str(file)]


def stream(address, number: int, leave_after: int | None = None, host: str = "any") -> list[str]:
    """Asks for a stream; the texts of the events that were read of it, to its end or to the one at which the client
    leaves."""
    body = {
        "model": programs.MODEL,
        "stream": True,
        "max_tokens": 10 + number % 25,
        "seed": number,
        "messages": [{"role": "user", "content": f"Say something about {TOPICS[number % len(TOPICS)]}."}],
    }
    connection = HTTPConnection(*address)
    headers = {"Content-Type": "application/json", "X-Request-Id": f"number-{number}", "Host": host}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    texts, events = [], 0
    for line in connection.getresponse():
        if line.startswith(b"data: {"):
            delta = json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"]
            texts += [delta["content"]] if delta.get("content") else []
            events += 1
        if events == leave_after:
            break
    connection.close()
    return texts


def get(address, path: str, body: dict | None = None):
    connection = HTTPConnection(*address)
    connection.request("POST" if body else "GET", path, json.dumps(body) if body else None)
    return json.loads(connection.getresponse().read())


def tokens(llama, text: str) -> int:
    return len(get(llama, "/tokenize", {"content": text})["tokens"])


def lines(sidecar, count: int) -> dict[str, dict]:
    """The request log by the request's id, once all are in it."""
    Scraper(sidecar.metrics_url).settled(started=count)
    for _ in range(100):
        if len(sidecar.log()) == count:
            break
        time.sleep(0.1)
    return {line["request_id"]: line for line in sidecar.log()}


def drive(address, leaving: dict[int, int], host: str = "any", numbers=range(STREAMS)) -> list[list[str]]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda number: stream(address, number, leaving.get(number), host), numbers))


def leaving_clients() -> dict[int, int]:
    return {number: random.Random(number).randint(1, 12) for number in range(STREAMS)}


def test_output_is_counted_as_the_server_would(llama, untimed, gemma_tokenizer, tmp_path):
    options = configuration(untimed, tmp_path, f", tokenizer: {{file: {gemma_tokenizer}}}")
    with programs.sidecar(None, tmp_path, *options) as sidecar:
        texts = ["".join(read) for read in drive(sidecar.address, {})]
        log = lines(sidecar, STREAMS)
    assert {line["output_source"] for line in log.values()} == {"tokenized"}
    counted = predicted = 0
    for number, text in enumerate(texts):
        line = log[f"number-{number}"]
        assert line["output_tokens"] == tokens(llama, text), text
        counted += line["output_tokens"]
        predicted += get(untimed, f"/predicted/number-{number}")
    print(f"counted {counted}, the server says {predicted}")
    assert abs(counted - predicted) <= 0.02 * predicted


def test_of_a_client_that_leaves_what_was_handed_to_it_is_counted(llama, untimed, gemma_tokenizer, tmp_path):
    leaving = leaving_clients()
    options = configuration(untimed, tmp_path, f", tokenizer: {{file: {gemma_tokenizer}}}")
    with programs.sidecar(None, tmp_path, *options) as sidecar:
        texts = ["".join(read) for read in drive(sidecar.address, leaving)]
        log = lines(sidecar, STREAMS)
    exact = 0
    for number, text in enumerate(texts):
        line = log[f"number-{number}"]
        assert line["output_source"] == "tokenized"
        # An event more may have been handed over before the client was known to have left.
        assert tokens(llama, text) <= line["output_tokens"] <= tokens(llama, text) + 2, text
        exact += line["output_tokens"] == tokens(llama, text)
    print(f"{exact} of {STREAMS} exactly")
    assert {line["outcome"] for line in log.values()} >= {"client_gone"}


@pytest.mark.parametrize("leaving", [{}, leaving_clients()], ids=["to the end", "leaving"])
def test_what_was_learned_from_reported_traffic_is_close(llama, untimed, tmp_path, leaving):
    with programs.sidecar(None, tmp_path, *both(llama, untimed, tmp_path)) as sidecar:
        drive(sidecar.address, {}, numbers=range(STREAMS, STREAMS + LEARNING))
        Scraper(sidecar.metrics_url).settled(started=LEARNING)
        reads = drive(sidecar.address, leaving, "silent")
        log = lines(sidecar, STREAMS + LEARNING)
        advice = sidecar.program.err.read_text().count(f"{programs.MODEL} at upstream silent reports no output tokens")
    silent = [log[f"number-{number}"] for number in range(STREAMS)]
    assert {(line["upstream"], line["output_source"]) for line in silent} == {("silent", "estimated")}
    estimated = sum(line["output_tokens"] for line in silent)
    if leaving:  # only one that left behind the last event can have told
        assert advice <= 1
        # An event more may have been handed over before the client was known to have left: a token, nearly always.
        unread = sum(line["chunks"] - len(read) for line, read in zip(silent, reads))
        assert 0 <= unread <= STREAMS / 2, "of a client in two, at most"
        real = sum(tokens(llama, "".join(read)) for read in reads) + unread
        print(f"{unread} events were handed over and not read")
    else:
        assert advice == 1
        real = sum(get(untimed, f"/predicted/number-{number}") for number in range(STREAMS))
    print(f"estimated {estimated}, really {real}: {estimated / real:.4f}")
    assert abs(estimated - real) <= 0.03 * real
