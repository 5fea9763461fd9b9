"""What an epoch cost, and which stage held it up.

Owned here: the numbers that a loader tells afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxstore.loading.assembly import Timings
from jaxstore.loading.blocks import Reads

_FEW = 0.05  # of the time: a wait that nobody would notice


@dataclass(frozen=True, slots=True)
class EpochStatistics:
    """One epoch, as far as it went."""

    epoch: int
    batches: int
    stored_chunks: int  # that were read
    stored_bytes: int  # of them
    seconds: float  # between the first request for a batch and the end
    first_batch_s: float  # until the first batch came
    waited_s: float  # for batches, by whoever used them
    read_s: float  # the assembly of batches waited for chunks
    reading_s: float  # threads read, decoded and converted, all of them together
    gather_s: float
    transform_s: float
    place_s: float  # onto the device

    @property
    def limiting_stage(self) -> str:
        """What to make faster: "step" (yours), "read", "gather", "transform" or "place"."""
        start_s = self.first_batch_s if self.batches > 1 else 0.0
        if self.waited_s - start_s <= _FEW * self.seconds:
            return "step"
        stages = ("read", "gather", "transform", "place")
        return max(stages, key=lambda stage: float(getattr(self, f"{stage}_s")))

    def __str__(self) -> str:
        rate = self.stored_bytes / 1e6 / max(self.seconds, 1e-9)
        return (
            f"epoch {self.epoch}: {self.batches} batches in {self.seconds:.2f} s, "
            f"{self.stored_chunks} chunks ({rate:.0f} MB/s as stored), waited "
            f"{self.waited_s:.2f} s for batches; limited by {self.limiting_stage}"
        )


class Clock:
    """Collects the numbers of an epoch while it goes on."""

    def __init__(self) -> None:
        self.timings = Timings()
        self.reads = Reads()
        self.batches = 0
        self.seconds = 0.0
        self.first_batch_s = 0.0
        self.waited_s = 0.0

    def statistics(self, epoch: int) -> EpochStatistics:
        """The numbers up to now."""
        return EpochStatistics(
            epoch=epoch,
            batches=self.batches,
            stored_chunks=self.reads.chunks,
            stored_bytes=self.reads.stored_bytes,
            seconds=self.seconds,
            first_batch_s=self.first_batch_s,
            waited_s=self.waited_s,
            read_s=self.timings.read,
            reading_s=self.reads.seconds,
            gather_s=self.timings.gather,
            transform_s=self.timings.transform,
            place_s=self.timings.place,
        )
