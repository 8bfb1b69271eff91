"""The official clients, and every way of asking with them: what each says that it was told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import anthropic
import boto3
import cohere
import httpx  # cohere's
import ollama
import openai
from botocore.config import Config
from google import genai

from programs import MODEL

KEY = "sk-not-a-key"
PROMPT = "Count to five."
MESSAGES = [{"role": "user", "content": PROMPT}]
LIMIT = 9
USAGE = {"include_usage": True}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}

# The clients' words for why an answer ended, in the log's.
REASONS = {
    "stop": "stop",
    "end_turn": "stop",
    "length": "length",
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "completed": "stop",
    "max_output_tokens": "length",
    "function_call": "tool_calls",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "COMPLETE": "stop",
    "MAX_TOKENS": "length",
}


@dataclass
class Told:
    """What a client says of one answer."""

    model: str
    input_tokens: int
    output_tokens: int | None
    reason: str | None = None
    text: str = ""
    thinking: str = ""
    tools: list = field(default_factory=list)
    vectors: list = field(default_factory=list)
    id: str | None = None
    cached: int | None = None
    # Whether the answer names its model.
    named: bool = True
    # When the first of it was in the client's hands, on the monotonic clock.
    first: float | None = None


class Clients:
    """One of each, with the same headers on every request; they try once, and `patience` seconds long."""

    def __init__(self, url: str, headers: dict[str, str] | None = None, patience: float = 60, retries: int = 0):
        self._url = url
        self._more = {"default_headers": headers or {}, "api_key": KEY, "max_retries": retries, "timeout": patience}
        limits = {"timeout": int(patience * 1e3), "retry_options": {"attempts": retries + 1}}
        self._google = {"base_url": url, "headers": headers or {}, **limits}
        self._patience, self._headers = patience, headers or {}
        self._own = {"headers": {"authorization": f"Bearer {KEY}", **(headers or {})}, "timeout": patience}

    @cached_property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self._url}/v1", **self._more)

    @cached_property
    def async_openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self._url}/v1", **self._more)

    @cached_property
    def anthropic(self) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self._url, **self._more)

    @cached_property
    def async_anthropic(self) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(base_url=self._url, **self._more)

    @cached_property
    def google(self) -> genai.Client:
        return genai.Client(api_key=KEY, http_options=self._google)

    @cached_property
    def ollama(self) -> ollama.Client:
        return ollama.Client(self._url, **self._own)

    @cached_property
    def bedrock(self):
        """It signs its requests, with a key that is none; what is added here is signed too."""
        client = boto3.client(
            "bedrock-runtime",
            endpoint_url=self._url,
            region_name="us-east-1",
            aws_access_key_id="AKIDNOTAKEY",
            aws_secret_access_key=KEY,
            config=Config(retries={"total_max_attempts": 1}, read_timeout=self._patience, proxies={}),
        )
        add = lambda request, **_: [request.headers.add_header(*header) for header in self._headers.items()]  # noqa: E731
        client.meta.events.register("before-sign.bedrock-runtime", add)
        return client

    @cached_property
    def cohere(self) -> cohere.ClientV2:
        own = httpx.Client(headers=self._headers, timeout=self._patience)
        return cohere.ClientV2(KEY, base_url=self._url, httpx_client=own, timeout=self._patience, max_retries=0)

    @cached_property
    def async_ollama(self) -> ollama.AsyncClient:
        return ollama.AsyncClient(self._url, **self._own)


class Stamped:
    """Items as they come; knows when the first one that `tells` came, and can stop there."""

    def __init__(self, tells: Callable, leave: bool = False):
        self.items: list = []
        self.first: float | None = None
        self._tells, self._leave = tells, leave

    def take(self, item) -> bool:
        """Whether to go on."""
        self.items.append(item)
        if self.first is None and self._tells(item):
            self.first = time.monotonic()
        return not (self._leave and self.first)

    def all(self, items: Iterable) -> Stamped:
        for item in items:
            if not self.take(item):
                break
        return self

    async def all_async(self, items) -> Stamped:
        async for item in items:
            if not self.take(item):
                break
        return self


# openai

CHAT = {"model": MODEL, "messages": MESSAGES, "max_tokens": LIMIT, "tools": [FUNCTION]}
CHAT_STREAM = {**CHAT, "stream": True, "stream_options": USAGE}
COMPLETION = {"model": MODEL, "prompt": PROMPT, "max_tokens": LIMIT}


def has_delta(chunk) -> bool:
    delta = chunk.choices[0].delta if chunk.choices else None
    return bool(delta and (delta.content or delta.tool_calls or getattr(delta, "reasoning", None)))


def has_text(chunk) -> bool:
    return bool(chunk.choices and chunk.choices[0].text)


def openai_told(answer, usage, **more) -> Told:
    details = getattr(usage, "prompt_tokens_details", None)
    return Told(
        answer.model,
        usage.prompt_tokens,
        getattr(usage, "completion_tokens", None),
        cached=details.cached_tokens if details else None,
        **more,
    )


def chat_whole_told(answer, **more) -> Told:
    choice = answer.choices[0]
    return openai_told(
        answer,
        answer.usage,
        reason=choice.finish_reason,
        text=choice.message.content or "",
        thinking=getattr(choice.message, "reasoning", None) or "",
        tools=[json.loads(call.function.arguments) for call in choice.message.tool_calls or []],
        id=answer.id,
        **more,
    )


def chat_chunks_told(stamped: Stamped) -> Told:
    choices = [chunk.choices[0] for chunk in stamped.items if chunk.choices]
    calls = [call for choice in choices for call in choice.delta.tool_calls or []]
    arguments = "".join(call.function.arguments or "" for call in calls)
    return openai_told(
        stamped.items[-1],
        stamped.items[-1].usage,
        reason=choices[-1].finish_reason,
        text="".join(choice.delta.content or "" for choice in choices),
        thinking="".join(getattr(choice.delta, "reasoning", None) or "" for choice in choices),
        tools=[json.loads(arguments)] if calls else [],
        id=stamped.items[-1].id,
        first=stamped.first,
    )


def openai_chat(clients: Clients) -> Told:
    return chat_whole_told(clients.openai.chat.completions.create(**CHAT))


def openai_chat_stream(clients: Clients, leave: bool = False) -> Told | None:
    with clients.openai.chat.completions.create(**CHAT_STREAM) as stream:
        stamped = Stamped(has_delta, leave).all(stream)
    return None if leave else chat_chunks_told(stamped)


def openai_chat_events(clients: Clients) -> Told:
    """With the helper that puts the answer together while it comes. It takes no tools that are not `strict`, and has
    no final completion of an answer that hit its limit."""
    asked = {name: value for name, value in CHAT.items() if name != "tools"}
    with clients.openai.chat.completions.stream(**asked, stream_options=USAGE) as stream:
        stamped = Stamped(lambda event: event.type == "chunk" and has_delta(event.chunk)).all(stream)
        answer = stream.current_completion_snapshot
    return chat_whole_told(answer, first=stamped.first)


def openai_chat_async(clients: Clients, leave: bool = False) -> Told | None:
    async def ask() -> Stamped:
        async with clients.async_openai, await clients.async_openai.chat.completions.create(**CHAT_STREAM) as stream:
            return await Stamped(has_delta, leave).all_async(stream)

    stamped = asyncio.run(ask())
    return None if leave else chat_chunks_told(stamped)


def openai_completion(clients: Clients) -> Told:
    answer = clients.openai.completions.create(**COMPLETION)
    choice = answer.choices[0]
    return openai_told(answer, answer.usage, reason=choice.finish_reason, text=choice.text, id=answer.id)


def openai_completion_stream(clients: Clients, leave: bool = False) -> Told | None:
    with clients.openai.completions.create(**COMPLETION, stream=True, stream_options=USAGE) as stream:
        stamped = Stamped(has_text, leave).all(stream)
    if leave:
        return None
    choices = [chunk.choices[0] for chunk in stamped.items if chunk.choices]
    return openai_told(
        stamped.items[-1],
        next(chunk.usage for chunk in reversed(stamped.items) if chunk.usage),
        reason=next(choice.finish_reason for choice in reversed(choices) if choice.finish_reason),
        text="".join(choice.text for choice in choices),
        id=stamped.items[-1].id,
        first=stamped.first,
    )


def openai_embeddings(clients: Clients) -> Told:
    """Unasked, the client wants the numbers in base64."""
    answer = clients.openai.embeddings.create(model=MODEL, input=[PROMPT, "the sea"])
    return openai_told(answer, answer.usage, vectors=[item.embedding for item in answer.data])


RESPONSE = {"model": MODEL, "input": PROMPT, "max_output_tokens": LIMIT}


def has_response_delta(event) -> bool:
    return event.type.endswith(".delta") or bool(getattr(getattr(event, "item", None), "name", None))


def response_told(answer, first: float | None = None) -> Told:
    usage, items = answer.usage, answer.output
    calls = [item for item in items if item.type == "function_call"]
    details = answer.incomplete_details
    return Told(
        answer.model,
        usage.input_tokens,
        usage.output_tokens,
        reason=details.reason if details else "function_call" if calls else answer.status,
        text=answer.output_text,
        thinking="".join(part.text for item in items if item.type == "reasoning" for part in item.content or []),
        tools=[json.loads(call.arguments) for call in calls],
        id=answer.id,
        cached=getattr(usage.input_tokens_details, "cached_tokens", None),
        first=first,
    )


def response_events_told(stamped: Stamped) -> Told:
    """The client hands an error event on like any other: to raise it is its caller's affair."""
    for event in stamped.items:
        if event.type == "error":
            raise openai.OpenAIError(event.message)
    ends = ("response.completed", "response.incomplete")
    (answer,) = [event.response for event in stamped.items if event.type in ends]
    return response_told(answer, stamped.first)


def openai_response(clients: Clients) -> Told:
    return response_told(clients.openai.responses.create(**RESPONSE))


def openai_response_stream(clients: Clients, leave: bool = False) -> Told | None:
    with clients.openai.responses.create(**RESPONSE, stream=True) as stream:
        stamped = Stamped(has_response_delta, leave).all(stream)
    return None if leave else response_events_told(stamped)


def openai_response_async(clients: Clients, leave: bool = False) -> Told | None:
    async def ask() -> Stamped:
        async with clients.async_openai, await clients.async_openai.responses.create(**RESPONSE, stream=True) as stream:
            return await Stamped(has_response_delta, leave).all_async(stream)

    stamped = asyncio.run(ask())
    return None if leave else response_events_told(stamped)


# google-genai

GENERATE = {"model": MODEL, "contents": PROMPT, "config": {"max_output_tokens": LIMIT}}


def google_parts(chunk) -> list:
    candidate = chunk.candidates[0] if chunk.candidates else None
    return (candidate.content.parts or []) if candidate and candidate.content else []


def has_part(chunk) -> bool:
    return any(part.text or part.function_call for part in google_parts(chunk))


def google_told(stamped: Stamped) -> Told:
    last = stamped.items[-1]
    usage = last.usage_metadata
    parts = [part for chunk in stamped.items for part in google_parts(chunk)]
    reason = last.candidates[0].finish_reason
    return Told(
        last.model_version,
        usage.prompt_token_count,
        (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
        reason=reason and reason.value,
        text="".join(part.text or "" for part in parts if not part.thought),
        thinking="".join(part.text or "" for part in parts if part.thought),
        tools=[dict(part.function_call.args) for part in parts if part.function_call],
        id=last.response_id,
        cached=usage.cached_content_token_count,
        first=stamped.first,
    )


def google_generate(clients: Clients) -> Told:
    told = google_told(Stamped(has_part).all([clients.google.models.generate_content(**GENERATE)]))
    told.first = None
    return told


def google_generate_stream(clients: Clients, leave: bool = False) -> Told | None:
    chunks = clients.google.models.generate_content_stream(**GENERATE)
    with contextlib.closing(chunks):
        stamped = Stamped(has_part, leave).all(chunks)
    return None if leave else google_told(stamped)


def google_generate_async(clients: Clients) -> Told:
    async def ask() -> Stamped:
        async with clients.google.aio as client:
            return await Stamped(has_part).all_async(await client.models.generate_content_stream(**GENERATE))

    return google_told(asyncio.run(ask()))


# anthropic

MESSAGE = {
    "model": MODEL,
    "messages": MESSAGES,
    "max_tokens": LIMIT,
    "tools": [{"name": "get_weather", "input_schema": PARAMETERS}],
}


def is_delta(event) -> bool:
    block = getattr(event, "content_block", None)
    return event.type == "content_block_delta" or bool(block and block.type == "tool_use")


def message_told(message, first: float | None = None) -> Told:
    usage, blocks = message.usage, message.content
    cached = [usage.cache_read_input_tokens, usage.cache_creation_input_tokens]
    return Told(
        message.model,
        usage.input_tokens + sum(count or 0 for count in cached),
        usage.output_tokens,
        reason=message.stop_reason,
        text="".join(block.text for block in blocks if block.type == "text"),
        thinking="".join(block.thinking for block in blocks if block.type == "thinking"),
        tools=[block.input for block in blocks if block.type == "tool_use"],
        id=message.id,
        cached=usage.cache_read_input_tokens,
        first=first,
    )


def anthropic_message(clients: Clients) -> Told:
    return message_told(clients.anthropic.messages.create(**MESSAGE))


def anthropic_stream(clients: Clients, leave: bool = False) -> Told | None:
    """Bare events, put together here."""
    with clients.anthropic.messages.create(**MESSAGE, stream=True) as stream:
        stamped = Stamped(is_delta, leave).all(stream)
    if leave:
        return None
    (message,) = [event.message for event in stamped.items if event.type == "message_start"]
    last = next(event for event in reversed(stamped.items) if event.type == "message_delta")
    deltas = [event.delta for event in stamped.items if event.type == "content_block_delta"]
    arguments = "".join(delta.partial_json for delta in deltas if delta.type == "input_json_delta")
    message.usage.output_tokens = last.usage.output_tokens
    message.stop_reason = last.delta.stop_reason
    told = message_told(message, stamped.first)
    told.text = "".join(delta.text for delta in deltas if delta.type == "text_delta")
    told.thinking = "".join(delta.thinking for delta in deltas if delta.type == "thinking_delta")
    told.tools = [json.loads(arguments)] if arguments else []
    return told


def anthropic_events(clients: Clients) -> Told:
    """With the helper that puts the message together while it comes."""
    with clients.anthropic.messages.stream(**MESSAGE) as stream:
        stamped = Stamped(is_delta).all(stream)
        return message_told(stream.get_final_message(), stamped.first)


def anthropic_async(clients: Clients, leave: bool = False) -> Told | None:
    async def ask() -> Told | None:
        async with clients.async_anthropic, clients.async_anthropic.messages.stream(**MESSAGE) as stream:
            stamped = await Stamped(is_delta, leave).all_async(stream)
            return None if leave else message_told(await stream.get_final_message(), stamped.first)

    return asyncio.run(ask())


# ollama

OPTIONS = {"num_predict": LIMIT}
OLLAMA_CHAT = {"model": MODEL, "messages": MESSAGES, "options": OPTIONS, "tools": [FUNCTION]}
OLLAMA_PROMPT = {"model": MODEL, "prompt": PROMPT, "options": OPTIONS}


def line_text(line) -> tuple[str, str]:
    said = getattr(line, "message", line)
    return getattr(said, "content", None) or getattr(said, "response", None) or "", said.thinking or ""


def has_said(line) -> bool:
    return any(line_text(line)) or bool(getattr(getattr(line, "message", line), "tool_calls", None))


def lines_told(stamped: Stamped) -> Told:
    last = stamped.items[-1]
    said = [getattr(line, "message", line) for line in stamped.items]
    calls = [call for message in said for call in getattr(message, "tool_calls", None) or []]
    return Told(
        last.model,
        last.prompt_eval_count,
        last.eval_count,
        reason=last.done_reason,
        text="".join(line_text(line)[0] for line in stamped.items),
        thinking="".join(line_text(line)[1] for line in stamped.items),
        tools=[dict(call.function.arguments) for call in calls],
        first=stamped.first,
    )


def ollama_whole(answer) -> Told:
    told = lines_told(Stamped(has_said).all([answer]))
    told.first = None
    return told


def ollama_lines(lines, leave: bool) -> Told | None:
    with contextlib.closing(lines):
        stamped = Stamped(has_said, leave).all(lines)
    return None if leave else lines_told(stamped)


def ollama_chat(clients: Clients) -> Told:
    return ollama_whole(clients.ollama.chat(**OLLAMA_CHAT))


def ollama_chat_stream(clients: Clients, leave: bool = False) -> Told | None:
    return ollama_lines(clients.ollama.chat(**OLLAMA_CHAT, stream=True), leave)


def ollama_chat_async(clients: Clients, leave: bool = False) -> Told | None:
    async def ask() -> Stamped:
        async with contextlib.aclosing(await clients.async_ollama.chat(**OLLAMA_CHAT, stream=True)) as lines:
            return await Stamped(has_said, leave).all_async(lines)

    stamped = asyncio.run(ask())
    return None if leave else lines_told(stamped)


def ollama_generate(clients: Clients) -> Told:
    return ollama_whole(clients.ollama.generate(**OLLAMA_PROMPT))


def ollama_generate_stream(clients: Clients, leave: bool = False) -> Told | None:
    return ollama_lines(clients.ollama.generate(**OLLAMA_PROMPT, stream=True), leave)


def ollama_embed(clients: Clients) -> Told:
    answer = clients.ollama.embed(model=MODEL, input=[PROMPT, "the sea"])
    return Told(answer.model, answer.prompt_eval_count, 0, vectors=list(answer.embeddings))


# boto3

CONVERSE = {
    "modelId": MODEL,
    "messages": [{"role": "user", "content": [{"text": PROMPT}]}],
    "inferenceConfig": {"maxTokens": LIMIT},
}
CLAUDE = {"anthropic_version": "bedrock-2023-05-31", "messages": MESSAGES, "max_tokens": LIMIT}
INVOKE = {"modelId": MODEL, "body": json.dumps(CLAUDE)}


def converse_told(usage: dict, reason: str, blocks: list[dict], **more) -> Told:
    thoughts = [block["reasoningContent"] for block in blocks if "reasoningContent" in block]
    cached = [usage.get("cacheReadInputTokens"), usage.get("cacheWriteInputTokens")]
    return Told(
        MODEL,
        usage["inputTokens"] + sum(count or 0 for count in cached),
        usage["outputTokens"],
        reason=reason,
        text="".join(block.get("text", "") for block in blocks),
        thinking="".join(thought.get("reasoningText", thought).get("text", "") for thought in thoughts),
        cached=cached[0],
        named=False,
        **more,
    )


def bedrock_converse(clients: Clients) -> Told:
    answer = clients.bedrock.converse(**CONVERSE)
    return converse_told(answer["usage"], answer["stopReason"], answer["output"]["message"]["content"])


def bedrock_converse_stream(clients: Clients, leave: bool = False) -> Told | None:
    with contextlib.closing(clients.bedrock.converse_stream(**CONVERSE)["stream"]) as stream:
        stamped = Stamped(lambda event: "contentBlockDelta" in event, leave).all(stream)
    if leave:
        return None
    events = {name: event[name] for event in stamped.items for name in event}
    blocks = [event["contentBlockDelta"]["delta"] for event in stamped.items if "contentBlockDelta" in event]
    return converse_told(
        events["metadata"]["usage"], events["messageStop"]["stopReason"], blocks, first=stamped.first
    )


def bedrock_invoke(clients: Clients) -> Told:
    answer = json.loads(clients.bedrock.invoke_model(**INVOKE)["body"].read())
    blocks, usage = answer["content"], answer["usage"]
    return Told(
        MODEL,
        usage["input_tokens"],
        usage["output_tokens"],
        reason=answer["stop_reason"],
        text="".join(block.get("text", "") for block in blocks),
        thinking="".join(block.get("thinking", "") for block in blocks),
        named=False,
    )


def bedrock_invoke_stream(clients: Clients, leave: bool = False) -> Told | None:
    """Claude's own events, each in base64; the last one has Bedrock's count."""
    answer = clients.bedrock.invoke_model_with_response_stream(**INVOKE)
    events = (json.loads(event["chunk"]["bytes"]) for event in answer["body"])
    with contextlib.closing(answer["body"]):
        stamped = Stamped(lambda event: event["type"] == "content_block_delta", leave).all(events)
    if leave:
        return None
    deltas = [event["delta"] for event in stamped.items if event["type"] == "content_block_delta"]
    metrics = stamped.items[-1]["amazon-bedrock-invocationMetrics"]
    return Told(
        MODEL,
        metrics["inputTokenCount"],
        metrics["outputTokenCount"],
        reason=next(event["delta"]["stop_reason"] for event in stamped.items if event["type"] == "message_delta"),
        text="".join(delta.get("text", "") for delta in deltas),
        thinking="".join(delta.get("thinking", "") for delta in deltas),
        named=False,
        first=stamped.first,
    )


# cohere

COHERE = {"model": MODEL, "messages": MESSAGES, "max_tokens": LIMIT}


def cohere_told(usage, reason: str, contents: list, **more) -> Told:
    return Told(
        MODEL,
        int(usage.billed_units.input_tokens),
        int(usage.billed_units.output_tokens),
        reason=reason,
        text="".join(getattr(content, "text", None) or "" for content in contents),
        thinking="".join(getattr(content, "thinking", None) or "" for content in contents),
        named=False,
        **more,
    )


def cohere_chat(clients: Clients) -> Told:
    answer = clients.cohere.chat(**COHERE)
    return cohere_told(answer.usage, answer.finish_reason, answer.message.content, id=answer.id)


def cohere_chat_stream(clients: Clients, leave: bool = False) -> Told | None:
    events = clients.cohere.chat_stream(**COHERE)
    with contextlib.closing(events):
        stamped = Stamped(lambda event: event.type == "content-delta", leave).all(events)
    if leave:
        return None
    last = stamped.items[-1].delta
    if last.error:
        raise RuntimeError(last.error)  # the client itself does not
    deltas = [event.delta.message.content for event in stamped.items if event.type == "content-delta"]
    return cohere_told(last.usage, last.finish_reason, deltas, id=stamped.items[0].id, first=stamped.first)


def cohere_rerank(clients: Clients) -> Told:
    answer = clients.cohere.rerank(model=MODEL, query=PROMPT, documents=["one two", "the sea"])
    return Told(
        MODEL, int(answer.meta.tokens.input_tokens), None, id=answer.id, vectors=[[r.index] for r in answer.results]
    )


@dataclass(frozen=True)
class Way:
    """A way of asking: who it is understood by, and whether the answer is a stream."""

    dialect: str
    stream: bool


WAYS: dict[Callable, Way] = {
    openai_chat: Way("openai_chat", False),
    openai_chat_stream: Way("openai_chat", True),
    openai_chat_events: Way("openai_chat", True),
    openai_chat_async: Way("openai_chat", True),
    openai_completion: Way("openai_completions", False),
    openai_completion_stream: Way("openai_completions", True),
    openai_embeddings: Way("openai_embeddings", False),
    openai_response: Way("openai_responses", False),
    openai_response_stream: Way("openai_responses", True),
    openai_response_async: Way("openai_responses", True),
    google_generate: Way("gemini", False),
    google_generate_stream: Way("gemini", True),
    google_generate_async: Way("gemini", True),
    anthropic_message: Way("anthropic_messages", False),
    anthropic_stream: Way("anthropic_messages", True),
    anthropic_events: Way("anthropic_messages", True),
    anthropic_async: Way("anthropic_messages", True),
    ollama_chat: Way("ollama", False),
    ollama_chat_stream: Way("ollama", True),
    ollama_chat_async: Way("ollama", True),
    ollama_generate: Way("ollama", False),
    ollama_generate_stream: Way("ollama", True),
    ollama_embed: Way("ollama", False),
    bedrock_converse: Way("bedrock", False),
    bedrock_converse_stream: Way("bedrock", True),
    bedrock_invoke: Way("bedrock", False),
    bedrock_invoke_stream: Way("bedrock", True),
    cohere_chat: Way("cohere", False),
    cohere_chat_stream: Way("cohere", True),
    cohere_rerank: Way("rerank", False),
}
LEAVES = [openai_chat_stream, openai_chat_async, openai_completion_stream, anthropic_stream, anthropic_async]
LEAVES += [openai_response_stream, openai_response_async]
LEAVES += [ollama_chat_stream, ollama_chat_async, ollama_generate_stream]
LEAVES += [bedrock_converse_stream, bedrock_invoke_stream, cohere_chat_stream]
