"""The command line: ``python main.py COMMAND --help`` explains each command."""

import asyncio
import sys
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn

import orjson
import typer
import uvloop
from pydantic import ValidationError
from rich.console import Console

from config.settings import Settings
from core.errors import SongsAIError
from core.submission import submit
from models.job import Job, JobStatus, Strategy
from services import migrations
from services.database import parse_url
from services.logs import configure_logging
from workers.runtime import Parts, open_parts, run_api, run_worker

app = typer.Typer(name="songs-ai", no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()
complaints = Console(stderr=True)

Step = Callable[[Settings], Coroutine[Any, Any, None]]

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
        source="manual",
        requested_at_ns=int(datetime.now(UTC).timestamp() * 1_000_000) * 1_000,
    )

    async def step(settings: Settings) -> None:
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
        url = parse_url(settings.database_url.get_secret_value())
        move = migrations.downgrade if down else migrations.upgrade
        await asyncio.to_thread(move, url, revision)

    _run(step)


# --- running a command ---


def _run(step: Step) -> None:
    """Run ``step`` to its end; what is expected to go wrong becomes one sentence and an exit code."""
    try:
        settings = Settings()
    except ValidationError as error:
        _stop("\n".join(f"{_setting(detail['loc'])}{detail['msg']}" for detail in error.errors()), MISCONFIGURED)
    configure_logging(settings.log_level, settings.log_format)
    try:
        uvloop.run(step(settings))
    except SongsAIError as error:
        _stop(f"{type(error).__name__}: {error}", FAILED)


def _setting(location: tuple[int | str, ...]) -> str:
    return f"{str(location[0]).upper()}: " if location else ""


def _stop(sentence: str, code: int = FAILED) -> NoReturn:
    complaints.print(sentence, style="red", markup=False, highlight=False)
    sys.exit(code)


if __name__ == "__main__":
    app()
