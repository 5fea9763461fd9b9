from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest
from obstore.exceptions import BaseError, GenericError, PermissionDeniedError

from jaxstore.errors import FormatError, MissingError
from jaxstore.stores import blobs_service
from jaxstore.stores.blobs_service import Effort, open_url, persist

RESET = GenericError("Generic S3 error: HTTP error: error sending request\n kind: ConnectionReset")
GIVEN_UP = GenericError("Error performing PUT http://h/b in 2s, after 7 retries, - HTTP error: x")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds waited, on a clock that only waiting moves."""
    waited: list[float] = []
    clock = SimpleNamespace(sleep=waited.append, monotonic=lambda: sum(waited))
    monkeypatch.setattr(blobs_service, "time", clock)
    return waited


def failing(n: int, error: Exception) -> Any:
    """A request that works after `n` failures."""
    left = [error] * n

    def call() -> str:
        if left:
            raise left.pop()
        return "done"

    return call


def test_a_request_is_tried_again_after_pauses_that_grow(pauses: list[float]) -> None:
    assert persist(failing(9, RESET), place="s3://b", doing="putting 'a'") == "done"
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_the_last_try_begins_in_time(pauses: list[float]) -> None:
    with pytest.raises(ConnectionResetError, match="s3://b: putting 'a' failed after 18 tries in "):
        persist(failing(1000, RESET), place="s3://b", doing="putting 'a'")
    left_s = blobs_service.RETRY_S - sum(pauses)
    assert 0 <= left_s < blobs_service.LONGEST_PAUSE_S


def test_what_obstore_tried_often_enough_is_tried_no_more(pauses: list[float]) -> None:
    with pytest.raises(ConnectionError, match="putting 'a' failed after 8 tries"):
        persist(failing(1, GIVEN_UP), place="s3://b", doing="putting 'a'")
    assert pauses == []


@pytest.mark.parametrize(
    ("error", "kind", "number", "text"),
    [
        (PermissionDeniedError("status code: 403 F: <Code>AccessDenied</Code>"), PermissionError,
         errno.EACCES, "access was denied (403 AccessDenied). Check the credentials"),
        (FileNotFoundError("status code: 404 <Code>NoSuchBucket</Code>"), MissingError,
         None, "there is no such place (404 NoSuchBucket). Make the bucket"),
        (GenericError("status code: 507 Full"), OSError, errno.ENOSPC, "is full (507)"),
        (GenericError("status code: 503 Slow: <Code>SlowDown</Code>"), ConnectionError,
         errno.ECONNABORTED, "the service is not ready (503 SlowDown). What was committed is safe"),
        (GenericError("PUT http://169.254.169.254/latest/api/token - status code: 403 Forbidden"),
         PermissionError, errno.EACCES, "there are no credentials. Set AWS_ACCESS_KEY_ID"),
        (NotImplementedError("no such thing"), OSError, errno.EIO, "refused the request."),
        (BaseError("KEY in a text of obstore"), OSError, errno.EIO, "refused the request."),
    ],
)  # fmt: skip
def test_a_failure_is_told_by_what_a_user_can_do(
    pauses: list[float], error: Exception, kind: type[OSError], number: int, text: str
) -> None:
    with pytest.raises(kind) as caught:
        Effort("s3://b", "reading 'a'").pause(error)
    assert caught.value.errno == number
    assert text in str(caught.value)
    assert "s3://b: reading 'a' failed: " in str(caught.value)
    assert "KEY in" not in str(caught.value)


@pytest.mark.parametrize(("url", "prefix"), [("s3://b/x", "AWS"), ("gs://b/x", "GOOGLE")])
def test_the_environment_has_its_say_on_the_client(
    monkeypatch: pytest.MonkeyPatch, url: str, prefix: str
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert open_url(url).client_options == {"timeout": "60000ms", "connect_timeout": "5000ms"}
    monkeypatch.setenv(f"{prefix}_ALLOW_HTTP", "true")
    monkeypatch.setenv(f"{prefix}_TIMEOUT", "9s")
    told = {"timeout": "9s", "connect_timeout": "5000ms", "allow_http": "true"}
    assert open_url(url).client_options == told


def test_retries_are_bounded_and_http_is_taken_at_its_word() -> None:
    store = open_url("http://host/x")
    assert store.client_options["allow_http"] == "true"
    assert store.retry_config["max_retries"] == blobs_service.RETRIES
    assert store.retry_config["retry_timeout"].total_seconds() == blobs_service.RETRY_S


@pytest.mark.parametrize("url", ["ftp://me:KEY@host/x", "az://container/x"])
def test_a_url_that_cannot_be_opened_is_shown_without_its_keys(url: str) -> None:
    with pytest.raises(FormatError, match="cannot be opened.*AWS_ACCESS_KEY_ID") as caught:
        open_url(url)
    assert "KEY@" not in str(caught.value)
    assert caught.value.__context__ is None
