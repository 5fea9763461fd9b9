"""A folder as an S3 bucket on loopback whose every GET waits first. Run by `served`.

Usage: python -m benchmarks.server FOLDER WAIT_S

It prints its port, and ends when its standard input does.

It answers GET and HEAD of objects, whole or by range, and lists; it checks no signature.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from benchmarks.measured import ROOT

BUCKET = "bench"
WAIT_S = 0.03  # of every GET


class Handler(BaseHTTPRequestHandler):
    """One connection, which stays open between requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder: Path
    wait_s: float

    def do_GET(self) -> None:
        """An object or a list, after the wait."""
        time.sleep(self.wait_s)
        self.answer(has_body=True)

    def do_HEAD(self) -> None:
        """What a GET would say, at once."""
        self.answer(has_body=False)

    def answer(self, *, has_body: bool) -> None:
        """An object if the path has a key, else a list."""
        parts = urlsplit(self.path)
        key = unquote(parts.path).removeprefix(f"/{BUCKET}").lstrip("/")
        if not key:
            self.reply(200, listing(self.folder, parse_qs(parts.query)), {}, has_body=has_body)
            return
        path = self.folder / key
        if ".." in Path(key).parts or not path.is_file():
            self.reply(404, b"<Error><Code>NoSuchKey</Code></Error>", {}, has_body=has_body)
            return
        with path.open("rb") as file:
            self.send_object(file.fileno(), has_body=has_body)

    def send_object(self, fd: int, *, has_body: bool) -> None:
        """The bytes of a file that were asked for, by the kernel."""
        status = os.fstat(fd)
        start, stop = asked(self.headers.get("Range"), status.st_size)
        is_part = "Range" in self.headers
        self.send_response(206 if is_part else 200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Last-Modified", formatdate(status.st_mtime, usegmt=True))
        self.send_header("ETag", f'"{status.st_mtime_ns:x}-{status.st_size:x}"')
        if is_part:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{status.st_size}")
        self.end_headers()
        self.wfile.flush()
        while has_body and start < stop:
            start += os.sendfile(self.connection.fileno(), fd, start, stop - start)

    def reply(self, status: int, body: bytes, headers: dict[str, str], *, has_body: bool) -> None:
        """A short answer."""
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        if has_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def asked(header: str | None, size: int) -> tuple[int, int]:
    """First byte and end of a Range header; without one, the whole.

    >>> asked("bytes=2-4", 10), asked("bytes=8-", 10), asked("bytes=-3", 10), asked(None, 10)
    ((2, 5), (8, 10), (7, 10), (0, 10))
    """
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if found is None:
        return 0, size
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def listing(folder: Path, query: dict[str, list[str]]) -> bytes:
    """Keys with a prefix, in one page; with a delimiter, those of one level."""
    prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
    keys, prefixes = [], set()
    for path in sorted((folder / prefix).parent.rglob("*")):
        key = path.relative_to(folder).as_posix()
        if not path.is_file() or not key.startswith(prefix):
            continue
        below, found, _ = (
            key.removeprefix(prefix).partition(delimiter) if delimiter else (key, "", "")
        )
        if found:
            prefixes.add(prefix + below + delimiter)
        else:
            keys.append((key, path.stat()))
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{status.st_size}</Size>"
        f'<ETag>"{status.st_mtime_ns:x}"</ETag>'
        f"<LastModified>{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(status.st_mtime))}"
        "</LastModified></Contents>"
        for key, status in keys
    )
    levels = "".join(
        f"<CommonPrefixes><Prefix>{escape(p)}</Prefix></CommonPrefixes>" for p in sorted(prefixes)
    )
    return (
        f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix>"
        f"<KeyCount>{len(keys) + len(prefixes)}</KeyCount><IsTruncated>false</IsTruncated>"
        f"{contents}{levels}</ListBucketResult>"
    ).encode()


class Server(ThreadingHTTPServer):
    """A thread per connection."""

    daemon_threads = True
    request_queue_size = 128  # a client may open all its connections at once


@contextlib.contextmanager
def served(folder: Path) -> Iterator[dict[str, str]]:
    """A server for a folder; the variables that lead obstore to it."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server", folder, str(WAIT_S)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            yield {
                "AWS_ACCESS_KEY_ID": "bench",
                "AWS_SECRET_ACCESS_KEY": "bench",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ALLOW_HTTP": "true",
                "AWS_REGION": "us-east-1",
            }
        finally:
            server.stdin.close()


def main() -> None:
    Handler.folder, Handler.wait_s = Path(sys.argv[1]), float(sys.argv[2])
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
