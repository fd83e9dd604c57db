"""What the language model's order is worth, listener by listener, beside the first stage's: ``evaluate --llm``.

The same candidates in four orders: the first stage's, the model's fused with it as serving does, the model's alone, and
that of chance, which is what an order that says nothing is worth.
"""

import asyncio
import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from config.token_price import TokenPrice
from core.answer_merging import fused_order
from core.collaborative import Doubles, Likes
from core.errors import LanguageModelFailed
from core.evaluation import (
    Interval,
    Quality,
    bootstrap,
    bootstrap_mean,
    mean_of,
    paired_bootstrap,
    pooled_recall,
    quality_at,
)
from core.model_answer import parse_answer
from core.ports.collaborative import CollaborativeSource
from core.ports.index import ItemIndex
from core.ports.language_model import Completion, Prompt
from core.prompting import shuffled
from core.reranking import Asked, RerankRequest
from core.token_estimate import rough_tokens
from models.job import Strategy
from models.recommendation import Candidate, Reranked
from training.first_stage import HeldOut, Study, candidates_for
from training.judge import Judge
from training.kept_answers import Kept, KeptAnswers

RANKING, FUSED, ALONE, CHANCE = "ranking alone", "model, fused as served", "model's order alone", "order of chance"

_AT_ONCE = 8
_NO_DIFFERENCE = 1e-12
_FEW = 30
_N_DRAWS = 20
_CHARS_PER_TOKEN = 3
_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


# --- the questions ---


@dataclass(frozen=True, slots=True)
class Question:
    """A listener, the candidates (best first), and what the model is asked about them."""

    listener: HeldOut
    candidates: Sequence[Candidate]
    asked: Asked
    seed: str


async def questions_of(
    study: Study, index: ItemIndex, source: CollaborativeSource, judge: Judge, *, k: int
) -> list[Question]:
    """One for each listener who has candidates; ``index`` and ``source`` are over ``study.rows`` and ``.fitted``."""
    questions = []
    n = judge.reranker.n_candidates(Strategy.DEFAULT)
    for listener in study.listeners:
        candidates = await candidates_for(listener, study, index, source, judge.config, judge.versions, n)
        seed = f"{study.dataset} {study.seed} {sorted(listener.likes)}"
        request = RerankRequest(
            candidates=candidates,
            liked=[study.items[item_id] for item_id in listener.likes],
            locale=judge.locale,
            strategy=Strategy.DEFAULT,
            n_picks=k,
            seed=seed,
        )
        asked = judge.reranker.prepare(request)
        if asked is not None:
            questions.append(Question(listener, candidates, asked, seed))
    return questions


# --- what they cost ---


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is still to be asked: about so many tokens of prompts, so many of answers at the most.

    ``usd`` is None where the model's price is not known.
    """

    n_calls: int
    n_kept: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None

    def __str__(self) -> str:
        """One sentence for people."""
        kept = f" ({self.n_kept} answers are kept from before)" if self.n_kept else ""
        tokens = f"{self.prompt_tokens:,} prompt and at most {self.completion_tokens:,} completion tokens"
        price = "at a price that LLM_PRICES does not say" if self.usd is None else f"at most about {self.usd:.4f} USD"
        return f"{self.n_calls} calls to make{kept}: about {tokens}, {price}"

    def is_within(self, max_usd: float) -> bool:
        """Whether it costs at most so much; what is of an unknown price is within infinity alone."""
        return not self.n_calls or (math.inf if self.usd is None else self.usd) <= max_usd


def estimate(questions: Sequence[Question], kept: KeptAnswers, judge: Judge) -> Estimate:
    """What asking all that is not kept would take."""
    prompts = [each.asked.prompt for each in questions if kept.get(judge.question_id(each.asked.prompt)) is None]
    prompt_tokens = round(sum(map(_prompt_tokens, prompts)))
    completion_tokens = sum(prompt.max_output_tokens for prompt in prompts)
    price = judge.price
    usd = price.cost_usd(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens) if price else None
    return Estimate(len(prompts), len(questions) - len(prompts), prompt_tokens, completion_tokens, usd)


def _prompt_tokens(prompt: Prompt) -> float:
    schema = json.dumps(prompt.schema, separators=(",", ":"))
    return rough_tokens([*prompt.system.splitlines(), *prompt.user.splitlines()]) + len(schema) / _CHARS_PER_TOKEN


# --- asking ---


@dataclass(frozen=True, slots=True)
class Heard:
    """How one call ended, and how long it took."""

    end: Completion | LanguageModelFailed
    seconds: float


async def ask(
    questions: Sequence[Question],
    judge: Judge,
    kept: KeptAnswers,
    *,
    done: Callable[[int], None] = lambda _: None,
) -> list[Heard]:
    """One for each question; answers are kept as they come, failures are not: the next run asks again.

    ``done`` is told how many have ended. Whatever interrupts it, only the calls under way are lost.
    """
    slots, n_done = asyncio.Semaphore(_AT_ONCE), 0

    async def heard(question: Question) -> Heard:
        nonlocal n_done
        async with slots:
            found = await _heard(question, judge, kept)
        n_done += 1
        done(n_done)
        return found

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(heard(question)) for question in questions]
    return [task.result() for task in tasks]


async def _heard(question: Question, judge: Judge, kept: KeptAnswers) -> Heard:
    key = judge.question_id(question.asked.prompt)
    if (known := kept.get(key)) is not None:
        return Heard(known.completion, known.seconds)
    started_s = judge.clock.monotonic_s()
    try:
        completion = await judge.language_model.complete(question.asked.prompt)
    except LanguageModelFailed as failure:
        return Heard(failure, judge.clock.monotonic_s() - started_s)
    found = Heard(completion, judge.clock.monotonic_s() - started_s)
    kept.put(key, Kept(completion, found.seconds))
    return found


# --- the report ---


@dataclass(frozen=True, slots=True)
class Order:
    """How good one order is, with 95 % bootstrap intervals over listeners.

    The gains are over the first stage's order for the same listeners; ``better`` and ``worse`` are the shares of
    listeners whose NDCG it raises and lowers. All four are None for that order itself, these two for chance, of which
    the figures are means of several draws.
    """

    name: str
    recall: Interval
    ndcg: Interval
    recall_gain: Interval | None = None
    ndcg_gain: Interval | None = None
    better: float | None = None
    worse: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all answers, those kept from earlier runs included; ``cost_usd`` is None where the price is not known.

    ``seconds_p50`` and ``seconds_p95`` are over the calls that were answered.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost_usd: float | None
    seconds_p50: float
    seconds_p95: float


@dataclass(frozen=True, slots=True)
class Uplift:
    """All that ``evaluate --llm`` found.

    ``reachable`` is the share of what is to be found that stands among the candidates at all. ``place``: where in the
    prompt's list the picks stood, from 0 (first) to 1 (last), a mean per listener: without favour it is one half.
    ``failed`` counts calls by why their list is the ranking's in whole or in part, ``dropped`` what could not be used.
    ``beyond_chance``: how far the NDCG of the model's order alone is above that of chance; ``by_weight``: the NDCG
    of the fused order if ``order_weight`` were another.
    """

    dataset: str
    protocol: str
    model: str
    k: int
    seed: int
    order_weight: float
    n_listeners: int
    n_candidates: float
    reachable: float
    orders: tuple[Order, ...]
    beyond_chance: Interval
    by_weight: Mapping[float, float]
    place: Interval | None
    failed: Mapping[str, int]
    dropped: Mapping[str, int]
    usage: Usage

    @property
    def verdicts(self) -> Iterator[str]:
        """A sentence for each of the model's orders, and one that says whether the model says anything at all."""
        for order in self.orders:
            if order.name in (FUSED, ALONE) and order.ndcg_gain is not None:
                yield f"{order.name}: {self._verdict(order.ndcg_gain, 'the ranking alone')}"
        yield f"{ALONE}: {self._verdict(self.beyond_chance, f'an {CHANCE}')}"

    def _verdict(self, gain: Interval, other: str) -> str:
        return f"{verdict(gain)} than {other} at n = {self.n_listeners} (NDCG@{self.k} {_shown_gain(gain)})"

    def __iter__(self) -> Iterator[Table | str]:
        """For people."""
        title = f"{self.dataset}, protocol {self.protocol}, {self.n_listeners} listeners, {self.model}"
        caption = (
            f"{self.n_candidates:.0f} candidates a listener hold {self.reachable:.1%} of what is to be found; "
            f"order_weight {self.order_weight:g}; 95 % bootstrap intervals over listeners"
        )
        columns = (f"Recall@{self.k}", f"NDCG@{self.k}", "gain in Recall", "gain in NDCG", "better for", "worse for")
        table = Table("order", *columns, title=title, caption=caption)
        for order in self.orders:
            table.add_row(order.name, _shown(order.recall), _shown(order.ndcg), *_shown_gains(order))
        yield table
        yield from self._further()
        yield from (f"VERDICT {sentence}" for sentence in self.verdicts)
        if self.n_listeners < _FEW:
            yield f"of {self.n_listeners} listeners hardly anything can be said: ask for more with --users"

    def _further(self) -> Iterator[str]:
        figures = ", ".join(f"{weight:g}: {ndcg:.4f}" for weight, ndcg in self.by_weight.items())
        yield f"NDCG@{self.k} of the model's choice by LLM_ORDER_WEIGHT: {figures}"
        if self.place is not None:
            low, high = (f"{100 * value:.1f}" for value in (self.place.low, self.place.high))
            yield (
                f"place of the picks in the prompt's list: {100 * self.place.value:.1f} % of the way down "
                f"({low} to {high}; 50 without favour of any place)"
            )
        yield f"degraded: {_counted(self.failed)}; dropped from answers: {_counted(self.dropped)}"
        used, n = self.usage, self.n_listeners
        yield (
            f"tokens a listener: {used.prompt_tokens / n:,.0f} prompt ({used.cached_tokens / n:,.0f} of them cached), "
            f"{used.completion_tokens / n:,.0f} completion; {used.seconds_p50:.2f} s a call, p95 {used.seconds_p95:.2f}"
        )
        if used.cost_usd is not None:
            yield f"cost: {used.cost_usd:.4f} USD, {1000 * used.cost_usd / n:.3f} USD for a thousand listeners"

    def document(self) -> dict[str, object]:
        """For machines."""
        return {**dataclasses.asdict(self), "verdicts": list(self.verdicts)}

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(self.document(), indent=2), encoding="utf-8")


def verdict(gain: Interval) -> str:
    """What a gain's 95 % interval says."""
    if gain.low > 0:
        return "significantly better"
    return "significantly worse" if gain.high < 0 else "no better and no worse"


def report(study: Study, questions: Sequence[Question], heard: Sequence[Heard], judge: Judge, *, k: int) -> Uplift:
    """The figures of ``questions``, each ended as ``heard`` says; raises ``LanguageModelFailed`` if all failed."""
    _refuse_silence(heard)
    picks = [_picked(question, each) for question, each in zip(questions, heard, strict=True)]
    outcomes = [
        judge.reranker.answered(question.asked, each.end) for question, each in zip(questions, heard, strict=True)
    ]
    lists = [_orders(*pair, judge.order_weight) for pair in zip(questions, picks, strict=True)]
    targets = Likes.of([sorted(question.listener.targets) for question in questions])
    qualities = {name: _quality([each[name] for each in lists], targets, k) for name in lists[0]}
    qualities[CHANCE] = _mean([_quality(_by_chance(questions, draw), targets, k) for draw in range(_N_DRAWS)])
    return Uplift(
        dataset=study.dataset,
        protocol=study.protocol,
        model=judge.model,
        k=k,
        seed=study.seed,
        order_weight=judge.order_weight,
        n_listeners=len(questions),
        n_candidates=float(np.mean([len(question.candidates) for question in questions])),
        reachable=_reachable(questions),
        orders=tuple(_order(name, quality, qualities[RANKING]) for name, quality in qualities.items()),
        by_weight=_by_weight(questions, picks, targets, k),
        beyond_chance=paired_bootstrap(qualities[ALONE], qualities[CHANCE], mean_of("ndcg")),
        place=_place(questions, picks),
        failed=Counter(each.degraded for each in outcomes if each.degraded is not None),
        dropped=_dropped(outcomes),
        usage=_usage(heard, judge.price),
    )


def _refuse_silence(heard: Sequence[Heard]) -> None:
    failures = [each.end for each in heard if isinstance(each.end, LanguageModelFailed)]
    if len(failures) == len(heard):
        if failures:
            raise failures[-1]
        raise LanguageModelFailed("unavailable", "nobody was there to ask about")


def _picked(question: Question, heard: Heard) -> list[Candidate]:
    """What the model picked, in its order."""
    text = heard.end.text if isinstance(heard.end, Completion) else heard.end.partial_text or ""
    return [choice.candidate for choice in parse_answer(text, question.asked.handles).choices]


def _orders(question: Question, picked: Sequence[Candidate], order_weight: float) -> dict[str, list[int]]:
    """Item ids in each of the orders but that of chance; what the model did not pick follows as it is ranked."""
    ranked = [candidate.item.item_id for candidate in question.candidates]
    return {
        RANKING: ranked,
        FUSED: _fused(question, picked, order_weight),
        ALONE: _followed_by([candidate.item.item_id for candidate in picked], ranked),
    }


def _fused(question: Question, picked: Sequence[Candidate], order_weight: float) -> list[int]:
    fused = fused_order(picked, question.candidates, order_weight)
    ranked = (candidate.item.item_id for candidate in question.candidates)
    return _followed_by(sorted(fused, key=lambda item_id: -fused[item_id]), ranked)


def _by_weight(
    questions: Sequence[Question], picks: Sequence[Sequence[Candidate]], targets: Likes, k: int
) -> Mapping[float, float]:
    lists = {weight: [_fused(*pair, weight) for pair in zip(questions, picks, strict=True)] for weight in _WEIGHTS}
    return {weight: float(_quality(rows, targets, k).ndcg.mean()) for weight, rows in lists.items()}


def _by_chance(questions: Sequence[Question], draw: int) -> list[list[int]]:
    shuffles = (shuffled(question.candidates, f"{question.seed} chance {draw}") for question in questions)
    return [[candidate.item.item_id for candidate in each] for each in shuffles]


def _mean(qualities: Sequence[Quality]) -> Quality:
    """Of several draws, listener by listener."""
    names = [field.name for field in dataclasses.fields(Quality)]
    return Quality(**{name: np.mean([getattr(each, name) for each in qualities], axis=0) for name in names})


def _followed_by(first: Iterable[int], others: Iterable[int]) -> list[int]:
    return list(dict.fromkeys([*first, *others]))


def _quality(lists: Sequence[Sequence[int]], targets: Likes, k: int) -> Quality:
    top = np.array([[*row[:k], *[-1] * (k - len(row))] for row in lists], np.int64)
    return quality_at(top, targets, k)


def _order(name: str, quality: Quality, ranking: Quality) -> Order:
    recall, ndcg = bootstrap(quality, pooled_recall), bootstrap(quality, mean_of("ndcg"))
    if quality is ranking:
        return Order(name, recall, ndcg)
    recall_gain, ndcg_gain = (paired_bootstrap(quality, ranking, each) for each in (pooled_recall, mean_of("ndcg")))
    if name == CHANCE:
        return Order(name, recall, ndcg, recall_gain, ndcg_gain)
    differences: Doubles = quality.ndcg - ranking.ndcg
    better, worse = (float((sign * differences > _NO_DIFFERENCE).mean()) for sign in (1, -1))
    return Order(name, recall, ndcg, recall_gain, ndcg_gain, better, worse)


def _reachable(questions: Sequence[Question]) -> float:
    found = [question.listener.targets & {each.item.item_id for each in question.candidates} for question in questions]
    n_targets = sum(len(question.listener.targets) for question in questions)
    return sum(map(len, found)) / n_targets


def _place(questions: Sequence[Question], picks: Sequence[Sequence[Candidate]]) -> Interval | None:
    means = []
    for question, picked in zip(questions, picks, strict=True):
        places = {shown.item.item_id: place for place, shown in enumerate(question.asked.handles.values())}
        if picked:
            means.append((np.mean([places[each.item.item_id] for each in picked]) + 0.5) / len(places))
    return bootstrap_mean(np.array(means, np.float64)) if means else None


def _dropped(outcomes: Iterable[Reranked]) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    for each in outcomes:
        counts.update(each.dropped)
    return counts


def _usage(heard: Sequence[Heard], price: TokenPrice | None) -> Usage:
    ends = [each.end for each in heard]
    prompt, completion, cached = (
        sum(getattr(end, name) for end in ends) for name in ("prompt_tokens", "completion_tokens", "cached_tokens")
    )
    tokens = {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": cached}
    cost = price.cost_usd(**tokens) if price else None
    seconds = [each.seconds for each in heard if isinstance(each.end, Completion)]
    p50, p95 = np.quantile(seconds, (0.5, 0.95))
    return Usage(prompt, completion, cached, cost, float(p50), float(p95))


def _shown(interval: Interval) -> str:
    return f"{interval.value:.4f}\n{interval.low:.3f}-{interval.high:.3f}"


def _shown_gain(interval: Interval) -> str:
    return f"{interval.value:+.4f}, {interval.low:+.4f} to {interval.high:+.4f}"


def _shown_gains(order: Order) -> Iterator[str]:
    yield from ("" if gain is None else _shown_gain(gain) for gain in (order.recall_gain, order.ndcg_gain))
    yield from ("" if share is None else f"{share:.0%}" for share in (order.better, order.worse))


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "nothing"
