"""A server that speaks S3, on loopback, for tests: moto's, in a process of its own.

`S3Server` starts and stops it; `s3_environment` says to obstore where it is, by the variables that
a user would set. In a test use the fixtures of `conftest`: `s3_server` (one for the session),
`s3_bucket` (a new bucket, this process's environment set), `s3_proxy` (the same, through a
`fault_proxy.FaultProxy`). For a program of its own, such as one that gets killed:

    env = s3_environment(s3_server)           # or s3_environment(proxy)
    subprocess.Popen([sys.executable, PROGRAM, f"s3://{bucket}/run.zarr"], env=os.environ | env)
"""

from __future__ import annotations

import html
import http.client
import itertools
import re
import socket
import subprocess
import sys
import time
from typing import Any, Protocol, Self
from urllib.parse import quote, urlsplit

# Written nowhere else, so that a leak of one of them is found wherever it turns up.
KEY = "AKIASENTINELKEY00000"
SECRET = "sentinelSECRET/with+slashes/000000000000"
TOKEN = "sentinelTOKEN=="
SECRETS = (KEY, SECRET, TOKEN)
SIGNED = "AWS4-HMAC-SHA256 Credential=tests/20260101/us-east-1/s3/aws4_request, Signature=0"
START_S = 30.0  # on a loaded machine; alone it takes 1 s

_bucket_numbers = itertools.count()


class Endpoint(Protocol):
    """What listens on loopback: the server, or a proxy before it."""

    port: int


def s3_environment(server: Endpoint) -> dict[str, str]:
    """Variables that send `s3://` URLs to a server, with credentials as a user has them."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
    }


class S3Server:
    """A running server; it ends with the `with` block, and with this process in any case."""

    def __init__(self) -> None:
        self.port = free_port()
        # The server ends when its standard input does, so that not even SIGKILL leaves it behind.
        program = (
            "import os, sys, threading\n"
            "def end():\n"
            "    sys.stdin.read()\n"
            "    os._exit(0)\n"
            "threading.Thread(target=end, daemon=True).start()\n"
            "from moto.server import main\n"
            f"main(['-H', '127.0.0.1', '-p', '{self.port}'])\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.request("GET", "/moto-api/")
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise
                time.sleep(0.05)  # nothing announces that it listens
            else:
                return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server, and wait until it is gone."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def request(self, method: str, path: str) -> bytes:
        """The body of an answer; the server wants a signature and does not check it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, headers={"Authorization": SIGNED})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, (method, path, answer.status, body)
        return body

    def objects(self, url: str = "") -> dict[str, bytes]:
        """All objects below an `s3://` URL, or of all buckets."""
        found = {}
        buckets = [urlsplit(url).netloc] if url else self._listed("/", "Name")
        for bucket in buckets:
            for key in self._listed(f"/{bucket}?list-type=2", "Key"):
                if key.startswith(urlsplit(url).path.lstrip("/")):
                    found[f"{bucket}/{key}"] = self.request("GET", f"/{bucket}/{quote(key)}")
        return found

    def _listed(self, path: str, tag: str) -> list[str]:
        found, page = [], path
        while True:
            body = self.request("GET", page).decode()
            found += [html.unescape(text) for text in re.findall(f"<{tag}>(.*?)</{tag}>", body)]
            token = re.search("<NextContinuationToken>(.*?)</NextContinuationToken>", body)
            if token is None:
                return found
            page = f"{path}&continuation-token={quote(html.unescape(token[1]), safe='')}"

    def new_bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"bucket-{next(_bucket_numbers)}"
        self.request("PUT", f"/{name}")
        return name


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: Any = listener.getsockname()[1]
        return int(port)
