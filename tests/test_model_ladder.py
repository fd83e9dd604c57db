"""From model to model: who is asked, with how much time, and what is told of it; then over real HTTP."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import LANGUAGE_MODEL_FAILURES, LanguageModelFailed
from core.lanes import Lane, in_lane
from core.model_ladder import FINAL_REASONS, ModelLadder, max_prompt_tokens
from core.ports.language_model import Admission, CallUse, Completion, Prompt
from tests.support.hand_clock import HandClock
from tests.support.llm_server import count_tokens

PROMPT = Prompt(system="Choose.", user="1 a\n2 b", schema_name="picks", schema={"type": "object"}, max_output_tokens=50)


class Rung:
    """A model that fails with ``reason`` (None: answers) after ``takes_s``, or after all of its time."""

    def __init__(
        self, name: str, clock: HandClock, reason: str | None = None, *, takes_s: float = 1.0, partial: str = ""
    ) -> None:
        self._name, self._clock, self._reason, self._takes_s = name, clock, reason, takes_s
        self._partial = partial
        self.given_s: list[float] = []

    def name(self, *, deep: bool) -> str:
        return f"{self._name}-deep" if deep else self._name

    async def complete(
        self, prompt: Prompt, *, deep: bool = False, within_s: float | None = None, use: CallUse | None = None
    ) -> Completion:
        assert within_s is not None
        assert use == CallUse()
        self.given_s.append(within_s)
        self._clock.move(min(self._takes_s, within_s))
        use.prompt_tokens = 100
        if self._reason is not None:
            use.n_requests, use.n_untold = 3, 2
            raise LanguageModelFailed(self._reason, partial_text=self._partial or None)
        use.completion_tokens, use.cached_tokens, use.n_requests = 20, 10, 2
        return Completion(text="{}", model=self._name, prompt_tokens=100, completion_tokens=20)


class Guard:
    """Admits all models but those in ``closed``; remembers what it was told. Every call costs a dollar."""

    def __init__(self, clock: HandClock, closed: dict[str, str] | None = None, *, waits_s: float = 0.0) -> None:
        self._clock, self._closed, self._waits_s = clock, closed or {}, waits_s
        self.admitted: list[str] = []
        self.settled: list[tuple[str, str, CallUse]] = []
        self.patience_s: list[float] = []

    async def admit(
        self, model: str, *, max_prompt_tokens: int, max_completion_tokens: int, patience_s: float
    ) -> Admission:
        self.patience_s.append(patience_s)
        self._clock.move(min(self._waits_s, patience_s))
        if model in self._closed:
            raise LanguageModelFailed(self._closed[model])
        self.admitted.append(model)
        return Admission(
            model=model, token="t", max_prompt_tokens=max_prompt_tokens, max_completion_tokens=max_completion_tokens
        )

    async def settle(self, admission: Admission, outcome: str, use: CallUse) -> float:
        self.settled.append((admission.model, outcome, use))
        return 1.0


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def ladder(
    clock: HandClock, guard: Guard, *rungs: Rung, timeout_s: float = 20.0, max_concurrency: int = 8
) -> ModelLadder:
    return ModelLadder(rungs, guard, clock, timeout_s=timeout_s, patience_s=5.0, max_concurrency=max_concurrency)


async def failure_of(model: ModelLadder) -> LanguageModelFailed:
    with pytest.raises(LanguageModelFailed) as caught:
        await model.complete(PROMPT)
    return caught.value


async def test_the_first_model_that_answers_is_the_last_that_is_asked(clock: HandClock) -> None:
    guard = Guard(clock)
    completion = await ladder(clock, guard, Rung("a", clock), Rung("b", clock)).complete(PROMPT)
    assert (completion.model, completion.n_calls, completion.cost_usd) == ("a", 1, 1.0)
    assert guard.settled == [
        ("a", "ok", CallUse(prompt_tokens=100, completion_tokens=20, cached_tokens=10, n_requests=2))
    ]


@pytest.mark.parametrize("reason", sorted(set(LANGUAGE_MODEL_FAILURES) - FINAL_REASONS))
async def test_after_a_failure_the_next_model_answers_and_both_calls_are_told(clock: HandClock, reason: str) -> None:
    guard = Guard(clock)
    completion = await ladder(clock, guard, Rung("a", clock, reason), Rung("b", clock)).complete(PROMPT)
    assert completion.model == "b"
    assert (completion.n_calls, completion.prompt_tokens, completion.n_requests, completion.cost_usd) == (
        2,
        200,
        5,
        2.0,
    )
    assert [(model, outcome) for model, outcome, _ in guard.settled] == [("a", reason), ("b", "ok")]


@pytest.mark.parametrize("reason", sorted(FINAL_REASONS))
async def test_what_no_other_model_mends_is_raised_at_once(clock: HandClock, reason: str) -> None:
    below = Rung("b", clock)
    failure = await failure_of(ladder(clock, Guard(clock), Rung("a", clock, reason, partial='{"groups"'), below))
    assert (failure.reason, failure.partial_text, failure.n_calls) == (reason, '{"groups"', 1)
    assert below.given_s == []


async def test_the_last_reason_is_raised_with_what_came_of_any_answer(clock: HandClock) -> None:
    rungs = Rung("a", clock, "timeout", partial='{"taste'), Rung("b", clock, "unavailable")
    failure = await failure_of(ladder(clock, Guard(clock), *rungs))
    assert (failure.reason, failure.partial_text) == ("unavailable", '{"taste')
    assert (failure.n_calls, failure.prompt_tokens, failure.cost_usd) == (2, 200, 2.0)


async def test_a_part_of_an_answer_is_told_with_the_model_that_gave_it(clock: HandClock) -> None:
    rungs = Rung("a", clock, "timeout", partial='{"taste'), Rung("b", clock, "unavailable")
    assert (await failure_of(ladder(clock, Guard(clock), *rungs))).model == "a"
    rungs = Rung("a", clock, "timeout", partial='{"taste'), Rung("b", clock, "truncated", partial='{"groups')
    assert (await failure_of(ladder(clock, Guard(clock), *rungs))).model == "b"


@pytest.mark.parametrize(("reason", "asked"), [("breaker_open", ["b"]), ("over_budget", ["b"]), ("over_spend", [])])
async def test_a_model_without_leave_is_not_asked(clock: HandClock, reason: str, asked: list[str]) -> None:
    first, guard = Rung("a", clock), Guard(clock, {"a": reason})
    model = ladder(clock, guard, first, Rung("b", clock))
    if asked:
        assert (await model.complete(PROMPT)).n_calls == 1
    else:
        failure = await failure_of(model)
        assert (failure.reason, failure.n_calls, failure.cost_usd) == (reason, 0, 0.0)
    assert guard.admitted == asked
    assert first.given_s == []


async def test_a_model_that_takes_all_of_its_time_leaves_some_for_the_next(clock: HandClock) -> None:
    slow, below = Rung("a", clock, "timeout", takes_s=99), Rung("b", clock)
    await ladder(clock, Guard(clock), slow, below).complete(PROMPT)
    assert slow.given_s == [pytest.approx(12)]
    assert below.given_s == [pytest.approx(8)]


async def test_a_model_that_fails_fast_leaves_almost_all_time_for_the_next(clock: HandClock) -> None:
    below = Rung("b", clock)
    await ladder(clock, Guard(clock), Rung("a", clock, "unavailable", takes_s=0.1), below).complete(PROMPT)
    assert below.given_s == [pytest.approx(19.9)]


async def test_waiting_for_leave_takes_from_the_time_of_the_call(clock: HandClock) -> None:
    rung, guard = Rung("a", clock), Guard(clock, waits_s=99)
    await ladder(clock, guard, rung).complete(PROMPT)
    assert guard.patience_s == [5.0]
    assert rung.given_s == [pytest.approx(15)]


async def test_a_fallback_that_is_the_same_model_is_not_asked_again(clock: HandClock) -> None:
    guard = Guard(clock)
    await failure_of(ladder(clock, guard, Rung("a", clock, "timeout"), Rung("a", clock)))
    assert guard.admitted == ["a"]


async def test_a_cancelled_call_is_settled_too(clock: HandClock) -> None:
    guard, rung = Guard(clock), Endless("a", clock)
    call = asyncio.create_task(ladder(clock, guard, rung).complete(PROMPT))
    await rung.started.acquire()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert guard.settled == [("a", "cancelled", CallUse(n_requests=2, n_untold=1))]


class Endless(Rung):
    """A model that never answers the second of its requests, until ``let_go``."""

    def __init__(self, name: str, clock: HandClock) -> None:
        super().__init__(name, clock)
        self.started, self.let_go = asyncio.Semaphore(0), asyncio.Event()

    async def complete(
        self, prompt: Prompt, *, deep: bool = False, within_s: float | None = None, use: CallUse | None = None
    ) -> Completion:
        assert use is not None
        use.n_requests, use.n_untold = 2, 1
        self.started.release()
        await self.let_go.wait()
        return Completion(text="{}", model=self.name(deep=deep), prompt_tokens=0, completion_tokens=0)


async def test_a_question_that_finds_no_slot_in_half_of_its_time_asks_nobody(clock: HandClock) -> None:
    guard, rung = Guard(clock), Endless("a", clock)
    model = ladder(clock, guard, rung, timeout_s=0.2, max_concurrency=1)
    under_way = asyncio.create_task(model.complete(PROMPT))
    await rung.started.acquire()
    failures = await asyncio.gather(*(failure_of(model) for _ in range(3)))
    assert [(each.reason, each.n_calls, each.n_requests, each.cost_usd) for each in failures] == [
        ("over_capacity", 0, 0, 0.0)
    ] * 3
    assert guard.admitted == ["a"]
    rung.let_go.set()
    await under_way
    assert (await model.complete(PROMPT)).model == "a"


async def test_who_is_cut_off_while_waiting_for_a_slot_has_used_nothing_and_holds_none(clock: HandClock) -> None:
    guard, rung = Guard(clock), Endless("a", clock)
    model = ladder(clock, guard, rung, max_concurrency=1)
    under_way = asyncio.create_task(model.complete(PROMPT))
    await rung.started.acquire()
    waiting = asyncio.create_task(model.complete(PROMPT))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert guard.admitted == ["a"]
    rung.let_go.set()
    await under_way
    await model.complete(PROMPT)


async def test_of_a_batch_a_quarter_of_the_questions_may_be_under_way(clock: HandClock) -> None:
    guard, rung = Guard(clock), Endless("a", clock)
    model = ladder(clock, guard, rung, max_concurrency=8)
    with in_lane(Lane.BATCH):
        batch = [asyncio.create_task(model.complete(PROMPT)) for _ in range(3)]
    others = [asyncio.create_task(model.complete(PROMPT)) for _ in range(6)]
    for _ in range(8):
        await rung.started.acquire()
    assert guard.admitted == ["a"] * 8
    assert rung.started.locked()
    rung.let_go.set()
    await asyncio.gather(*batch, *others)


@given(
    outcomes=st.lists(st.sampled_from([None, *LANGUAGE_MODEL_FAILURES]), min_size=1, max_size=4),
    takes_s=st.floats(0.01, 30),
    deep=st.booleans(),
)
async def test_every_call_is_settled_and_all_of_them_keep_to_the_time(
    outcomes: list[str | None], takes_s: float, deep: bool
) -> None:
    clock = HandClock()
    guard = Guard(clock)
    began_s = clock.monotonic_s()
    rungs = [Rung(f"m{n}", clock, outcome, takes_s=takes_s) for n, outcome in enumerate(outcomes)]
    ended: Completion | LanguageModelFailed
    try:
        ended = await ladder(clock, guard, *rungs).complete(PROMPT, deep=deep)
    except LanguageModelFailed as failure:
        ended = failure
    assert clock.monotonic_s() - began_s <= 20 + 1e-6
    assert [model for model, _, _ in guard.settled] == guard.admitted
    assert ended.n_calls == ended.cost_usd == len(guard.admitted)


@given(st.text(), st.text())
def test_the_bound_of_a_prompt_holds_whatever_it_says(system: str, user: str) -> None:
    prompt = Prompt(system=system, user=user, schema_name="s", schema={"type": "object"}, max_output_tokens=1)
    assert count_tokens(system + user) <= max_prompt_tokens(prompt)
