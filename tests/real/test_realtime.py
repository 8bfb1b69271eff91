"""The official `openai` client's sessions over WebSocket through the sidecar: Realtime, and the Responses API. Each response
is an exchange of its own; what the client is told of it is what is counted."""

import asyncio
import time

import openai
import pytest
from websockets.exceptions import ConnectionClosed

import programs
from exposition import Scraper
from programs import MODEL
from sdks import KEY, PROMPT, Clients

TTFT = 0.03


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The address of a simulated server."""
    options = ["--model", MODEL, "--ttft", f"{TTFT * 1e3:.0f}ms", "--tps", "500"]
    with programs.simulated(tmp_path_factory.mktemp("simulated"), *options) as address:
        yield address


class Counted:
    """What the sidecar counted and said of a session and so many responses in it."""

    def __init__(self, sidecar: programs.Sidecar, responses: int):
        self.page = Scraper(sidecar.metrics_url).settled(started=responses + 1)
        sidecar.program.stop()
        lines = sidecar.log()
        said = sidecar.program.out.read_text() + sidecar.program.err.read_text() + self.page.text
        assert KEY not in said and PROMPT not in said
        (self.tunnel,) = [line for line in lines if line.get("code") == 101]
        self.log = [line for line in lines if line is not self.tunnel]
        assert len(self.log) == responses
        assert self.page.sum("requests_total", dialect="unknown", code="101") == 1
        assert self.page.sum("observation_failures_total") == 0
        # Each has an id of its own, by which the session's is known.
        ids = {line["request_id"] for line in lines}
        assert len(ids) == responses + 1
        assert all(one.startswith(self.tunnel["request_id"]) for one in ids)

    def check(self, told: list[dict], dialect: str) -> None:
        for line, one in zip(self.log, told, strict=True):
            first = one.pop("first")
            want = {"dialect": dialect, "stream": True, "code": 200, "model": MODEL, "input_source": "reported", **one}
            assert {name: line.get(name) for name in want} == want
            # The sidecar's clock begins after the client's and stops before it.
            assert TTFT / 2 < line["ttft_seconds"] < first
        for direction in ("input", "output"):
            assert self.page.settled_tokens(direction) == sum(one[f"{direction}_tokens"] for one in told)
        assert self.page.sum("requests_total", dialect=dialect) == len(told)
        assert self.page.sum("time_to_first_token_seconds_count") == len(told)
        assert self.page.sum("unobserved_requests_total") == 0
        assert "unobserved" not in self.tunnel


FINISH = {"completed": "stop", "incomplete": "length"}


def told_of(response, text: str, first: float) -> dict:
    assert text
    usage = response.usage
    details = getattr(usage, "input_token_details", None) or usage.input_tokens_details
    return {
        "outcome": "completed",
        "finish_reason": FINISH[response.status],
        "upstream_request_id": response.id,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": details.cached_tokens,
        "first": first,
    }


class Listener:
    """Takes the events of responses as they come."""

    def __init__(self):
        self.began = time.monotonic()
        self.first, self.text, self.response = None, "", None

    def take(self, event) -> bool:
        """Whether to go on."""
        assert event.type != "error", event
        if event.type == "response.output_text.delta":
            self.first = self.first or time.monotonic() - self.began
            self.text += event.delta
        if event.type in ("response.done", "response.completed", "response.incomplete"):
            self.response = event.response
        return self.response is None

    def told(self) -> dict:
        return told_of(self.response, self.text, self.first)


def ask(connection, text: str, **more) -> dict:
    content = [{"type": "input_text", "text": text}]
    connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
    listener = Listener()
    connection.response.create(response={"output_modalities": ["text"], **more})
    for event in connection:
        if not listener.take(event):
            return listener.told()
    raise AssertionError("the session is over")


@pytest.mark.parametrize("compression", ["deflate", None])
def test_realtime(simulated, tmp_path, compression):
    with programs.sidecar(simulated, tmp_path) as sidecar:
        client = Clients(sidecar.url, {"x-sim-tokens": "7"}).openai
        options = {"compression": compression}
        with client.realtime.connect(model=MODEL, websocket_connection_options=options) as connection:
            told = [ask(connection, PROMPT), ask(connection, PROMPT * 9, max_output_tokens=3), ask(connection, PROMPT)]
        counted = Counted(sidecar, responses=3)
    assert [one["output_tokens"] for one in told] == [7, 3, 7]
    assert told[0]["input_tokens"] < told[1]["input_tokens"] < told[2]["input_tokens"], "the session remembers"
    counted.check(told, "openai_realtime")


def test_realtime_async(simulated, tmp_path):
    async def talk(url: str) -> dict:
        async with Clients(url).async_openai.realtime.connect(model=MODEL) as connection:
            listener = Listener()
            await connection.response.create(response={"instructions": PROMPT, "max_output_tokens": 5})
            async for event in connection:
                if not listener.take(event):
                    return listener.told()

    with programs.sidecar(simulated, tmp_path) as sidecar:
        told = asyncio.run(talk(sidecar.url))
        Counted(sidecar, responses=1).check([told], "openai_realtime")


def test_responses(simulated, tmp_path):
    """The same events as over HTTP, in a session."""
    told = []
    with programs.sidecar(simulated, tmp_path) as sidecar:
        client = Clients(sidecar.url, {"x-sim-tokens": "7"}).openai
        with client.responses.connect() as connection:
            for lane, most in [("a", 20), ("a", 4), ("b", 20)]:
                listener = Listener()
                connection.response.create(model=MODEL, input=PROMPT, max_output_tokens=most, stream_id=lane)
                for event in connection:
                    if not listener.take(event):
                        break
                told.append(listener.told())
        Counted(sidecar, responses=3).check(told, "openai_responses")
    assert [one["output_tokens"] for one in told] == [7, 4, 7]


def test_a_response_that_is_stopped(simulated, tmp_path):
    headers = {"x-sim-tokens": "500", "x-sim-tps": "100"}
    with programs.sidecar(simulated, tmp_path) as sidecar:
        with Clients(sidecar.url, headers).openai.realtime.connect(model=MODEL) as connection:
            connection.response.create()
            for event in connection:
                if event.type == "response.output_text.delta":
                    connection.response.cancel()
                if event.type == "response.done":
                    break
        counted = Counted(sidecar, responses=1)
    assert event.response.status == "cancelled"
    (line,) = counted.log
    assert (line["outcome"], line["blame"], line["finish_reason"]) == ("client_gone", "downstream", "other")
    assert line["output_tokens"] == event.response.usage.output_tokens


@pytest.mark.parametrize(
    ("fault", "outcome", "code"),
    [("status=429", "upstream_refused", 429), ("error-event@2", "stream_failed", 200), ("cut@2", "truncated", 200)],
)
def test_faults(simulated, tmp_path, fault, outcome, code):
    with programs.sidecar(simulated, tmp_path) as sidecar:
        client = Clients(sidecar.url, {"x-sim-fault": fault}).openai
        with client.realtime.connect(model=MODEL) as connection:
            connection.response.create(event_id="mine")
            kinds = []
            try:
                for event in connection:
                    kinds.append(event.type)
                    if event.type in ("error", "response.done"):
                        break
            except (openai.OpenAIError, ConnectionClosed) as error:
                kinds.append(type(error).__name__)
        counted = Counted(sidecar, responses=1)
    (line,) = counted.log
    assert (line["outcome"], line["code"]) == (outcome, code), kinds
