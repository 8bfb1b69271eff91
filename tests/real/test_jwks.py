"""Tokens of a real issuer name their tenants, by keys that are fetched: made by PyJWT, checked by the sidecar."""

import contextlib
import re
import signal
import time

import programs
from exposition import Scraper
from issuer import Issuer, Key, certificate, encoded, with_secret
from upstreams import event, scripted
from wire import Connection, request

UNKNOWN_KEY_PAUSE = 30  # before a token of an unknown key has the keys fetched again


def answers(client):
    client.head()
    client.chunk(event("one"))
    client.finish()


@contextlib.contextmanager
def told_by(url, folder, more=""):
    """A sidecar whose tenants are told by tokens, and a way to ask whose a token is."""
    config = folder / "config.yaml"
    config.write_text(f"tenants: {{identify: [{{jwt_claim: {{claim: org_id, jwks: '{url}'{more}}}}}], default: nobody}}\n")
    with scripted(answers) as (upstream, _), programs.sidecar(upstream, folder, "--config", str(config)) as sidecar:
        with Connection(sidecar.address) as connection:
            asked = 0

            def whose(token: str) -> str:
                nonlocal asked
                connection.exchange(request("GET", "/v1/models", sidecar.address, None, f"Authorization: Bearer {token}"))
                asked += 1
                sidecar.program.wait_until(lambda: len(sidecar.program.out.read_text().splitlines()) == asked, 5, "a line")
                return sidecar.log()[-1]["tenant"]

            yield sidecar, whose


def until(holds, timeout, what):
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain: {what}"
        time.sleep(0.1)


def test_tokens_of_each_algorithm_and_none_that_only_looks_like_one(tmp_path):
    keys = [Key("r", "RS256"), Key("e", "ES256"), Key("d", "EdDSA")]
    rsa_key, other = keys[0], Key("r", "RS256")
    ca, tls = certificate(tmp_path)
    with Issuer(tls=tls) as issuer:
        encryption, strong = Key("enc", "RS256"), Key("p384", "ES384")
        issuer.answer = [key.public() for key in keys] + [
            encryption.public(use="enc"),
            other.public(kid="rs512", alg="RS512"),
            strong.public(),
            {"kty": "oct", "kid": "oct", "k": encoded(b"secret")},
            {"kty": "AKP", "kid": "new", "alg": "ML-DSA-44", "pub": "AAAA"},
        ]
        with told_by(f"https://127.0.0.1:{issuer.port}/keys", tmp_path, f", ca: {ca}") as (sidecar, whose):
            sidecar.program.wait_for("keys are here")
            for key in keys:
                assert whose(key.token(f"tenant-{key.kid}")) == f"tenant-{key.kid}"
                assert whose(key.token("late", exp=int(time.time()) - 3600)) == "nobody"
            head, body, signature = rsa_key.token("mallory").split(".")
            modulus = rsa_key.private.public_key().public_numbers().n.to_bytes(256, "big")
            unsigned, evil = encoded(b'{"alg":"none","kid":"r"}'), encoded(b'{"org_id":"mallory"}')
            for name, forged in {
                "a public key as a shared secret": with_secret(rsa_key.pem(), "mallory", "r"),
                "a modulus as a shared secret": with_secret(modulus, "mallory", "r"),
                "a shared secret that the set shows": with_secret(b"secret", "mallory", "oct"),
                "no signature": f"{unsigned}.{body}.",
                "an empty signature": f"{head}.{body}.",
                "another body": f"{head}.{evil}.{signature}",
                "another key of the same name": other.token("mallory"),
                "another key's name": rsa_key.token("mallory", headers={"kid": "e"}),
                "another algorithm of the same key": rsa_key.token("mallory", "PS256"),
                "a longer hash": rsa_key.token("mallory", "RS512"),
                "a key for another algorithm": other.token("mallory", headers={"kid": "rs512"}),
                "a key that encrypts": encryption.token("mallory"),
                "an algorithm that is not checked": strong.token("mallory"),
                "something critical": rsa_key.token("mallory", headers={"crit": ["b64"], "b64": True}),
            }.items():
                assert whose(forged) == "nobody", name
            assert len(issuer.asked) == 1, "made-up names of keys have them fetched once in half a minute"
            config = tmp_path / "config.yaml"
            config.write_text(config.read_text().replace("default: nobody", "default: none"))
            sidecar.program.process.send_signal(signal.SIGHUP)
            sidecar.program.wait_for("configuration reloaded")
            assert (whose(rsa_key.token("acme")), whose(other.token("mallory"))) == ("acme", "none")
            assert len(issuer.asked) == 1, "a reload keeps what is here"
            config.write_text(config.read_text().replace("/keys", "/others"))
            sidecar.program.process.send_signal(signal.SIGHUP)
            until(lambda: len(issuer.asked) == 2, 10, "another URL is fetched")
            until(lambda: whose(rsa_key.token("acme")) == "acme", 10, "its keys are here")


def test_keys_that_change_are_missing_and_come_back(tmp_path):
    old, new, third = Key("2026-01", "RS256"), Key("2026-02", "ES256"), Key("2026-03", "EdDSA")
    with contextlib.ExitStack() as stack:
        port = programs.free_port()
        url = f"http://127.0.0.1:{port}/keys"
        sidecar, whose = stack.enter_context(told_by(url, tmp_path))
        scraper = Scraper(sidecar.metrics_url)
        at = {"url": url}
        sidecar.program.wait_for("could not fetch keys, so no token names its tenant: no answer: .*refused")
        assert whose(old.token("acme")) == "nobody"
        assert scraper.scrape().only("jwks_last_fetch_success_timestamp_seconds", **at) == 0

        with Issuer(port) as issuer:
            issuer.answer = [old.public()]
            # The next try is 10 s after the first.
            until(lambda: whose(old.token("acme")) == "acme", 15, "the server has come")
            fetched = scraper.scrape().only("jwks_last_fetch_success_timestamp_seconds", **at)
            assert abs(fetched - time.time()) < 10

            # A new key, and a token of it: fetched within the pause, and what was said of the token is forgotten.
            issuer.answer = [old.public(), new.public()]
            token = new.token("search")
            assert whose(token) == "nobody"
            until(lambda: whose(token) == "search", UNKNOWN_KEY_PAUSE + 5, "the new key")
            assert whose(old.token("acme")) == "acme"
            assert len(issuer.asked) == 2, "not for every token"

            # What is no set changes nothing, whoever asks for it.
            failures = scraper.scrape().only("jwks_fetch_failures_total", **at)
            issuer.answer = (200, {}, b"<html>who=sk-secret</html>")
            assert whose(third.token("ads")) == "nobody"
            until(lambda: scraper.scrape().only("jwks_fetch_failures_total", **at) > failures, 35, "garbage is counted")
            assert (whose(old.token("acme")), whose(token)) == ("acme", "search")

        # The server is gone; its keys are not.
        assert (whose(old.token("acme")), whose(token)) == ("acme", "search")
        with Issuer(port) as issuer:
            issuer.answer = [third.public()]
            until(lambda: whose(third.token("ads")) == "ads", 45, "the server is back, with one key")
            assert (whose(old.token("acme")), whose(token)) == ("nobody", "nobody"), "withdrawn"
        said = sidecar.program.err.read_text()
        assert "sk-secret" not in said
        # A state is told, not each try.
        told = re.findall(r"could not fetch keys, ([^:]+): (.*)", said)
        assert len(told) == 2, told
        assert told[1][0] == "those that are here stay" and "no JSON Web Key Set" in told[1][1]
