"""The command that brings the results of active members up to date, by jobs or through the provider's Batch API."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

from commands.running import need_a_broker, run, start
from commands.screen import for_machines, progress_bar, say, tell_json, under_way
from config.settings import Settings
from core.errors import ConfigurationError
from core.ports.batches import BatchApi
from models.notice import Notice, NoticeKind
from services.answer_cache import RedisAnswerCache
from services.batch_ledger import SqlBatchLedger
from services.batch_purse import RedisBatchPurse
from training.batch_merge import BatchMerger, instant_ns
from training.batch_questions import Due, RefreshQuestions
from training.batch_refresh import OVER_SPEND, BatchRefresh, BatchRefreshConfig, Report
from training.online_refresh import submit_refreshes
from workers.runtime.parts import Parts, open_parts

_UNPRICED = "at a price that LLM_PRICES does not say"


def refresh(*, members: int, batch: bool | None, dry_run: bool, as_json: bool) -> None:
    """Bring the results of active members up to date; a run that was cut off goes on where it was."""

    async def step(settings: Settings) -> None:
        if not settings.llm_enabled:
            raise ConfigurationError(
                "OPENAI_API_KEY is empty: there is no LLM to refresh results with; set it, and for another server than "
                "OpenAI's OPENAI_BASE_URL"
            )
        by_batch = settings.llm_batch_refresh if batch is None else batch
        publishes = not dry_run and (not by_batch or settings.llm_batch_rest == "online")
        if publishes:
            need_a_broker(settings, "no worker can take the jobs of a refresh")
        async with open_parts(settings) as parts, _batches(settings, by_batch=by_batch) as api:
            await parts.catalogue.check()
            with under_way("index"):
                await parts.index.load()
                await parts.collaborative.load()
            if dry_run:
                told = await _estimate_refresh(parts, api, members, by_batch=by_batch)
            elif by_batch:
                told = await _refresh_by_batch(parts, api, members)
            else:
                told = await _refresh_by_queue(parts, api, members)
        if as_json:
            tell_json({"dry_run": dry_run, "by": "batch" if by_batch else "queue", **told})

    with for_machines(as_json):
        run(step)


@asynccontextmanager
async def _batches(settings: Settings, *, by_batch: bool) -> AsyncIterator[Any]:
    from services.llm_batches import OpenAIBatches  # noqa: PLC0415 - slow to import

    model = settings.llm_strategies.default.model
    if not model:
        raise ConfigurationError("LLM_STRATEGIES: the default strategy names no model")
    api = OpenAIBatches(
        model=model,
        api_key=settings.openai_api_key,
        base_url=settings.openai_base_url,
        price=settings.llm_prices.get(model),
        price_factor=settings.llm_batch_price_factor if by_batch else 1.0,
        structured_output=settings.llm_structured_output,
        temperature=settings.llm_temperature if settings.llm_temperature >= 0 else None,
    )
    try:
        yield api
    finally:
        await api.aclose()


def _is_priced(settings: Settings) -> bool:
    return settings.llm_strategies.default.model in settings.llm_prices


def _today(parts: Parts) -> date:
    return parts.clock.now().astimezone(ZoneInfo(parts.settings.time_zone)).date()


async def _estimate_refresh(parts: Parts, api: BatchApi, n_members: int, *, by_batch: bool) -> dict[str, object]:
    if by_batch:
        await api.check()
    ledger, today = SqlBatchLedger(parts.database), _today(parts)
    asked = await ledger.asked_members(today) if by_batch else set()
    member_ids = [each for each in await parts.members.active_member_ids(n_members) if each not in asked]
    questions = RefreshQuestions(parts.pipeline, parts.results, api)
    found = await questions.estimate(member_ids, today, instant_ns(parts.clock.now()))
    say(
        f"{found.n_members} active members: {found.n_requests} would be asked about, {found.skipped['kept']} have "
        f"their answer, {found.skipped['refreshed']} were refreshed today, {found.skipped['nothing']} go without LLM"
    )
    say(
        f"{found.n_requests} LLM calls, {found.n_bytes / 1e6:.1f} MB; about {found.rough_prompt_tokens:,} prompt "
        f"tokens, at most {found.max_completion_tokens:,} completion tokens; "
        + (f"at most about {found.usd:.4f} USD" if _is_priced(parts.settings) else _UNPRICED)
    )
    n_open = len(await ledger.open_parts()) if by_batch else 0
    if n_open:
        say(f"{n_open} batches of an earlier run are open and would be brought to their end first")
    say("nothing is done: --dry-run")
    return {
        "n_members": found.n_members,
        "n_requests": found.n_requests,
        "skipped": found.skipped,
        "n_bytes": found.n_bytes,
        "rough_prompt_tokens": found.rough_prompt_tokens,
        "max_completion_tokens": found.max_completion_tokens,
        "usd": found.usd if _is_priced(parts.settings) else None,
        "n_open_batches": n_open,
    }


async def _refresh_by_queue(parts: Parts, api: BatchApi, n_members: int) -> dict[str, object]:
    await start(parts.broker)
    today, now_ns = _today(parts), instant_ns(parts.clock.now())
    questions = RefreshQuestions(parts.pipeline, parts.results, api)
    member_ids = await parts.members.active_member_ids(n_members)
    due = []
    with progress_bar() as progress:
        task = progress.add_task("members", total=len(member_ids))
        async for each in questions.of(member_ids, today, now_ns):
            progress.advance(task)
            if isinstance(each, Due):
                due.append(each.question)
    await submit_refreshes(due, today, now_ns, results=parts.results, publisher=parts.publisher)
    told = f"{len(member_ids)} active members: {len(due)} jobs published"
    say(told)
    await parts.notices.tell(Notice(kind=NoticeKind.REFRESH_FINISHED, text=told, figures={"jobs": len(due)}))
    return {"n_members": len(member_ids), "n_jobs": len(due)}


async def _refresh_by_batch(parts: Parts, api: BatchApi, n_members: int) -> dict[str, object]:
    settings = parts.settings
    if settings.llm_batch_rest == "online":
        await start(parts.broker)
    answers = RedisAnswerCache(parts.redis, ttl_s=settings.cache_ttl_s, degraded_ttl_s=settings.degraded_ttl_s)
    ledger = SqlBatchLedger(parts.database)
    merger = BatchMerger(
        pipeline=parts.pipeline,
        results=parts.results,
        answers=answers,
        publisher=parts.publisher,
        api=api,
        ledger=ledger,
        clock=parts.clock,
        rest=settings.llm_batch_rest,
    )
    config = BatchRefreshConfig(
        time_zone=settings.time_zone,
        max_questions=settings.llm_batch_requests,
        first_poll_s=min(5.0, settings.llm_batch_poll_s),
        longest_poll_s=settings.llm_batch_poll_s,
        deadline_s=settings.llm_batch_deadline_s,
    )
    with progress_bar() as progress:
        tasks = {what: progress.add_task(what, total=None, visible=False) for what in ("asking", "waiting")}
        report = await BatchRefresh(
            members=parts.members,
            questions=RefreshQuestions(parts.pipeline, parts.results, api),
            merger=merger,
            answers=answers,
            api=api,
            ledger=ledger,
            purse=RedisBatchPurse(
                parts.redis, parts.clock, daily_usd=settings.llm_daily_usd, time_zone=settings.time_zone
            ),
            clock=parts.clock,
            config=config,
            show=lambda what, done, total: progress.update(tasks[what], completed=done, total=total, visible=True),
        ).run(n_members)
    for line in _told_of(report, is_priced=_is_priced(settings)):
        say(line)
    await _tell_people(parts, report)
    return _document(report, is_priced=_is_priced(settings))


def _document(report: Report, *, is_priced: bool) -> dict[str, object]:
    usage = report.usage
    return {
        "n_sent": report.n_sent,
        "n_resumed": report.n_resumed,
        "batches": report.statuses,
        "questions": report.outcomes,
        "skipped": report.skipped,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "usd": usage.cost_usd if is_priced else None,
    }


async def _tell_people(parts: Parts, report: Report) -> None:
    figures: dict[str, float] = {"sent": report.n_sent, "resumed": report.n_resumed}
    if _is_priced(parts.settings):
        figures["USD"] = round(report.usage.cost_usd, 4)
    finished = Notice(
        kind=NoticeKind.REFRESH_FINISHED,
        text="a refresh by batches has finished",
        figures={**figures, **report.outcomes},
    )
    await parts.notices.tell(finished)
    if n_left_out := report.skipped[OVER_SPEND]:
        text = f"{n_left_out} members were left out of a refresh: the money of the day is spent"
        figures = {"LLM_DAILY_USD": parts.settings.llm_daily_usd}
        await parts.notices.tell(Notice(kind=NoticeKind.BUDGET_REACHED, text=text, figures=figures))


def _told_of(report: Report, *, is_priced: bool) -> Iterator[str]:
    """What ``refresh --batch`` prints at its end."""
    yield f"batches: {report.n_sent} sent, {report.n_resumed} resumed; {_counted(report.statuses)}"
    yield f"questions: {_counted(report.outcomes)}; members not asked about: {_counted(report.skipped)}"
    usage = report.usage
    yield (
        f"paid: {usage.prompt_tokens:,} prompt tokens ({usage.cached_tokens:,} cached), "
        f"{usage.completion_tokens:,} completion tokens, {f'{usage.cost_usd:.4f} USD' if is_priced else _UNPRICED}"
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "none"
