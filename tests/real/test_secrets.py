"""Keys, tokens, prompts and answers pass through and stand nowhere else: no output, log, page or error has them.

Every secret is a text that occurs nowhere else. First it is shown that each was really there (the upstream or the client
got it) and that the search finds what it looks for in every place; then the places are searched.
"""

import contextlib
import hashlib
import json
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request

import programs
from exposition import Scraper
from issuer import Issuer, Key, certificate
from upstreams import event, scripted
from wire import Connection, request

KINDS = (
    "bearer x_api_key api_key google_key query_key cookie basic protocol prompt system image user argument "
    "schema answer thought call echo set_cookie broken undecodable smuggled proxy goaway"
).split()
SECRETS = {kind: f"Sk{hashlib.sha256(kind.encode()).hexdigest()[:24]}" for kind in KINDS}
KEY = Key("k1", "RS256")
TOKEN = KEY.token("acme", email="someone@secret.example")
SECRETS |= dict(zip(("token_claims", "token_signature"), TOKEN.split(".")[1:], strict=True))
PLANTED = "planted-and-found"

REQUEST = {
    "model": "scripted",
    "user": SECRETS["user"],
    "messages": [
        {"role": "system", "content": SECRETS["system"]},
        {"role": "user", "content": [
            {"type": "text", "text": f"My secret is {SECRETS['prompt']}."},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{SECRETS['image']}"}},
        ]},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {
            "name": "f", "arguments": json.dumps({"a": SECRETS["argument"]})}}]},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": SECRETS["schema"]}}],
}  # fmt: skip
HEADERS = [
    f"Authorization: Bearer {SECRETS['bearer']}",
    f"X-Api-Key: {SECRETS['x_api_key']}",
    f"Api-Key: {SECRETS['api_key']}",
    f"X-Goog-Api-Key: {SECRETS['google_key']}",
    f"Cookie: session={SECRETS['cookie']}",
    f"X-Token: {TOKEN}",
    f"X-Tenant-Id: {PLANTED}",
    f"X-Request-Id: {PLANTED}",
]
TARGET = f"/v1/chat/completions?key={SECRETS['query_key']}"


def delta(**more) -> bytes:
    return event(choices=[{"index": 0, "delta": more, "finish_reason": None}])


def whole(client, status: str, body: object, *lines: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(content)}", *lines]
    client.connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + content)


class Upstream:
    """Answers as the request's `x-case` says, and keeps all that it was sent."""

    def __init__(self):
        self.seen = b""

    def __call__(self, client):
        self.seen += b"\r\n".join([client.request.start, *client.request.lines, b"", bytes(client.request.body)])
        return getattr(self, (client.request.header("x-case") or b"whole").decode())(client)

    def stream(self, client):
        client.head()
        client.chunk(event() + delta(reasoning_content=SECRETS["thought"]) + event(SECRETS["answer"]))
        call = {"index": 0, "id": "1", "function": {"name": "f", "arguments": SECRETS["call"]}}
        client.chunk(delta(tool_calls=[call]) + b'data: {"choices": ' + SECRETS["undecodable"].encode() + b"}\n\n")
        client.finish()

    def unreported(self, client):
        client.head()
        client.chunk(event() + event(SECRETS["answer"]) + b"data: [DONE]\n\n")
        client.connection.sendall(b"0\r\n\r\n")

    def whole(self, client):
        message = {"role": "assistant", "content": SECRETS["answer"], "reasoning_content": SECRETS["thought"]}
        whole(client, "200 OK", {
            "model": "scripted", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        }, f"Set-Cookie: s={SECRETS['set_cookie']}")  # fmt: skip

    def refused(self, client):
        said = f"Incorrect API key provided: {SECRETS['bearer']} {SECRETS['echo']}"
        error = {"message": said, "type": SECRETS["bearer"], "code": SECRETS["echo"], "param": SECRETS["prompt"]}
        whole(client, "401 Unauthorized", {"error": error}, f'WWW-Authenticate: Bearer error="{SECRETS["echo"]}"')

    def failed(self, client):
        client.head()
        error = {"message": SECRETS["echo"], "type": SECRETS["echo"], "code": SECRETS["prompt"]}
        client.chunk(event("one") + b"data: " + json.dumps({"error": error}).encode() + b"\n\n")
        client.connection.sendall(b"0\r\n\r\n")

    def broken(self, client):
        client.head()
        client.chunk(event(SECRETS["broken"]))
        client.connection.close()
        return "closed"

    def bad_chunk(self, client):
        client.head()
        client.connection.sendall(f"{SECRETS['broken']}\r\n".encode())
        client.connection.close()
        return "closed"

    def no_answer(self, client):
        client.connection.close()
        return "closed"

    def no_head(self, client):
        client.connection.sendall(f"HTTP/1.1 200 OK\r\n{SECRETS['broken']} \x01: x\r\n\r\n".encode())
        client.connection.close()
        return "closed"

    def no_http(self, client):
        client.connection.sendall(f"{SECRETS['broken']}\r\n\r\n".encode())
        client.connection.close()
        return "closed"


@contextlib.contextmanager
def rude():
    """A server of HTTP/2 that closes each connection with a last word: its address, and how often it said it."""
    word, said = SECRETS["goaway"].encode(), []
    settings = b"\0\0\0\4\0\0\0\0\0"
    goaway = (8 + len(word)).to_bytes(3, "big") + b"\7\0" + bytes(4) + bytes(4) + (1).to_bytes(4, "big") + word

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(settings + goaway)
                    said.append(word)
                    connection.settimeout(1)
                    while connection.recv(65536):
                        pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[:2], said


class Places:
    """Where a secret must not be."""

    def __init__(self):
        self.all: dict[str, str] = {}

    def add(self, name: str, text: str) -> None:
        self.all[name] = self.all.get(name, "") + text

    def found(self, needle: str) -> list[str]:
        return [name for name, text in self.all.items() if needle.lower() in text.lower()]


def ask(url: str, method: str = "GET", data: bytes | None = None, **headers: str) -> str:
    call = urllib.request.Request(url, data, {name.replace("_", "-"): value for name, value in headers.items()}, method=method)
    try:
        with urllib.request.urlopen(call, timeout=10) as answer:
            return f"{answer.status} {answer.headers} {answer.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.headers} {error.read().decode()}"


def raw(address: tuple[str, int], sent: bytes) -> bytes:
    """Sends bytes that are no request, and takes what comes."""
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(sent)
        connection.settimeout(1)
        got = b""
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                got += data
        return got


def pages(places: Places, sidecar: programs.Sidecar, name: str) -> None:
    base = sidecar.metrics_url.removesuffix("/metrics")
    for path in ("/", "/live", "/ready", "/config", "/nothing"):
        places.add(f"{name} {path}", ask(base + path))
    places.add(f"{name} /metrics", ask(sidecar.metrics_url))
    places.add(f"{name} openmetrics", ask(sidecar.metrics_url, accept="application/openmetrics-text; version=1.0.0"))


def traffic(sidecar: programs.Sidecar) -> bytes:
    """Every kind of exchange once; what the client got."""
    got, cases = b"", "stream unreported whole refused failed broken bad_chunk no_answer no_head no_http".split()
    for case in cases:
        body = REQUEST | {"stream": case in ("stream", "unreported", "failed", "broken", "bad_chunk")}
        with contextlib.suppress(EOFError, ValueError, OSError), Connection(sidecar.address, timeout=10) as connection:
            sent = request("POST", TARGET, sidecar.address, body, *HEADERS, f"X-Case: {case}")
            arrival = connection.send(sent)
            while not arrival.answer.complete:
                connection.read(arrival)
                got += bytes(arrival.answer.body) + b"\r\n".join(arrival.answer.lines)
    secret = SECRETS["smuggled"]
    for odd in [
        f"GET /{secret} HTTP/1.1\r\nAuthorization {secret}\r\n\r\n",
        f"GET /{secret} HTTP/9.9\r\nHost: x\r\n\r\n",
        f"GET /\x01{secret} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"CONNECT {secret}:443 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {SECRETS['proxy']}\r\n\r\n",
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Case: whole\r\nTransfer-Encoding: chunked\r\n\r\n{secret}\r\n",
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: {secret}\r\n\r\n",
        "GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Protocol: openai-insecure-api-key.{SECRETS['protocol']}\r\nX-Case: refused\r\n"
        f"Authorization: Basic {SECRETS['basic']}\r\n\r\n",
        f"\x16\x03\x01{secret}",
        f"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{secret}{secret}",
    ]:
        got += raw(sidecar.address, odd.encode())
    # As an HTTP/2 client would, whose heads take another way.
    lines = [part for line in [*HEADERS, "X-Case: stream"] for part in ("-H", line)]
    url = sidecar.url + TARGET
    curl = ["curl", "-sS", "--http2-prior-knowledge", *lines, "--json", json.dumps(REQUEST | {"stream": True}), url]
    got += subprocess.run(curl, capture_output=True, timeout=20, check=True).stdout
    return got


def test_what_passes_through_stands_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMGAUGE_LOG", "trace")
    monkeypatch.setenv("RUST_LOG", "trace")
    monkeypatch.setenv("RUST_BACKTRACE", "full")
    ca, tls = certificate(tmp_path)
    upstream, places = Upstream(), Places()
    with contextlib.ExitStack() as stack:
        issuer = stack.enter_context(Issuer(tls=tls))
        issuer.answer = [KEY.public()]
        address, _ = stack.enter_context(scripted(upstream))
        names = tmp_path / "names.yaml"
        names.write_text(hashlib.sha256(SECRETS["api_key"].encode()).hexdigest() + ": by-key\n")
        jwks = f"https://127.0.0.1:{issuer.port}/keys?token={SECRETS['query_key']}"
        # Two in a row with HTTP/2 between them; one that goes to a server over TLS; one to nobody.
        inner = stack.enter_context(programs.sidecar(address, tmp_path / "inner"))
        closing, last_words = stack.enter_context(rude())
        config = tmp_path / "config.yaml"
        config.write_text(f"""
upstreams:
  - {{name: {PLANTED}, url: 'h2c://{inner.address[0]}:{inner.address[1]}', inject_usage: true}}
  - {{name: tls, url: 'https://127.0.0.1:{issuer.port}', match: {{path_prefix: /tls}}, tls: {{ca: {ca}}}}}
  - {{name: gone-{PLANTED}, url: 'http://127.0.0.1:{programs.free_port()}', match: {{path_prefix: /gone}}}}
  - {{name: rude, url: 'h2c://{closing[0]}:{closing[1]}', match: {{path_prefix: /rude}}}}
tenants:
  identify:
    - header: x-tenant-id
    - jwt_claim: {{claim: org_id, header: x-token, jwks: '{jwks}', ca: {ca}}}
    - api_key: {{names: {names}}}
metrics: {{token_audit: 1.0}}
models: [{{name: scripted, tokenizer: {{encoding: o200k_base}}}}]
""")
        outer = stack.enter_context(programs.sidecar(None, tmp_path / "outer", "--config", str(config)))
        outer.program.wait_for("keys are here")
        got = traffic(outer)
        without_names = [line for line in HEADERS if "Tenant" not in line]
        for way in (without_names, [line for line in without_names if "X-Token" not in line]):
            for path in ("/v1/chat/completions", "/tls", "/gone", "/rude"):
                with Connection(outer.address) as connection:
                    sent = request("POST", f"{path}?key={SECRETS['query_key']}", outer.address, REQUEST, *way)
                    got += bytes(connection.exchange(sent).answer.body)
        Scraper(outer.metrics_url).wait("all settled", lambda scrape: scrape.settled, 20)
        wanted = {PLANTED, "acme", "by-key"}
        tenants = lambda: {line["tenant"] for line in outer.log()}  # noqa: E731
        with contextlib.suppress(AssertionError):
            outer.program.wait_until(lambda: wanted <= tenants(), 10, "lines of all")
        assert wanted <= tenants(), [(line["tenant"], line["upstream"], line["outcome"]) for line in outer.log()]

        # They were there.
        came = upstream.seen.decode(errors="replace")
        reached = set(KINDS) - set("answer thought call echo set_cookie broken undecodable smuggled proxy goaway".split())
        for kind in [*reached, "token_claims", "token_signature"]:
            assert SECRETS[kind] in came, f"{kind} did not reach the upstream"
        for kind in "answer thought call echo set_cookie broken undecodable bearer".split():
            assert SECRETS[kind].encode() in got, f"{kind} did not reach the client"

        assert last_words and all(SECRETS[kind] in str(issuer.seen) for kind in ("bearer", "query_key", "prompt"))

        reloads_that_fail(places, outer, config)
        for sidecar, name in ((outer, "outer"), (inner, "inner")):
            pages(places, sidecar, name)
            sidecar.program.process.send_signal(signal.SIGTERM)
            assert sidecar.program.process.wait(30) == 0
            places.add(f"{name} stdout", sidecar.program.out.read_text())
            places.add(f"{name} stderr", sidecar.program.err.read_text())

    # What is searched is what there is to search.
    for place in ("stdout", "stderr", "/metrics", "openmetrics", "/config"):
        assert f"outer {place}" in places.found(PLANTED), place
    assert "inner stdout" in places.found(PLANTED)
    for said in ("TRACE", "no answer: ", "protocol error detected", "could not reload"):
        assert said in places.all["outer stderr"] + places.all["inner stderr"], said
    leaks = {kind: found for kind, secret in SECRETS.items() if (found := places.found(secret))}
    assert not leaks, {kind: context(places, SECRETS[kind], found) for kind, found in leaks.items()}


def context(places: Places, secret: str, found: list[str]) -> dict[str, str]:
    """Each first line that has it."""
    lines = {name: places.all[name].splitlines() for name in found}
    return {name: next(line for line in all_ if secret.lower() in line.lower())[:400] for name, all_ in lines.items()}


SECRET = "Sk-5ecret-0f-an-0perator"

# What an operator may write by mistake, and where it is.
MISTAKES = {
    "a user in an upstream's URL": f"upstream: http://user:{SECRET}@h:1\n",
    "a user in a URL that is none": f"upstream: 'http://user:{SECRET}@h: 1'\n",
    "a query in an upstream's URL": f"upstream: http://h:1/v1?key={SECRET}\n",
    "a user in the URL of keys": f"jwt: {{claim: c, jwks: 'https://user:{SECRET}@h/k'}}",
    "a URL of keys that is none": f"jwt: {{claim: c, jwks: 'https://h /k?key={SECRET}'}}",
    "a file of keys that holds something else": "jwt: {claim: c, jwks: FILE}",
    "a file of names that holds a key": "api_key: {names: FILE}",
    "a key in place of the file's name": f"api_key: {SECRET}",
    "keys in place of the file": f"api_key: {{{SECRET}: search}}",
    "keys below names": f"api_key: {{names: {{{SECRET}: search}}}}",
    "a key in a list": f"api_key: [{SECRET}]",
    "a header with its value": f'header: "Authorization: Bearer {SECRET}"',
    "a key alone": SECRET,
    "a key as a key": f"{SECRET}: search",
    "a key twice": f"{{{SECRET}: a, {SECRET}: b}}",
    "an alias that is none": f"*{SECRET}",
    "a tag": f"!{SECRET} x",
    "a text that does not end": f'header: "{SECRET}',
    "a key for a number": f"upstream: http://h:1\ntenants: {{limit: {SECRET}}}\n",
    "a key for a switch": f"upstreams: [{{name: a, url: 'http://h:1', inject_usage: {SECRET}}}]\n",
    "a key beside an upstream": f"upstreams: [{{name: a, url: 'http://h:1', {SECRET}: x}}]\n",
    "a key for a word": f"upstreams: [{{name: a, url: 'http://h:1', http2: {SECRET}}}]\n",
    "a key for a time": f"upstream: http://h:1\ndrain_timeout: {SECRET}\n",
    "a key for an address": f"upstream: http://h:1\nlisten: {SECRET}\n",
}


def mistaken(folder, what: str) -> str:
    text = MISTAKES[what]
    (folder / "held.txt").write_text(f'"{SECRET}"' if "keys that" in what else f"{SECRET}: search\n")
    text = text.replace("FILE", str(folder / "held.txt"))
    if not text.startswith("upstream"):
        way = text.replace("jwt:", "jwt_claim:", 1)
        text = f"upstream: http://127.0.0.1:1\ntenants:\n  identify:\n    - {way}\n"
    return text


def reloads_that_fail(places: Places, sidecar: programs.Sidecar, config) -> None:
    base = sidecar.metrics_url.removesuffix("/metrics")
    for what in MISTAKES:
        config.write_text(mistaken(config.parent, what))
        answer = ask(base + "/reload", "POST")
        assert answer.startswith("400 "), (what, answer)
        assert SECRET not in answer, (what, answer)
        places.add("answers to /reload", answer)
    SECRETS["operator"] = SECRET
    places.add("answers to /log-level", ask(base + "/log-level", "PUT", f"{PLANTED}=trace".encode()))


def test_a_mistake_in_a_configuration_is_told_without_what_it_gave_away(tmp_path):
    for what in MISTAKES:
        config = tmp_path / "config.yaml"
        config.write_text(mistaken(tmp_path, what))
        for command in (["check", str(config)], ["run", "--config", str(config)]):
            done = subprocess.run([programs.streamgauge(), *command], capture_output=True, text=True, timeout=10)
            assert done.returncode == 1, (what, done)
            assert done.stdout == "" and SECRET not in done.stderr, (what, done.stderr)
            assert str(tmp_path) in done.stderr and ":" in done.stderr, (what, done.stderr)


def test_a_mistake_on_the_command_line_is_told_without_what_it_gave_away():
    for arguments in [
        ["run", "--upstream", f"http://user:{SECRET}@h:1"],
        ["run", "--upstream", f"http://h:1/?key={SECRET}"],
        ["explain", "--url", f"http://user:{SECRET}@h:1/v1"],
        ["explain", "--url", f"https://h:1/v1?key={SECRET}"],
        ["explain", "--url", f"http://h h/v1?key={SECRET}"],
        ["explain", "--url", f"http://127.0.0.1:1/v1?key={SECRET}"],
        ["explain", "--url", "http://127.0.0.1:1/v1", "-H", f"Authorization Bearer {SECRET}"],
        ["explain", "--url", "http://127.0.0.1:1/v1", "-H", f"Authorization {SECRET}: Bearer"],
        ["explain", "--url", "http://127.0.0.1:1/v1", "-H", f"Authorization: Bearer {SECRET}\n"],
        ["size", "--params", "8b", "--prometheus", f"http://user:{SECRET}@h:1"],
        ["size", "--params", "8b", "--prometheus", f"https://h:1/?token={SECRET}"],
        ["size", "--params", "8b", "--prometheus", f"http://127.0.0.1:1/?token={SECRET}"],
    ]:
        done = subprocess.run([programs.streamgauge(), *arguments], capture_output=True, text=True, timeout=20)
        assert done.returncode != 0 or arguments[0] == "explain", (arguments, done)
        assert SECRET not in done.stdout + done.stderr, (arguments, done.stdout, done.stderr)


def test_an_exchange_is_explained_without_its_text(tmp_path):
    upstream = Upstream()
    case = tmp_path / "case"
    case.mkdir()
    with scripted(upstream) as (address, _):
        options = [part for line in [*HEADERS, "X-Case: stream"] for part in ("-H", line)]
        body = json.dumps(REQUEST | {"stream": True})
        url = f"http://{address[0]}:{address[1]}{TARGET}"
        command = [programs.streamgauge(), "explain", "--url", url, *options, "-d", body]
        silent = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        shown = subprocess.run([*command, "--show-text"], capture_output=True, text=True, timeout=20, check=True)
        with Connection(address) as connection:
            sent = request("POST", TARGET, address, REQUEST | {"stream": True}, *HEADERS, "X-Case: stream")
            answer = connection.exchange(sent).answer
    head, lines = [answer.start, *answer.lines], sent.decode().split("\r\n\r\n", 1)
    (case / "request.http").write_text(lines[0].replace("\r\n", "\n") + "\n\n" + lines[1])
    (case / "response.http").write_bytes(
        b"@1ms\n" + b"\n".join(line for line in head if b"chunked" not in line) + b"\n\n@2ms\n" + bytes(answer.body) + b"@3ms end\n"
    )
    (case / "exchange.json").write_text(json.dumps({"output_tokens": 99, "tenant": "x"}))
    recorded = [
        subprocess.run([programs.streamgauge(), *more], capture_output=True, text=True, timeout=20)
        for more in (["explain", str(case)], ["replay", str(tmp_path)])
    ]
    assert "99" in recorded[1].stdout + recorded[1].stderr, recorded[1]
    for done in (silent, *recorded):
        for kind, secret in SECRETS.items():
            assert secret not in done.stdout + done.stderr, (kind, done.stdout, done.stderr)
    # The answer's text is what --show-text is for; keys and prompts it does not show either.
    found = {kind for kind, secret in SECRETS.items() if secret in shown.stdout + shown.stderr}
    assert found and found <= {"answer", "thought", "call"}, (found, shown.stdout)
