from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from processed import peak, run, waves

from jaxstore.errors import FormatError
from jaxstore.processing.manifest import FORMAT_VERSION, Manifest

SETTINGS = [{}, {"reduce": "mean"}, {"select": [2, 1], "params": {"width": np.float32(2)}}]


@pytest.fixture(scope="module", params=SETTINGS, ids=["mapped", "reduced", "selected"])
def manifest(request):
    return run(peak, waves(), chunks=6, **request.param).manifest


def read(record):
    return Manifest.from_json(record, location="here")


def test_a_manifest_survives_json(manifest):
    text = json.dumps(manifest.to_json(), allow_nan=False)
    assert read(json.loads(text)) == manifest
    assert json.loads(text)["fingerprint"] == manifest.computation.fingerprint


def test_a_manifest_of_a_newer_jaxstore_is_refused(manifest):
    newer = {**manifest.to_json(), "format_version": FORMAT_VERSION + 1, "plan": "another"}
    with pytest.raises(FormatError, match=rf"result format {FORMAT_VERSION + 1}.*Update jaxstore"):
        read(newer)


def test_a_manifest_without_any_of_its_parts_is_damaged(manifest):
    whole = manifest.to_json()
    derived = {"state", "fingerprint"}  # the one has a default that is safe, the other is computed
    for name in whole.keys() - derived:
        for broken in ({k: v for k, v in whole.items() if k != name}, {**whole, name: 3.5}):
            if name == "format_version" and name in broken:
                continue
            with pytest.raises(FormatError, match="here is damaged|does not describe"):
                read(broken)
    assert read({**whole, "state": "?"}).state == "partial"


def test_sessions_are_told_with_their_ends_and_not_without_limit(manifest):
    for n in range(150):
        manifest = manifest.begun(engine="serial", workers=1, todo=n)
    assert len(manifest.sessions) == 100
    assert manifest.sessions[-1]["units"] == 149
    assert manifest.sessions[-1]["ended"] is None
    done = manifest.ended(is_complete=True)
    assert done.state == "complete"
    assert done.sessions[-1]["ended"] is not None
    assert replace(done, sessions=()) == replace(manifest, state="complete", sessions=())
