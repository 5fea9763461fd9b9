"""Credentials are shown nowhere: not in objects, attributes, logs, reprs, errors or pickles."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import obstore.store
import pytest
from fault_proxy import FaultProxy, Status
from s3_server import KEY, SECRET, SECRETS, TOKEN, S3Server
from typer.testing import CliRunner

import jaxstore as js
from jaxstore.cli import app
from jaxstore.errors import FormatError
from jaxstore.stores import blobs_service
from jaxstore.stores.zarr3 import ZarrStore

# As an answer of S3 names them when it refuses a signature.
ECHO = f"{KEY} {SECRET} {TOKEN}"


def assert_shows_none(text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    for secret in (*SECRETS, SECRET.replace("/", "%2F"), SECRET.partition("/")[0]):
        assert secret.encode() not in data, f"{secret} in {data[:2000]!r}"


def things_in(thing: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """A thing and all that hangs from it: attributes, items, what closures hold."""
    if id(thing) in seen or isinstance(thing, ModuleType | type):
        return
    seen[id(thing)] = thing  # kept, so that no id comes twice
    yield thing
    if isinstance(thing, dict):
        inner = [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset):
        inner = list(thing)
    elif isinstance(thing, FunctionType):
        inner = [cell.cell_contents for cell in thing.__closure__ or ()]
    elif isinstance(thing, MethodType):
        inner = [thing.__self__]
    else:
        slots = [slot for kind in type(thing).__mro__ for slot in getattr(kind, "__slots__", ())]
        inner = [getattr(thing, slot, None) for slot in slots if isinstance(slot, str)]
        inner += list(getattr(thing, "__dict__", {}).values())
    for one in inner:
        yield from things_in(one, seen)


def assert_holds_none(thing: Any) -> None:
    for one in things_in(thing, {}):
        assert_shows_none(bytes(one) if isinstance(one, bytes | bytearray) else f"{one!r}\n{one}")
        for name in ("config", "client_options"):
            assert_shows_none(repr(getattr(one, name, None)))


def errors_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that it is chained to, shown or not."""
    while error is not None:
        yield error
        if error.__cause__ is not None:
            yield from errors_of(error.__cause__)
        error = error.__context__


def assert_tells_none(error: BaseException) -> None:
    assert_shows_none("".join(traceback.format_exception(error)))
    for one in errors_of(error):
        assert_shows_none(f"{one} {one!r} {one.args!r} {getattr(one, '__notes__', '')}")
        assert_shows_none(pickle.dumps(one.args))


def scanned(where: Any) -> tuple[js.ZarrCollector, js.Run]:
    collector = js.ZarrCollector(where, settings={"step_size": 0.1})
    start = jnp.zeros(3)
    run = js.scan(lambda x, _: (x + 1, {"x": x}), start, length=5, collector=collector)[1]
    return collector, run


@pytest.fixture(autouse=True)
def few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs_service, "RETRIES", 1)
    monkeypatch.setattr(blobs_service, "FIRST_PAUSE_S", 0.01)


@pytest.fixture(autouse=True)
def silent(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing that is logged or printed may hold a secret."""
    caplog.set_level(logging.DEBUG)
    yield
    assert_shows_none(caplog.text + "".join(map(repr, caplog.records)))
    assert_shows_none("".join(capfd.readouterr()))


PLACES: dict[str, Callable[[str, str], Any]] = {
    "environment": lambda bucket, endpoint: f"s3://{bucket}/run.zarr",
    "obstore": lambda bucket, endpoint: obstore.store.S3Store(
        bucket,
        prefix="run.zarr",
        access_key_id=KEY,
        secret_access_key=SECRET,
        session_token=TOKEN,
        endpoint=endpoint,
        client_options={"allow_http": True},
    ),
}


@pytest.mark.parametrize("given", PLACES)
def test_nothing_that_a_run_makes_holds_a_secret(
    s3_server: S3Server, s3_bucket: str, given: str
) -> None:
    place = PLACES[given](s3_bucket, f"http://127.0.0.1:{s3_server.port}")
    collector, run = scanned(place)
    again = js.open_run(place)
    store = ZarrStore.open(place)
    leaf = again.samples["x"]
    np.asarray(leaf)
    things = [collector, run, again, store, store.reader(), leaf]
    for thing in things:
        assert_shows_none(f"{thing!r} {thing} {getattr(thing, 'location', '')}")
        if given == "environment":  # a handle that the user made holds what the user put there
            assert_holds_none(thing)
    assert_shows_none(again.describe() + again._repr_html_() + repr(again.settings))
    for thing in things[1:]:
        with pytest.raises(TypeError, match="run.zarr.*is not pickled, since credentials would go"):
            pickle.dumps(thing)
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)) as caught:
        pickle.dumps(collector)
    assert_tells_none(caught.value)
    for key, data in s3_server.objects().items():
        assert_shows_none(key)
        assert_shows_none(data)


def test_keys_in_a_url_are_not_used_and_not_kept(s3_server: S3Server, s3_bucket: str) -> None:
    url = f"s3://{KEY}:{SECRET}@{s3_bucket}/run.zarr"
    collector, run = scanned(url)
    store, again = ZarrStore.open(url), js.open_run(url)
    for thing in (run, store, again, again.samples["x"]):
        assert_holds_none(thing)
    assert_shows_none(f"{collector!r} {collector}")
    assert again.location == store.location == f"s3://{s3_bucket}/run.zarr"
    with pytest.raises(js.JaxstoreError) as caught:
        scanned(url)
    assert_tells_none(caught.value)
    assert s3_server.objects(f"s3://{s3_bucket}/run.zarr")


DENIED = Status(403, "SignatureDoesNotMatch", ECHO)
FAILURES = {
    "403": (DENIED, PermissionError, r"\(403 SignatureDoesNotMatch\). Check the credentials"),
    "401": (Status(401, ECHO, ECHO), PermissionError, r"access was denied \(401\)"),
    "500": (Status(500, "InternalError", ECHO), ConnectionError, "500 InternalError"),
    "400": (Status(400, "InvalidToken", ECHO), OSError, "400 InvalidToken"),
    "404": (Status(404, "NoSuchBucket", ECHO), FileNotFoundError, "404 NoSuchBucket"),
    "409": (Status(409, "OperationAborted", ECHO), ConnectionError, "409 OperationAborted"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_an_answer_that_repeats_the_keys_is_not_repeated(
    s3_proxy: FaultProxy, s3_bucket: str, name: str
) -> None:
    fault, kind, what = FAILURES[name]
    url = f"s3://{s3_bucket}/run.zarr"
    s3_proxy.inject(fault, method="PUT")
    with pytest.raises(kind, match=f"{url}: putting 'zarr.json' failed.*{what}") as caught:
        scanned(url)
    assert_tells_none(caught.value)
    s3_proxy.clear()
    run = scanned(url)[1]
    if name == "404":
        return  # for a reader an absent object is no failure
    s3_proxy.inject(fault)
    for use in (lambda: js.open_run(url), lambda: np.asarray(run.samples["x"])):
        with pytest.raises(OSError, match=f"{url}: reading") as caught:
            use()
        assert_tells_none(caught.value)


def test_an_endpoint_or_query_with_secrets_is_not_shown(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{KEY}:{TOKEN}@127.0.0.1:1")
    signed = f"http://127.0.0.1:1/run.zarr?X-Amz-Signature={TOKEN}"
    for url, shown in (
        (f"s3://{s3_bucket}/run.zarr", f"s3://{s3_bucket}/run.zarr"),
        (signed, "http://127.0.0.1:1/run.zarr"),
        (f"https://me:{TOKEN}@127.0.0.1:1/run.zarr", "https://127.0.0.1:1/run.zarr"),
    ):
        with pytest.raises(ConnectionError, match=f"{shown}: reading 'zarr.json' failed") as caught:
            js.open_run(url)
        assert_tells_none(caught.value)
    with pytest.raises(FormatError, match="ftp://host/x cannot be opened") as wrong:
        js.open_run(f"ftp://me:{TOKEN}@host/x")
    assert_tells_none(wrong.value)


def test_no_credentials_and_plain_http_are_told_apart(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ALLOW_HTTP", "false")
    with pytest.raises(OSError, match="plain http:// needs AWS_ALLOW_HTTP=true"):
        js.open_run(f"s3://{s3_bucket}/run.zarr")


@pytest.mark.parametrize("command", ["info", "plot"])
def test_the_commands_show_none(
    s3_proxy: FaultProxy, s3_bucket: str, tmp_path: Any, command: str
) -> None:
    scanned(f"s3://{s3_bucket}/run.zarr")
    options = ["-o", str(tmp_path / "a.png")] if command == "plot" else []
    for url in (f"s3://{s3_bucket}/run.zarr", f"s3://{KEY}:{SECRET}@{s3_bucket}/run.zarr"):
        good = CliRunner().invoke(app, [command, url, *options])
        assert good.exit_code == 0, good.output
        assert_shows_none(good.output)
        s3_proxy.inject(DENIED)
        bad = CliRunner().invoke(app, [command, url, *options])
        assert bad.exit_code == 1
        assert "access was denied (403 SignatureDoesNotMatch)" in bad.output
        assert_shows_none(bad.output)
        s3_proxy.clear()
