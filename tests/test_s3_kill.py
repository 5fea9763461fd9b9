"""A program that samples into S3 is killed, at random requests: what was committed is exact."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from arrays import assert_same_bits
from fault_proxy import Blackhole, FaultProxy, Request
from programs import s3_scan_until_killed as program
from s3_server import S3Server, s3_environment

import jaxstore as js
from jaxstore.errors import FormatError, MissingError

REQUESTS = 180  # of the program: the k-th of n kills is at one of the first k / n of them
START_S = 120.0


def killed_at_requests(server: S3Server, kills: list[tuple[str, int]]) -> None:
    """Run the program for each URL, all at once; SIGKILL each at the request of that number.

    The request itself is stopped on its way, or reaches the server, as the numbers are odd or even.
    """
    with contextlib.ExitStack() as stack:
        running = []
        for url, number in kills:
            proxy = stack.enter_context(FaultProxy(server.port))
            reached = threading.Event()

            def is_it(
                request: Request, proxy: FaultProxy = proxy, n: int = number,
                reached: threading.Event = reached,
            ) -> bool:  # fmt: skip
                if len(proxy.requests) == n:
                    reached.set()
                return len(proxy.requests) >= n and n % 2 == 1

            proxy.inject(Blackhole(), when=is_it)
            process = subprocess.Popen(
                [sys.executable, program.__file__, url],
                env=os.environ | s3_environment(proxy) | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stderr=subprocess.PIPE,
            )
            running.append((process, reached))
        for process, reached in running:
            try:
                assert reached.wait(START_S)
            finally:
                process.kill()
                _, said = process.communicate()
            assert process.returncode == -9, said.decode()


@pytest.mark.parametrize("n_kills", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_what_was_committed_before_a_kill_is_exact(
    s3_server: S3Server, s3_bucket: str, n_kills: int
) -> None:
    rng = random.Random(11)
    numbers = [rng.randint(4, REQUESTS * (i + 1) // n_kills) for i in range(n_kills)]
    kills = [(f"s3://{s3_bucket}/{n}-{i}.zarr", n) for i, n in enumerate(numbers)]
    killed_at_requests(s3_server, kills)
    wanted = program.sampled(js.MemoryCollector(), 4000)
    counts = []
    for url, number in kills:
        try:
            run = js.open_run(url)
        except (MissingError, FormatError):
            assert number < 25, f"killed at request {number}, and nothing can be opened"
            continue
        assert run.state == "running"
        counts.append(run.sample_count.sum())
        assert_exact(run, wanted)
    assert len(counts) >= n_kills / 2
    assert max(counts) >= 4 * program.CHUNK_DRAWS


def assert_exact(run: Any, wanted: Any) -> None:
    """Each chain is the beginning of the same chain of a run that nobody killed."""
    for chain, n in enumerate(run.sample_count.tolist()):
        assert n <= wanted.sample_count[chain]
        for found, whole in zip(run.leaves, wanted.leaves, strict=True):
            assert_same_bits(
                np.asarray(found.of_chain(chain)[:n]), np.asarray(whole.of_chain(chain)[:n])
            )
        assert_same_bits(run.iteration[chain, :n], wanted.iteration[chain, :n])
