"""The command line: ``python main.py COMMAND --help`` explains each command."""

import asyncio
import math
import os
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, date, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NoReturn
from zoneinfo import ZoneInfo

import orjson
import typer
import uvloop
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from threadpoolctl import threadpool_limits

from config.secret_values import secret_values
from config.setting_problems import setting_problems
from config.settings import MEMORY_URL, Settings
from core.errors import ConfigurationError, SongsAIError
from core.ports import BatchApi
from core.submission import submit
from models.job import Job, JobContext, JobStatus, Strategy
from services import migrations
from services.answer_cache import RedisAnswerCache
from services.batch_ledger import SqlBatchLedger
from services.batch_purse import RedisBatchPurse
from services.collaborative_source import InMemoryCollaborativeSource
from services.database import parse_url
from services.database_index import DatabaseItemIndex
from services.fitted_embedder import FittedEmbedder
from services.former_embeddings import SqlFormerEmbeddings
from services.ingest_store import SqlIngestStore
from services.interaction_log import SqlInteractionLog
from services.item_index import InMemoryItemIndex
from services.logs import LogLevel, configure_logging, mask_secrets
from services.model_store import SqlModelStore
from services.overlaid_index import MeasuredIndex
from training.batch_merge import BatchMerger, instant_ns
from training.batch_questions import Due, RefreshQuestions
from training.batch_refresh import BatchRefresh, BatchRefreshConfig, Report
from training.demo import Stage, play
from training.embed import Fitting, embed_catalogue, fit_and_embed
from training.generate import SOURCE as GENERATED
from training.generate import generate_listeners, generate_songs
from training.ingest import ingest as ingest_tracks
from training.ingest import save_items
from training.online_refresh import submit_refreshes
from workers import dead_letter_text
from workers.dead_letters import DeadLetters, Fate, Letter
from workers.runtime import Parts, embedded, open_judge, open_parts, prepare, run_api, run_worker, running_consumers

app = typer.Typer(name="songs-ai", no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()
complaints = Console(stderr=True)

Step = Callable[[Settings], Coroutine[Any, Any, None]]

N_PROBLEMS_SHOWN = 20
# Wide enough for every figure where no terminal says how wide it is.
TABLE_WIDTH = 180
METRICS_SHOWN = (
    "songs_ai_recommendations_total",
    "songs_ai_deliveries_settled_total",
    "songs_ai_answer_cache",
    "songs_ai_cache_hit_rate",
    "songs_ai_llm_calls",
    "songs_ai_llm_tokens",
    "songs_ai_degraded",
)
WHERE_NEXT = """
[bold]Where to go next[/bold]
  make demo TRACKS=songs.csv                 the same on real songs
  OPENAI_API_KEY=... make demo               the LLM re-ranks and explains, one call a listener
  .venv/bin/python main.py --help            what else there is
  README.md, "Run it for real"               RabbitMQ, MySQL and Redis; docker compose up
"""

_WHY_IN_MEMORY = {
    "exact": "since a scan of so few is as fast",
    "fastscan": "since codes of all items are scanned sooner than the items themselves",
    "fastscan_lists": "since the items lie in clusters, of which a search looks at a few",
}

FAILED = 1
MISCONFIGURED = 2


@app.callback()
def _about() -> None:
    """Songs AI: a queue-driven recommendation worker."""


# --- serve ---


@app.command(rich_help_panel="Serve")
def worker() -> None:
    """Consume jobs, and serve /health and /metrics, until SIGTERM."""
    _run(run_worker)


@app.command(rich_help_panel="Serve")
def api() -> None:
    """Serve HTTP alone, without consuming jobs."""
    _run(run_api)


# --- jobs ---


@app.command(rich_help_panel="Jobs")
def publish(
    member: Annotated[int, typer.Option(help="The member to recommend to.")],
    favorites: Annotated[str, typer.Option(help="Liked song ids, comma-separated; none: looked up in MySQL.")] = "",
    strategy: Annotated[Strategy, typer.Option(help="How much LLM to spend.")] = Strategy.DEFAULT,
    top_k: Annotated[int | None, typer.Option(min=1, help="Candidates in the result.")] = None,
    locale: Annotated[str | None, typer.Option(help="ko, ja or en.")] = None,
    wish: Annotated[str, typer.Option(help="What the listener asks for at this moment, in their own words.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result and print it.")] = False,
    timeout_s: Annotated[float, typer.Option(min=0, help="Seconds to wait at the most.")] = 60.0,
) -> None:
    """Publish a job as the backend does; print its id, or with --wait its result."""
    job = Job(
        job_id=str(uuid.uuid4()),
        member_id=member,
        favorite_item_ids=_ids(favorites),
        strategy=strategy,
        top_k=top_k,
        locale=locale,
        context=JobContext(query=wish) if wish else None,
        source="manual",
        requested_at_ns=int(datetime.now(UTC).timestamp() * 1_000_000) * 1_000,
    )

    async def step(settings: Settings) -> None:
        if settings.broker_url.get_secret_value() == MEMORY_URL:
            raise ConfigurationError(
                "BROKER_URL is memory://, where no worker can take the job; `demo` runs both in one"
            )
        async with open_parts(settings) as parts:
            await parts.broker.start()
            await submit(job, results=parts.results, publisher=parts.publisher)
            if wait:
                await _print_result(parts, job.job_id, timeout_s)
            else:
                typer.echo(job.job_id)

    _run(step)


@app.command(rich_help_panel="Jobs")
def result(
    job_id: Annotated[str, typer.Argument(help="The id that publish printed.")],
    timeout_s: Annotated[float, typer.Option(min=0, help="Seconds to wait at the most.")] = 0.0,
) -> None:
    """Print a job's result as the backend reads it."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            await _print_result(parts, job_id, timeout_s)

    _run(step)


async def _print_result(parts: Parts, job_id: str, timeout_s: float) -> None:
    deadline_s = parts.clock.monotonic_s() + timeout_s
    while (view := await parts.results.job(job_id)) is None or view.status not in (
        JobStatus.SUCCEEDED,
        JobStatus.FAILED,
    ):
        if parts.clock.monotonic_s() >= deadline_s:
            _stop(f"job {job_id} is {view.status if view else 'unknown'}; is a worker running?")
        await asyncio.sleep(0.1)
    if view.result is None:
        _stop(f"job {job_id} failed: {view.fields.get('error.code')}: {view.fields.get('error.message')}")
    typer.echo(orjson.dumps(orjson.loads(view.result), option=orjson.OPT_INDENT_2).decode())


@app.command(rich_help_panel="Jobs")
def refresh(
    members: Annotated[int, typer.Option(min=1, help="How many members at the most, the most active first.")] = 1000,
    batch: Annotated[
        bool | None, typer.Option("--batch/--queue", help="Through the provider's Batch API, or by jobs for workers.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked and what it costs.")] = False,
) -> None:
    """Bring the results of active members up to date; a run that was cut off goes on where it was."""

    async def step(settings: Settings) -> None:
        if not settings.llm_enabled:
            raise ConfigurationError("OPENAI_API_KEY is empty: there is no LLM to refresh results with")
        by_batch = settings.llm_batch_refresh if batch is None else batch
        publishes = not dry_run and (not by_batch or settings.llm_batch_rest == "online")
        if publishes and settings.broker_url.get_secret_value() == MEMORY_URL:
            raise ConfigurationError("BROKER_URL is memory://, where no worker can take the jobs of a refresh")
        async with open_parts(settings) as parts, _batches(settings, by_batch=by_batch) as api:
            await parts.catalogue.check()
            await parts.index.load()
            await parts.collaborative.load()
            if dry_run:
                await _estimate_refresh(parts, api, members, by_batch=by_batch)
            elif by_batch:
                await _refresh_by_batch(parts, api, members)
            else:
                await _refresh_by_queue(parts, api, members)

    _run(step)


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


def _today(parts: Parts) -> date:
    return parts.clock.now().astimezone(ZoneInfo(parts.settings.time_zone)).date()


async def _estimate_refresh(parts: Parts, api: BatchApi, n_members: int, *, by_batch: bool) -> None:
    if by_batch:
        await api.check()
    ledger, today = SqlBatchLedger(parts.database), _today(parts)
    asked = await ledger.asked_members(today) if by_batch else set()
    member_ids = [each for each in await parts.members.active_member_ids(n_members) if each not in asked]
    questions = RefreshQuestions(parts.pipeline, parts.results, api)
    found = await questions.estimate(member_ids, today, instant_ns(parts.clock.now()))
    say = partial(console.print, highlight=False, soft_wrap=True)
    say(
        f"{found.n_members} active members: {found.n_requests} would be asked about, {found.skipped['kept']} have "
        f"their answer, {found.skipped['refreshed']} were refreshed today, {found.skipped['nothing']} go without LLM"
    )
    say(
        f"{found.n_requests} LLM calls, {found.n_bytes / 1e6:.1f} MB; about {found.rough_prompt_tokens:,} prompt "
        f"tokens, at most {found.max_completion_tokens:,} completion tokens; at most about {found.usd:.4f} USD"
    )
    if by_batch and (parts_left := await ledger.open_parts()):
        say(f"{len(parts_left)} batches of an earlier run are open and would be brought to their end first")
    say("nothing is done: --dry-run")


async def _refresh_by_queue(parts: Parts, api: BatchApi, n_members: int) -> None:
    await parts.broker.start()
    today, now_ns = _today(parts), instant_ns(parts.clock.now())
    questions = RefreshQuestions(parts.pipeline, parts.results, api)
    member_ids = await parts.members.active_member_ids(n_members)
    due = [each.question async for each in questions.of(member_ids, today, now_ns) if isinstance(each, Due)]
    await submit_refreshes(due, today, now_ns, results=parts.results, publisher=parts.publisher)
    console.print(f"{len(member_ids)} active members: {len(due)} jobs published")


async def _refresh_by_batch(parts: Parts, api: BatchApi, n_members: int) -> None:
    settings = parts.settings
    if settings.llm_batch_rest == "online":
        await parts.broker.start()
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
    with _progress() as progress:
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
            observer=parts.metrics,
            clock=parts.clock,
            config=config,
            show=lambda what, done, total: progress.update(tasks[what], completed=done, total=total, visible=True),
        ).run(n_members)
    for line in _told_of(report):
        console.print(line, highlight=False, soft_wrap=True)


def _told_of(report: Report) -> Iterator[str]:
    """What ``refresh --batch`` prints at its end."""
    yield f"batches: {report.n_sent} sent, {report.n_resumed} resumed; {_counted(report.statuses)}"
    yield f"questions: {_counted(report.outcomes)}; members not asked about: {_counted(report.skipped)}"
    usage = report.usage
    yield (
        f"paid: {usage.prompt_tokens:,} prompt tokens ({usage.cached_tokens:,} cached), "
        f"{usage.completion_tokens:,} completion tokens, {usage.cost_usd:.4f} USD"
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "none"


# --- dead letters ---

dead_letters = typer.Typer(no_args_is_help=True, help="Look at jobs that were given up; send them back, or drop them.")
app.add_typer(dead_letters, name="dead-letters", rich_help_panel="Jobs")

JobIds = Annotated[list[str] | None, typer.Argument(metavar="JOB_ID", help="Ids, as `list` prints them.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Those of error=CODE, reason=REASON, member=ID, older=2h, newer=30m (since the request); all must hold.",
    ),
]
All = Annotated[bool, typer.Option("--all", help="All of them, as far as --where does not say otherwise.")]
AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON for each.")]

_FATES_TOLD = {
    Fate.REPLAYED: "replayed",
    Fate.REPLAYED_BEFORE: "taken off: replayed before",
    Fate.SUCCEEDED_SINCE: "taken off: succeeded since",
    Fate.NO_JOB: "left: no job message (see `dead-letters show`)",
    Fate.PURGED: "purged",
}


def _examples(*lines: str) -> str:
    return "\n\n".join(("Examples:", *(f"python main.py dead-letters {line}" for line in lines)))


@dead_letters.command(
    "list", epilog=_examples("list", "list --where error=DEPENDENCY_UNAVAILABLE --where older=1h", "list --json | jq .")
)
def list_dead_letters(
    where: Where = None,
    limit: Annotated[int, typer.Option(min=1, help="Lines at the most.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="How many to skip.")] = 0,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the oldest first; nothing changes."""

    async def step(settings: Settings) -> None:
        wanted = dead_letter_text.wanted((), where or ())
        async with _open_dead_letters(settings) as (letters, parts), letters.those(wanted) as found:
            now, shown, n = parts.clock.now(), Table(*dead_letter_text.ROW), 0
            async for letter in found:
                n += 1
                if offset < n <= offset + limit and as_json:
                    typer.echo(mask_secrets(dead_letter_text.document(letter, now, whole=False).decode()), nl=False)
                elif offset < n <= offset + limit:
                    shown.add_row(*(Text(mask_secrets(cell)) for cell in dead_letter_text.row(letter, now)))
            if not as_json:
                _tell_all([shown, f"{shown.row_count} of {n} shown"])

    _run(step)


@dead_letters.command(epilog=_examples("show 7c9e6679-7425-40de-944b-e07fc1f90ae7", "show body-1f3870be274f"))
def show(
    job_id: Annotated[str, typer.Argument(help="The id, as `list` prints it.")],
    as_json: AsJson = False,
) -> None:
    """Show a dead letter whole: body, headers, last error; secrets are masked, and nothing changes."""

    async def step(settings: Settings) -> None:
        n = 0
        wanted = dead_letter_text.wanted((job_id,), ())
        async with _open_dead_letters(settings) as (letters, parts), letters.those(wanted) as found:
            async for letter in found:
                n += 1
                now = parts.clock.now()
                told = dead_letter_text.document(letter, now, whole=True).decode() if as_json else None
                typer.echo(mask_secrets(told or dead_letter_text.page(letter, now)), nl=not as_json)
        if not n:
            _stop(f"no dead letter is called {job_id!r}")

    _run(step)


@dead_letters.command(
    epilog=_examples(
        "replay 7c9e6679-7425-40de-944b-e07fc1f90ae7",
        "replay --where error=DEPENDENCY_UNAVAILABLE --dry-run",
        "replay --all --rate 20",
    )
)
def replay(
    job_ids: JobIds = None,
    everything: All = False,
    where: Where = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    rate: Annotated[float, typer.Option(min=0, help="Jobs a second at the most; 0: as fast as it goes.")] = 0.0,
) -> None:
    """Send dead letters back to work, the oldest first, with their tries counted from nothing.

    Each is taken off the queue once the broker has confirmed its replay. Stopped at any moment nothing is lost, and
    what was sent twice is run once.
    """
    _each_letter(
        job_ids,
        where,
        everything=everything,
        step=lambda letters, wanted, tell: letters.replay(wanted, tell, dry_run=dry_run, rate=rate),
        ending=" (nothing is done: --dry-run)" if dry_run else "",
    )


@dead_letters.command(
    epilog=_examples("purge --where reason=invalid --to invalid.jsonl", "purge body-1f3870be274f --yes")
)
def purge(
    job_ids: JobIds = None,
    everything: All = False,
    where: Where = None,
    to: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write each to the end of this file first, as JSON, unmasked.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Without a file too: they are gone for good.")] = False,
) -> None:
    """Drop dead letters for good, each once it is written to a file, or with --yes."""
    if to is None and not yes:
        raise typer.BadParameter("say where to keep them (--to FILE), or that they may be lost (--yes)")
    with _kept_letters(to) as keep:
        _each_letter(
            job_ids,
            where,
            everything=everything,
            step=lambda letters, wanted, tell: letters.purge(wanted, tell, keep),
            ending=f"; kept in {to}" if to else "",
        )


@contextmanager
def _kept_letters(path: Path | None) -> Iterator[Callable[[Letter], None]]:
    """Writes letters to the end of a file that only its owner reads; each is on the disk when the call returns."""
    if path is None:
        yield lambda _: None
        return
    try:
        with open(path, "ab", opener=partial(os.open, mode=0o600)) as file:

            def keep(letter: Letter) -> None:
                file.write(dead_letter_text.document(letter, datetime.now(UTC), whole=True))
                file.flush()
                os.fsync(file.fileno())

            yield keep
    except OSError as error:
        _stop(f"--to {path}: {error.strerror}; what was not written is where it was")


def _each_letter(
    job_ids: list[str] | None,
    where: list[str] | None,
    *,
    everything: bool,
    step: Callable[..., Coroutine[Any, Any, Mapping[Fate, int]]],
    ending: str,
) -> None:
    if not (job_ids or where or everything):
        raise typer.BadParameter("say which ones: JOB_ID..., --where or --all")
    fates: dict[Fate, int] = {}
    unseen = set(job_ids or ())

    async def run(settings: Settings) -> None:
        wanted = dead_letter_text.wanted(job_ids or (), where or ())
        async with _open_dead_letters(settings) as (letters, _):
            with _progress(complaints) as progress:
                task = progress.add_task("dead letters", total=None, visible=complaints.is_terminal)

                def tell(letter: Letter, fate: Fate) -> None:
                    fates[fate] = fates.get(fate, 0) + 1
                    unseen.discard(letter.letter_id)
                    progress.advance(task)
                    if fate is Fate.NO_JOB:
                        complaints.print(f"{letter.letter_id}: {letter.problem}", style="yellow", markup=False)

                await step(letters, wanted, tell)

    try:
        _run(run)
    finally:
        told = ", ".join(f"{n} {_FATES_TOLD[fate]}" for fate, n in fates.items()) or "none"
        typer.echo(told + ending)
    if unseen:
        _stop(f"no dead letter is called {', '.join(sorted(unseen))}")


@asynccontextmanager
async def _open_dead_letters(settings: Settings) -> AsyncIterator[tuple[DeadLetters, Parts]]:
    if settings.broker_url.get_secret_value() == MEMORY_URL:
        raise ConfigurationError("BROKER_URL is memory://, where dead letters end with the process")
    async with open_parts(settings) as parts:
        await parts.broker.start()
        yield DeadLetters(parts.broker, parts.results, parts.clock), parts


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise typer.BadParameter(f"song ids must be integers, comma-separated, got {text!r}") from error


# --- catalogue ---


@app.command(rich_help_panel="Catalogue")
def migrate(
    revision: Annotated[str, typer.Option(help="Where to go; base undoes everything.")] = "head",
    down: Annotated[bool, typer.Option("--down", help="Go back to the revision instead of forward.")] = False,
) -> None:
    """Create or change the worker's own tables; the backend's are never touched."""

    async def step(settings: Settings) -> None:
        url = parse_url(settings.database_url.get_secret_value(), ca_file=settings.database_ca_file)
        move = migrations.downgrade if down else migrations.upgrade
        await asyncio.to_thread(move, url, revision)

    _run(step)


@app.command(rich_help_panel="Catalogue")
def ingest(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A CSV file of tracks, in a known layout.")],
) -> None:
    """Fill a catalogue that is ours from FILE; where a backend owns the song table it is left alone."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            await _ingest(parts, file)

    _run(step)


@app.command(rich_help_panel="Catalogue")
def embed(
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit the statistics of the catalogue anew, and embed all of it by them.")
    ] = False,
) -> None:
    """Bring the stored vectors up to date with the catalogue: what is new or changed.

    All of it the first time, and where the catalogue has doubled or halved since its statistics were fitted.
    """

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            await parts.catalogue.check()
            await _embed(parts, refit=refit)

    _run(step)


async def _ingest(parts: Parts, file: Path) -> None:
    with _progress() as progress:
        # Shown with the first songs: a refusal comes without an empty bar.
        task = progress.add_task("songs", total=None, visible=False)
        report = await ingest_tracks(
            file,
            SqlIngestStore(parts.database),
            lambda done, total: progress.update(task, completed=done, total=total, visible=True),
        )
    for problem in report.problems[:N_PROBLEMS_SHOWN]:
        complaints.print(str(problem), style="yellow", markup=False, highlight=False)
    if report.n_bad_rows > N_PROBLEMS_SHOWN:
        complaints.print(f"... and {report.n_bad_rows - N_PROBLEMS_SHOWN} more", style="yellow")
    console.print(
        f"{report.n_rows} rows: {report.n_inserted} songs new, {report.n_updated} changed, "
        f"{report.n_unchanged} as they were; {report.n_bad_rows} rows left out"
    )


async def _embed(parts: Parts, *, refit: bool = False) -> None:
    text_columns = parts.profile.item.text
    with _progress() as progress:
        task = progress.add_task("embeddings", total=None)
        show = partial(progress.update, task)
        if isinstance(parts.embedder, FittedEmbedder):
            fitting = Fitting(
                embedder=parts.embedder,
                models=parts.models,
                former=SqlFormerEmbeddings(parts.database),
                feature_weights=parts.profile.item.feature_weights,
                refit=refit,
            )
            report = await fit_and_embed(
                parts.catalogue, fitting, parts.embeddings, lambda n: show(completed=n), text_columns=text_columns
            )
        elif refit:
            raise ConfigurationError("EMBEDDER=openai: there are no statistics of the catalogue to fit anew")
        else:
            report = await embed_catalogue(
                parts.catalogue,
                parts.embedder,
                parts.embeddings,
                lambda n: show(completed=n),
                text_columns=text_columns,
            )
        progress.update(task, total=report.n_items)
    console.print(
        f"{report.n_items} items: {report.n_embedded} embedded, {report.n_unchanged} as they were, "
        f"{report.n_deleted} vectors deleted; {report.n_without_content} without content"
    )


@app.command(rich_help_panel="Catalogue")
def retrieval() -> None:
    """Say where candidates are searched for, how, and why; brings what is searched up to date."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            await parts.catalogue.check()
            await parts.index.load()
            typer.echo(_searched_by(parts.index.current()))

    _run(step)


def _searched_by(index: MeasuredIndex | DatabaseItemIndex) -> str:
    """What ``retrieval`` prints."""
    where = "database" if isinstance(index, DatabaseItemIndex) else "memory"
    why = index.why if isinstance(index, DatabaseItemIndex) else _WHY_IN_MEMORY[index.kind]
    return "\n".join(
        (
            f"RETRIEVAL={where}: {index.kind}, {why}",
            f"{len(index):,} items of {index.embedder_name}, recall@200 on a sample {index.recall:.3f}",
        )
    )


def _progress(on: Console = console) -> Progress:
    rate = TextColumn("{task.completed:,.0f}")
    return Progress(TextColumn("{task.description}"), BarColumn(), rate, TimeElapsedColumn(), console=on)


# --- quality ---


@app.command(rich_help_panel="Quality")
def rank(
    train: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="CSV: user_id,item_id[,weight,occurred_at].")
    ],
    queries: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="CSV: query_id,item_id[,weight].")],
    out: Annotated[Path, typer.Option(dir_okay=False, help="CSV to write: query_id,rank,item_id,score.")],
    items: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="CSV: item_id and any text and numeric columns.")
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="Items per query.")] = 20,
    budget_s: Annotated[float, typer.Option(min=0, help="Seconds for choosing parameters, at about.")] = 120.0,
    seed: Annotated[int, typer.Option(help="The same seed and files give the same lists.")] = 0,
) -> None:
    """Fit collaborative models on interactions and rank items for lists of liked ones; all from files."""
    _quality("rank", train, queries, out, items=items, n=n, budget_s=budget_s, seed=seed)


@app.command(rich_help_panel="Quality")
def evaluate(
    dataset: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="CSV (or tab-separated): user_id,item_id[,weight,occurred_at]; or a directory with "
            "interactions.csv and perhaps items.csv.",
        ),
    ],
    protocol: Annotated[
        str,
        typer.Option(
            help="What is held out: known, some items of each user; new, users whole; cold, items whole (needs items); "
            "time, the last fifth."
        ),
    ] = "new",
    items: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="CSV: item_id and any text and numeric columns.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Length of the lists.")] = 20,
    budget_s: Annotated[float, typer.Option(min=0, help="Seconds for choosing parameters, at about.")] = 120.0,
    seed: Annotated[int, typer.Option(help="The same seed and files give the same split and figures.")] = 0,
    json_out: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the figures here too.")] = None,
    llm: Annotated[bool, typer.Option("--llm", help="Measure instead what the LLM's order is worth.")] = False,
    users: Annotated[int, typer.Option(min=1, help="With --llm: listeners that it is asked about.")] = 100,
    max_usd: Annotated[float, typer.Option(min=0, help="With --llm: what it may cost without --yes.")] = 1.0,
    yes: Annotated[bool, typer.Option("--yes", help="With --llm: ask whatever it costs.")] = False,
    answers: Annotated[
        Path, typer.Option(dir_okay=False, help="With --llm: where answers are kept, so that none is paid twice.")
    ] = Path("llm-answers.db"),
) -> None:
    """Measure the collaborative models on a data set, baselines beside them; or the LLM beside the ranking."""
    if llm:
        study = {"items": items, "n_users": users, "budget_s": budget_s, "seed": seed}
        _uplift(dataset, protocol, study, answers, k=k, max_usd=math.inf if yes else max_usd, json_out=json_out)
        return
    _quality("evaluate", dataset, protocol, items=items, k=k, budget_s=budget_s, seed=seed, json_out=json_out)


@app.command(rich_help_panel="Quality")
def fit(
    budget_s: Annotated[float, typer.Option(min=0, help="Seconds for choosing parameters, at about.")] = 120.0,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same model.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fit and tell, but put nothing in force.")] = False,
) -> None:
    """Fit the collaborative model on what members like and do, and put it in force."""
    training = _training("fit")
    observed: list[Any] = []

    async def read(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            await parts.catalogue.check()
            if isinstance(parts.embedder, FittedEmbedder):
                await parts.embedder.refresh()
            log = SqlInteractionLog(parts.database, parts.profile)
            observed.append(await training.observe(log, parts.embeddings, parts.embedder.name, tell=tell))

    async def keep(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            await training.keep(SqlModelStore(parts.database, parts.clock), report)

    with _telling() as tell:
        _run(read)
        # outside of any event loop, where Ctrl-C ends it at once; one BLAS thread as in ``_quality``
        with threadpool_limits(1, user_api="blas"):
            report = training.fit_on(observed[0], budget_s=budget_s, seed=seed, tell=tell)
        if not dry_run:
            _run(keep)
    for line in report:
        typer.echo(line)
    typer.echo("nothing is kept: --dry-run" if dry_run else f"version {report.fitted.version} is in force")


def _training(step: str) -> Any:  # noqa: ANN401 - a module
    """A module of ``training`` that needs scipy, which is not where the worker serves."""
    try:
        return import_module(f"training.{step}")
    except ModuleNotFoundError as error:
        _stop(f"{error.name} is missing: pip install -r requirements-train.txt", MISCONFIGURED)


def _quality(step: str, *arguments: object, **options: object) -> None:
    """Run a step of ``training`` on files."""
    module = _training(step)
    try:
        # most of the algebra is of small matrices, which a second BLAS thread makes many times slower
        with threadpool_limits(1, user_api="blas"), _telling() as tell:
            found = list(getattr(module, step)(*arguments, **options, tell=tell))
    except SongsAIError as error:
        _stop(f"{type(error).__name__}: {error}", FAILED)
    _tell_all(found)


def _tell_all(found: Iterable[Any]) -> None:
    wide = console if console.is_terminal else Console(width=TABLE_WIDTH)
    for part in found:
        if isinstance(part, str):
            typer.echo(part)
        else:
            wide.print(part)


def _uplift(
    dataset: Path,
    protocol: str,
    options: Mapping[str, object],
    answers: Path,
    *,
    k: int,
    max_usd: float,
    json_out: Path | None,
) -> None:
    """Prepare outside of any event loop, where Ctrl-C ends it at once; say what asking costs; ask; tell."""
    found: list[Any] = []

    async def try_to_open(settings: Settings) -> None:
        async with open_judge(settings):
            pass

    async def measure(settings: Settings) -> None:
        async with open_judge(settings) as judge:
            served = uplift.Served(
                language_model=judge.language_model,
                reranker=judge.reranker,
                config=judge.config,
                versions=judge.versions,
                clock=judge.clock,
                order_weight=settings.llm_order_weight,
                locale=settings.default_locale,
                endpoint=settings.openai_base_url,
                price=settings.llm_prices.get(judge.language_model.name(deep=False)),
            )
            index = InMemoryItemIndex(study.rows, study.embedder_name)
            questions = await uplift.questions_of(study, index, InMemoryCollaborativeSource(study.fitted), served, k=k)
            with kept_answers.open_kept_answers(answers) as kept:
                _tell_price(uplift.estimate(questions, kept, served), max_usd)
                with _progress(complaints) as progress:
                    task = progress.add_task("listeners", total=len(questions))
                    show = partial(progress.update, task)
                    heard = await uplift.ask(questions, served, kept, done=lambda n: show(completed=n))
            found.append(uplift.report(study, questions, heard, served, k=k))

    _run(try_to_open)
    uplift, first_stage, kept_answers = map(_training, ("uplift", "first_stage", "kept_answers"))
    with threadpool_limits(1, user_api="blas"):
        try:
            with _telling() as tell:
                study = first_stage.prepare(dataset, protocol, **options, tell=tell)
        except SongsAIError as error:
            _stop(f"{type(error).__name__}: {error}", FAILED)
        _run(measure, log_level="ERROR")
    _tell_all(found[0])
    if json_out is not None:
        found[0].write(json_out)


def _tell_price(estimate: Any, max_usd: float) -> None:  # noqa: ANN401 - of ``training.uplift``
    complaints.print(str(estimate), markup=False, highlight=False, soft_wrap=True)
    if not estimate.is_within(max_usd):
        _stop(f"that is not known to be within --max-usd {max_usd:g}: give --yes to ask all the same", MISCONFIGURED)


@contextmanager
def _telling() -> Iterator[Callable[[str], None]]:
    """Lines on what is done, and beneath them on a terminal the last one with the time since it began."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=complaints, transient=True, disable=not complaints.is_terminal) as progress:
        task = progress.add_task("")

        def tell(line: str) -> None:
            complaints.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
            progress.reset(task, description=line.partition(":")[0])

        yield tell


# --- demonstration ---


@app.command(rich_help_panel="Start here")
def demo(
    tracks: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="A CSV file of real tracks.")] = None,
    members: Annotated[int, typer.Option(min=1, max=10_000, help="How many listeners ask.")] = 40,
    shown: Annotated[int, typer.Option(min=0, help="How many of them are shown.")] = 3,
    locale: Annotated[str, typer.Option(help="ko, ja or en.")] = "en",
    seed: Annotated[int, typer.Option(help="The same seed makes the same songs and listeners.")] = 7,
) -> None:
    """Run the whole worker in this process: no server, no key. With OPENAI_API_KEY set, the LLM explains."""

    async def step(settings: Settings) -> None:
        with TemporaryDirectory(prefix="songs-ai-demo-") as directory:
            async with open_parts(embedded(settings, Path(directory))) as parts:
                await _prepare_demo(parts, tracks, seed)
                items = [item async for batch in parts.catalogue.stream() for item in batch]
                listeners = generate_listeners(items, members, seed)
                await SqlIngestStore(parts.database).save_listeners(listeners)
                await prepare(parts)
                async with running_consumers(parts):
                    await play(
                        Stage(
                            results=parts.results,
                            publisher=parts.publisher,
                            catalogue=parts.catalogue,
                            clock=parts.clock,
                            console=console,
                        ),
                        {
                            each.member_id: tuple(dict.fromkeys([*each.liked_ids, *each.playlist_ids]))
                            for each in listeners
                        },
                        locale=locale,
                        n_shown=shown,
                    )
                _show_metrics(parts)
        console.print(WHERE_NEXT, soft_wrap=True)

    _run(step, log_level="WARNING")


async def _prepare_demo(parts: Parts, tracks: Path | None, seed: int) -> None:
    await asyncio.to_thread(migrations.upgrade, parts.database.sync_url)
    if tracks:
        await _ingest(parts, tracks)
    else:
        store, songs = SqlIngestStore(parts.database), generate_songs(seed)
        await store.prepare()
        report = await save_items(GENERATED, songs, store, len(songs))
        console.print(f"made up {report.n_inserted} songs (seed {seed}); `make demo TRACKS=file.csv` takes real ones")
    await _embed(parts)


def _show_metrics(parts: Parts) -> None:
    exposition = parts.metrics.expose("")[0].decode()
    told = [line for line in exposition.splitlines() if line.startswith(METRICS_SHOWN) and not line.endswith(" 0.0")]
    console.print("what the metrics counted (a worker serves them at /metrics):", style="bold")
    console.print("\n".join(f"  {line}" for line in told), markup=False, highlight=False, soft_wrap=True)


# --- running a command ---


def _run(step: Step, *, log_level: LogLevel | None = None) -> None:
    """Run ``step`` to its end; what is expected to go wrong becomes one sentence and an exit code."""
    try:
        settings = Settings()
    except (ValidationError, SettingsError, UnicodeDecodeError) as error:
        _stop("\n".join(setting_problems(error, Settings)), MISCONFIGURED)
    configure_logging(log_level or settings.log_level, settings.log_format, secrets=secret_values(settings))
    try:
        uvloop.run(step(settings))
    except SongsAIError as error:
        _stop(f"{type(error).__name__}: {error}", FAILED)


def _stop(sentence: str, code: int = FAILED) -> NoReturn:
    complaints.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    app()
