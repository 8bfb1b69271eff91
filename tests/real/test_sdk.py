"""The official `openai`, `anthropic`, `google-genai`, `ollama`, `boto3` and `cohere` clients through the sidecar: what they are told is what is counted."""

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic
import cohere
import httpx  # ollama's
import httpx2  # anthropic's: it hands on what breaks in the middle of a stream
import ollama
import openai
import pytest
import urllib3  # boto3's
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError, EventStreamError
from google.genai import errors as google_errors

import golden
import programs
import sdks
from exposition import Scraper
from sdks import KEY, LEAVES, LIMIT, PROMPT, REASONS, WAYS, Clients, Told, Way

# What the simulated server is asked for, and what its answer must have then.
SHAPES = {
    "to_the_limit": ({}, LIMIT, "length"),
    "to_its_end": ({"x-sim-tokens": "5"}, 5, "stop"),
    "thinking_first": ({"x-sim-tokens": "7", "x-sim-reasoning": "3", "x-sim-tokens-per-chunk": "2"}, 7, "stop"),
}
TTFT = 0.03


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The address of a simulated server."""
    options = ["--model", programs.MODEL, "--ttft", f"{TTFT * 1e3:.0f}ms", "--tps", "500"]
    with programs.simulated(tmp_path_factory.mktemp("simulated"), *options) as address:
        yield address


@pytest.fixture(scope="module")
def llama_embeddings(tmp_path_factory):
    """The address of llama.cpp's server that makes embeddings of real weights."""
    with programs.llama(tmp_path_factory.mktemp("embeddings"), slots=1, embeddings=True) as address:
        yield address


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The address of a server that gives the answers of tests/golden."""
    with programs.python("golden_upstream.py", tmp_path_factory.mktemp("golden")) as address:
        yield address


class Seen:
    """What the sidecar counted and said while it ran."""

    def __init__(self, sidecar: programs.Sidecar, started: int):
        self.page = Scraper(sidecar.metrics_url).settled(started=started)
        sidecar.program.stop()
        self.log = sidecar.log()
        said = sidecar.program.out.read_text() + sidecar.program.err.read_text() + self.page.text
        assert KEY not in said and PROMPT not in said
        assert len(self.log) == started == self.page.sum("requests_started_total")

    def only(self, **expected) -> dict:
        """The one exchange's line, which has these values, as have the labels of its counter."""
        (line,) = self.log
        assert {name: line.get(name) for name in expected} == expected
        labels = {"dialect": line["dialect"], "stream": str(line["stream"]).lower(), "outcome": line["outcome"]}
        labels |= {"code": str(line.get("code", "none")), "model": line["model"]}
        assert self.page.only("requests_total", **labels) == self.page.sum("requests_total") == 1
        return line

    def check_told(self, way: Way, told: Told, began: float) -> None:
        """The client's own numbers are the line's and the counters'."""
        line = self.only(
            dialect=way.dialect,
            stream=way.stream,
            code=200,
            outcome="completed",
            model=told.model,
            model_requested=programs.MODEL,
            model_served=told.model if told.named else None,
            finish_reason=REASONS.get(told.reason),
            input_tokens=told.input_tokens,
            input_source="reported",
            output_tokens=told.output_tokens,
            output_source=None if told.output_tokens is None else "reported",
            cache_read_input_tokens=told.cached,
            error_class=None,
        )
        assert told.id is None or told.id.endswith(line["upstream_request_id"])
        assert self.page.settled_tokens("input") == told.input_tokens
        assert self.page.settled_tokens("output") == (told.output_tokens or 0)
        if told.reason:
            assert self.page.only("finish_reasons_total", reason=REASONS[told.reason]) == 1
        assert (told.first is not None) == way.stream == ("ttft_seconds" in line)
        if told.first is not None:
            # The sidecar's clock begins after the client's and stops before it.
            assert line["ttft_seconds"] < told.first - began
            assert self.page.only("time_to_first_token_seconds_count") == 1


def name_of(value) -> str | None:
    return value.__name__ if callable(value) else None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ask", WAYS, ids=name_of)
def test_simulated_server(simulated, tmp_path, ask, shape):
    headers, tokens, reason = SHAPES[shape]
    way = WAYS[ask]
    with programs.sidecar(simulated, tmp_path) as sidecar:
        clients, began = Clients(sidecar.url, headers), time.monotonic()
        told = ask(clients)
        seen = Seen(sidecar, started=1)
    seen.check_told(way, told, began)
    if way.dialect == "rerank":
        assert sorted(told.vectors) == [[0], [1]]
        return
    if told.vectors:
        assert [len(vector) for vector in told.vectors] == [640, 640]
        return
    assert (told.output_tokens, REASONS[told.reason], told.model) == (tokens, reason, programs.MODEL)
    assert told.text
    # A completion has no place for thoughts.
    assert bool(told.thinking) == (shape == "thinking_first" and way.dialect != "openai_completions")
    if way.stream:
        assert seen.log[0]["ttft_seconds"] >= TTFT


@pytest.mark.parametrize("ask", [ask for ask, way in WAYS.items() if way.dialect.startswith(("openai", "anthropic"))], ids=name_of)
def test_llama(request, tmp_path, ask):
    server = "llama_embeddings" if ask is sdks.openai_embeddings else "llama"
    with programs.sidecar(request.getfixturevalue(server), tmp_path) as sidecar:
        clients, began = Clients(sidecar.url), time.monotonic()
        told = ask(clients)
        seen = Seen(sidecar, started=1)
    seen.check_told(WAYS[ask], told, began)
    if ask is sdks.openai_embeddings:
        assert [len(vector) for vector in told.vectors] == [640, 640]
    else:
        assert 0 < told.output_tokens <= LIMIT and told.text


def test_requests_that_generate_nothing(llama, tmp_path):
    """Lists of models and counts of tokens are passed through and are nobody's tokens."""
    with programs.sidecar(llama, tmp_path) as sidecar:
        clients = Clients(sidecar.url)
        assert programs.MODEL in [model.id for model in clients.openai.models.list().data]
        counted = clients.anthropic.messages.count_tokens(model=programs.MODEL, messages=sdks.MESSAGES)
        seen = Seen(sidecar, started=2)
    assert counted.input_tokens > 0
    assert {(line["dialect"], line["unobserved"], line["outcome"]) for line in seen.log} == {
        ("unknown", "not_generation", "completed")
    }
    assert seen.page.sum("unobserved_requests_total") == 2
    assert seen.page.sum("input_tokens_total") == seen.page.sum("output_tokens_total") == 0


# Answers that neither server gives: calls of tools, thoughts of several kinds, cached input, a refusal, base64.
RECORDED = [
    (sdks.openai_chat_stream, "openai_chat/tool_call_only", {"tools": [{"city": "Rome"}]}),
    (sdks.openai_chat_events, "openai_chat/tool_call_only", {"tools": [{"city": "Rome"}]}),
    (sdks.openai_chat_async, "openai_chat/vllm_reasoning", {}),
    (sdks.openai_chat_stream, "openai_chat/vllm_cache_written", {}),
    (sdks.openai_embeddings, "openai_embeddings/base64", {"vectors": [[0.5, -0.25, 0.125]]}),
    (sdks.anthropic_stream, "anthropic_messages/tool_use_only", {"tools": [{"city": "Rome"}]}),
    (sdks.anthropic_events, "anthropic_messages/tool_use_only", {"tools": [{"city": "Rome"}]}),
    (sdks.anthropic_events, "anthropic_messages/thinking_first", {}),
    (sdks.anthropic_async, "anthropic_messages/usage_split_with_cache", {}),
    (sdks.anthropic_events, "anthropic_messages/vllm_cached", {}),
    (sdks.anthropic_stream, "anthropic_messages/refusal", {}),
    (sdks.anthropic_message, "anthropic_messages/whole_with_cache", {}),
    (sdks.openai_response_stream, "openai_responses/function_call_only", {"tools": [{"city": "Rome"}]}),
    (sdks.openai_response_stream, "openai_responses/reasoning_not_shown", {}),
    (sdks.openai_response_stream, "openai_responses/vllm_cached", {}),
    (sdks.openai_response_async, "openai_responses/incomplete_for_its_length", {}),
    (sdks.openai_response, "openai_responses/llamacpp_whole", {}),
    (sdks.google_generate_stream, "gemini/function_call_only", {"tools": [{"city": "Rome"}]}),
    (sdks.google_generate_stream, "gemini/thoughts_first", {}),
    (sdks.google_generate_async, "gemini/thoughts_not_shown", {}),
    (sdks.google_generate, "gemini/whole_with_cache_and_thoughts", {}),
    (sdks.google_generate_stream, "gemini/finish_safety", {}),
    (sdks.ollama_chat_stream, "ollama/tool_call_only", {"tools": [{"city": "Rome"}]}),
    (sdks.ollama_chat_async, "ollama/thinking_first", {}),
    (sdks.ollama_chat, "ollama/chat_whole", {}),
]


@pytest.mark.parametrize("ask, case, expected", RECORDED, ids=name_of)
def test_recorded_answers(recorded, tmp_path, ask, case, expected):
    """What the corpus says of an answer is what the client that it was made for says of it."""
    with programs.sidecar(recorded, tmp_path) as sidecar:
        clients, began = Clients(sidecar.url, {"x-request-id": case}), time.monotonic()
        told = ask(clients)
        seen = Seen(sidecar, started=1)
    told.id = None  # a header's was recorded, which comes first
    seen.check_told(WAYS[ask], told, began)
    (exchange,) = [known.exchange for known in golden.cases() if known.name == case]
    meant = ["model_served", "finish_reason", "input_tokens", "output_tokens", "cache_read_input_tokens"]
    seen.only(**{name: exchange.get(name) for name in meant})
    assert {name: getattr(told, name) for name in expected} == expected


# Which exception a client must raise when this goes wrong, and what it is counted as.
FAULTS = [
    (sdks.openai_chat, "status=400", openai.BadRequestError, "upstream_refused"),
    (sdks.openai_chat, "status=401", openai.AuthenticationError, "upstream_refused"),
    (sdks.openai_chat_stream, "status=429", openai.RateLimitError, "upstream_refused"),
    (sdks.openai_chat_async, "status=503", openai.InternalServerError, "upstream_failed"),
    (sdks.openai_completion, "status=404", openai.NotFoundError, "upstream_refused"),
    (sdks.openai_embeddings, "status=429", openai.RateLimitError, "upstream_refused"),
    (sdks.openai_chat_stream, "refuse-usage", openai.BadRequestError, "upstream_refused"),
    (sdks.openai_chat_stream, "error-event@3", openai.APIError, "stream_failed"),
    (sdks.openai_completion_stream, "error-event@0", openai.APIError, "stream_failed"),
    (sdks.openai_chat_stream, "cut@3", openai.APIConnectionError, "truncated"),
    (sdks.openai_chat_async, "reset@3", openai.APIConnectionError, "truncated"),
    (sdks.openai_chat, "cut", openai.APIConnectionError, "truncated"),
    (sdks.openai_response, "status=400", openai.BadRequestError, "upstream_refused"),
    (sdks.openai_response_stream, "status=429", openai.RateLimitError, "upstream_refused"),
    (sdks.openai_response_stream, "error-event@3", openai.OpenAIError, "stream_failed"),
    (sdks.openai_response_stream, "cut@3", openai.APIConnectionError, "truncated"),
    (sdks.google_generate, "status=400", google_errors.ClientError, "upstream_refused"),
    (sdks.google_generate_stream, "status=429", google_errors.ClientError, "upstream_refused"),
    (sdks.google_generate_stream, "status=503", google_errors.ServerError, "upstream_failed"),
    (sdks.google_generate_stream, "error-event@3", google_errors.ServerError, "stream_failed"),
    (sdks.anthropic_message, "status=400", anthropic.BadRequestError, "upstream_refused"),
    (sdks.anthropic_stream, "status=429", anthropic.RateLimitError, "upstream_refused"),
    (sdks.anthropic_async, "status=529", anthropic.InternalServerError, "upstream_failed"),
    (sdks.anthropic_stream, "error-event@3", anthropic.APIStatusError, "stream_failed"),
    (sdks.anthropic_events, "error-event@0", anthropic.APIStatusError, "stream_failed"),
    (sdks.anthropic_events, "cut@3", httpx2.RemoteProtocolError, "truncated"),
    (sdks.anthropic_message, "cut", anthropic.APIConnectionError, "truncated"),
    (sdks.ollama_chat, "status=404", ollama.ResponseError, "upstream_refused"),
    (sdks.ollama_chat_stream, "status=503", ollama.ResponseError, "upstream_failed"),
    (sdks.ollama_chat_async, "error-event@3", ollama.ResponseError, "stream_failed"),
    (sdks.ollama_generate_stream, "error-event@0", ollama.ResponseError, "stream_failed"),
    (sdks.ollama_chat_stream, "cut@3", httpx.RemoteProtocolError, "truncated"),
    (sdks.ollama_generate, "cut", httpx.RemoteProtocolError, "truncated"),
    (sdks.bedrock_converse, "status=400", ClientError, "upstream_refused"),
    (sdks.bedrock_converse_stream, "status=429", ClientError, "upstream_refused"),
    (sdks.bedrock_invoke_stream, "status=503", ClientError, "upstream_failed"),
    (sdks.bedrock_converse_stream, "error-event@3", EventStreamError, "stream_failed"),
    (sdks.bedrock_invoke_stream, "error-event@0", EventStreamError, "stream_failed"),
    (sdks.bedrock_converse_stream, "cut@3", urllib3.exceptions.ProtocolError, "truncated"),
    (sdks.cohere_chat, "status=429", cohere.TooManyRequestsError, "upstream_refused"),
    (sdks.cohere_chat_stream, "status=503", cohere.ServiceUnavailableError, "upstream_failed"),
    (sdks.cohere_chat_stream, "error-event@3", RuntimeError, "stream_failed"),
    (sdks.cohere_chat_stream, "cut@3", httpx.RemoteProtocolError, "truncated"),
    (sdks.cohere_rerank, "status=400", cohere.BadRequestError, "upstream_refused"),
]


def status_of(error: Exception) -> int:
    if isinstance(error, ClientError):
        return error.response["ResponseMetadata"]["HTTPStatusCode"]
    return error.code if isinstance(error, google_errors.APIError) else error.status_code


@pytest.mark.parametrize("ask, fault, exception, outcome", FAULTS, ids=name_of)
def test_faults(simulated, tmp_path, ask, fault, exception, outcome):
    with programs.sidecar(simulated, tmp_path) as sidecar:
        with pytest.raises(exception) as raised:
            ask(Clients(sidecar.url, {"x-sim-fault": fault}))
        seen = Seen(sidecar, started=1)
    code = 400 if fault == "refuse-usage" else int(fault.removeprefix("status=")) if "status" in fault else 200
    way = WAYS[ask]
    seen.only(dialect=way.dialect, code=code, outcome=outcome)
    if code != 200:
        assert status_of(raised.value) == code
        assert seen.page.sum("input_tokens_total") == seen.page.sum("output_tokens_total") == 0
    elif outcome == "stream_failed":
        assert "EngineCore encountered an issue" in str(raised.value)
    if way.stream and code == 200:
        assert seen.page.sum("time_to_first_token_seconds_count") == (0 if fault.endswith("@0") else 1)


NOBODY_THERE = [
    (sdks.openai_chat_stream, openai.InternalServerError),
    (sdks.openai_embeddings, openai.InternalServerError),
    (sdks.openai_response_stream, openai.InternalServerError),
    (sdks.google_generate_stream, google_errors.ServerError),
    (sdks.anthropic_events, anthropic.InternalServerError),
    (sdks.ollama_chat_stream, ollama.ResponseError),
    (sdks.bedrock_converse_stream, ClientError),
    (sdks.cohere_chat_stream, cohere.core.api_error.ApiError),
]


@pytest.mark.parametrize("ask, exception", NOBODY_THERE, ids=name_of)
def test_our_own_error(tmp_path, ask, exception):
    """The sidecar's own answer is an error as the client knows it, and says whose it is."""
    with programs.sidecar(("127.0.0.1", programs.free_port()), tmp_path) as sidecar:
        with pytest.raises(exception) as raised:
            ask(Clients(sidecar.url))
        seen = Seen(sidecar, started=1)
    line = seen.only(dialect=WAYS[ask].dialect, code=502, outcome="upstream_failed", model_requested=programs.MODEL)
    assert status_of(raised.value) == 502
    assert "streamgauge" in str(raised.value)
    if exception not in (ollama.ResponseError, ClientError):  # they keep nothing but the text
        assert line["request_id"] in str(getattr(raised.value, "body", None) or raised.value.details)


@pytest.mark.parametrize("ask", LEAVES, ids=name_of)
def test_client_that_stops_reading(simulated, tmp_path, ask):
    """To close a stream in the middle is to leave, and no error of anybody's."""
    with programs.sidecar(simulated, tmp_path) as sidecar:
        ask(Clients(sidecar.url, {"x-sim-tps": "5"}), leave=True)
        seen = Seen(sidecar, started=1)
    seen.only(dialect=WAYS[ask].dialect, stream=True, code=200, outcome="client_gone", finish_reason=None)
    assert seen.page.only("client_disconnects_total", phase="streaming") == 1
    assert seen.page.only("time_to_first_token_seconds_count") == 1


def test_client_that_stops_reading_llama(llama, tmp_path):
    with programs.sidecar(llama, tmp_path) as sidecar:
        clients = Clients(sidecar.url)
        stream = clients.openai.chat.completions.create(
            model=programs.MODEL, messages=sdks.MESSAGES, max_tokens=400, stream=True
        )
        next(chunk for chunk in stream if sdks.has_delta(chunk))
        stream.close()
        seen = Seen(sidecar, started=1)
    seen.only(outcome="client_gone", code=200)
    assert seen.page.only("client_disconnects_total", phase="streaming") == 1


IMPATIENT = [
    (sdks.openai_chat, openai.APITimeoutError),
    (sdks.anthropic_message, anthropic.APITimeoutError),
    (sdks.ollama_chat, httpx.ReadTimeout),
]


@pytest.mark.parametrize("ask, exception", IMPATIENT, ids=name_of)
def test_client_that_loses_patience(simulated, tmp_path, ask, exception):
    with programs.sidecar(simulated, tmp_path) as sidecar:
        with pytest.raises(exception):
            ask(Clients(sidecar.url, {"x-sim-fault": "hang-head"}, patience=0.3))
        seen = Seen(sidecar, started=1)
    line = seen.only(dialect=WAYS[ask].dialect, code=None, outcome="client_gone")
    assert line["duration_seconds"] >= 0.25
    assert seen.page.only("client_disconnects_total", phase="before_first_token") == 1


@pytest.mark.parametrize("ask", [sdks.openai_chat, sdks.anthropic_stream], ids=name_of)
def test_each_try_counts(simulated, tmp_path, ask):
    """A client that tries again after a 503 has asked twice."""
    with programs.sidecar(simulated, tmp_path) as sidecar:
        with pytest.raises((openai.InternalServerError, anthropic.InternalServerError)):
            ask(Clients(sidecar.url, {"x-sim-fault": "status=503"}, retries=1))
        seen = Seen(sidecar, started=2)
    assert [(line["code"], line["outcome"]) for line in seen.log] == [(503, "upstream_failed")] * 2
    assert seen.page.only("requests_total", code="503") == 2


def test_signatures_stay_valid(tmp_path):
    """AWS's clients sign the path, the host, headers and the body: what the upstream gets must still be signed so."""
    asked = []

    class Upstream(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append((self.path, dict(self.headers), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(403)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-pro-v1:0"
    with programs.sidecar(server.server_address, tmp_path) as sidecar:
        with pytest.raises(ClientError):
            Clients(sidecar.url).bedrock.converse(**{**sdks.CONVERSE, "modelId": arn})
        seen = Seen(sidecar, started=1)
    server.shutdown()
    seen.only(dialect="bedrock", code=403, model_requested="us.amazon.nova-pro-v1:0")
    ((path, headers, body),) = asked
    names = {name.lower(): value for name, value in headers.items()}
    signed, signature = re.search("SignedHeaders=([^,]+), Signature=(.+)", names["authorization"]).groups()
    request = AWSRequest("POST", f"http://{names['host']}{path}", {n: names[n] for n in signed.split(";")}, body)
    request.context["timestamp"] = names["x-amz-date"]
    auth = SigV4Auth(Credentials("AKIDNOTAKEY", KEY), "bedrock", "us-east-1")
    assert auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request) == signature
