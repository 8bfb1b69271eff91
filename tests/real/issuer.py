"""Who issues tokens: PyJWT and cryptography make keys and tokens, a small server shows the public halves as a JWKS.

Nothing of it shares code with what checks the tokens.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import ipaddress
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID


class Key:
    """A private key of one algorithm, under a name."""

    MADE = {
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }

    def __init__(self, kid: str, algorithm: str):
        self.kid, self.algorithm = kid, algorithm
        self.private = self.MADE[algorithm]()

    def public(self, **more) -> dict:
        made = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key(), as_dict=True)
        return {name: value for name, value in made.items() if name != "key_ops"} | {"kid": self.kid} | more

    def token(self, tenant: str, algorithm: str | None = None, headers: dict | None = None, **claims) -> str:
        claims = {"org_id": tenant, "iss": "issuer", "exp": int(time.time()) + 86_400} | claims
        return jwt.encode(claims, self.private, algorithm or self.algorithm, headers={"kid": self.kid} | (headers or {}))

    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def with_secret(secret: bytes, tenant: str, kid: str) -> str:
    """HS256 by hand, since PyJWT refuses a public key as the secret."""
    parts = [{"alg": "HS256", "kid": kid, "typ": "JWT"}, {"org_id": tenant}]
    signed = ".".join(encoded(json.dumps(part).encode()) for part in parts)
    return signed + "." + encoded(hmac.new(secret, signed.encode(), hashlib.sha256).digest())


class Issuer:
    """A server of a JWKS. `answer` is what it says: keys, or a status with headers and a body."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None):
        self.answer: list[dict] | tuple[int, dict, bytes] = []
        self.cache = ""
        self.asked: list[float] = []
        self.seen: list[str] = []  # requests other than for keys
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.asked.append(time.monotonic())
                if isinstance(issuer.answer, tuple):
                    status, headers, body = issuer.answer
                else:
                    status, headers, body = 200, {}, json.dumps({"keys": issuer.answer}).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if issuer.cache:
                    self.send_header("Cache-Control", issuer.cache)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                issuer.seen.append(f"{self.path}\n{self.headers}\n{body}")
                self.send_error(501)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Issuer:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A root of our own as a PEM file, and a server's side of TLS for 127.0.0.1 that it has signed."""
    now = datetime.datetime.now(datetime.UTC)
    own, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def signed(subject: str, key, extension, critical: bool) -> x509.Certificate:
        builder = x509.CertificateBuilder(name("root"), name(subject), key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(hours=1))
        return builder.add_extension(extension, critical).sign(own, hashes.SHA256())

    root = signed("root", own, x509.BasicConstraints(True, None), True)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = signed("issuer", server, address, False)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    key = server.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    (folder / "ca.pem").write_bytes(root.public_bytes(pem))
    (folder / "server.pem").write_bytes(leaf.public_bytes(pem) + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return folder / "ca.pem", context
