"""The commit record of a run: which draws count, and which blobs go with them.

Owned here: the record as data, and its JSON. A store replaces it in one step; nothing else of a
store says what counts.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from jaxstore.errors import FormatError
from jaxstore.saving.untrusted import brief
from jaxstore.stores.base import Json
from jaxstore.stores.blob_keys import check_key

STATES = ("running", "complete", "interrupted")
MOST_DRAWS = 2**48


@dataclass(frozen=True, slots=True)
class Mark:
    """Names a blob that counts; the nonce lies in the blob too, so that no other passes for it."""

    key: str  # "tail-0"
    nonce: str

    def to_json(self) -> Json:
        """This mark for the record."""
        return {"key": self.key, "nonce": self.nonce}

    @staticmethod
    def next(kind: str, before: Mark | None) -> Mark:
        """A mark for the next blob of a kind, in the slot that does not count at present."""
        is_second = before is not None and before.key.endswith("-0")
        return Mark(f"{kind}-{int(is_second)}", uuid.uuid4().hex)


@dataclass(frozen=True, slots=True)
class CheckpointMark:
    """The checkpoint that counts."""

    mark: Mark
    step: int  # steps of the sampler before it
    draws: tuple[int, ...]  # of each chain before it

    def to_json(self) -> Json:
        """This mark for the record."""
        return {**self.mark.to_json(), "step": self.step, "draws": list(self.draws)}


@dataclass(frozen=True, slots=True)
class Record:
    """What counts in a store."""

    draws: tuple[int, ...]  # of each chain
    state: str  # one of STATES
    nonce: str  # new with each commit
    committed_at: str  # ISO 8601, UTC
    checkpoint: CheckpointMark | None  # None before the first
    tail: Mark | None  # None where every draw lies in the arrays

    @staticmethod
    def now(
        draws: tuple[int, ...], state: str, checkpoint: CheckpointMark | None, tail: Mark | None
    ) -> Record:
        """A record of this moment."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return Record(draws, state, uuid.uuid4().hex, at, checkpoint, tail)

    def to_json(self) -> dict[str, Json]:
        """This record for a store."""
        return {
            "draws": list(self.draws),
            "state": self.state,
            "nonce": self.nonce,
            "committed_at": self.committed_at,
            "checkpoint": self.checkpoint and self.checkpoint.to_json(),
            "tail": self.tail and self.tail.to_json(),
        }

    @staticmethod
    def from_json(record: Mapping[str, Json] | None, *, location: str) -> Record:
        """The record of a store.

        Raises:
            FormatError: There is none, or it is not one.
        """
        if record is None:
            raise FormatError(
                f"{location} is a run without a commit record: nobody knows which of its draws "
                "count. Restore it from a copy."
            )
        try:
            point, tail = record.get("checkpoint"), record.get("tail")
            if point is not None:
                steps, draws = _counts([point["step"]]), _counts(point["draws"])
                point = CheckpointMark(_mark(point), steps[0], draws)
            if record["state"] not in STATES:
                raise ValueError(f"state is {brief(record['state'])}")
            return Record(
                draws=_counts(record["draws"]),
                state=record["state"],
                nonce=_text(record["nonce"]),
                committed_at=_text(record["committed_at"]),
                checkpoint=point,
                tail=None if tail is None else _mark(tail),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(
                f"The commit record of {location} is damaged: {error!r}. Restore it from a copy; "
                "without it nobody knows which draws count."
            ) from error


def _counts(values: Json) -> tuple[int, ...]:
    if type(values) is not list:
        raise ValueError(f"{str(values)[:100]!r} is no list of counts")
    for n in values:
        if type(n) is not int or not 0 <= n < MOST_DRAWS:
            raise ValueError(f"{brief(n)} is no count")
    return tuple(values)


def _mark(value: Json) -> Mark:
    mark = Mark(_text(value["key"]), _text(value["nonce"]))
    check_key(mark.key)
    return mark


def _text(value: Json) -> str:
    if type(value) is not str or len(value) > 100 or "/" in value:
        raise ValueError(f"{brief(value)} is no plain text")
    return value
