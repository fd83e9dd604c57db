"""The sentence: listener, profile, candidates, ranking, re-ranking, result. One fixed order of calls."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from zoneinfo import ZoneInfo

import structlog
from structlog.contextvars import bind_contextvars

from config.catalogue_profile import CatalogueProfile
from core.errors import DependencyUnavailable, LanguageModelFailed
from core.explanation import OFFLINE, Explainer
from core.fingerprint import fingerprint
from core.first_stage import FirstStage, Found
from core.item_versions import VersionFinder
from core.lanes import Lane, current_lane
from core.llm_share import Arm, arm_of
from core.ports.catalogue import Catalogue, ListenerStore
from core.ports.clock import Clock
from core.ports.collaborative import CollaborativeProvider
from core.ports.index import IndexProvider
from core.ports.language_model import Completion
from core.ports.observing import Observer
from core.ports.recommending import ProgressReporter, RankedReporter
from core.ports.results import AnswerCache, ProvisionalDocuments, ResultDocuments
from core.question import LOCALES, PipelineConfig, Question
from core.repetition import Impressions
from core.reranking import Asked, Reranker, RerankRequest
from core.result_document import Finished, encode_provisional, encode_result, item_ids
from core.taste import with_dates
from core.turns import Turns
from core.wish_stage import WishStage
from models.catalogue import Interest, Listener
from models.job import Job
from models.log_event import LogEvent
from models.recommendation import Candidate, Reranked

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A job up to the call of the model; ``asked`` is None where it asks none."""

    question: Question
    candidates: Sequence[Candidate]
    asked: Asked | None

    @property
    def fingerprint(self) -> str:
        """Of the question: the same for the same listener, catalogue, models and settings."""
        return self.question.fingerprint

    @property
    def taste_mark(self) -> str:
        """Changes with what the listener likes, has or dislikes, and with nothing else that time changes."""
        it = self.question
        return fingerprint(it.job, it.listener, locale=it.locale, top_k=it.top_k, versions={})

    @property
    def shown_ids(self) -> tuple[int, ...]:
        """The items that the prompt shows, by handle: the first has the handle 1."""
        return tuple(shown.item.item_id for shown in self.asked.handles.values()) if self.asked else ()


class RecommendationPipeline:
    """Turns a job into the documents of its result, in pieces by ``turns``, where its caller is at work."""

    def __init__(
        self,
        *,
        listeners: ListenerStore,
        index: IndexProvider,
        catalogue: Catalogue,
        reranker: Reranker,
        explainer: Explainer,
        answers: AnswerCache,
        observer: Observer,
        clock: Clock,
        profile: CatalogueProfile,
        config: PipelineConfig,
        collaborative: CollaborativeProvider | None = None,
        wishes: WishStage | None = None,
        turns: Turns | None = None,
        impressions: Impressions | None = None,
    ) -> None:
        self._listeners = listeners
        self._impressions = impressions
        self._index = index
        self._collaborative = collaborative
        self._wishes = wishes
        self._catalogue = catalogue
        self._reranker = reranker
        self._explainer = explainer
        self._answers = answers
        self._observer = observer
        self._clock = clock
        self._profile = profile
        self._turns = turns or Turns()
        self._config = config
        self._first_stage = FirstStage(
            catalogue=catalogue,
            observer=observer,
            clock=clock,
            turns=self._turns,
            versions=VersionFinder(profile.versions),
            config=config,
            wishes=wishes,
        )

    async def recommend(
        self, job: Job, report: ProgressReporter, on_ranked: RankedReporter | None = None
    ) -> ResultDocuments:
        """The answer to ``job``, from the cache where nothing that it depends on has changed.

        Raises ``DependencyUnavailable``. An LLM that fails only degrades the answer.
        """
        started_s = self._clock.monotonic_s()
        if current_lane() is Lane.BATCH:
            await self._turns.turn()  # also where the answer is known, and it takes no other one
        question = await self._question(job)
        bind_contextvars(arm=question.arm.value)
        known = await self._known_answer(question)
        self._observer.answer_cache(hit=known is not None)
        if known is not None:
            self._answered(question, "reused", started_s)
            return known
        async with AsyncExitStack() as flight:
            async with self._turns.away():
                await flight.enter_async_context(self._answers.single_flight(question.fingerprint))
            if (known := await self._known_answer(question)) is not None:
                self._answered(question, "reused", started_s)
                return known
            documents = await self._answer(question, report, on_ranked)
            await self._keep(question, documents)
            self._answered(question, "degraded" if documents.degraded else "new", started_s)
            return documents

    def _answered(self, question: Question, kind: str, started_s: float) -> None:
        self._observer.answered(arm=question.arm.value, kind=kind, seconds=self._clock.monotonic_s() - started_s)

    def _arm(self, job: Job) -> Arm:
        if self._reranker.model_name(job.strategy) == OFFLINE:
            return Arm.NONE
        return arm_of(job.member_id, share=self._config.llm_share, experiment=self._config.llm_experiment)

    async def is_answered(self, job: Job) -> bool:
        """Whether the whole answer to ``job`` is in the cache already."""
        known = await self._kept_answer(await self._question(job))
        return known is not None and not known.degraded

    async def prepare(self, job: Job) -> Prepared:
        """Everything before the call of the model, for one that is made elsewhere; raises as ``recommend`` does."""
        question = await self._question(job)
        found = await self._found(question)
        return Prepared(
            question=question,
            candidates=found.candidates,
            asked=self._reranker.prepare(self._request(question, found)),
        )

    async def finish(
        self, prepared: Prepared, end: Completion | LanguageModelFailed, shown_ids: Sequence[int]
    ) -> ResultDocuments:
        """What ``recommend`` would have answered, had its call shown ``shown_ids`` and ended so.

        The call may be long past: of what it showed, only what is a candidate of ``prepared`` counts. Nobody soon asks
        again, so an answer that broke off is as good as another where at least half of its picks are there.
        """
        if prepared.asked is None:
            raise ValueError("no model was asked")
        by_id = {candidate.item.item_id: candidate for candidate in prepared.candidates}
        handles = {handle: by_id[item_id] for handle, item_id in enumerate(shown_ids, 1) if item_id in by_id}
        await self._turns.turn()
        asked = replace(prepared.asked, handles=handles)
        reranked = self._reranker.answered(asked, end, half_is_enough=True)
        return encode_result(self._finish(prepared.question, prepared.candidates, reranked), self._profile)

    async def _question(self, job: Job) -> Question:
        with self._observer.stage("listener"):
            listener = _with_favorites(await self._listeners.listener(job.member_id), job.favorite_item_ids)
            shown = await self._impressions.shown(job.member_id) if self._impressions else {}
        config, index = self._config, self._index.current()
        if not len(index):
            raise DependencyUnavailable("index", "holds no item, so nothing can be recommended")
        collaborative = self._collaborative.current() if self._collaborative else None
        locale = job.locale if job.locale in LOCALES else config.default_locale
        top_k = min(job.top_k or config.default_top_k, config.max_top_k)
        arm = self._arm(job)
        wish = await self._wishes.read(job.context, index) if self._wishes else None
        versions = {
            "arm": arm.value,
            "index": index.version,
            "embedder": index.embedder_name,
            "collaborative": collaborative.version if collaborative else "none",
            "model": self._reranker.model_name(arm.strategy(job.strategy)),
            "prompt": self._reranker.prompt_version,
            "settings": config.version,
        } | ({"wishes": f"{self._wishes.version}-{self._reranker.wishes_version}"} if self._wishes and wish else {})
        return Question(
            job=job,
            listener=listener,
            index=index,
            collaborative=collaborative,
            locale=locale,
            top_k=top_k,
            fingerprint=fingerprint(
                job,
                listener,
                locale=locale,
                top_k=top_k,
                versions=versions,
                wish=wish.asked() if wish else None,
                shown=shown,
            ),
            versions=versions,
            arm=arm,
            wish=wish,
            shown=shown,
        )

    async def _known_answer(self, question: Question) -> ResultDocuments | None:
        """The answer under the same fingerprint, if every item in it is still active at this moment."""
        known = await self._kept_answer(question)
        if known is not None:
            log.info(LogEvent.JOB_REUSED, fingerprint=question.fingerprint)
        return known

    async def _kept_answer(self, question: Question) -> ResultDocuments | None:
        known = await self._answers.get(question.fingerprint)
        if known is None:
            return None
        shown = item_ids(known, self._profile)
        return None if shown - await self._catalogue.active_ids(shown) else known

    async def _keep(self, question: Question, documents: ResultDocuments) -> None:
        try:
            await self._answers.put(question.fingerprint, documents, question.job)
        except DependencyUnavailable as error:
            # The answer is paid for; saving the job's result is tried again with more patience.
            log.warning(LogEvent.ANSWER_NOT_KEPT, error=str(error))

    async def _answer(
        self, question: Question, report: ProgressReporter, on_ranked: RankedReporter | None
    ) -> ResultDocuments:
        found = await self._found(question)
        if on_ranked and found.candidates and self._reranker.model_name(question.strategy) != OFFLINE:
            await on_ranked(partial(self._provisional, question, found))
        await report(50)
        # After the turns of those who have a provisional result to show: the model takes its time in any case.
        await self._turns.turn()
        async with self._turns.away():
            with self._observer.stage("rerank"):
                reranked = await self._reranker.rerank(self._request(question, found))
        if found.flaw:
            self._observer.degraded(found.flaw)
            reranked = replace(reranked, degraded=reranked.degraded or found.flaw)
        await report(90)
        await self._turns.turn()
        return encode_result(self._finish(question, found.candidates, reranked), self._profile)

    async def _found(self, question: Question) -> Found:
        n_candidates = self._reranker.n_candidates(question.strategy)
        return await self._first_stage.find(question, max(n_candidates, question.top_k))

    def _request(self, question: Question, found: Found) -> RerankRequest:
        return RerankRequest(
            candidates=found.candidates[: self._reranker.n_candidates(question.strategy)],
            liked=found.liked,
            locale=question.locale,
            strategy=question.strategy,
            n_picks=self._n_picks(question),
            seed=question.fingerprint,
            wish=question.wish,
        )

    def _n_picks(self, question: Question) -> int:
        return min(self._config.group_items, question.top_k)

    async def _provisional(self, question: Question, found: Found) -> ProvisionalDocuments:
        """The ranked list with reasons from the evidence, as it would stand if no LLM were asked."""
        await self._turns.turn()
        best = found.candidates[: self._n_picks(question)]
        ranked = self._explainer.explain(best, found.liked, question.locale)
        return encode_provisional(self._finish(question, found.candidates, ranked), self._profile)

    def _finish(self, question: Question, ranked: Sequence[Candidate], reranked: Reranked) -> Finished:
        picks = [pick for group in reranked.groups for pick in group.picks]
        picked = {pick.candidate.item.item_id: pick.reason for pick in picks}
        rest = [candidate for candidate in ranked if candidate.item.item_id not in picked]
        candidates = [*(pick.candidate for pick in picks), *rest][: question.top_k]
        reasons = {
            candidate.item.item_id: picked.get(candidate.item.item_id)
            or reranked.reasons.get(candidate.item.item_id)
            or self._explainer.reason(candidate, question.locale)
            for candidate in candidates
        }
        return Finished(
            reranked=reranked,
            candidates=candidates,
            reasons=reasons,
            liked_ids=[interest.item_id for interest in question.listener.interests],
            generated_on=self._clock.now().astimezone(ZoneInfo(self._config.time_zone)).date(),
            locale=question.locale,
            fingerprint=question.fingerprint,
            versions=question.versions,
            arm=question.arm,
        )


def _with_favorites(listener: Listener, favorite_ids: Sequence[int]) -> Listener:
    """The listener as the job tells: its favourites, where it names any, are the likes in force.

    Their order means nothing: each counts once, and in any order they ask the same question. When one was liked is
    what the listener's own likes say, where they do.
    """
    named = [Interest(item_id) for item_id in sorted(set(favorite_ids)) if item_id not in listener.disliked_ids]
    interests = with_dates(named, listener.interests) if favorite_ids else listener.interests
    return replace(listener, interests=interests, seen_ids=listener.seen_ids | set(favorite_ids))
