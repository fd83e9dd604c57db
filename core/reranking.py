"""The second stage: build the prompt, call the model, validate its answer, merge it with the ranking.

Nothing that the model says can put an item into the list: only handles that were sent count, and whatever is missing,
wrong or unusable is made up for from the ranking and its evidence.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from config.catalogue_profile import CatalogueProfile
from config.llm_strategies import DEFAULT_STRATEGIES, StrategyLimits, StrategyTable
from config.prompt_texts import PromptTexts
from core.errors import LanguageModelFailed
from core.explanation import OFFLINE, Explainer
from core.handles import Handles, read_handle
from core.json_salvage import read_object
from core.observing import unfailing
from core.plain_text import has_markup, plain_line
from core.ports import Completion, LanguageModel, Observer, Prompt
from core.prompting import affordable_picks, build_prompt, build_screening
from core.screening import FINALISTS_PER_PICK, parse_screening
from core.truth import ClaimRules, Truth
from core.wish import Wish
from core.wish_prompt import leaving_room, with_wish
from models.catalogue import Item
from models.job import Strategy
from models.log_event import LogEvent
from models.recommendation import Candidate, Group, Pick, Reranked, TokenUsage

MALFORMED = "malformed"
INCOMPLETE = "incomplete"
UNTRUE = "untrue_"

_MAX_LABEL, _MAX_TAGLINE, _MAX_REASON, _MAX_TASTE = 40, 90, 160, 240
_MIN_SENTENCE = 4

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Choice:
    """A candidate that the model picked; ``reason`` is its sentence, or None where that was unusable."""

    candidate: Candidate
    reason: str | None


@dataclass(frozen=True, slots=True)
class AnswerGroup:
    """A group as the model named it; ``label`` and ``tagline`` may be empty."""

    label: str
    tagline: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is usable of a model's answer: no candidate twice, none that was not shown.

    ``dropped`` counts the rest by cause: ``unknown_handle``, ``repeated_handle``, ``bad_pick``, ``bad_group``,
    ``bad_reason``, ``bad_taste``; and sentences that name what nothing supports: ``untrue_reason``, ``untrue_label``,
    ``untrue_tagline``, ``untrue_taste``. ``is_whole`` is False where the JSON was cut short or broken.
    """

    groups: tuple[AnswerGroup, ...]
    taste: str
    dropped: Mapping[str, int] = field(default_factory=dict)
    is_whole: bool = True

    @property
    def choices(self) -> list[Choice]:
        """All choices in the model's order."""
        return [choice for group in self.groups for choice in group.choices]


NO_ANSWER = Answer(groups=(), taste="", is_whole=False)


# --- validate ---


def parse_answer(text: str, handles: Handles, *, letters: str = r"\w") -> Answer:
    """The usable part of ``text``; sentences must have ``letters`` (a set of a regular expression) of the locale.

    Takes any text; one that is no JSON at all gives an answer without groups.
    """
    try:
        document, is_whole = read_object(text)
    except ValueError:
        return NO_ANSWER
    reader = _Reader(handles, letters)
    groups = [group for raw in _listed(document.get("groups")) if (group := reader.group(raw)).choices]
    taste = reader.sentence(document.get("taste"), _MAX_TASTE, "bad_taste") or ""
    return Answer(groups=tuple(groups), taste=taste, dropped=dict(reader.dropped), is_whole=is_whole)


class _Reader:
    """Reads one answer and counts what it drops."""

    def __init__(self, handles: Handles, letters: str) -> None:
        self.dropped: Counter[str] = Counter()
        self._handles = handles
        self._letters = re.compile(f"[{letters}]")
        self._seen: set[int] = set()

    def group(self, raw: object) -> AnswerGroup:
        document = raw if isinstance(raw, dict) else {}
        if not document:
            self.dropped["bad_group"] += 1
        choices = [choice for pick in _listed(document.get("picks")) if (choice := self._choice(pick))]
        label, tagline = document.get("label"), document.get("tagline")
        return AnswerGroup(_titled(label, _MAX_LABEL), _titled(tagline, _MAX_TAGLINE), tuple(choices))

    def sentence(self, raw: object, max_chars: int, cause: str) -> str | None:
        """``raw`` as plain text, or None where it is no sentence of the locale."""
        text = plain_line(raw, max_chars) if isinstance(raw, str) else ""
        if len(text) >= _MIN_SENTENCE and self._letters.search(text) and not has_markup(text):
            return text
        self.dropped[cause] += 1
        return None

    def _choice(self, raw: object) -> Choice | None:
        pick = raw if isinstance(raw, dict) else {}
        handle = read_handle(pick.get("h"))
        if handle is None or handle not in self._handles or handle in self._seen:
            self.dropped[self._cause(handle)] += 1
            return None
        self._seen.add(handle)
        return Choice(self._handles[handle], self.sentence(pick.get("r"), _MAX_REASON, "bad_reason"))

    def _cause(self, handle: int | None) -> str:
        if handle is None:
            return "bad_pick"
        return "repeated_handle" if handle in self._seen else "unknown_handle"


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _titled(value: object, max_chars: int) -> str:
    text = plain_line(value, max_chars) if isinstance(value, str) else ""
    return text if any(char.isalnum() for char in text) and not has_markup(text) else ""


def only_true(answer: Answer, truth: Truth) -> Answer:
    """``answer`` without the sentences that name what neither the likes nor the picks they are about support."""
    dropped = Counter(answer.dropped)

    def kept(sentence: str, part: str, about: Sequence[Candidate] = (), *, is_title: bool = False) -> str:
        if not sentence or not truth.unsupported(sentence, about, is_title=is_title):
            return sentence
        dropped[UNTRUE + part] += 1
        return ""

    def checked(group: AnswerGroup) -> AnswerGroup:
        shown = [choice.candidate for choice in group.choices]
        return AnswerGroup(
            kept(group.label, "label", shown, is_title=True),
            kept(group.tagline, "tagline", shown, is_title=True),
            tuple(
                replace(choice, reason=kept(choice.reason or "", "reason", [choice.candidate]) or None)
                for choice in group.choices
            ),
        )

    groups = tuple(checked(group) for group in answer.groups)
    return replace(answer, groups=groups, taste=kept(answer.taste, "taste"), dropped=dict(dropped))


# --- merge ---


def fused_order(chosen: Sequence[Candidate], candidates: Sequence[Candidate], order_weight: float) -> dict[int, float]:
    """Scores from 0 to 1 by item id: the model's order of ``chosen`` fused with the first stage's scores.

    A linear combination after min-max normalisation (Fox and Shaw, "Combination of multiple searches", 1994):
    ``order_weight`` 1 keeps the model's order, 0 the first stage's. ``candidates`` are all that were ranked.
    """
    scores = [candidate.score for candidate in candidates]
    low, span = min(scores, default=0.0), (max(scores, default=0.0) - min(scores, default=0.0)) or 1.0
    return {
        candidate.item.item_id: order_weight * (1 - place / len(chosen))
        + (1 - order_weight) * (candidate.score - low) / span
        for place, candidate in enumerate(chosen)
    }


def merge(
    answer: Answer,
    candidates: Sequence[Candidate],
    *,
    explainer: Explainer,
    locale: str,
    n_picks: int,
    order_weight: float,
) -> tuple[tuple[Group, ...], dict[int, str]]:
    """``n_picks`` picks (as far as there are candidates) in 2 to 6 groups, and reasons for picks that found no room.

    The model's picks come first, as it grouped them, in fused order; the best of ``candidates`` (given best first)
    fill the list. No item stands twice.
    """
    fused = fused_order([choice.candidate for choice in answer.choices], candidates, order_weight)
    ids = sorted(fused, key=lambda item_id: -fused[item_id])
    kept = set(ids[:n_picks])
    shelves, homeless = _shelves(answer, kept, fused, explainer, locale)
    missing = (candidate for candidate in candidates if candidate.item.item_id not in fused)
    fill = [
        explainer.pick(candidate, locale) for candidate, _ in zip(missing, range(n_picks - len(kept)), strict=False)
    ]
    spare = {
        choice.candidate.item.item_id: choice.reason
        for choice in answer.choices
        if choice.reason and choice.candidate.item.item_id not in kept
    }
    return explainer.arrange(shelves, [*homeless, *fill], locale), spare


def _shelves(
    answer: Answer, kept: set[int], fused: Mapping[int, float], explainer: Explainer, locale: str
) -> tuple[list[Group], list[Pick]]:
    """The model's groups, the one with the best pick first, and the picks of groups that it left without a label."""
    members: dict[str, list[Pick]] = {}
    taglines: dict[str, str] = {}
    for group in answer.groups:
        taglines.setdefault(group.label, group.tagline)
        picks = (_pick(choice, explainer, locale) for choice in group.choices)
        members.setdefault(group.label, []).extend(pick for pick in picks if pick.candidate.item.item_id in kept)

    def best_first(picks: Iterable[Pick]) -> list[Pick]:
        return sorted(picks, key=lambda pick: -fused[pick.candidate.item.item_id])

    homeless = best_first(members.pop("", []))
    shelves = [
        Group(label=label, tagline=taglines[label] or explainer.tagline(locale), picks=tuple(best_first(picks)))
        for label, picks in members.items()
        if picks
    ]
    return sorted(shelves, key=lambda shelf: -fused[shelf.picks[0].candidate.item.item_id]), homeless


def _pick(choice: Choice, explainer: Explainer, locale: str) -> Pick:
    reason = choice.reason or explainer.reason(choice.candidate, locale)
    return Pick(candidate=choice.candidate, reason=reason)


# --- the stage ---


@dataclass(frozen=True, slots=True)
class _Question:
    """What a re-ranking is asked for."""

    candidates: Sequence[Candidate]
    liked: Sequence[Item]
    locale: str
    strategy: Strategy
    n_picks: int
    limits: StrategyLimits
    wish: Wish | None = None

    @property
    def deep(self) -> bool:
        return self.strategy is Strategy.DEEP


@dataclass(frozen=True, slots=True)
class Asked:
    """A re-ranking up to the call: the prompt, and the handles by which its answer is read."""

    question: _Question
    prompt: Prompt
    handles: Handles
    n_asked: int


@dataclass(frozen=True, slots=True)
class _Reply:
    """What came back of a call of ``model``; ``flaw`` is the reason of ``LanguageModelFailed`` where it failed."""

    text: str
    model: str
    usage: TokenUsage
    flaw: str | None = None


class Reranker:
    """As many calls of the language model as the strategy may spend, and always an outcome."""

    def __init__(
        self,
        language_model: LanguageModel | None,
        explainer: Explainer,
        observer: Observer,
        *,
        profile: CatalogueProfile,
        texts: PromptTexts,
        strategies: StrategyTable = DEFAULT_STRATEGIES,
        order_weight: float = 0.6,
    ) -> None:
        self._language_model = language_model
        self._explainer = explainer
        self._observer = observer
        self._profile = profile
        self._texts = texts
        self._strategies = strategies
        self._order_weight = order_weight
        self._rules = {locale: ClaimRules(spoken.claims, profile.kinds) for locale, spoken in texts.locales.items()}

    @property
    def prompt_version(self) -> str:
        """Changes whenever a text does that answers depend on."""
        return self._texts.version

    @property
    def wishes_version(self) -> str:
        """The same of the texts that only wishes need."""
        return self._texts.wishes.version

    def model_name(self, strategy: Strategy) -> str:
        """The model that a job of ``strategy`` asks first."""
        if self._language_model is None or not self._strategies[strategy].max_calls:
            return OFFLINE
        return self._language_model.name(deep=strategy is Strategy.DEEP)

    def n_candidates(self, strategy: Strategy) -> int:
        """How many candidates a job of ``strategy`` is to be given."""
        return self._strategies[strategy].n_candidates

    async def rerank(
        self,
        candidates: Sequence[Candidate],
        liked: Sequence[Item],
        *,
        locale: str,
        strategy: Strategy,
        n_picks: int,
        seed: str | None = None,
        wish: Wish | None = None,
    ) -> Reranked:
        """``n_picks`` of ``candidates`` (given best first) in 2 to 6 groups, with reasons and the taste in words.

        The model sees the candidates in an order that follows from ``seed``; without one, best first.
        Raises nothing of the model's: what it fails to give comes from the ranking, marked ``degraded``.
        """
        limits, model = self._limits(strategy, wish), self._language_model
        question = _Question(candidates, liked, locale, strategy, n_picks, limits, wish)
        if model is None or not limits.max_calls or not candidates:
            return self._offline(question)
        n_finalists = FINALISTS_PER_PICK * self._n_asked(question)
        if limits.max_calls > 1 and len(candidates) > n_finalists:
            return await self._in_two_calls(model, question, n_finalists, seed)
        asked = self._asked(question, seed)
        return self.answered(asked, await _ask(model, asked.prompt, deep=question.deep))

    def prepare(
        self,
        candidates: Sequence[Candidate],
        liked: Sequence[Item],
        *,
        locale: str,
        strategy: Strategy,
        n_picks: int,
        seed: str | None = None,
        wish: Wish | None = None,
    ) -> Asked | None:
        """What ``rerank`` asks the model where it asks once; None where it asks none."""
        limits = self._limits(strategy, wish)
        if self._language_model is None or not limits.max_calls or not candidates:
            return None
        return self._asked(_Question(candidates, liked, locale, strategy, n_picks, limits, wish), seed)

    def _limits(self, strategy: Strategy, wish: Wish | None) -> StrategyLimits:
        return leaving_room(self._strategies[strategy], wish, self._texts.wishes)

    def _asked(self, question: _Question, seed: str | None, n_shown: int | None = None) -> Asked:
        n_asked = self._n_asked(question)
        prompt, handles = build_prompt(
            question.candidates[:n_shown],
            question.liked,
            locale=question.locale,
            profile=self._profile,
            texts=self._texts,
            n_picks=n_asked,
            limits=question.limits,
            seed=seed,
        )
        prompt = with_wish(prompt, handles, question.wish, self._texts.wishes)
        return Asked(question, prompt, handles, min(n_asked, len(handles)))

    def _n_asked(self, question: _Question) -> int:
        n_picks = min(question.n_picks, len(question.candidates))
        return affordable_picks(n_picks, self._texts.locales[question.locale], question.limits)

    async def _in_two_calls(
        self, model: LanguageModel, question: _Question, n_finalists: int, seed: str | None
    ) -> Reranked:
        """See ``core.screening``. Where the second call says nothing of use, the choice of the first one stands."""
        prompt, handles = build_screening(
            question.candidates,
            question.liked,
            locale=question.locale,
            profile=self._profile,
            texts=self._texts,
            n_picks=n_finalists,
            limits=question.limits,
            seed=seed,
        )
        prompt = with_wish(prompt, handles, question.wish, self._texts.wishes)
        first = _reply(await _ask(model, prompt, deep=question.deep))
        screened = parse_screening(first.text, handles, n_finalists)
        flaw = None if 2 * len(screened.chosen) >= n_finalists else first.flaw or MALFORMED
        self._observe(screened.dropped, flaw if not screened.chosen else None, 0)
        if not screened.chosen:
            return replace(self._offline(question), usage=first.usage, degraded=flaw, dropped=screened.dropped)
        finals = replace(question, candidates=self._finalists_first(question.candidates, screened.chosen))
        asked = self._asked(finals, None if seed is None else f"{seed} finals", n_finalists)
        outcome = self.answered(asked, await _ask(model, asked.prompt, deep=question.deep))
        if outcome.degraded is None:
            self._observe({}, flaw, len(screened.chosen))
        return replace(
            outcome,
            model=first.model if outcome.model == OFFLINE else outcome.model,
            usage=first.usage + outcome.usage,
            degraded=outcome.degraded or flaw,
            dropped=Counter(screened.dropped) + Counter(outcome.dropped),
        )

    def _finalists_first(self, candidates: Sequence[Candidate], chosen: Sequence[Candidate]) -> Sequence[Candidate]:
        """``candidates`` with the ``chosen`` before the others, in fused order."""
        fused = fused_order(chosen, candidates, self._order_weight)
        # Scores of the first stage are not comparable with those: who was not chosen comes after, as he stood.
        return sorted(candidates, key=lambda each: -fused.get(each.item.item_id, -1.0))

    def answered(self, asked: Asked, end: Completion | LanguageModelFailed) -> Reranked:
        """What ``rerank`` makes of how the call ended."""
        question, reply = asked.question, _reply(end)
        try:
            answer = parse_answer(reply.text, asked.handles, letters=self._texts.locales[question.locale].letters)
            return self._outcome(asked, reply, only_true(answer, self._truth(asked)))
        except Exception:
            # The boundary to a model that may say anything: an answer that trips us up must not cost the ranking.
            log.exception(LogEvent.UNEXPECTED_ERROR_CAUGHT, part="rerank")
            return self._outcome(asked, replace(reply, flaw=reply.flaw or MALFORMED), NO_ANSWER)

    def _truth(self, asked: Asked) -> Truth:
        question, shown = asked.question, asked.handles.values()
        near = (item for candidate in shown for item in candidate.evidence.near)
        liked = {item.item_id: item for item in (*question.liked, *near)}
        words = question.wish.text if question.wish else ""
        return Truth(self._rules[question.locale], [each.item for each in shown], list(liked.values()), words)

    def _outcome(self, asked: Asked, reply: _Reply, answer: Answer) -> Reranked:
        question, n_asked = asked.question, asked.n_asked
        flaw = reply.flaw or _flaw(answer, n_asked)
        outcome = self._merged(question, reply.model, answer) if answer.groups else self._offline(question)
        self._observe(answer.dropped, flaw, len(answer.choices))
        return replace(outcome, usage=reply.usage, degraded=flaw, dropped=answer.dropped)

    def _offline(self, question: _Question) -> Reranked:
        return self._explainer.explain(question.candidates[: question.n_picks], question.liked, question.locale)

    def _merged(self, question: _Question, model: str, answer: Answer) -> Reranked:
        groups, spare = merge(
            answer,
            question.candidates,
            explainer=self._explainer,
            locale=question.locale,
            n_picks=question.n_picks,
            order_weight=self._order_weight,
        )
        taste = self._explainer.taste(question.liked, question.locale)
        return Reranked(
            groups=groups,
            taste=replace(taste, overall_taste=answer.taste or taste.overall_taste),
            model=model or self.model_name(question.strategy),
            reasons=spare,
        )

    def _observe(self, dropped: Mapping[str, int], flaw: str | None, n_salvaged: int) -> None:
        for cause, n in dropped.items():
            with unfailing():
                self._observer.llm_dropped(cause, n)
        if untrue := {cause: n for cause, n in dropped.items() if cause.startswith(UNTRUE)}:
            log.info(LogEvent.UNTRUE_SENTENCES_REPLACED, **untrue)
        if flaw is not None:
            log.warning(LogEvent.RERANK_FELL_BACK, reason=flaw, n_salvaged=n_salvaged)
            with unfailing():
                self._observer.degraded(flaw)


async def _ask(language_model: LanguageModel, prompt: Prompt, *, deep: bool) -> Completion | LanguageModelFailed:
    try:
        return await language_model.complete(prompt, deep=deep)
    except LanguageModelFailed as failure:
        return failure


def _reply(end: Completion | LanguageModelFailed) -> _Reply:
    if isinstance(end, LanguageModelFailed):
        return _Reply(end.partial_text or "", end.model, _usage(end), end.reason)
    return _Reply(end.text, end.model, _usage(end))


def _usage(end: Completion | LanguageModelFailed) -> TokenUsage:
    return TokenUsage(
        n_calls=end.n_calls,
        prompt_tokens=end.prompt_tokens,
        completion_tokens=end.completion_tokens,
        cached_tokens=end.cached_tokens,
        cost_usd=end.cost_usd,
    )


def _flaw(answer: Answer, n_wanted: int) -> str | None:
    """Why an answer that could be read is less than was asked for: most of the list would be the ranking's."""
    if not answer.is_whole or not answer.groups:
        return MALFORMED
    return INCOMPLETE if 2 * len(answer.choices) < n_wanted else None
