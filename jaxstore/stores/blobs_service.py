"""A service of objects over the network: how long it is waited for, and what its failures are.

Owned here: opening it by URL, trying again, and errors without secrets. obstore tries reads and
plain puts again by itself, but not a conditional put, a delete, or a listing that broke off, and
before 0.9 no connection that was reset; so what it gives up at once is tried again here.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError, UnauthenticatedError
from obstore.exceptions import BaseError as ObstoreError

from jaxstore.errors import FormatError, MissingError
from jaxstore.stores.urls import redact

CONNECT_S = 5.0  # a server that has not accepted by then is not there
REQUEST_S = 60.0  # the whole of one request: 64 MiB, the most that one carries, at 9 Mbit/s
# No try begins later than this after the first. Long enough for a router that starts anew, below
# the 5 minutes for which a signature holds, and within what a cluster grants before it kills.
RETRY_S = 120.0
RETRIES = 20  # at most; with these pauses the time ends sooner
FIRST_PAUSE_S = 0.1  # then twice as long each time
LONGEST_PAUSE_S = 10.0

# What obstore reads from variables such as AWS_ALLOW_HTTP, but forgets once it is told a timeout.
_CLIENT_OPTIONS = (
    *("allow_http", "allow_invalid_certificates", "connect_timeout", "proxy_ca_certificate"),
    *("proxy_excludes", "proxy_url", "timeout", "user_agent"),
)
_PREFIXES = {
    **dict.fromkeys(("s3", "s3a"), "AWS_"),
    "gs": "GOOGLE_",
    **dict.fromkeys(("az", "adl", "azure", "abfs", "abfss"), "AZURE_"),
}
# Of obstore's texts only these parts are shown: the rest may hold keys, as S3's own answers do.
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,64})</Code>")
_RETRIED = re.compile(r"after (\d+) retries")
_NETWORK = {
    "BadScheme": (errno.EPROTONOSUPPORT, "plain http:// needs AWS_ALLOW_HTTP=true"),
    "TimedOut": (errno.ETIMEDOUT, "it did not answer in time"),
    "dns error": (errno.EHOSTUNREACH, "the name of its host is not known"),
    "ConnectionRefused": (errno.ECONNREFUSED, "the connection was refused"),
    "ConnectionReset": (errno.ECONNRESET, "the connection was reset"),
    "UnexpectedEof": (errno.ECONNRESET, "the answer broke off"),
    "IncompleteMessage": (errno.ECONNRESET, "the answer broke off"),
}


def open_url(url: str) -> Any:
    """The obstore store of a URL, with credentials from the environment.

    Raises:
        FormatError: It is no such URL, or the environment does not say enough.
    """
    scheme = url.partition("://")[0].lower()
    options = {} if scheme == "memory" else _options(scheme)
    # A key before the bucket would be taken for nothing, or for a host.
    plain = redact(url) if scheme in ("s3", "s3a", "gs") else url
    try:
        return obstore.store.from_url(plain, **options)
    except (ObstoreError, ValueError):
        known = "file://, s3://, gs://, az://, https:// or memory://"
    # Not chained: the error of obstore shows the whole URL.
    raise FormatError(
        f"{redact(url)} cannot be opened as an object store. Use a path, {known}; account and "
        "credentials belong in the environment, for example AWS_ACCESS_KEY_ID."
    )


def _options(scheme: str) -> dict[str, Any]:
    """How long to wait and how often to try, and what the environment says beside it."""
    prefix = _PREFIXES.get(scheme)
    names = {name: f"{prefix}{name.upper()}" for name in _CLIENT_OPTIONS} if prefix else {}
    told = {name: os.environ[key] for name, key in names.items() if key in os.environ}
    if scheme == "http":  # as the user wants it
        told["allow_http"] = "true"
    first, longest = timedelta(seconds=FIRST_PAUSE_S), timedelta(seconds=LONGEST_PAUSE_S)
    return {
        "client_options": {
            "timeout": f"{REQUEST_S * 1000:.0f}ms",
            "connect_timeout": f"{CONNECT_S * 1000:.0f}ms",
            **told,
        },
        "retry_config": {
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=RETRY_S),
            "backoff": {"init_backoff": first, "max_backoff": longest, "base": 2},
        },
    }


class Effort:
    """The tries of one request, until it works or has failed for good.

    Args:
        place: Where, for messages.
        doing: What, for messages: "putting 'x/c/0'".
    """

    def __init__(self, place: str, doing: str) -> None:
        self._place = place
        self._doing = doing
        self._began = time.monotonic()
        self._n_failed = 0  # tries of ours
        self._n_retried = 0  # by obstore

    def pause(self, error: Exception) -> float:
        """Seconds to wait before the next try.

        Raises:
            OSError: There is none; a new error, which is chained to nothing if this is called
                outside of `except`.
        """
        text = str(error)
        retried = _RETRIED.search(text)
        self._n_failed += 1
        self._n_retried += int(retried[1]) if retried else 0
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (self._n_failed - 1))
        is_late = time.monotonic() + pause_s - self._began > RETRY_S or self._n_failed > RETRIES
        if is_late or retried or not _may_pass(error):
            raise self._failure(error)
        return pause_s

    def _failure(self, error: Exception) -> OSError:
        number, what, todo = _cause(error)
        tries = self._n_failed + self._n_retried
        took = f"after {tries} tries in {time.monotonic() - self._began:.0f} s" if tries > 1 else ""
        text = f"{self._place}: {self._doing} failed{' ' * bool(took)}{took}: {what}. {todo}"
        return MissingError(text) if number == errno.ENOENT else OSError(number, text)


def persist[T](call: Callable[[], T], *, place: str, doing: str) -> T:
    """Call until it works or has failed for good; it must not matter that it is done twice.

    Raises:
        OSError: It has, at the latest `REQUEST_S` after a last try that begins `RETRY_S` after the
            first: TimeoutError, ConnectionError, PermissionError, MissingError, or plain.
    """
    effort = Effort(place, doing)
    while True:
        try:
            return call()
        except (ObstoreError, FileNotFoundError, NotImplementedError) as error:
            failed: Exception = error
        # Outside of `except`: as its context the error of obstore would show what ours hides.
        time.sleep(effort.pause(failed))


def _may_pass(error: Exception) -> bool:
    """Whether another try may work."""
    text = str(error)
    # Another request for the same object was under way.
    if isinstance(error, AlreadyExistsError):
        return True
    # The answer that ended an upload in parts was lost; all of it is sent again.
    if "<Code>NoSuchUpload</Code>" in text:
        return True
    is_unanswered = isinstance(error, ObstoreError) and "HTTP error" in text
    return is_unanswered and "builder error" not in text


def _cause(error: Exception) -> tuple[int, str, str]:
    """The number of a failure, what it was, and what to do about it."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    answer = " ".join(match[1] for match in (status, code) if match)
    shown = f" ({answer})" if answer else ""
    number = int(status[1]) if status else 0
    is_denied = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    if "http://169.254.169.254/" in text:  # where obstore asks when the environment has none
        todo = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what your service names so."
        return errno.EACCES, "there are no credentials", todo
    if is_denied or number in (401, 403):
        todo = "Check the credentials in the environment, and what they may do there."
        return errno.EACCES, f"access was denied{shown}", todo
    if isinstance(error, FileNotFoundError) or number == 404:
        todo = "Make the bucket, or correct its name."
        return errno.ENOENT, f"there is no such place{shown}", todo
    todo = "What was committed is safe. Check the network and the service, then go on from there."
    if number == 507:
        return errno.ENOSPC, f"the service is full{shown}", todo
    if number == 429 or number >= 500 or isinstance(error, AlreadyExistsError):
        return errno.ECONNABORTED, f"the service is not ready{shown}", todo
    for mark, (network, what) in _NETWORK.items():
        if mark in text:
            return network, what, todo
    if "HTTP error" in text:
        return errno.ECONNABORTED, "the connection failed", todo
    return errno.EIO, f"the service refused the request{shown}", todo
