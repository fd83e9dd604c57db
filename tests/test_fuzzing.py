"""The fuzzer: a thousand inputs with one seed, and that it finds what breaks."""

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.fuzzer import MAX_INPUT_BYTES, Fuzzer, FuzzFailed, TargetCount
from tests.fuzz.run import HEADING, rows_of, with_rows
from tests.fuzz.targets import JOBS, PROPERTIES, SETTINGS, TRACKS, Target, open_targets
from tests.support.mutations import mutated

SEED = 20261121


def times(n: int) -> Callable[[], bool]:
    """True ``n`` times."""
    left = itertools.count(n, -1)
    return lambda: next(left) > 0


async def test_a_thousand_inputs_break_no_promise(tmp_path: Path) -> None:
    async with open_targets(tmp_path) as targets:
        fuzzer = Fuzzer(targets, SEED)
        await fuzzer.run(times(20))
    assert sum(count.n_inputs for count in fuzzer.counts.values()) == 20 * sum(target.n_each for target in targets)
    assert all(count.n_outcomes > 3 for count in fuzzer.counts.values()), fuzzer.counts


async def test_every_input_that_it_begins_with_is_a_good_one(tmp_path: Path) -> None:
    async with open_targets(tmp_path) as targets:
        outcomes = {target.name: [await target.check(raw) for raw in target.corpus] for target in targets}
    assert all(outcome.startswith("taken") for outcome in outcomes["job messages"])
    assert outcomes["message properties"] == ["read"] * len(PROPERTIES)
    assert outcomes["track files"] == ["read 3 []"] * len(TRACKS)
    assert all("read" in outcome for outcome in outcomes["interaction files"])
    assert sum(outcome.startswith("taken") for outcome in outcomes["settings"]) > len(SETTINGS) / 3
    assert not any(outcome == "another path" for outcome in outcomes["HTTP requests"])


async def inputs_of(seed: int) -> list[bytes]:
    seen: list[bytes] = []

    async def note(raw: bytes) -> str:
        seen.append(raw)
        return raw[:1].hex()

    await Fuzzer([Target("noted", [b'{"a": 1}', b"x,y\n1,2\n"], note)], seed).run(times(200))
    return seen


async def test_the_same_seed_runs_the_same_inputs_and_another_does_not() -> None:
    assert await inputs_of(1) == await inputs_of(1) != await inputs_of(2)
    assert len(set(await inputs_of(1))) > 100


async def test_an_input_that_breaks_a_promise_ends_the_run_and_is_shown_with_its_seed() -> None:
    async def fragile(raw: bytes) -> str:
        if b"NaN" in raw:
            raise ValueError("no such number")
        return "fine"

    with pytest.raises(FuzzFailed, match=r"fragile: input \d+ of seed 5: ValueError: no such number: b'.*NaN"):
        await Fuzzer([Target("fragile", [b'{"a": 1}'], fragile)], 5).run(times(5000))


async def test_an_input_that_stalls_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.fuzzer.STALL_S", 0.0)

    async def slow(_: bytes) -> str:
        await asyncio.sleep(0)
        return "late"

    with pytest.raises(FuzzFailed, match=r"slow: input 0 of seed 5 took"):
        await Fuzzer([Target("slow", [b"x"], slow)], 5).run(times(1))


async def test_what_leads_to_something_new_is_changed_further() -> None:
    """A lock of three bytes, one after the other: found by steps, hardly ever at once."""

    async def steps(raw: bytes) -> str:
        return f"step {next((n for n, key in enumerate((b'NaN', b'null', b'inf')) if key not in raw), 3)}"

    fuzzer = Fuzzer([Target("steps", [b"{}"], steps)], 3)
    await fuzzer.run(times(5000))
    assert fuzzer.counts["steps"].n_outcomes == 4


@pytest.mark.parametrize("good", [b"", b"x", JOBS[0]])
def test_any_input_can_be_mutated_and_most_are_changed(good: bytes) -> None:
    changed = {mutated(good, seed, JOBS) for seed in range(300)}
    assert len(changed) > 30
    assert all(len(raw) < MAX_INPUT_BYTES * 100 for raw in changed)


def test_the_page_gets_a_table_and_then_further_rows() -> None:
    counts = {"files": TargetCount(n_inputs=12_345, n_outcomes=6, slowest_s=0.0123)}
    row = rows_of(counts, minutes=10, seed=7, day="2026-11-21")
    assert row == "| 2026-11-21 | 10 | 7 | files | 12,345 | 6 | 12 ms |\n"
    once = with_rows("# Page\n\ntext\n", row)
    assert once.startswith(f"# Page\n\ntext\n\n{HEADING}\n\n| run |")
    twice = with_rows(f"{once}\n## Next\n", row)
    assert twice.count(row) == 2
    assert twice.endswith(f"{row}{row}\n## Next\n")
