"""Budgets that replicas share through a real Redis: who knows what after a restart, a kill, a server that forgets."""

import contextlib
import json
import threading
import time
from decimal import Decimal
from pathlib import Path

import programs
from exposition import Scraper
from wire import Connection, request

PICO = 10**12


def configured(tmp_path: Path, upstream: tuple[str, int], redis: int) -> list[str]:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"upstream: http://{upstream[0]}:{upstream[1]}\nlisten: 127.0.0.1:0\nadmin: 127.0.0.1:0\n"
        "models: [{name: sim, price: {currency: USD, input: 0.100001, output: 12.345679}}]\n"
        f"limit_store: redis://127.0.0.1:{redis}\n"
        "budgets:\n"
        "  - {tenant: support, period: month, amount: 500, currency: USD}\n"
        "  - {period: month, amount: 99.95, currency: USD}\n"
    )
    return [programs.streamgauge(), "run", "--config", str(config)]


class Replica(programs.Sidecar):
    asked = 0

    def ask(self, tenant: str, tokens: int, *headers: str) -> None:
        body = {"model": "sim", "max_tokens": tokens, "messages": [{"role": "user", "content": "hello"}]}
        with Connection(self.address) as connection:
            sent = request("POST", "/v1/chat/completions", self.address, body, f"x-tenant-id: {tenant}", *headers)
            assert connection.exchange(sent).answer.status == 200
        self.asked += 1

    def lines(self) -> list[dict]:
        """The request log, when it has a line for each request."""

        def all_there() -> list[str] | None:
            lines = self.program.out.read_text().splitlines()
            return lines if len(lines) == self.asked else None

        deadline = time.monotonic() + 10
        while (lines := all_there()) is None:
            assert time.monotonic() < deadline, f"not {self.asked} lines"
            time.sleep(0.02)
        return [json.loads(line, parse_float=Decimal) for line in lines]


@contextlib.contextmanager
def replica(command: list[str], folder: Path):
    with programs.running(command, folder, "streamgauge") as program:
        said = program.wait_for(r"base URL to (http://\S+:\d+)\b.*(http://\S+:\d+/metrics)")
        yield Replica(program, said[1], said[2])


def logged(*replicas: Replica, tenant: str) -> int:
    """What the request logs say, in millionths of a millionth."""
    lines = [line for replica in replicas for line in replica.lines()]
    return int(sum(line["cost"] for line in lines if line["tenant"] == tenant) * PICO)


def spent(sidecar: Replica, tenant: str) -> float | None:
    found = Scraper(sidecar.metrics_url).scrape().each("budget_spent", tenant=tenant, currency="USD", period="month")
    return found[0][1] if found else None


def in_flight(sidecar: Replica) -> float:
    return Scraper(sidecar.metrics_url).scrape().sum("requests_in_flight")


def shows(sidecar: Replica, tenant: str, pico: int) -> None:
    sidecar.program.wait_until(lambda: spent(sidecar, tenant) == pico / PICO, 15, f"{pico / PICO} of {tenant}")


def stored(port: int, tenant: str) -> dict[str, int]:
    """What Redis has, replica by replica."""
    month = time.strftime("%Y-%m-01T00:00:00Z", time.gmtime())
    key = f"streamgauge:budget:{{{tenant}}}:USD:month:{month}"
    answer = programs.redis_cli(port, "HGETALL", key).split()
    fields = dict(zip(answer[::2], map(int, answer[1::2]), strict=True))
    if fields:
        left = int(programs.redis_cli(port, "TTL", key))
        assert 39 * 86400 < left < 72 * 86400, left
    return fields


def away_from_midnight() -> None:
    """A month that ends while the test runs is another test's."""
    if time.gmtime(time.time() + 90).tm_mon != time.gmtime().tm_mon:
        time.sleep(90)


def test_replicas_show_one_sum_which_a_restart_keeps(tmp_path):
    away_from_midnight()
    port = programs.free_port()
    with (
        programs.simulated(tmp_path, "--ttft", "0s", "--tps", "0") as upstream,
        programs.redis(port, tmp_path / "redis"),
    ):
        command = configured(tmp_path, upstream, port)
        with replica(command, tmp_path / "1") as first, replica(command, tmp_path / "2") as second:
            for tokens in range(1, 20):
                first.ask("support", tokens)
                second.ask("support", tokens * 7)
            first.ask("one of many", 11)
            shows(first, "support", logged(first, second, tenant="support"))
            shows(second, "support", logged(first, second, tenant="support"))
            shows(second, "one of many", logged(first, tenant="one of many"))
            each = stored(port, "support")
            assert sorted(each.values()) == sorted(logged(one, tenant="support") for one in (first, second))
            # A request is the last thing that a draining sidecar waits for: what it cost is told before the end.
            last = threading.Thread(target=second.ask, args=("support", 100, "x-sim-ttft: 1500ms"))
            last.start()
            second.program.wait_until(lambda: in_flight(second) == 1, 10, "a request")
            assert second.program.stop() == 0
            last.join(5)
            both = logged(first, second, tenant="support")
            assert sum(stored(port, "support").values()) == both
            with replica(command, tmp_path / "3") as third:
                shows(third, "support", both)
                shows(third, "one of many", logged(first, tenant="one of many"))
                third.ask("support", 5)
                all_three = logged(first, second, third, tenant="support")
                assert all_three > both
                shows(first, "support", all_three)
                shows(third, "support", all_three)
                assert len(stored(port, "support")) == 3


def test_a_redis_that_is_killed_and_forgets_is_told_again_and_no_sum_shrinks(tmp_path):
    away_from_midnight()
    port = programs.free_port()
    with (
        programs.simulated(tmp_path, "--ttft", "0s", "--tps", "0") as upstream,
        programs.redis(port, tmp_path / "redis") as redis,
    ):
        command = configured(tmp_path, upstream, port)
        with replica(command, tmp_path / "1") as first, replica(command, tmp_path / "2") as second:
            with replica(command, tmp_path / "gone") as gone:
                gone.ask("support", 50)
                assert gone.program.stop() == 0
            first.ask("support", 10)
            second.ask("support", 20)
            before = logged(first, second, gone, tenant="support")
            shows(first, "support", before)
            shows(second, "support", before)
            redis.process.kill()
            redis.process.wait(5)
            first.program.wait_for("limit_store does not answer")
            first.ask("support", 30)
            shows(first, "support", logged(first, second, gone, tenant="support"))
            assert spent(second, "support") == before / PICO
            with programs.redis(port, tmp_path / "redis-again"):
                # It is empty: what the one that is gone has spent, the others know.
                every = logged(first, second, gone, tenant="support")
                seen = set()

                def is_whole() -> bool:
                    seen.add(spent(second, "support"))
                    return sum(stored(port, "support").values()) == every and spent(second, "support") == every / PICO

                first.program.wait_until(is_whole, 20, "all that was spent")
                assert min(seen) >= before / PICO, seen
                assert sorted(stored(port, "support").values()) == sorted(
                    logged(one, tenant="support") for one in (first, second, gone)
                )
