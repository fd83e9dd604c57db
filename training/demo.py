"""The demonstration: jobs published, progress shown, and what some listeners got beside what they like."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson
from pydantic import BaseModel
from rich.columns import Columns
from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from config.catalogue_profile import CatalogueProfile
from core.ports.catalogue import Catalogue
from core.ports.clock import Clock
from core.ports.messages import JobPublisher
from core.ports.results import ResultCache
from core.submission import submit
from models.catalogue import Item
from models.job import Job, JobStatus

_ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED)
_POLL_S = 0.05


class _Usage(BaseModel):
    llm_calls: int
    prompt_tokens: int
    completion_tokens: int


class _Result(BaseModel):
    """What the demonstration reads of a result document, beside the groups."""

    model: str
    degraded: bool
    usage: _Usage


@dataclass(frozen=True, slots=True)
class _Shelf:
    """A group: ``shown`` are ids of items, and reasons."""

    label: str
    tagline: str
    shown: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What the demonstration plays on: ports of a worker that runs in this process."""

    results: ResultCache
    publisher: JobPublisher
    catalogue: Catalogue
    profile: CatalogueProfile
    clock: Clock
    console: Console


async def play(stage: Stage, likes: Mapping[int, Sequence[int]], *, locale: str, n_shown: int = 3) -> None:
    """Publish one job for each member, and show what comes back.

    ``likes`` holds the ids of what each member likes or keeps in a playlist, by member id.
    """
    jobs = {member_id: _job(member_id, locale, stage.clock) for member_id in likes}
    took_s = await _run(stage, list(jobs.values()))
    stage.console.print(f"{len(jobs)} jobs ended in {took_s:.1f} s.\n")
    for member_id in list(likes)[:n_shown]:
        await _show(stage, jobs[member_id], likes[member_id], locale)


def _job(member_id: int, locale: str, clock: Clock) -> Job:
    requested_at_ns = int(clock.now().timestamp() * 1_000_000) * 1_000
    return Job(
        job_id=str(uuid4()), member_id=member_id, locale=locale, source="manual", requested_at_ns=requested_at_ns
    )


async def _run(stage: Stage, jobs: Sequence[Job]) -> float:
    started_s = stage.clock.monotonic_s()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stage.console) as progress:
        published = progress.add_task("published to the queue", total=len(jobs))
        ended = progress.add_task("results in the cache", total=len(jobs))
        for job in jobs:
            await submit(job, results=stage.results, publisher=stage.publisher)
            progress.advance(published)
        waiting = {job.job_id for job in jobs}
        while waiting:
            views = {job_id: await stage.results.job(job_id) for job_id in waiting}
            waiting = {job_id for job_id, view in views.items() if view is None or view.status not in _ENDED}
            progress.update(ended, completed=len(jobs) - len(waiting))
            await asyncio.sleep(_POLL_S)
    return stage.clock.monotonic_s() - started_s


async def _show(stage: Stage, job: Job, liked_ids: Sequence[int], locale: str) -> None:
    view = await stage.results.job(job.job_id)
    if view is None or view.result is None:
        stage.console.print(f"member {job.member_id}: {view.fields if view else 'unknown'}", style="red")
        return
    document = orjson.loads(view.result)
    result, groups = _Result.model_validate(document), _shelves(document["groups"], stage.profile)
    shown = {item_id for shelf in groups for item_id, _ in shelf.shown}
    items = await stage.catalogue.items({*liked_ids, *shown})
    likes = Panel(
        Group(*(_line(items[item_id], locale) for item_id in liked_ids if item_id in items)),
        title=f"member {job.member_id} likes",
        title_align="left",
        width=44,
    )
    shelves = [_shelf(shelf, items, locale) for shelf in groups]
    stage.console.print(Columns([likes, Panel(Group(*shelves), title=_maker(result), title_align="left", width=92)]))


def _shelves(groups: Sequence[Mapping[str, Any]], profile: CatalogueProfile) -> list[_Shelf]:
    return [
        _Shelf(
            group["label"],
            group["tagline"],
            tuple((row[profile.id_field], row["reason"]) for row in group[profile.result.items]),
        )
        for group in groups
    ]


def _maker(result: _Result) -> str:
    usage = result.usage
    tokens = f", {usage.prompt_tokens} + {usage.completion_tokens} tokens" if usage.llm_calls else ""
    return f"recommended ({result.model}{tokens}{', degraded' if result.degraded else ''})"


def _shelf(shelf: _Shelf, items: Mapping[int, Item], locale: str) -> Group:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=42, no_wrap=True)
    table.add_column(style="dim")
    for item_id, reason in shelf.shown:
        table.add_row(_line(items[item_id], locale), Text(reason))
    heading = Text.assemble((shelf.label, "bold cyan"), "  ", (shelf.tagline, "italic"))
    return Group(heading, table, Text())


def _line(item: Item, locale: str) -> Text:
    genres = f" ({', '.join(item.genres)})" if item.genres else ""
    creator = item.creator_in(locale)
    return Text.assemble(item.title(locale), (f" – {creator}" if creator else "", "green"), (genres, "dim"))
