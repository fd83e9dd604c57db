"""The second stage: build the prompt, call the model, validate its answer, merge it with the ranking.

The prompt is ``core.prompting``'s, the validation ``core.model_answer``'s, the merge ``core.answer_merging``'s.
Nothing that the model says can put an item into the list: only handles that were sent count, and whatever is missing,
wrong or unusable is made up for from the ranking and its evidence.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from config.catalogue_profile import CatalogueProfile
from config.llm_strategies import DEFAULT_STRATEGIES, StrategyLimits, StrategyTable
from config.prompt_texts import PromptTexts
from core.answer_merging import fused_order, merge
from core.errors import LanguageModelFailed
from core.explanation import OFFLINE, Explainer
from core.handles import Handles
from core.model_answer import NO_ANSWER, UNTRUE, Answer, only_true, only_written_in, parse_answer
from core.observing import unfailing
from core.ports.language_model import Completion, LanguageModel, Prompt
from core.ports.observing import Observer
from core.prompting import Wanted, affordable_picks, build_prompt
from core.screening import FINALISTS_PER_PICK, parse_screening
from core.script import Script
from core.truth import ClaimRules, Truth
from core.wish import Wish
from core.wish_prompt import leaving_room, with_wish
from models.catalogue import Item
from models.job import Strategy
from models.log_event import LogEvent
from models.recommendation import Candidate, Reranked, TokenUsage

MALFORMED = "malformed"
INCOMPLETE = "incomplete"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """What a re-ranking is asked for: ``n_picks`` of ``candidates``, which are given best first.

    The model sees them in an order that follows from ``seed``; without one, best first.
    """

    candidates: Sequence[Candidate]
    liked: Sequence[Item]
    locale: str
    strategy: Strategy
    n_picks: int
    seed: str | None = None
    wish: Wish | None = None

    @property
    def deep(self) -> bool:
        """Whether the stronger model is asked."""
        return self.strategy is Strategy.DEEP


@dataclass(frozen=True, slots=True)
class Asked:
    """A re-ranking up to the call: the prompt, and the handles by which its answer is read."""

    request: RerankRequest
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
        moods = tuple(profile.wishes.moods.values())
        locales = texts.locales.items()
        self._rules = {
            locale: ClaimRules(profile.claims_in(locale, spoken), profile.kinds, moods) for locale, spoken in locales
        }
        self._scripts = {locale: Script(spoken) for locale, spoken in texts.locales.items()}

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

    async def rerank(self, request: RerankRequest) -> Reranked:
        """The picks in 2 to 6 groups, with reasons and the taste in words.

        Raises nothing of the model's: what it fails to give comes from the ranking, marked ``degraded``.
        """
        model = self._language_model
        if model is None or not self._asks(request):
            return self._offline(request)
        n_finalists = FINALISTS_PER_PICK * self._n_asked(request)
        if self._limits(request).max_calls > 1 and len(request.candidates) > n_finalists:
            return await self._in_two_calls(model, request, n_finalists)
        return await self._answer(model, self._asked(request))

    def prepare(self, request: RerankRequest) -> Asked | None:
        """What ``rerank`` asks the model where it asks once; None where it asks none."""
        if not (self._language_model and self._asks(request)):
            return None
        asked = self._asked(request)
        return asked if asked.handles else None

    def _asks(self, request: RerankRequest) -> bool:
        return bool(request.candidates and self._strategies[request.strategy].max_calls)

    def _limits(self, request: RerankRequest) -> StrategyLimits:
        return leaving_room(self._strategies[request.strategy], request.wish, self._texts.wishes)

    def _asked(self, request: RerankRequest, n_shown: int | None = None) -> Asked:
        n_asked = self._n_asked(request)
        prompt, handles = self._prompt(Wanted.REASONS, request, n_asked, n_shown)
        return Asked(request, prompt, handles, min(n_asked, len(handles)))

    def _prompt(
        self, wanted: Wanted, request: RerankRequest, n_picks: int, n_shown: int | None = None
    ) -> tuple[Prompt, Handles]:
        prompt, handles = build_prompt(
            request.candidates[:n_shown],
            request.liked,
            locale=request.locale,
            profile=self._profile,
            texts=self._texts,
            n_picks=n_picks,
            wanted=wanted,
            limits=self._limits(request),
            seed=request.seed,
        )
        return with_wish(prompt, handles, request.wish, self._texts.wishes), handles

    def _n_asked(self, request: RerankRequest) -> int:
        n_picks = min(request.n_picks, len(request.candidates))
        return affordable_picks(n_picks, self._texts.locales[request.locale], self._limits(request))

    async def _in_two_calls(self, model: LanguageModel, request: RerankRequest, n_finalists: int) -> Reranked:
        """See ``core.screening``. Where the second call says nothing of use, the choice of the first one stands."""
        prompt, handles = self._prompt(Wanted.HANDLES, request, n_finalists)
        if not handles:
            return self._unasked(request)
        first = _reply(await _ask(model, prompt, deep=request.deep))
        screened = parse_screening(first.text, handles, n_finalists)
        flaw = None if 2 * len(screened.chosen) >= n_finalists else first.flaw or MALFORMED
        self._observe(screened.dropped, flaw if not screened.chosen else None, 0)
        if not screened.chosen:
            return replace(self._offline(request), usage=first.usage, degraded=flaw, dropped=screened.dropped)
        finals = replace(
            request,
            candidates=self._finalists_first(request.candidates, screened.chosen),
            seed=None if request.seed is None else f"{request.seed} finals",
        )
        outcome = await self._answer(model, self._asked(finals, n_finalists))
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

    async def _answer(self, model: LanguageModel, asked: Asked) -> Reranked:
        if not asked.handles:
            return self._unasked(asked.request)
        return self.answered(asked, await _ask(model, asked.prompt, deep=asked.request.deep))

    def _unasked(self, request: RerankRequest) -> Reranked:
        """The ranking, where the prompt has room for no candidate at all: a call would be paid for nothing."""
        self._observe({}, INCOMPLETE, 0)
        return replace(self._offline(request), degraded=INCOMPLETE)

    def answered(
        self, asked: Asked, end: Completion | LanguageModelFailed, *, half_is_enough: bool = False
    ) -> Reranked:
        """What ``rerank`` makes of how the call ended.

        An answer that is cut short or broken is ``degraded`` whatever it holds, for a job soon tries again; with
        ``half_is_enough`` it is not, where at least half of the picks that were asked for are complete.
        """
        request, reply = asked.request, _reply(end)
        try:
            answer = parse_answer(reply.text, asked.handles, letters=self._texts.locales[request.locale].letters)
            truth = self._truth(asked)
            written = only_written_in(answer, self._scripts[request.locale], truth)
            answer = only_true(written, truth)
            enough = half_is_enough and 2 * len(answer.choices) >= asked.n_asked
            return self._outcome(asked, reply, answer, None if enough else reply.flaw or _flaw(answer, asked.n_asked))
        except Exception:
            # The boundary to a model that may say anything: an answer that trips us up must not cost the ranking.
            log.exception(LogEvent.UNEXPECTED_ERROR_CAUGHT, part="rerank")
            return self._outcome(asked, reply, NO_ANSWER, reply.flaw or MALFORMED)

    def _truth(self, asked: Asked) -> Truth:
        request, shown = asked.request, asked.handles.values()
        near = (item for candidate in shown for item in candidate.evidence.near)
        liked = {item.item_id: item for item in (*request.liked, *near)}
        words = request.wish.sought if request.wish else ""
        return Truth(self._rules[request.locale], [each.item for each in shown], list(liked.values()), words)

    def _outcome(self, asked: Asked, reply: _Reply, answer: Answer, flaw: str | None) -> Reranked:
        request = asked.request
        outcome = self._merged(request, reply.model, answer) if answer.groups else self._offline(request)
        self._observe(answer.dropped, flaw, len(answer.choices))
        return replace(outcome, usage=reply.usage, degraded=flaw, dropped=answer.dropped)

    def _offline(self, request: RerankRequest) -> Reranked:
        return self._explainer.explain(request.candidates[: request.n_picks], request.liked, request.locale)

    def _merged(self, request: RerankRequest, model: str, answer: Answer) -> Reranked:
        groups, spare = merge(
            answer,
            request.candidates,
            explainer=self._explainer,
            locale=request.locale,
            n_picks=request.n_picks,
            order_weight=self._order_weight,
        )
        taste = self._explainer.taste(request.liked, request.locale)
        return Reranked(
            groups=groups,
            taste=replace(taste, overall_taste=answer.taste or taste.overall_taste),
            model=model or self.model_name(request.strategy),
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
