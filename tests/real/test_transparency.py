"""Nothing is changed and nothing is held back: bytes against a wire-tap, delay against nginx."""

import hashlib
import json
import random
from statistics import median

import pytest

import programs
import tee
from delays import one_way_delays, streamed_at_once
from wire import Connection, Message, end_to_end, exchange, request

CHAT = {
    "model": programs.MODEL,
    "max_tokens": 12,
    "temperature": 0,
    "seed": 7,
    "cache_prompt": False,
    "messages": [{"role": "user", "content": "Grüße aus Zürich — 你好, \"quoted\"\n"}],
}
STREAM = CHAT | {"stream": True, "stream_options": {"include_usage": True}}


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def requests(address: tuple[str, int]) -> dict[str, bytes]:
    spaced = json.dumps(STREAM, indent=3).encode() + b"\n \n"
    cases = {
        "stream": request("POST", "/v1/chat/completions", address, STREAM),
        "stream without usage": request("POST", "/v1/chat/completions", address, CHAT | {"stream": True}),
        "whole": request("POST", "/v1/chat/completions", address, CHAT),
        "completions": request("POST", "/v1/completions", address, {"prompt": "one two", "max_tokens": 5, "stream": True}),
        "odd spacing, odd headers": request(
            "POST", "/v1/chat/completions?a=%20b&a=c", address, spaced,
            "x-MiXeD-Case:  two  spaces ", "X-Twice: 1", "Accept: */*", "X-Twice: 2", "Authorization: Bearer sk-secret",
            "User-Agent: raw/1", "X-Request-Id: abc", "X-Empty:", "traceparent: 00-" + "1" * 32 + "-" + "2" * 16 + "-01",
        ),
        "chunked request": request(
            "POST", "/v1/chat/completions", address, chunked(spaced[:40], spaced[40:41], spaced[41:]),
            "Transfer-Encoding: chunked",
        ),
        "models": request("GET", "/v1/models", address),
        "head": request("HEAD", "/health", address),
        "no such path": request("GET", "/no/such/path?x=1", address),
        "bad JSON": request("POST", "/v1/chat/completions", address, b'{"model": '),
        "wrong type": request("POST", "/v1/chat/completions", address, {"messages": 3}),
        "tokenize": request("POST", "/tokenize", address, {"content": "hello"}),
        "big prompt that is refused": request(
            "POST", "/v1/chat/completions", address, CHAT | {"messages": [{"role": "user", "content": "x " * 300_000}]}
        ),
    }  # fmt: skip
    return {name: sent.replace(b"\r\n", f"\r\nX-Case: {name}\r\n".encode(), 1) for name, sent in cases.items()}


def test_every_byte_passes_as_it_is(llama, tmp_path):
    """What the server saw and sent, by a tap between it and the sidecar, against what the client sent and saw."""
    with tee.tee(llama) as (tap, record), programs.sidecar(tap, tmp_path) as sidecar:
        sent = requests(sidecar.address)
        seen = {name: exchange(sidecar.address, plain).answer for name, plain in sent.items()}

    statuses = {name: answer.status for name, answer in seen.items()}
    exchanges = {request.header("x-case").decode(): (request, answer) for request, answer in record.exchanges()}
    assert exchanges.keys() == seen.keys(), statuses
    for name, received in seen.items():
        arrived, answered = exchanges[name]
        own = Message()
        assert own.push(sent[name]) == b"" and own.complete
        same(name + ": request", own, arrived)
        same(name + ": answer", answered, received)
    assert statuses["stream"] == 200 and statuses["bad JSON"] >= 400 and statuses["no such path"] == 404


def same(what: str, sent: Message, received: Message) -> None:
    assert received.start == sent.start, what
    assert end_to_end(received) == end_to_end(sent), what
    assert hashlib.sha256(received.body).digest() == hashlib.sha256(sent.body).digest(), what
    assert received.trailers == sent.trailers, what


def test_answers_are_the_same_with_and_without(llama, tmp_path):
    """The same request straight to the server and through the sidecar, apart from ids and times."""
    with programs.sidecar(llama, tmp_path) as sidecar:
        for name, body in (("stream", STREAM), ("whole", CHAT)):
            straight, through = (
                exchange(address, request("POST", "/v1/chat/completions", address, body)).answer
                for address in (llama, sidecar.address)
            )
            assert digest(straight) == digest(through), name


def digest(answer: Message) -> str:
    body = bytes(answer.body)
    events = body.split(b"\n\n") if body.startswith(b"data:") else [body]
    plain = hashlib.sha256()
    for event in events:
        data = event.removeprefix(b"data: ")
        if data in (b"", b"[DONE]"):
            plain.update(event)
            continue
        members = json.loads(data)
        for varying in ("id", "created", "timings"):
            members.pop(varying, None)
        plain.update(json.dumps(members).encode())  # keeps the members' order
    return plain.hexdigest()


@pytest.mark.parametrize(("streams", "interval_ms"), [(8, 10), (1, 5)])
def test_no_chunk_is_delayed_more_than_by_nginx(tmp_path, streams, interval_ms):
    """One-way delay of each chunk: straight, through nginx and through the sidecar, in the same rounds.

    A guard against whatever holds a chunk back: Nagle's algorithm (40 ms), a timer, a flush that is forgotten. nginx's
    own delay is 35 us in one round and 55 us in the next, so how close the two are is `scripts/bench-proxy delay` to say.
    """
    with (
        programs.python("clock_upstream.py", tmp_path, str(interval_ms)) as upstream,
        programs.nginx(upstream, tmp_path) as nginx,
        programs.sidecar(upstream, tmp_path) as sidecar,
    ):
        ways = {"straight": upstream, "nginx": nginx, "sidecar": sidecar.address}
        added = measure(ways, streams, interval_ms / 1000)
        assert added["sidecar"] <= 3 * added["nginx"] + 50_000, added


def measure(ways: dict[str, tuple[str, int]], streams: int, interval: float) -> dict[str, float]:
    """The median delay that each proxy adds to a chunk, in nanoseconds."""
    rounds, events = 24, 50
    connections = {way: [Connection(address) for _ in range(streams)] for way, address in ways.items()}
    delays = {way: [] for way in ways}
    order = list(ways)
    for turn in range(rounds + 1):
        random.Random(turn).shuffle(order)
        for way in order:
            found = one_way_delays(streamed_at_once(connections[way], ways[way], events, interval))
            if turn:  # the first round warms up
                delays[way].append(median(found))
    added = {
        way: median(own - straight for own, straight in zip(delays[way], delays["straight"], strict=True))
        for way in ("nginx", "sidecar")
    }
    print(
        f"{streams} streams, a chunk each {interval * 1e3:g} ms; median delay of a chunk, µs: straight "
        f"{median(delays['straight']) / 1e3:.1f}; added by nginx {added['nginx'] / 1e3:.1f}, "
        f"by the sidecar {added['sidecar'] / 1e3:.1f}"
    )
    return added
