"""A proxy for HTTP on loopback that does to requests what networks do.

    with FaultProxy(server.port) as proxy:
        proxy.inject(Reset(), first=2, method="PUT", path="/c/0/")
        ...  # a client of proxy.port
        assert proxy.injected == {"Reset": 2}

A request gets the first fault that wants it, or none. Needs no privileges.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Self


class Fault:
    """What happens to a request."""


@dataclass(frozen=True)
class Delay(Fault):
    """The answer comes later: by `seconds`, and up to `jitter` more, so that answers overtake."""

    seconds: float
    jitter: float = 0.0


@dataclass(frozen=True)
class Reset(Fault):
    """The connection is reset (RST) before the server sees the request."""


@dataclass(frozen=True)
class Status(Fault):
    """An answer with this status that the server knows nothing of."""

    status: int = 503
    code: str = "SlowDown"
    message: str = "injected"


@dataclass(frozen=True)
class CutUp(Fault):
    """The connection ends after so many bytes of the request body reached the server."""

    n_bytes: int


@dataclass(frozen=True)
class CutDown(Fault):
    """The connection ends after so many bytes of the answer's body."""

    n_bytes: int


@dataclass(frozen=True)
class Blackhole(Fault):
    """No answer, ever, and the server sees nothing."""


@dataclass(frozen=True)
class LostAnswer(Fault):
    """The server did what it was asked; its answer is dropped and the connection reset."""


@dataclass(frozen=True)
class Swallowed(Fault):
    """The server did what it was asked; its answer never comes, the connection stays."""


@dataclass(frozen=True)
class Request:
    """A request as it came, head and body."""

    method: str
    path: str
    head: bytes
    body: bytes


@dataclass
class Rule:
    """A fault, and which of the requests that match get it."""

    fault: Fault
    matches: Callable[[Request], bool]
    first: int | None
    every: int
    n_matched: int = field(default=0)

    def wants(self, request: Request) -> bool:
        """Whether this request gets the fault; counts those that match."""
        if not self.matches(request):
            return False
        self.n_matched += 1
        if self.first is not None and self.n_matched > self.first:
            return False
        return self.n_matched % self.every == 0


class FaultProxy:
    """Forwards to a port of loopback, from a thread of its own, with the faults injected."""

    def __init__(self, upstream: int, *, seed: int = 0) -> None:
        self.port = 0
        self.injected: Counter[str] = Counter()  # by the name of the fault
        self.requests: list[tuple[str, str]] = []  # method and path of all
        self.most_at_once = 0  # requests that waited for their answers together
        self._answering = 0
        self._upstream = upstream
        self._rules: list[Rule] = []
        self._jitter = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy")
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def inject(
        self,
        fault: Fault,
        *,
        method: str = "",
        path: str = "",
        when: Callable[[Request], bool] = lambda request: True,
        first: int | None = None,
        every: int = 1,
    ) -> None:
        """From now on do this to requests.

        Args:
            fault: What to do.
            method: Only to these, all if empty.
            path: Only where this regular expression is found in the path.
            when: Only where this is true.
            first: Only to so many of those, None for no end.
            every: Of those only to the last of every so many.
        """
        pattern = re.compile(path)

        def matches(request: Request) -> bool:
            is_method = not method or request.method == method
            return is_method and pattern.search(request.path) is not None and when(request)

        self._rules = [*self._rules, Rule(fault, matches, first, every)]

    def clear(self) -> None:
        """Inject nothing more."""
        self._rules = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *error: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            request = await read_request(reader)
            if request is not None:
                self.requests.append((request.method, request.path))
                self._answering += 1
                self.most_at_once = max(self.most_at_once, self._answering)
                try:
                    await self._answer(request, reader, writer)
                finally:
                    self._answering -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone, as it may
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(ConnectionError):
                writer.close()

    async def _answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        rule = next((rule for rule in self._rules if rule.wants(request)), None)
        fault = None if rule is None else rule.fault
        if fault is not None:
            self.injected[type(fault).__name__] += 1
        match fault:
            case Reset():
                return reset(writer)
            case Status():
                writer.write(plain_answer(fault))
                return await writer.drain()
            case Blackhole():
                await reader.read()  # until the client gives up
                return None
            case CutUp():
                await self._forward(request, request.body[: fault.n_bytes], expect_answer=False)
                return reset(writer)
        answer = await self._forward(request, request.body, expect_answer=True)
        match fault:
            case LostAnswer():
                return reset(writer)
            case Swallowed():
                await reader.read()
                return None
            case Delay():
                await asyncio.sleep(fault.seconds + self._jitter.uniform(0, fault.jitter))
            case CutDown():
                answer = answer[: answer.find(b"\r\n\r\n") + 4 + fault.n_bytes]
        writer.write(answer)
        return await writer.drain()

    async def _forward(self, request: Request, body: bytes, *, expect_answer: bool) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            writer.write(request.head + body)
            await writer.drain()
            return await reader.read() if expect_answer else b""
        finally:
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection, None if there is none."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
    assert "transfer-encoding" not in headers, "obstore sends bodies with their length"
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = line.split(" ")
    # One request per connection, so that an answer ends where the server's connection does.
    kept = [f for f in fields if f and not f.lower().startswith("connection:")]
    sent = "\r\n".join([line, *kept, "Connection: close", "", ""])
    return Request(method, path, sent.encode("latin-1"), body)


def plain_answer(fault: Status) -> bytes:
    """An answer as S3 gives it."""
    body = f"<Error><Code>{fault.code}</Code><Message>{fault.message}</Message></Error>"
    return (
        f"HTTP/1.1 {fault.status} Injected\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST, not FIN."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
