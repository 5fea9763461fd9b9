"""Which draws of a payload are new; no device is needed for that."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxstore as js
from jaxstore.saving.channel import Payload
from jaxstore.saving.lanes import Lanes, describe, detach

SLOTS = 8


class Chains:
    """Numbers chains as a collector does."""

    def __init__(self):
        self.n = 0
        self.taken = set()

    def allocate(self, n):
        self.n += n
        return self.n - n

    def claim(self, chain):
        if chain in self.taken:
            raise js.MismatchError(f"chain {chain} is taken")
        self.taken.add(chain)


class Device:
    """A ring as `buffer` keeps it, in NumPy: draw = 100 * lane + step."""

    def __init__(self, lanes, chain=None):
        self.chain = np.full(lanes, -1) if chain is None else np.asarray(chain)
        self.ring = np.zeros((lanes, SLOTS), int)
        self.steps = np.zeros((lanes, SLOTS), np.uint32)
        self.tick = self.step = 0

    def push(self, keep):
        slot = self.tick % SLOTS
        self.ring[:, slot] = 100 * np.arange(len(self.ring)) + self.step
        self.steps[:, slot] = 2 * self.step + keep
        self.tick += bool(keep.any())
        self.step += 1
        return keep.any()

    def payload(self, *, is_ragged):
        steps, ring = self.steps.copy(), self.ring.copy()
        return Payload(self.chain, self.tick, is_ragged, 1, steps, (ring,))


def lanes():
    chains = Chains()
    return Lanes(chains.allocate, chains.claim)


def collect(blocks, into):
    for block in blocks:
        for one in block.split():
            rows = into.setdefault(one.first_chain, [])
            rows += zip(one.steps[0].tolist(), one.leaves[0][0].tolist(), strict=True)


@settings(max_examples=200, deadline=None)
@given(
    masks=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), max_size=60),
    flushes=st.lists(st.integers(1, SLOTS), min_size=1),
    is_shared=st.booleans(),
)
def test_every_kept_draw_comes_once_and_in_order_wherever_flushes_fall(masks, flushes, is_shared):
    device, host, got = Device(3), lanes(), {}
    due, flush = 1, 0
    for mask in masks:
        keep = np.array([mask[0]] * 3 if is_shared else mask)
        if device.push(keep) and device.tick == due:
            collect(host.blocks(device.payload(is_ragged=not is_shared)), got)
            due += flushes[flush % len(flushes)]
            flush += 1
    collect(host.blocks(device.payload(is_ragged=False), may_be_empty=True), got)
    for chain in range(3):
        kept = [i for i, m in enumerate(masks) if (m[0] if is_shared else m[chain])]
        assert got.get(chain, []) == [(i, 100 * chain + i) for i in kept]


def test_the_same_payload_twice_is_refused():
    device, host = Device(2), lanes()
    device.push(np.array([True, True]))
    payload = device.payload(is_ragged=False)
    list(host.blocks(payload))
    with pytest.raises(js.MismatchError, match="chains 0 to 1.*run twice"):
        list(host.blocks(payload))


def test_a_gap_wider_than_the_ring_is_lost_draws():
    device, host = Device(1), lanes()
    for _ in range(SLOTS + 1):
        device.push(np.array([True]))
    with pytest.raises(js.LostDrawsError, match="9 steps were kept.*holds 8"):
        list(host.blocks(device.payload(is_ragged=False)))


def test_other_numbers_of_lanes_and_half_named_ones_are_refused():
    host = lanes()
    for device, message in ((Device(2), "2 lanes.*there were 1"), (Device(2, [-1, 3]), "some do")):
        host = lanes()
        host.add_sender(1)
        device.push(np.array([True, True]))
        with pytest.raises(js.MismatchError, match=message):
            list(host.blocks(device.payload(is_ragged=False)))


def test_named_chains_out_of_order_come_one_by_one():
    device, host, got = Device(3, [5, 2, 9]), lanes(), {}
    device.push(np.ones(3, bool))
    collect(host.blocks(device.payload(is_ragged=False)), got)
    assert got == {5: [(0, 0)], 2: [(0, 100)], 9: [(0, 200)]}
    assert host.chains == (2, 5, 9)


def test_final_lanes_are_grouped_by_sender():
    host = lanes()
    for chains in ([0, 1], [2, 3]):
        device = Device(2, chains)
        device.push(np.ones(2, bool))
        list(host.blocks(device.payload(is_ragged=False)))
    assert host.group(np.array([0, 1, 2, 3, 7])) == [[0, 1], [2, 3], [4]]
    assert host.group(np.array([-1, -1])) == [[0, 1]]


def test_small_views_are_copied_and_large_ones_are_not():
    ring = np.zeros((1, 100, 10))
    assert detach(ring[:, :90]).base is ring
    assert detach(ring[:, :10]).base is None


def test_chains_are_described_for_people():
    assert describe((4,)) == "chain 4"
