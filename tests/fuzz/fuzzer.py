"""A mutation fuzzer: good inputs are changed at random, and those that lead to something new are changed further."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.fuzz.targets import Target
from tests.support.mutations import mutated

STALL_S = 5.0
MAX_CORPUS = 2000
MAX_INPUT_BYTES = 200_000


class FuzzFailed(Exception):
    """An input for which a promise broke; the sentence says how to run it again."""


@dataclass
class TargetCount:
    """What became of one target's inputs."""

    n_inputs: int = 0
    n_outcomes: int = 0
    slowest_s: float = 0.0


@dataclass
class Fuzzer:
    """Draws everything from ``seed``: the same seed runs the same inputs, as far as it comes."""

    targets: Sequence[Target]
    seed: int
    counts: dict[str, TargetCount] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._chance = Random(self.seed)
        self._corpora = {target.name: list(target.corpus) for target in self.targets}
        self._seen: dict[str, set[str]] = {target.name: set() for target in self.targets}
        self.counts = {target.name: TargetCount() for target in self.targets}

    async def run(self, goes_on: Callable[[], bool]) -> None:
        """Inputs for one target after the other, while ``goes_on``; raises ``FuzzFailed`` at the first that fails."""
        while goes_on():
            for target in self.targets:
                for _ in range(target.n_each):
                    await self._one(target, self._input(target))
                await asyncio.sleep(0)

    def _input(self, target: Target) -> bytes:
        corpus, seed = self._corpora[target.name], self._chance.getrandbits(64)
        return mutated(Random(seed).choice(corpus), seed, corpus)[:MAX_INPUT_BYTES]

    async def _one(self, target: Target, raw: bytes) -> None:
        count, started_s = self.counts[target.name], time.perf_counter()
        try:
            outcome = await target.check(raw)
        except Exception as error:
            raise FuzzFailed(
                f"{target.name}: input {count.n_inputs} of seed {self.seed}: {type(error).__name__}: {error}: {raw!r}"
            ) from error
        took_s = time.perf_counter() - started_s
        if took_s > STALL_S:
            raise FuzzFailed(
                f"{target.name}: input {count.n_inputs} of seed {self.seed} took {took_s:.1f} s: {raw[:2000]!r}"
            )
        count.n_inputs += 1
        count.slowest_s = max(count.slowest_s, took_s)
        self._keep_if_new(target.name, raw, outcome)

    def _keep_if_new(self, name: str, raw: bytes, outcome: str) -> None:
        seen, corpus = self._seen[name], self._corpora[name]
        if outcome not in seen and len(corpus) < MAX_CORPUS:
            seen.add(outcome)
            corpus.append(raw)
            self.counts[name].n_outcomes = len(seen)
