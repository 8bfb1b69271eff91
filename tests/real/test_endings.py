"""What starts a clock, what ends an exchange, and how soon: before an upstream that does as it is told."""

import time

import pytest

import programs
from exposition import Scraper, Watch
from upstreams import event, scripted
from wire import Connection, request


def ask(address: tuple[str, int], stream: bool = True) -> bytes:
    body = {"model": "scripted", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    return request("POST", "/v1/chat/completions", address, body)


def test_role_only_event_does_not_stop_ttft(tmp_path):
    """The role comes at once, the first content 300 ms later, the next 100 ms after that."""

    def script(client):
        client.head()
        client.chunk(event())
        client.chunk(event(""))
        client.chunk(b": keep-alive\n\n")
        time.sleep(0.3)
        client.chunk(event("one"))
        time.sleep(0.1)
        client.chunk(event(" two"))
        client.finish()

    with scripted(script) as (upstream, _), programs.sidecar(upstream, tmp_path) as sidecar:
        with Connection(sidecar.address) as connection:
            arrival = connection.exchange(ask(sidecar.address))
        page = Scraper(sidecar.metrics_url).settled(started=1)

    first = arrival.first_content_after()
    assert 0.3 <= first < 0.4
    assert page.only("time_to_first_token_seconds_count") == 1
    assert abs(page.only("time_to_first_token_seconds_sum") - first) < 0.005
    assert page.sum("time_to_first_byte_seconds_sum") < 0.1
    assert 0.39 < page.only("request_duration_seconds_sum") < 0.6
    assert 0.09 < page.only("longest_token_gap_seconds_sum") < 0.2
    # The first event brought one token of three; the other two came within 100 ms.
    assert 0.045 < page.only("time_per_output_token_seconds_sum") < 0.1


def test_hung_stream_shows_while_it_hangs(tmp_path):
    """No histogram can show a request that never gets its first token; the gauges do, and lose it when it ends."""
    with (
        scripted(lambda client: (client.head(), client.chunk(event()), client.closed_at(30))) as (upstream, _),
        programs.sidecar(upstream, tmp_path) as sidecar,
    ):
        scraper = Scraper(sidecar.metrics_url)
        with Connection(sidecar.address) as connection:
            begun = time.monotonic()
            arrival = connection.send(ask(sidecar.address))
            connection.read_until_body_has(arrival, b"assistant")
            page = scraper.wait(
                "the hung request is over 1 s old",
                lambda page: page.sum("oldest_awaiting_first_token_seconds") > 1,
                timeout=5,
            )
            age = page.only("oldest_awaiting_first_token_seconds")
            assert abs(age - (time.monotonic() - begun)) < 0.3
            assert page.only("requests_awaiting_first_token") == 1
            assert page.sum("requests_in_flight") == 1
            assert page.sum("time_to_first_token_seconds_count") == 0
        page = scraper.settled(started=1)
        assert page.sum("requests_awaiting_first_token") == page.sum("oldest_awaiting_first_token_seconds") == 0
        assert page.only("requests_total", outcome="client_gone") == page.sum("requests_total") == 1
        assert page.only("client_disconnects_total", phase="before_first_token") == 1


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("phase", ["before_head", "before_first_token", "streaming"])
def test_client_that_leaves_frees_the_upstream_at_once(tmp_path, phase, how):
    """The upstream's connection is closed within 100 ms, and the exchange counts once, as the client's doing."""
    times = 10

    def script(client):
        if phase != "before_head":
            client.head()
            client.chunk(event())
        if phase != "streaming":
            return client.closed_at(5) or "the connection was never closed"
        return client.closed_at(5, lambda: client.chunk(event(" word"))) or "the connection was never closed"

    waits = []
    with (
        scripted(script) as (upstream, results),
        programs.sidecar(upstream, tmp_path) as sidecar,
        Watch(sidecar.metrics_url),
    ):
        for _ in range(times):
            connection = Connection(sidecar.address)
            arrival = connection.send(ask(sidecar.address))
            if phase == "before_head":
                time.sleep(0.05)
            else:
                connection.read_until_body_has(arrival, b"word" if phase == "streaming" else b"assistant")
            left = time.monotonic_ns()
            connection.reset() if how == "reset" else connection.socket.close()
            closed = results.get(timeout=10)
            assert isinstance(closed, int), closed
            waits.append((closed - left) / 1e6)
        page = Scraper(sidecar.metrics_url).settled(started=times)

    print(f"upstream closed after {max(waits):.1f} ms at most")
    assert max(waits) < 100
    assert page.sum("requests_started_total") == page.sum("requests_ended_total") == times
    assert page.sum("requests_total", outcome="client_gone") == page.sum("requests_total") == times
    counted_as = "streaming" if phase == "streaming" else "before_first_token"
    assert page.sum("client_disconnects_total", phase=counted_as) == page.sum("client_disconnects_total") == times
    # The usage would have come with the last event: nobody reported these.
    assert page.sum("token_counts_total", source="reported") == 0
    if phase != "before_head":
        assert page.sum("token_counts_total", direction="output") == times


def test_broken_stream_is_the_upstreams_doing(tmp_path):
    """A stream that ends without its mark reaches the client as broken, and counts as truncated."""

    def script(client):
        client.head()
        client.chunk(event("one"))
        return "leaves"

    with scripted(script) as (upstream, _), programs.sidecar(upstream, tmp_path) as sidecar:
        with Connection(sidecar.address) as connection, pytest.raises((EOFError, ConnectionResetError)):
            connection.exchange(ask(sidecar.address))
        page = Scraper(sidecar.metrics_url).settled(started=1)
    assert page.only("requests_total", outcome="truncated", code="200") == page.sum("requests_total") == 1


def test_no_upstream_is_a_502_that_says_who(tmp_path):
    with programs.sidecar(("127.0.0.1", programs.free_port()), tmp_path) as sidecar:
        with Connection(sidecar.address) as connection:
            answer = connection.exchange(ask(sidecar.address)).answer
        page = Scraper(sidecar.metrics_url).settled(started=1)
    assert answer.status == 502
    assert (answer.header("proxy-status") or b"").startswith(b"streamgauge; error=connection_refused")
    assert answer.json()["error"]["message"]
    assert page.only("requests_total", outcome="upstream_failed", code="502") == page.sum("requests_total") == 1


@pytest.mark.parametrize("leaves", ["done", "refused"])
def test_keeps_the_connection_for_the_next(tmp_path, leaves):
    """Whole exchanges, one after the other, over one connection on either side.

    After a stream the upstream's connection rests a moment: it may be about to close."""
    connections = set()
    rest = 0.2 if leaves == "done" else 0

    def script(client):
        connections.add(id(client.connection))
        if leaves == "refused":
            client.connection.sendall(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}")
            return
        client.head()
        client.chunk(event("one"))
        client.finish()

    with scripted(script) as (upstream, _), programs.sidecar(upstream, tmp_path) as sidecar:
        with Connection(sidecar.address) as connection:
            for _ in range(5):
                connection.exchange(ask(sidecar.address))
                time.sleep(rest)
        page = Scraper(sidecar.metrics_url).settled(started=5)
    assert len(connections) == 1
    outcome = "completed" if leaves == "done" else "upstream_refused"
    assert page.only("requests_total", outcome=outcome) == page.sum("requests_total") == 5
    if leaves == "done":
        assert (page.settled_tokens("input"), page.settled_tokens("output")) == (35, 15)
    else:
        assert page.sum("input_tokens_total") == page.sum("output_tokens_total") == 0


def test_server_that_closes_after_each_stream(tmp_path):
    """llama.cpp promises keep-alive and closes right after each stream. A client that is quick must not pay for it."""

    def script(client):
        client.head()
        client.chunk(event("one"))
        client.finish()
        time.sleep(0.001)
        return "closes"

    with scripted(script) as (upstream, _), programs.sidecar(upstream, tmp_path) as sidecar:
        with Connection(sidecar.address) as connection:
            statuses = [connection.exchange(ask(sidecar.address)).answer.status for _ in range(100)]
    assert statuses == [200] * 100, f"{len(statuses) - statuses.count(200)} of 100 were not answered 200"
