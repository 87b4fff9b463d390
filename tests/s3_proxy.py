"""A proxy in front of an S3 server that does to requests what networks and stores do at times.

Speaks HTTP/1.1 on 127.0.0.1, from a thread of its own. Which request meets which fault follows from
the seed and the request's number. What it passes on, it passes on as it came, so that signatures
stay valid; where it strips conditions, it signs again.
"""

import asyncio
import contextlib
import hashlib
import hmac
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from s3 import SECRET, S3Server

Kind = Literal[
    "slow down",  # 503, not passed on
    "internal error",  # 500, not passed on
    "reset",  # the connection breaks before anything was passed on
    "lost answer",  # passed on and done; the connection breaks instead of an answer
    "truncated",  # the answer's body ends in the middle
    "stall",  # passed on; the answer stops in the middle and the connection stands still
]
KINDS: tuple[Kind, ...] = (
    "slow down",
    "internal error",
    "reset",
    "lost answer",
    "truncated",
    "stall",
)
_CONDITIONS = {"if-match", "if-none-match"}
_ANSWERS = {
    "slow down": (503, "SlowDown", "Please reduce your request rate."),
    "internal error": (500, "InternalError", "We encountered an internal error."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """The head of a request."""

    number: int
    """From 0, in the order in which they came."""
    method: str
    target: str
    headers: Mapping[str, str]
    """By lower-case name."""


@dataclass
class S3Proxy:
    """A proxy's orders, which may be changed while it runs, and what it has done so far."""

    server: S3Server
    rate: float = 0.0
    """Share of requests that meet a fault, in [0, 1]."""
    kinds: tuple[Kind, ...] = KINDS
    seed: int = 0
    strips_conditions: bool = False
    """Whether If-Match and If-None-Match do not arrive, as at a store that ignores them."""
    rejects: Callable[[Request], bool] = lambda _: False
    """Which requests are told that their token has expired."""
    before: Callable[[Request], None] = lambda _: None
    """Called before a request is passed on, in a thread of its own."""
    requests: Counter[str] = field(default_factory=Counter)
    """By method."""
    faults: Counter[str] = field(default_factory=Counter)
    """By kind."""
    seen: list[bytes] = field(default_factory=list)
    """Every head, where it is wanted."""
    keeps_heads: bool = False
    endpoint_url: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return {**self.server.environment, "AWS_ENDPOINT_URL": self.endpoint_url}

    def fault(self, request: Request) -> str | None:
        """Returns what happens to a request."""
        if self.rejects(request):
            return "expired"
        drawn = random.Random(f"{self.seed}-{request.number}")
        return drawn.choice(self.kinds) if drawn.random() < self.rate else None


@contextlib.contextmanager
def s3_proxy(server: S3Server, **settings: object) -> Iterator[S3Proxy]:
    """Starts a proxy before the server, and ends it with all its connections."""
    proxy = S3Proxy(server=server, **settings)  # type: ignore[arg-type]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    listening = asyncio.run_coroutine_threadsafe(_listen(proxy), loop).result()
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_close(listening), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _listen(proxy: S3Proxy) -> asyncio.Server:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(proxy, reader, writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await connection.run()
        connection.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0, limit=2**20)
    proxy.endpoint_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    return listening


async def _close(listening: asyncio.Server) -> None:
    listening.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class _Broken(OSError):
    """The connection to the client is no more."""


class _Connection:
    """A client's connection, and the one to the server that belongs to it."""

    def __init__(
        self, proxy: S3Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self) -> None:
        while True:
            head = await self._reader.readuntil(b"\r\n\r\n")
            await self._answer(head)

    def close(self) -> None:
        for writer in (self._writer, self._upstream and self._upstream[1]):
            if writer:
                writer.close()

    async def _answer(self, head: bytes) -> None:
        proxy = self._proxy
        first, headers = _parsed(head)
        method, target, _ = first.split(" ", 2)
        request = Request(
            number=proxy.requests.total(), method=method, target=target, headers=headers
        )
        proxy.requests[method] += 1
        if proxy.keeps_heads:
            proxy.seen.append(head)
        fault = proxy.fault(request)
        if fault == "reset":
            proxy.faults[fault] += 1
            self._reset()
        if headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        if fault in _ANSWERS:
            proxy.faults[fault] += 1
            await self._send(_refusal(fault, method=method))
            return
        await asyncio.to_thread(proxy.before, request)
        answer_head, answer = await self._forward(request, head, body)
        await self._deliver(answer_head, answer, fault=fault)

    async def _forward(self, request: Request, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        if self._upstream is None:
            place = urlsplit(self._proxy.server.endpoint_url)
            self._upstream = await asyncio.open_connection(place.hostname, place.port, limit=2**20)
        reader, writer = self._upstream
        left_out = {"expect"}
        if self._proxy.strips_conditions and _CONDITIONS & request.headers.keys():
            head = _signed_again(request, without=_CONDITIONS)
            left_out |= _CONDITIONS
        writer.write(_without(head, left_out) + body)
        await writer.drain()
        answer_head = await reader.readuntil(b"\r\n\r\n")
        status, headers = _parsed(answer_head)
        has_body = request.method != "HEAD" and status.split()[1] not in ("204", "304")
        if not has_body:
            return answer_head, b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return answer_head, await _chunks(reader)
        return answer_head, await reader.readexactly(int(headers.get("content-length", 0)))

    async def _deliver(self, head: bytes, body: bytes, *, fault: str | None) -> None:
        if fault is not None:
            self._proxy.faults[fault] += 1
        if fault is None:
            await self._send(head + body)
        elif fault == "lost answer":
            self._reset()
        elif fault == "truncated":
            # An answer without a body loses even its head.
            await self._send(head + body[: len(body) // 2] if body else head[: len(head) // 2])
            raise _Broken
        else:
            await self._send(head + body[: len(body) // 2] if body else b"")
            await self._reader.read(1)  # until the client has had enough
            raise _Broken

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def _reset(self) -> None:
        """RST and no FIN: as a machine that has lost power."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        raise _Broken


def _parsed(head: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, {name.lower(): value.strip() for name, _, value in pairs}


def _without(head: bytes, names: set[str]) -> bytes:
    first, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    kept = [line for line in lines if line.split(b":")[0].decode().lower() not in names]
    return b"\r\n".join([first, *kept]) + b"\r\n\r\n"


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """A body in chunks, as it came."""
    data = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        data += line + await reader.readexactly(size + 2)
        if size == 0:
            return data


def _refusal(kind: str, *, method: str) -> bytes:
    status, code, message = _ANSWERS[kind]
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    head = (
        f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + (b"" if method == "HEAD" else body)


def _signed_again(request: Request, *, without: set[str]) -> bytes:
    """The head with a signature (AWS, version 4) that does not speak of some headers."""
    headers = dict(request.headers)
    fields = dict(
        part.strip().split("=", 1) for part in headers["authorization"].split(" ", 1)[1].split(",")
    )
    names = [name for name in fields["SignedHeaders"].split(";") if name not in without]
    path, _, query = request.target.partition("?")
    pairs = (pair if "=" in pair else f"{pair}=" for pair in query.split("&") if pair)
    canonical = "\n".join(
        [
            request.method,
            path,
            "&".join(sorted(pairs)),
            *(f"{name}:{' '.join(headers[name].split())}" for name in names),
            "",
            ";".join(names),
            headers["x-amz-content-sha256"],
        ]
    )
    _, day, region, service, end = fields["Credential"].split("/")
    key = f"AWS4{SECRET}".encode()
    for word in (day, region, service, end):
        key = hmac.digest(key, word.encode(), "sha256")
    text = "\n".join(
        [
            "AWS4-HMAC-SHA256",
            headers["x-amz-date"],
            "/".join([day, region, service, end]),
            hashlib.sha256(canonical.encode()).hexdigest(),
        ]
    )
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={fields['Credential']}, "
        f"SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    lines = [f"{name}: {value}" for name, value in headers.items() if name not in without]
    head = "\r\n".join([f"{request.method} {request.target} HTTP/1.1", *lines])
    return head.encode("latin-1") + b"\r\n\r\n"
