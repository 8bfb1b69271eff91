"""`inject_usage` before real servers and official clients: tokens are reported, and nobody notices."""

import asyncio
import contextlib
import json

import pytest

import programs
import sdks
import tee
from exposition import Scraper
from sdks import LIMIT, MESSAGES, PROMPT, Clients
from wire import exchange
from wire import request as written

OPTION = b'"stream_options":{"include_usage":true},'
# What a server itself puts elsewhere when it is asked for usage: vLLM (as simulated) and llama.cpp.
MOVES = {"simulated": "system_fingerprint", "llama": "timings"}
FIXED = {"temperature": 0, "seed": 7, "cache_prompt": False}
CHAT = {"model": programs.MODEL, "messages": MESSAGES, "max_tokens": LIMIT}
COMPLETION = {"model": programs.MODEL, "prompt": PROMPT, "max_tokens": LIMIT}


@contextlib.contextmanager
def injecting(server, folder):
    """A sidecar that asks this server for usage."""
    folder.mkdir(exist_ok=True)
    config = folder / "config.yaml"
    config.write_text(f"upstreams: [{{name: server, url: 'http://{server[0]}:{server[1]}', inject_usage: true}}]\n")
    with programs.sidecar(None, folder, "--config", str(config)) as sidecar:
        yield sidecar


@contextlib.contextmanager
def serving(kind, request, folder):
    """A server that gives the same answer to the first request each time."""
    if kind == "llama":
        yield request.getfixturevalue("llama")
    else:
        with programs.simulated(folder, "--model", programs.MODEL, "--ttft", "10ms", "--tps", "500") as address:
            yield address


def injections(page) -> dict:
    return dict(page.by("usage_injections_total", "action"))


@pytest.mark.parametrize("kind", MOVES)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_the_upstreams_bytes_less_one_event(request, tmp_path, kind, path):
    body = json.dumps((CHAT if "chat" in path else COMPLETION) | FIXED | {"stream": True}, indent=1).encode()
    with (
        serving(kind, request, tmp_path / "server") as server,
        tee.tee(server) as (address, tap),
        injecting(address, tmp_path / "sidecar") as sidecar,
    ):
        arrival = exchange(sidecar.address, written("POST", path, sidecar.address, body, "Accept-Encoding: gzip, br"))
        page = Scraper(sidecar.metrics_url).settled(started=1)
        sidecar.program.stop()
        (line,) = sidecar.log()
        ((asked, answered),) = tap.exchanges()

    assert bytes(asked.body) == body[:1] + OPTION + body[1:]
    assert int(asked.header("content-length")) == len(asked.body)
    assert asked.headers("accept-encoding") == [b"identity"]
    sent, got = bytes(answered.body), bytes(arrival.answer.body)
    usage = [event for event in sent.split(b"\n\n") if b'"choices":[]' in event]
    # llama.cpp's completions report in their last event, asked or not.
    assert len(usage) == (0 if (kind, path) == ("llama", "/v1/completions") else 1)
    for event in usage:
        assert sent.count(event) == 1
        sent = sent.replace(event + b"\n\n", b"")
    assert got == sent
    assert injections(page) == {"asked": 1, "cut": len(usage), "refused": 0, "too_large": 0, "too_slow": 0}
    assert (line["bytes_in"], line["bytes_out"]) == (len(body), len(got))
    assert (line["input_source"], line["output_source"], line["outcome"]) == ("reported", "reported", "completed")


def chat(clients, **more):
    return [chunk for chunk in clients.openai.chat.completions.create(**CHAT, **more, stream=True)]


def chat_helper(clients, **more):
    with clients.openai.chat.completions.stream(**CHAT, **more) as events:
        return [event.chunk for event in events if event.type == "chunk"]


def chat_async(clients, **more):
    async def ask():
        async with clients.async_openai:
            chunks = await clients.async_openai.chat.completions.create(**CHAT, **more, stream=True)
            return [chunk async for chunk in chunks]

    return asyncio.run(ask())


def completion(clients, **more):
    return [chunk for chunk in clients.openai.completions.create(**COMPLETION, **more, stream=True)]


def told(ask, url: str, moves: str) -> list[dict]:
    """The chunks that a client is told of, without what differs from one answer to the next."""
    fixed = {"temperature": FIXED["temperature"], "seed": FIXED["seed"], "extra_body": {"cache_prompt": False}}
    chunks = [chunk.model_dump(exclude_unset=True) for chunk in ask(Clients(url), **fixed)]
    dropped = {"id", "created", moves}
    return [{name: value for name, value in chunk.items() if name not in dropped} for chunk in chunks]


@pytest.mark.parametrize("kind", MOVES)
@pytest.mark.parametrize("ask", [chat, chat_helper, chat_async, completion], ids=lambda ask: ask.__name__)
def test_official_clients_notice_nothing(request, tmp_path, kind, ask):
    with serving(kind, request, tmp_path / "alone") as server:
        alone = told(ask, f"http://{server[0]}:{server[1]}", MOVES[kind])
    with serving(kind, request, tmp_path / "behind") as server, injecting(server, tmp_path / "sidecar") as sidecar:
        behind = told(ask, sidecar.url, MOVES[kind])
        page = Scraper(sidecar.metrics_url).settled(started=1)
        sidecar.program.stop()
        (line,) = sidecar.log()
    assert behind == alone and len(alone) > 2
    assert (line["input_source"], line["output_source"], line["outcome"]) == ("reported", "reported", "completed")
    assert 0 < line["output_tokens"] <= LIMIT
    assert page.sum("token_counts_total", direction="output", source="reported") == 1
    assert injections(page)["asked"] == 1


@pytest.mark.parametrize("ask", [chat, completion], ids=lambda ask: ask.__name__)
def test_a_server_that_refuses_the_option_loses_no_request(tmp_path, ask):
    options = ["--model", programs.MODEL, "--tps", "500", "--fault", "refuse-usage"]
    with (
        programs.simulated(tmp_path / "server", *options) as server,
        injecting(server, tmp_path / "sidecar") as sidecar,
    ):
        for _ in range(3):
            assert len(ask(Clients(sidecar.url))) > 2
        page = Scraper(sidecar.metrics_url).settled(started=3)
        sidecar.program.stop()
        lines = sidecar.log()
        said = sidecar.program.err.read_text()
    assert [(line["code"], line["outcome"]) for line in lines] == [(200, "completed")] * 3
    assert injections(page) == {"asked": 1, "cut": 0, "refused": 1, "too_large": 0, "too_slow": 0}
    assert said.count("refuses stream_options.include_usage") == 1


def test_a_client_that_asks_itself_gets_what_it_asked_for(llama, tmp_path):
    with injecting(llama, tmp_path) as sidecar:
        answer = sdks.openai_chat_stream(Clients(sidecar.url))
        page = Scraper(sidecar.metrics_url).settled(started=1)
    assert answer.output_tokens > 0
    assert injections(page) == {"asked": 0, "cut": 0, "refused": 0, "too_large": 0, "too_slow": 0}
