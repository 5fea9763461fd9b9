"""Which chains the lanes of a payload are, and which rows of its ring are new.

Owned here: the host's memory of one `init_save`. Pure bookkeeping: no I/O, no threads; its caller
holds a lock. The ring's own rules are in `buffer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from jaxstore.errors import LostDrawsError, MismatchError
from jaxstore.saving.block import Block, HostArray
from jaxstore.saving.channel import Payload
from jaxstore.saving.checkpoint import SenderState

TICK_RANGE = 2**32  # the device counts flushes modulo this,
STEP_RANGE = 2**31  # and steps modulo this; the host sees all of them and unwraps


@dataclass(slots=True)
class Sender:
    """Chains whose rings arrive together, from one program on one device or a gathered one."""

    chains: tuple[int, ...]
    tick: int = 0  # unwrapped clock after the last payload
    is_ragged: bool = False  # whether chains may keep different steps
    steps: list[int] = field(default_factory=list)  # per lane, the last kept step, unwrapped


class Lanes:
    """Turns the payloads of one `init_save` into blocks of new draws, in order, none twice.

    Args:
        allocate: Gives that many new, consecutive chain numbers, for lanes that name none.
        claim: Takes a chain number that the caller named; raises if another run has it.
    """

    def __init__(self, allocate: Callable[[int], int], claim: Callable[[int], None]) -> None:
        self._allocate = allocate
        self._claim = claim
        self._senders: dict[tuple[int, ...], Sender] = {}

    @property
    def chains(self) -> tuple[int, ...]:
        """All chains seen so far, in order."""
        return tuple(sorted(c for sender in self._senders.values() for c in sender.chains))

    def blocks(self, payload: Payload, *, may_be_empty: bool = False) -> Iterator[Block]:
        """The new draws of a payload; that of a final state or a checkpoint may have none.

        Raises:
            MismatchError: The same draws came before, from another sender or an earlier call.
            LostDrawsError: Draws before these ones never arrived.
        """
        sender = self.sender_of(payload)
        slots = payload.steps.shape[1]
        n_new = (payload.tick - sender.tick) % TICK_RANGE
        if n_new == 0 and may_be_empty:
            return
        if n_new == 0 or n_new > TICK_RANGE // 2:
            raise MismatchError(
                f"{describe(sender.chains)}: these draws arrived before. Either the same saving "
                "state was run twice (call init_save for each run), or several devices send "
                "chains of the same number (give init_save chain=jax.lax.axis_index(...))."
            )
        if n_new > slots:
            raise LostDrawsError(
                f"{describe(sender.chains)}: {n_new} steps were kept since the last call to the "
                f"host, the buffer holds {slots}: draws were lost. The saving state did not pass "
                "through every call of save; return it from the loop as it comes."
            )
        new = (sender.tick + np.arange(n_new)) % slots
        sender.tick += n_new
        sender.is_ragged |= payload.is_ragged or not is_consecutive(sender.chains)
        if sender.is_ragged:
            yield from self._ragged(sender, payload, new)
        else:
            yield from self._lockstep(sender, payload, new)

    def restore(self, states: Iterable[SenderState]) -> int:
        """Go on with senders as a checkpoint has them; the tick of all their clocks."""
        states = list(states)
        # Their rings are empty, so any tick will do, and all programs begin with the same.
        tick = max((state.tick for state in states), default=0)
        for state in states:
            self._senders[state.named] = Sender(
                state.chains, tick, state.is_ragged, list(state.steps)
            )
        return tick

    def state_of(self, payload: Payload) -> SenderState:
        """How far the sender of a payload is, after its blocks were taken."""
        sender = self.sender_of(payload)
        named = tuple(payload.chain.tolist()) if (payload.chain >= 0).all() else ()
        return SenderState(named, sender.chains, sender.tick, sender.is_ragged, tuple(sender.steps))

    @property
    def n_senders(self) -> int:
        """Senders seen so far."""
        return len(self._senders)

    def group(self, chain: HostArray) -> list[list[int]]:
        """Lanes of a final state by the sender whose rings they share; (lanes,) of chain numbers.

        A chain that never sent anything is on its own.
        """
        if (chain < 0).any():
            return [list(range(chain.size))]
        groups: dict[tuple[int, ...], list[int]] = {}
        for lane, number in enumerate(chain.tolist()):
            key = next((k for k in self._senders if number in k), (number,))
            groups.setdefault(key, []).append(lane)
        return list(groups.values())

    def sender_of(self, payload: Payload) -> Sender:
        """Who sent this, registering its chains at the first time."""
        named = payload.chain >= 0
        if named.all():
            key = tuple(payload.chain.tolist())
        elif named.any():
            raise MismatchError(
                f"some lanes name their chain and some do not: {payload.chain}. Give init_save "
                "chain= in all of them, or in none."
            )
        else:
            key = ()
        sender = self._senders.get(key)
        if sender is None:
            sender = self._add_named(key) if key else self.add_sender(payload.chain.size)
        if len(sender.chains) != payload.chain.size:
            raise MismatchError(
                f"{describe(sender.chains)}: {payload.chain.size} lanes arrived where there were "
                f"{len(sender.chains)}. Call init_save once per program, inside the function that "
                "is vmapped, or give it chain=."
            )
        return sender

    def add_sender(self, n_chains: int) -> Sender:
        """A sender of new chains, numbered in lane order."""
        first = self._allocate(n_chains)
        sender = Sender(tuple(range(first, first + n_chains)), steps=[-1] * n_chains)
        self._senders[()] = sender
        return sender

    def _add_named(self, chains: tuple[int, ...]) -> Sender:
        for chain in chains:
            self._claim(chain)
        sender = self._senders[chains] = Sender(chains, steps=[-1] * len(chains))
        return sender

    def _lockstep(self, sender: Sender, payload: Payload, new: HostArray) -> Iterator[Block]:
        """All lanes kept the same steps: rows are taken as views, in at most two pieces."""
        wrap = int(np.argmin(new)) if len(new) else 0
        for piece in (new[:wrap], new[wrap:]):
            if len(piece) == 0:
                continue
            rows = slice(int(piece[0]), int(piece[-1]) + 1)
            steps = unwrap(payload.steps[:, rows], sender.steps)
            sender.steps = steps[:, -1].tolist()
            leaves = tuple(detach(a[:, rows]) for a in payload.leaves)
            yield Block(sender.chains[0], steps, leaves, len(sender.chains))

    def _ragged(self, sender: Sender, payload: Payload, new: HostArray) -> Iterator[Block]:
        """Each lane kept its own steps: a block per lane."""
        for lane, chain in enumerate(sender.chains):
            rows = new[payload.steps[lane, new] % 2 == 1]
            if len(rows) == 0:
                continue
            steps = unwrap(payload.steps[lane : lane + 1, rows], [sender.steps[lane]])
            sender.steps[lane] = int(steps[0, -1])
            leaves = tuple(a[lane : lane + 1, rows] for a in payload.leaves)
            yield Block(chain, steps, leaves, len(sender.chains))


def unwrap(codes: HostArray, last: list[int]) -> HostArray:
    """Step numbers out of the codes of a ring, as they are; each row goes on after its `last`.

    >>> unwrap(np.array([[2**32 - 1, 1, 11]], np.uint32), [2**31 - 3]).tolist()
    [[2147483647, 2147483648, 2147483653]]
    """
    before = np.asarray(last, np.int64)[:, None]
    gaps = np.diff(codes.astype(np.int64) // 2, axis=1, prepend=before % STEP_RANGE) % STEP_RANGE
    return before + np.cumsum(gaps, axis=1)


def detach(rows: HostArray) -> HostArray:
    """A copy where a view would keep a much larger ring alive."""
    return rows if rows.base is None or 2 * rows.nbytes > rows.base.nbytes else rows.copy()


def is_consecutive(chains: tuple[int, ...]) -> bool:
    """Whether these are neighbours in ascending order."""
    return chains == tuple(range(chains[0], chains[0] + len(chains)))


def describe(chains: tuple[int, ...]) -> str:
    """Chains for a message.

    >>> describe((0,)), describe((0, 1, 2)), describe((1, 3))
    ('chain 0', 'chains 0 to 2', 'chains 1, 3')
    """
    if len(chains) == 1:
        return f"chain {chains[0]}"
    if is_consecutive(chains):
        return f"chains {chains[0]} to {chains[-1]}"
    return "chains " + ", ".join(map(str, chains))
