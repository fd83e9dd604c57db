"""Rounds of recommending, reacting and learning, on sites whose worth is known."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import satisfaction
from core.errors import ConfigurationError
from models.event import Event, EventType
from tests.support.small_world import small_world
from training.simulator.happenings import Happenings
from training.simulator.history import histories
from training.simulator.rounds import Arm, LoopPlan, LoopReport, run_rounds
from training.simulator.tastes import Tastes
from training.simulator.world import Indices, World

PLAN = LoopPlan(n_members=60, n_rounds=4, seed=3, start=datetime(2026, 5, 1, tzinfo=UTC), n_days=5, k=10)
WORLD = small_world()


def ids_at(places: Indices) -> list[int]:
    ids: list[int] = WORLD.ids[places].tolist()
    return ids


class FixedSite:
    """Recommends the same list to everybody, whatever it hears."""

    def __init__(self, places: Sequence[int]) -> None:
        self._ids: list[int] = WORLD.ids[list(places)].tolist()
        self.heard: list[Event] = []
        self.n_refits = 0
        self.instants: list[datetime] = []

    def go_to(self, now: datetime) -> None:
        self.instants.append(now)

    async def hear(self, events: Sequence[Event]) -> None:
        self.heard += events

    async def refit(self) -> str:
        self.n_refits += 1
        return "nothing is fitted"

    async def recommend(self, member_id: int, n: int) -> Sequence[int]:
        return self._ids[:n]


class KnowingSite(FixedSite):
    """Knows the truth from the beginning."""

    def __init__(self, world: World, plan: LoopPlan) -> None:
        super().__init__(())
        self._tastes = Tastes.of(world, range(1, plan.n_members + 1), plan.seed)
        self._day = float(plan.n_days)

    async def recommend(self, member_id: int, n: int) -> Sequence[int]:
        return ids_at(np.argsort(-self._tastes.affinities(member_id - 1, self._day))[:n])


class NearLikesSite(FixedSite):
    """Learns: recommends what lies near what was liked or asked for again, as far as it has heard."""

    def __init__(self) -> None:
        super().__init__(range(10))
        self._liked: dict[int, list[int]] = {}

    async def refit(self) -> str:
        for event in self.heard:
            if event.type in (EventType.LIKE, EventType.REPEAT):
                place = int(np.searchsorted(WORLD.ids, event.item_id or 0))
                self._liked.setdefault(event.member_id, []).append(place)
        self.heard.clear()
        return await super().refit()

    async def recommend(self, member_id: int, n: int) -> Sequence[int]:
        liked = self._liked.get(member_id)
        if not liked:
            return await super().recommend(member_id, n)
        offsets = WORLD.places[:, None, :] - WORLD.places[liked][None, :, :]
        nearness = np.exp(-((offsets**2).sum(axis=2)) * 4).sum(axis=1)
        return ids_at(np.argsort(-nearness)[:n])


async def rounds(*arms: Arm, plan: LoopPlan = PLAN) -> LoopReport:
    return await run_rounds(WORLD, plan, arms)


async def test_a_site_that_learns_rises_and_one_that_hears_nothing_does_not() -> None:
    report = await rounds(
        Arm("without", NearLikesSite(), hears=False, refits=False),
        Arm("with", NearLikesSite(), hears=True, refits=True),
    )
    assert np.array_equal(report.courses["without"].satisfaction[0], report.courses["with"].satisfaction[0])
    assert report.growth("with").low > 0.02
    assert report.gain_over("without").low > 0.02
    assert report.growth("without").high < 0.01
    assert any("last round, with above without: +0." in line for line in report)


async def test_who_knows_the_truth_is_at_the_top_and_stays_there_but_for_the_drift() -> None:
    report = await rounds(Arm("truth", KnowingSite(WORLD, PLAN), hears=True, refits=True))
    course = report.courses["truth"].satisfaction.mean(axis=1)
    assert course[0] == pytest.approx(report.best[0], abs=0.01)
    assert report.best[0] > 0.7
    assert (course <= report.best + 1e-6).all()


async def test_satisfaction_is_the_mean_true_affinity_of_the_list_and_an_empty_place_has_none() -> None:
    whole, half = FixedSite(range(10)), FixedSite(range(5))
    report = await rounds(Arm("whole", whole, hears=False, refits=False), Arm("half", half, hears=False, refits=False))
    tastes = Tastes.of(WORLD, range(1, 61), 3)
    day = PLAN.n_days + 19 / 24
    truth = np.stack([tastes.affinities(row, day)[:10] for row in range(60)])
    assert np.allclose(report.courses["whole"].satisfaction[0], truth.mean(axis=1), atol=1e-6)
    assert np.allclose(report.courses["half"].satisfaction[0], truth[:, :5].sum(axis=1) / 10, atol=1e-6)


async def test_arms_hear_and_refit_as_they_are_told_to_and_learn_from_the_past_alike() -> None:
    deaf, hearing, closed = (FixedSite(range(10)) for _ in range(3))
    await rounds(
        Arm("deaf", deaf, hears=False, refits=False),
        Arm("hearing", hearing, hears=True, refits=False),
        Arm("closed", closed, hears=True, refits=True),
    )
    whole = Happenings.joined(each.happenings for each in histories(WORLD, 60, PLAN.n_days + 12, PLAN.seed))
    n_past, n_alone = ((whole.at_us < days * 86_400e6).sum() for days in (PLAN.n_days, PLAN.n_days + 12))
    assert [len(deaf.heard), deaf.n_refits] == [n_past, 1]
    assert len(hearing.heard) > n_alone > n_past
    assert hearing.n_refits == 1
    assert closed.n_refits == 1 + PLAN.n_rounds
    # The same lists in every arm, and the same luck.
    assert closed.heard == hearing.heard


async def test_events_of_all_rounds_have_ids_of_their_own_and_come_in_order_of_time() -> None:
    site = FixedSite(range(10))
    await rounds(Arm("closed", site, hears=True, refits=False))
    assert len({event.event_id for event in site.heard}) == len(site.heard)
    for member_id in range(1, 61):
        numbers = [event.event_id for event in site.heard if event.member_id == member_id]
        assert numbers == sorted(numbers)
    evenings = [event.occurred_at_ns for event in site.heard if event.occurred_at_ns is not None]
    assert max(evenings) > (PLAN.start.timestamp() + (PLAN.n_days + 11) * 86_400) * 1e9


async def test_what_was_played_before_is_not_fresh() -> None:
    report = await rounds(Arm("same", FixedSite(range(10)), hears=True, refits=False))
    fresh = report.courses["same"].freshness.mean(axis=1)
    assert fresh[0] > 0.9
    assert (np.diff(fresh) < 0).all()


async def test_the_same_seed_takes_the_same_course() -> None:
    once, again = [await rounds(Arm("a", NearLikesSite(), hears=True, refits=True)) for _ in range(2)]
    assert np.array_equal(once.courses["a"].satisfaction, again.courses["a"].satisfaction)


async def test_a_site_lives_in_the_time_that_is_simulated() -> None:
    class Watched(FixedSite):
        async def hear(self, events: Sequence[Event]) -> None:
            await super().hear(events)
            self.instants.append(datetime.fromtimestamp(max(each.occurred_at_ns or 0 for each in events) / 1e9, UTC))

    site = Watched(range(10))
    await rounds(Arm("one", site, hears=True, refits=True))
    assert site.instants == sorted(site.instants)
    first, evening = datetime(2026, 5, 6, tzinfo=UTC), timedelta(hours=19)
    told = site.instants[1:2] + [each for each in site.instants if each.hour == 19 and not each.minute]
    assert told == [first, *(first + timedelta(days=3 * place) + evening for place in range(4))]


async def test_the_curves_are_written_for_a_chart(tmp_path: Path) -> None:
    report = await rounds(Arm("one", FixedSite(range(10)), hears=False, refits=False))
    report.write(tmp_path / "curves.json")
    told = json.loads((tmp_path / "curves.json").read_text())
    assert [told["seed"], told["members"]] == [3, 60]
    assert len(told["arms"]["one"]["satisfaction"]) == len(told["arms"]["one"]["freshness"]) == len(told["best"]) == 4
    assert told["arms"]["one"]["satisfaction"][0] == pytest.approx(
        report.courses["one"].satisfaction[0].mean(), abs=1e-4
    )


async def test_an_item_that_is_new_to_the_catalogue_is_told_of() -> None:
    class Strange(FixedSite):
        async def recommend(self, member_id: int, n: int) -> Sequence[int]:
            return [11]  # ids are tens

    with pytest.raises(ConfigurationError, match="did not have when the simulation began"):
        await rounds(Arm("strange", Strange(()), hears=False, refits=False))


async def test_the_chart_has_a_line_for_each_arm_which_is_the_mean_of_the_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for seed in (3, 4):
        plan = replace(PLAN, seed=seed, n_rounds=2)
        site, learning = FixedSite(range(10)), NearLikesSite()
        arms = (Arm("fixed", site, hears=False, refits=False), Arm("learning", learning, hears=True, refits=True))
        files.append(tmp_path / f"{seed}.json")
        (await rounds(*arms, plan=plan)).write(files[-1])
    curves = satisfaction.mean_curves(files)
    told = [json.loads(path.read_text())["arms"]["fixed"]["satisfaction"] for path in files]
    assert curves["fixed"] == pytest.approx(np.mean(told, axis=0).tolist())
    satisfaction.main([*map(str, files), "--chart", str(tmp_path / "img" / "chart.svg")])
    drawn = ElementTree.fromstring((tmp_path / "img" / "chart.svg").read_text())  # noqa: S314 - our own
    assert {"fixed", "learning"} <= {text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert f"fixed: {curves['fixed'][0]:.3f} {curves['fixed'][1]:.3f}" in capsys.readouterr().out
