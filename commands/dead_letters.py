"""The commands on jobs that were given up: ``dead-letters list``, ``show``, ``replay`` and ``purge``."""

import errno
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

import typer
from rich.table import Table
from rich.text import Text

from commands.running import need_a_broker, run, start
from commands.screen import STANDARD_OUTPUT, complain, for_machines, progress_bar, say, stop, tell_all, tell_json
from config.settings import Settings
from services.logs import mask_secrets
from workers import dead_letter_text
from workers.dead_letters import DeadLetters, Fate, Letter
from workers.runtime.parts import Parts, open_parts

_FATES_TOLD = {
    Fate.REPLAYED: "replayed",
    Fate.REPLAYED_BEFORE: "taken off: replayed before",
    Fate.SUCCEEDED_SINCE: "taken off: succeeded since",
    Fate.NO_JOB: "left: no job message (see `dead-letters show`)",
    Fate.PURGED: "purged",
}


def list_dead_letters(*, where: list[str] | None, limit: int, offset: int, events: bool, as_json: bool) -> None:
    """List dead letters, the oldest first; nothing changes."""

    async def step(settings: Settings) -> None:
        wanted = dead_letter_text.wanted((), where or ())
        async with _open_dead_letters(settings, of_events=events) as (letters, parts), letters.those(wanted) as found:
            now, shown, n = parts.clock.now(), Table(*dead_letter_text.ROW), 0
            async for letter in found:
                n += 1
                if offset < n <= offset + limit and as_json:
                    typer.echo(mask_secrets(dead_letter_text.document(letter, now, whole=False).decode()), nl=False)
                elif offset < n <= offset + limit:
                    shown.add_row(*(Text(mask_secrets(cell)) for cell in dead_letter_text.row(letter, now)))
            if not as_json:
                tell_all([shown, f"{shown.row_count} of {n} shown"])

    run(step)


def show(*, job_id: str, events: bool, as_json: bool) -> None:
    """Show a dead letter whole: body, headers, last error; secrets are masked, and nothing changes."""

    async def step(settings: Settings) -> None:
        n = 0
        wanted = dead_letter_text.wanted((job_id,), ())
        async with _open_dead_letters(settings, of_events=events) as (letters, parts), letters.those(wanted) as found:
            async for letter in found:
                n += 1
                now = parts.clock.now()
                told = dead_letter_text.document(letter, now, whole=True).decode() if as_json else None
                typer.echo(mask_secrets(told or dead_letter_text.page(letter, now)), nl=not as_json)
        if not n:
            stop(f"no dead letter is called {job_id!r}")

    run(step)


def replay(
    *, job_ids: list[str] | None, everything: bool, where: list[str] | None, dry_run: bool, rate: float, as_json: bool
) -> None:
    """Send dead letters back to work, the oldest first, with their tries counted from nothing."""
    _each_letter(
        job_ids,
        where,
        everything=everything,
        step=lambda letters, wanted, tell: letters.replay(wanted, tell, dry_run=dry_run, rate=rate),
        ending=" (nothing is done: --dry-run)" if dry_run else "",
        as_json=as_json,
    )


def purge(
    *,
    job_ids: list[str] | None,
    everything: bool,
    where: list[str] | None,
    events: bool,
    to: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Drop dead letters for good, each once it is written to a file or to standard output, or with --yes."""
    if to is None and not yes:
        raise typer.BadParameter("say where to keep them (--to FILE), or that they may be lost (--yes)")
    if as_json and to == STANDARD_OUTPUT:
        raise typer.BadParameter("--json and --to - would both write to standard output")
    with for_machines(to == STANDARD_OUTPUT), _kept_letters(to) as keep:
        _each_letter(
            job_ids,
            where,
            everything=everything,
            step=lambda letters, wanted, tell: letters.purge(wanted, tell, keep),
            of_events=events,
            ending=f"; {_whereto(to)}" if to else "",
            as_json=as_json,
        )


def _whereto(path: Path) -> str:
    return "written to standard output" if path == STANDARD_OUTPUT else f"kept in {path}"


@contextmanager
def _kept_letters(path: Path | None) -> Iterator[Callable[[Letter], None]]:
    """Writes letters to a file; each is on the disk, or in the pipe, when the call returns."""
    if path is None:
        yield lambda _: None
        return
    try:
        with _opened(path) as file:

            def keep(letter: Letter) -> None:
                file.write(dead_letter_text.document(letter, datetime.now(UTC), whole=True))
                file.flush()
                _sync(file)

            yield keep
    except OSError as error:
        elsewhere = "" if path == STANDARD_OUTPUT else " (--to - writes to standard output)"
        stop(f"--to {path}: {error.strerror}; what was not written is where it was{elsewhere}")


def _opened(path: Path) -> IO[bytes]:
    """The end of a file that only its owner reads, or standard output."""
    if path == STANDARD_OUTPUT:
        # A descriptor of its own: what a broken pipe did not take is forgotten with it, not tried again at the exit.
        return os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    return open(path, "ab", opener=partial(os.open, mode=0o600))


def _sync(file: IO[bytes]) -> None:
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno != errno.EINVAL:  # a pipe or a terminal, which keeps nothing
            raise


def _each_letter(
    job_ids: list[str] | None,
    where: list[str] | None,
    *,
    everything: bool,
    step: Callable[..., Coroutine[Any, Any, Mapping[Fate, int]]],
    ending: str,
    as_json: bool,
    of_events: bool = False,
) -> None:
    if not (job_ids or where or everything):
        raise typer.BadParameter("say which ones: JOB_ID..., --where or --all")
    fates: dict[Fate, int] = {}
    unseen = set(job_ids or ())

    async def deal(settings: Settings) -> None:
        wanted = dead_letter_text.wanted(job_ids or (), where or ())
        async with _open_dead_letters(settings, of_events=of_events) as (letters, _):
            with progress_bar() as progress:
                task = progress.add_task("dead letters", total=await letters.n_waiting() if everything else None)

                def tell(letter: Letter, fate: Fate) -> None:
                    fates[fate] = fates.get(fate, 0) + 1
                    unseen.discard(letter.letter_id)
                    progress.advance(task)
                    if fate is Fate.NO_JOB:
                        complain(f"{letter.letter_id}: {letter.problem}", "yellow")

                await step(letters, wanted, tell)

    with for_machines(as_json):
        try:
            run(deal)
        finally:
            say(", ".join(f"{n} {_FATES_TOLD[fate]}" for fate, n in fates.items()) + ending if fates else "none")
            if as_json:
                tell_json({**{str(fate): fates.get(fate, 0) for fate in Fate}, "unknown": sorted(unseen)})
    if unseen:
        stop(f"no dead letter is called {', '.join(sorted(unseen))}")


@asynccontextmanager
async def _open_dead_letters(settings: Settings, *, of_events: bool) -> AsyncIterator[tuple[DeadLetters, Parts]]:
    need_a_broker(settings, "dead letters end with the process")
    async with open_parts(settings) as parts:
        await start(parts.broker)
        yield DeadLetters(parts.broker, parts.results, parts.clock, of_events=of_events), parts
