"""100,000 names in a header that any client may write: series and memory are bounded, and every sum is exact."""

import asyncio
import json
import math
import random
import re
import time
from collections import Counter
from decimal import Decimal

import programs
from exposition import Scraper

NAMES, FIRST = 100_000, 20_000
CLIENTS = 24
LIMIT = 50
KNOWN = [*(f"known-{n}" for n in range(8)), 'quo"te\\back,slash={}', "bekannt-ü🦀"]
DEFAULT, OTHER = "anonymous", "other"
PRICE = {"input": Decimal("0.15"), "output": Decimal("0.6")}  # of a million tokens
CONFIG = f"""
tenants: {{limit: {LIMIT}, known: {json.dumps(KNOWN, ensure_ascii=False)}}}
models:
  - {{name: sim, price: {{currency: USD, input: {PRICE["input"]}, output: {PRICE["output"]}}}}}
"""
NAMES_ON_PAGE = len(KNOWN) + 2 + 2 * LIMIT  # with the default and `other`; a name that lost its place stays until it is idle
LABEL_LIMIT, LOG_LIMIT = 128, 1024  # bytes

LABELS = re.compile(r'(?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*')


def name(n: int) -> str | bytes:
    """The n-th name. Each occurs once."""
    odd = [f'a{n}",x="', f"b{n}\\", f'c{n}\\"', f'd{n}"}} 1 #', f'e{n}{{le="+Inf"}}', f"f{n},tenant=g", f"g{n}\\n"]
    return [
        f"team-{n}",
        f"long-{n}-{'x' * 130}",
        f"very-long-{n}-{'é' * 1000}",
        f"名\u202e{n}e\u0301🏴\u200d☠️",
        odd[n // 10 % len(odd)],
        f"{n:0>{LABEL_LIMIT}}",
        f"tab\t{n}",
        b"\xff\xfe%d" % n,
        f"next-line\u0085{n}",
        f"{'ü' * 60}-{n}",
    ][n % 10]


def logged(sent: str | bytes) -> str:
    """The name as the request log has it: what is no text, or has control characters, is none."""
    if isinstance(sent, bytes) or any(c < " " or "\x7f" <= c <= "\x9f" for c in sent):
        return DEFAULT
    return sent.encode()[:LOG_LIMIT].decode(errors="ignore")


class Sent:
    """What was sent and answered, by the names in the log."""

    def __init__(self):
        self.requests, self.input, self.output = Counter(), Counter(), Counter()

    def cost(self, tenant: str | None = None) -> Decimal:
        tokens = [counter.total() if tenant is None else counter[tenant] for counter in (self.input, self.output)]
        return (tokens[0] * PRICE["input"] + tokens[1] * PRICE["output"]) / 1_000_000


async def client(address, turns, choice: random.Random, sent: Sent) -> None:
    reader, writer = await asyncio.open_connection(*address, limit=1 << 20)
    for who in turns:
        model = "sim" if choice.random() > 0.05 else "no-such-model"
        body = {"model": model, "max_tokens": choice.randrange(1, 9)}
        body["messages"] = [{"role": "user", "content": "x " * choice.randrange(1, 30)}]
        content = json.dumps(body).encode()
        header = who if isinstance(who, bytes) else who.encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-tenant-id: "
            + header + b"\r\ncontent-length: %d\r\n\r\n" % len(content) + content
        )  # fmt: skip
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"\r\ncontent-length:")[1].split(b"\r\n")[0])
        answer = json.loads(await reader.readexactly(length))
        tenant = logged(who)
        sent.requests[tenant] += 1
        assert head.startswith(b"http/1.1 200" if model == "sim" else b"http/1.1 404"), head
        if model == "sim":
            sent.input[tenant] += answer["usage"]["prompt_tokens"]
            sent.output[tenant] += answer["usage"]["completion_tokens"]
    writer.close()


async def send(address, names: list, sent: Sent) -> None:
    turns = iter(names)
    await asyncio.gather(*[client(address, turns, random.Random(f"{number}/{len(names)}"), sent) for number in range(CLIENTS)])


def tenants(page, metric: str) -> Counter:
    """A metric's sums by tenant, the name as it was before it was escaped for the page."""
    sums = Counter()
    for written, value in page.by(metric, "tenant").items():
        sums[re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], written)] += value
    return sums


def check_page(page, sent: Sent) -> None:
    for line in page.text.splitlines():
        labels = re.fullmatch(r"[a-z0-9_]+\{(.*)\} \S+", line)
        assert line.startswith("#") or labels is None or LABELS.fullmatch(labels[1]), line
    costs = Counter({name: float(sent.cost(name)) for name in sent.requests})
    for metric, of in [
        ("requests_total", sent.requests),
        ("input_tokens_total", sent.input),
        ("output_tokens_total", sent.output),
        ("cost_total", costs),
    ]:
        counted = tenants(page, metric)
        assert len(counted) <= NAMES_ON_PAGE, f"{len(counted)} tenants of {metric}"
        total = float(sent.cost()) if metric == "cost_total" else of.total()
        assert math.isclose(counted.total(), total, rel_tol=1e-9), (metric, counted.total(), total)
        for tenant in (*KNOWN, DEFAULT):
            assert math.isclose(counted[tenant], of[tenant], rel_tol=1e-9), (metric, tenant)
        for tenant in counted.keys() - {OTHER}:
            assert tenant in sent.requests or tenant in KNOWN, f"nobody is called {tenant!r}"
            assert len(tenant.encode()) <= LABEL_LIMIT
            assert counted[tenant] <= of[tenant] * (1 + 1e-9), (metric, tenant)
        assert counted[OTHER] > 0.5 * total, (metric, counted[OTHER])


def check_log(sidecar, sent: Sent) -> None:
    requests, tokens, cost = Counter(), Counter(), Decimal(0)
    with open(sidecar.program.out, encoding="utf-8") as log:
        for line in log:
            exchange = json.loads(line, parse_float=Decimal)
            requests[exchange["tenant"]] += 1
            tokens["input"] += exchange.get("input_tokens", 0)
            tokens["output"] += exchange.get("output_tokens", 0)
            cost += exchange.get("cost", 0)
    assert requests == sent.requests
    assert tokens == {"input": sent.input.total(), "output": sent.output.total()}
    assert cost == sent.cost(), (cost, sent.cost())


def lines(page) -> int:
    """How many series there are, but for those that come with the end of a minute, wherever that falls."""
    return sum(len(samples) for name, samples in page.samples.items() if "tokens_per_minute" not in name)


def test_a_hundred_thousand_names_from_a_header(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    names = [name(n) for n in range(NAMES)]
    assert len(set(names)) == NAMES
    choice, sent = random.Random(1), Sent()
    # Known ones between them, and names that are words of ours.
    names += [choice.choice([*KNOWN, OTHER, DEFAULT, "unknown"]) for _ in range(NAMES // 50)]
    choice.shuffle(names)
    simulator = ["--strict", "--ttft", "0ms", "--tps", "0"]
    with (
        programs.simulated(tmp_path, *simulator) as upstream,
        programs.sidecar(upstream, tmp_path, "--config", str(config)) as sidecar,
    ):
        scraper = Scraper(sidecar.metrics_url)
        begun, sizes = time.monotonic(), []
        for part in (names[:FIRST], names[FIRST:]):
            asyncio.run(send(sidecar.address, part, sent))
            page = scraper.settled(sent.requests.total(), timeout=30)
            check_page(page, sent)
            sizes.append((sidecar.program.resident_bytes() / 2**20, lines(page)))
        print(f"{len(names)} requests in {time.monotonic() - begun:.0f} s; MiB and series: {sizes}")
        assert page.sum("records_dropped_total") == 0
        assert page.sum("label_overflow_total", label="tenant") > 0.5 * NAMES
        (before, series), (after, more_series) = sizes
        # The first end of a minute brings a histogram of each tenant on the page, some hundred KiB.
        assert after <= before * 1.1 + 4, f"{before:.1f} MiB after {FIRST} names, {after:.1f} after all"
        assert more_series <= series * 1.1, f"{series} series after {FIRST} names, {more_series} after all"
        sidecar.program.wait_until(
            lambda: sidecar.program.out.read_bytes().count(b"\n") == len(names), 20, "the last line of the log"
        )
        check_log(sidecar, sent)
