"""The official `openai` client, through the sidecar, before llama.cpp: its numbers are the counters' numbers."""

import openai

import programs
from exposition import Scraper

MESSAGES = [{"role": "user", "content": "Count to five."}]


def test_openai_client(llama, tmp_path):
    with programs.sidecar(llama, tmp_path) as sidecar:
        client = openai.OpenAI(base_url=f"{sidecar.url}/v1", api_key="sk-not-a-key", max_retries=0)
        usages = {
            ("openai_chat", "true"): chat_stream(client),
            ("openai_chat", "false"): client.chat.completions.create(
                model=programs.MODEL, messages=MESSAGES, max_tokens=12
            ).usage,
            ("openai_completions", "true"): completion_stream(client),
            ("openai_completions", "false"): client.completions.create(
                model=programs.MODEL, prompt="one two three", max_tokens=9
            ).usage,
        }
        assert programs.MODEL in [model.id for model in client.models.list().data]
        page = Scraper(sidecar.metrics_url).settled(started=5)
        sidecar.program.stop()
        log = sidecar.log()
        said = sidecar.program.out.read_text() + sidecar.program.err.read_text() + page.text

    for (dialect, stream), usage in usages.items():
        assert page.only("requests_total", dialect=dialect, stream=stream, outcome="completed", code="200") == 1
        line = next(line for line in log if line["dialect"] == dialect and line["stream"] == (stream == "true"))
        assert (line["input_tokens"], line["output_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert page.settled_tokens("input") == sum(usage.prompt_tokens for usage in usages.values())
    assert page.settled_tokens("output") == sum(usage.completion_tokens for usage in usages.values())
    assert page.sum("requests_total", dialect="unknown") == page.sum("unobserved_requests_total") == 1
    assert "sk-not-a-key" not in said and "Count to five" not in said


def chat_stream(client: openai.OpenAI) -> openai.types.CompletionUsage:
    chunks = list(
        client.chat.completions.create(
            model=programs.MODEL, messages=MESSAGES, max_tokens=12, stream=True, stream_options={"include_usage": True}
        )
    )
    assert any(chunk.choices and chunk.choices[0].delta.content for chunk in chunks)
    return chunks[-1].usage


def completion_stream(client: openai.OpenAI) -> openai.types.CompletionUsage:
    chunks = list(
        client.completions.create(
            model=programs.MODEL, prompt="one two", max_tokens=9, stream=True, stream_options={"include_usage": True}
        )
    )
    return next(chunk.usage for chunk in reversed(chunks) if chunk.usage)


def test_openai_client_that_stops_reading(llama, tmp_path):
    """`stream.close()` in the middle is a client that left, not an error of anybody's."""
    with programs.sidecar(llama, tmp_path) as sidecar:
        client = openai.OpenAI(base_url=f"{sidecar.url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(model=programs.MODEL, messages=MESSAGES, max_tokens=400, stream=True)
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break
        stream.close()
        page = Scraper(sidecar.metrics_url).settled(started=1)
    assert page.only("requests_total", outcome="client_gone") == page.sum("requests_total") == 1
    assert page.only("client_disconnects_total", phase="streaming") == 1
