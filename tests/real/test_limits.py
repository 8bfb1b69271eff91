"""Limits on tokens per minute, held to by two replicas through a real Redis, and before a provider that has its own."""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations

import programs
import pytest
from exposition import Scrape, Scraper

LIMIT = 40_000
CLIENTS = 20
# How exactly the log tells when a request waited: to the millisecond, and its overhead has the answer's in it.
PRECISION = 0.1
# Within so many seconds a replica has told the others what a request came to.
TOLD_AFTER = 0.5


class Provider(ThreadingHTTPServer):
    """Counts a prompt of n words as the tokenizer does, and remembers who came when, and what it came to."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.served: list[dict] = []


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):  # noqa: N802
        began = time.monotonic()
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = len(asked["messages"][0]["content"].split()) + 7
        most = asked.get("max_tokens")
        completion = random.randint(1, most) if most else random.randint(200, 2_500)
        time.sleep(random.uniform(0.05, 0.5))
        usage = {"prompt_tokens": prompt, "completion_tokens": completion}
        choice = {"index": 0, "message": {"role": "assistant", "content": "word"}, "finish_reason": "stop"}
        body = json.dumps({"model": "gpt", "choices": [choice], "usage": usage}).encode()
        served = {name: self.headers[f"x-{name}"] for name in ("tenant-id", "replica")}
        served |= {"tokens": prompt + completion, "began": began}
        self.server.served.append(served | {"ended": time.monotonic()})
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def provider():
    server = Provider()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()


def config(folder, upstream: tuple[str, int], limits: str, store: str = "memory"):
    folder.mkdir(exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(
        f"upstream: http://{upstream[0]}:{upstream[1]}\n"
        "models: [{name: gpt, tokenizer: {encoding: o200k_base}}]\n"
        f"limits: [{limits}]\nlimit_store: {store}\n"
    )
    return path


def post(
    address: tuple[str, int], tenant: str, words: int, most: int | None, timeout: float = 200
) -> tuple[int, dict]:
    """Sends one request; gives the status and the headers."""
    body = {"model": "gpt", "messages": [{"role": "user", "content": " ".join(["the"] * words)}]}
    if most:
        body["max_tokens"] = most
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    headers = {"content-type": "application/json", "x-tenant-id": tenant, "x-replica": str(address[1])}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, dict(answer.headers)


def most_in_a_minute(served: list[dict]) -> int:
    """The most tokens of requests that came within any sixty seconds."""
    served = sorted(served, key=lambda one: one["began"])
    return max(
        sum(other["tokens"] for other in served if one["began"] <= other["began"] < one["began"] + 60)
        for one in served
    )


def most_at_once(served: list[dict]) -> int:
    """The most tokens of requests of which a replica did not know, when it let one in, what they would come to: those
    that ran, and those of which another had not told yet."""
    return max(
        sum(other["tokens"] for other in served if other["began"] <= one["began"] <= other["ended"] + TOLD_AFTER)
        for one in served
    )


def scrape(sidecar: programs.Sidecar) -> Scrape:
    with urllib.request.urlopen(sidecar.metrics_url, timeout=5) as page:
        return Scrape(page.read().decode())


def used(sidecar: programs.Sidecar, tenant: str) -> float:
    return scrape(sidecar).only("tpm_used", tenant=tenant, model="*")


def agreed(one: programs.Sidecar, two: programs.Sidecar, tenant: str) -> float:
    """What both say is used. Each hears in a second what the other settled; and one may be asked before tokens of a minute
    ago are over, the other after."""
    deadline = time.monotonic() + 15
    while (found := used(one, tenant)) != (other := used(two, tenant)):
        assert time.monotonic() < deadline, f"{tenant}: {found} and {other}"
        time.sleep(0.2)
    return found


def test_two_replicas_hold_a_tenant_to_its_limit_though_redis_is_killed(tmp_path):
    """`exact` says how long its answers may be, `unsure` does not: what comes of that is repaid."""
    port = programs.free_port()
    redis = lambda name: programs.redis(port, tmp_path / name)  # noqa: E731
    limits = "{tenant: '*', tokens_per_minute: 40000, action: reject}"
    with provider() as upstream:
        settings = config(tmp_path, upstream.server_address, limits, f"redis://127.0.0.1:{port}")
        first_redis = redis("redis-1")
        with (
            first_redis as killed,
            programs.sidecar(None, tmp_path / "one", "--config", str(settings)) as one,
            programs.sidecar(None, tmp_path / "two", "--config", str(settings)) as two,
        ):
            for sidecar in (one, two):
                sidecar.program.wait_for("limit_store answers")
            began = time.monotonic()
            refused = []

            def client(number: int) -> None:
                chance = random.Random(number)
                tenant = "exact" if number % 2 else "unsure"
                time.sleep(chance.uniform(0, 5))
                while time.monotonic() < began + 105:
                    words, most = chance.randint(20, 400), chance.randint(100, 1_500)
                    sidecar = chance.choice((one, two))
                    status, headers = post(sidecar.address, tenant, words, most if tenant == "exact" else None)
                    if status == 429:
                        assert int(headers["retry-after"]) <= 62 or tenant == "unsure", headers
                        refused.append(tenant)
                    else:
                        assert status == 200
                    time.sleep(chance.uniform(0.5, 3))

            with ThreadPoolExecutor(CLIENTS) as clients:
                running = [clients.submit(client, number) for number in range(CLIENTS)]
                time.sleep(58)
                killed.process.kill()
                gone = time.monotonic()
                for sidecar in (one, two):
                    sidecar.program.wait_for("limit_store does not answer")
                    page = scrape(sidecar)
                    assert page.only("limit_store_up") == 0
                time.sleep(12)
                back = time.monotonic()
                with redis("redis-2"):
                    for sidecar in (one, two):
                        sidecar.program.wait_for("(?s)does not answer.*limit_store answers")
                    [client.result() for client in running]
                    counted = {tenant: agreed(one, two, tenant) for tenant in ("exact", "unsure")}
                    pages = [scrape(sidecar) for sidecar in (one, two)]
                    logs = [sidecar.program.err.read_text() for sidecar in (one, two)]
                    ports = [str(sidecar.address[1]) for sidecar in (one, two)]
    served = {tenant: [one for one in upstream.served if one["tenant-id"] == tenant] for tenant in ("exact", "unsure")}
    for tenant, own in served.items():
        meanwhile = [one for one in own if gone + 1 < one["began"] < back]
        print(
            f"{tenant}: {len(own)} served, {len(meanwhile)} of them without Redis, {refused.count(tenant)} refused; "
            f"{most_in_a_minute(own)} tokens in a minute; {most_at_once(own)} at once"
        )
        assert refused.count(tenant) > 20, "nobody met the limit"
        assert meanwhile, "nothing went on without Redis"
        assert counted[tenant] > 0
    assert 0.8 * LIMIT < most_in_a_minute(served["exact"]) <= LIMIT
    # Without Redis each replica fills its share, at a time of its own, and there goes beyond it.
    of_replica = [[one for one in served["unsure"] if one["replica"] == name] for name in ports]
    surplus = sum(map(most_at_once, of_replica))
    assert most_in_a_minute(served["unsure"]) <= LIMIT + surplus
    minutes = (time.monotonic() - began) / 60
    assert sum(one["tokens"] for one in served["unsure"]) <= LIMIT * (minutes + 1) + surplus
    for page in pages:
        assert page.only("limit_store_up") == 1
        assert page.only("limit_store_fallbacks_total") > 0
    for log in logs:
        # Told once each time it changes; a busy machine may make Redis too slow for a moment, too.
        said = re.findall(r"limit_store (does not answer|answers)", log)
        times = said.count("does not answer")
        assert times >= 1 and said == ["answers", "does not answer"] * times + ["answers"], said


class Way:
    """A server by an address of its own: what is sent takes so long, and it can be shut."""

    def __init__(self, port: int, seconds: float = 0):
        self.port, self.seconds, self.is_open = port, seconds, True
        self.sockets: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            client = self.listener.accept()[0]
            if not self.is_open:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.port))
            self.sockets += [client, server]
            threading.Thread(target=self.carry, args=(client, server, self.seconds), daemon=True).start()
            threading.Thread(target=self.carry, args=(server, client, 0), daemon=True).start()

    @staticmethod
    def carry(source: socket.socket, target: socket.socket, pause: float) -> None:
        with source, target, suppress(OSError):
            while data := source.recv(65536):
                time.sleep(pause)
                target.sendall(data)

    def shut(self) -> None:
        self.is_open = False
        for one in self.sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("is_emptied", [True, False])
def test_who_is_back_first_holds_to_its_share_until_the_others_have_told(tmp_path, is_emptied):
    port = programs.free_port()
    limits = "{tenant: '*', tokens_per_minute: 40000, action: reject}"
    first_way, second_way = Way(port), Way(port)
    with provider() as upstream, programs.redis(port, tmp_path / "redis"):
        one_config = config(tmp_path / "one", upstream.server_address, limits, first_way.url)
        two_config = config(tmp_path / "two", upstream.server_address, limits, second_way.url)
        with (
            programs.sidecar(None, tmp_path / "one", "--config", str(one_config)) as one,
            programs.sidecar(None, tmp_path / "two", "--config", str(two_config)) as two,
        ):
            for sidecar in (one, two):
                sidecar.program.wait_for("limits are shared")
            assert post(one.address, "uneven", 8_000, 1)[0] == 200
            assert post(two.address, "uneven", 28_000, 1)[0] == 200
            time.sleep(5)  # till each has heard of the other, and of what it has charged
            for way in (first_way, second_way):
                way.shut()
            for sidecar in (one, two):
                sidecar.program.wait_for("limit_store does not answer.*replicas=2")
                assert post(sidecar.address, "even", 19_000, 1)[0] == 200
            if is_emptied:
                programs.redis_cli(port, "FLUSHALL")
            first_way.is_open = True
            one.program.wait_for("(?s)does not answer.*limit_store answers")
            status, headers = post(one.address, "even", 19_000, 1)
            assert (status, headers["retry-after"]) == (429, "1"), "the other has used its half"
            assert post(one.address, "uneven", 5_000, 1)[0] == 429, "the other had used more than its half"
            with ThreadPoolExecutor(CLIENTS) as clients:
                at_once = [clients.submit(post, one.address, "at once", 1_900, 1) for _ in range(CLIENTS)]
            let_in = [asked.result()[0] for asked in at_once].count(200)
            assert let_in == LIMIT // 2 // 1_908
            assert len(re.findall("limits are shared", one.program.err.read_text())) == 1, "too late to tell anything"
            second_way.is_open = True
            for sidecar in (one, two):
                sidecar.program.wait_for("(?s)does not answer.*limits are shared")
            assert post(one.address, "even", 1_900, 1)[0] == 200, "more than its half"
            assert post(two.address, "even", 1_900, 1)[0] == 429
            assert agreed(one, two, "even") == 2 * 19_008 + 1_908
            assert agreed(one, two, "uneven") == 36_016


def test_who_hangs_up_while_redis_is_asked_is_charged_nothing(tmp_path):
    limits = "{tenant: '*', tokens_per_minute: 40000, action: reject}"
    port = programs.free_port()
    with provider() as upstream, programs.redis(port, tmp_path / "redis"):
        settings = config(tmp_path, upstream.server_address, limits, Way(port, seconds=0.04).url)
        with programs.sidecar(None, tmp_path, "--config", str(settings)) as sidecar:
            sidecar.program.wait_for("limit_store answers")
            assert post(sidecar.address, "b", 3, 5)[0] == 200  # the tokenizer is there now
            for _ in range(5):
                body = json.dumps({"model": "gpt", "max_tokens": 1000, "messages": [{"content": "the"}]})
                with socket.create_connection(sidecar.address) as client:
                    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-tenant-id: a\r\ncontent-length: {len(body)}"
                    client.sendall(f"{head}\r\n\r\n{body}".encode())
                    time.sleep(0.025)
            time.sleep(2.5)  # till it has been told
            assert [line["outcome"] for line in sidecar.log()].count("client_gone") == 5
            assert post(sidecar.address, "a", 3, 38_000)[0] == 200


def test_a_provider_with_the_same_limit_never_refuses_who_is_delayed(tmp_path):
    """Without the sidecar the same clients are refused hundreds of times."""
    options = ("--tokens-per-minute", str(LIMIT), "--ttft", "20ms", "--tps", "2000")
    limits = "{tenant: '*', tokens_per_minute: 40000, action: delay, max_delay: 3m}"

    def ask(address: tuple[str, int], seconds: float) -> list[int]:
        """What clients are answered that ask as fast as they are answered, or four times a second."""
        until = time.monotonic() + seconds

        def client(number: int) -> list[int]:
            chance, found = random.Random(number), []
            while time.monotonic() < until:
                found.append(post(address, "a", chance.randint(100, 300), chance.randint(300, 900))[0])
                time.sleep(0.25 if found[-1] == 429 else 0)
            return found

        with ThreadPoolExecutor(CLIENTS) as clients:
            return sum(clients.map(client, range(CLIENTS)), [])

    with programs.simulated(tmp_path / "naive", *options) as upstream:
        naive = ask(upstream, 20)
    with programs.simulated(tmp_path / "delayed", *options) as upstream:
        settings = config(tmp_path, upstream, limits)
        with programs.sidecar(None, tmp_path, "--config", str(settings)) as sidecar:
            delayed = ask(sidecar.address, 62)
            page = Scraper(sidecar.metrics_url).settled(started=len(delayed))
        log = sidecar.log()
    print(f"naive: {naive.count(429)} refused of {len(naive)}; delayed: {delayed.count(429)} of {len(delayed)}")
    assert naive.count(429) > 200
    assert set(delayed) == {200} and len(delayed) > naive.count(200)
    waited = sorted(map(wait, (line for line in log if "limit" in line)))
    assert len(waited) > CLIENTS
    overtaken = [
        (one, other)
        for one, other in combinations(waited, 2)
        if one[0] + PRECISION < other[0] and other[1] + PRECISION < one[1]
    ]
    assert not overtaken
    hits = page.only("tpm_limit_hits_total", tenant="a", model="*", action="delayed")
    assert hits == len(waited) == page.only("tpm_delay_seconds_count", tenant="a", model="*")


def wait(line: dict) -> tuple[float, float]:
    """When a request entered the queue, which is when its prompt was counted, and when it went."""
    ended = datetime.fromisoformat(line["time"]).timestamp()
    entered = ended - line["duration_seconds"] + line["overhead_seconds"]
    return entered, entered + line["limit"]["delay_seconds"]
