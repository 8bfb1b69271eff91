"""How long a chunk takes from the clock's upstream to its client."""

import json
import selectors
import time

from wire import Arrival, Connection, request


def streamed_at_once(
    connections: list[Connection], address: tuple[str, int], events: int, interval: float
) -> list[Arrival]:
    """Streams from the clock's upstream, one on each connection, their chunks in turn."""
    sent = request("POST", "/v1/chat/completions", address, {"model": "clock", "stream": True, "events": events})
    arrivals, due = [], time.monotonic()
    with selectors.DefaultSelector() as selector:
        while len(arrivals) < len(connections) or selector.get_map():
            waiting = len(arrivals) < len(connections)
            for key, _ in selector.select(max(0.0, due - time.monotonic()) if waiting else None):
                connection, arrival = key.data
                connection.read(arrival)
                if arrival.answer.complete:
                    selector.unregister(connection.socket)
            if waiting and time.monotonic() >= due:
                connection = connections[len(arrivals)]
                arrivals.append(connection.send(sent))
                selector.register(connection.socket, selectors.EVENT_READ, (connection, arrivals[-1]))
                due += interval / len(connections)
    assert all(len(arrival.events()) == events + 1 for arrival in arrivals)
    return arrivals


def one_way_delays(arrivals: list[Arrival]) -> list[int]:
    """Nanoseconds from the moment before each event was sent to the read that had all of it."""
    return [at - sent_at(data) for arrival in arrivals for at, data in arrival.events() if data != b"[DONE]"]


def delay_to_first(arrival: Arrival) -> int:
    """Nanoseconds of the time to the first event that were spent on the way there and back: the time to the read that had
    all of it, less what the upstream took, whose timers are late by more than a proxy takes."""
    at, data = arrival.events()[0]
    return at - arrival.sent_at - (sent_at(data) - read_at(data))


def read_at(data: bytes) -> int:
    """When the upstream had read the request."""
    return int(json.loads(data)["id"])


def sent_at(data: bytes) -> int:
    return int(json.loads(data)["choices"][0]["delta"]["content"])
