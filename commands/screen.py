"""What the user sees: sentences and tables, bars of what is under way, and JSON for machines.

Standard output is for what was asked for; what is under way, warnings and errors go to standard error.
"""

import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# Where no terminal says how wide it is: for every figure of a table, and sentences that no reader of a log finds cut.
WIDTH = 180

FAILED = 1
MISCONFIGURED = 2

# The file that a machine reads from the pipe, where an option takes a file.
STANDARD_OUTPUT = Path("-")


def _console(*, stderr: bool) -> Console:
    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=WIDTH)


console = _console(stderr=False)
complaints = _console(stderr=True)


def stop(sentence: str, code: int = FAILED) -> NoReturn:
    """End the process with a sentence on what is wrong."""
    complain(sentence)
    sys.exit(code)


def complain(sentence: str, style: str = "red") -> None:
    """A line on standard error, as it is."""
    complaints.print(sentence, style=style, markup=False, highlight=False, soft_wrap=True)


def say(sentence: str) -> None:
    """A line for people, as it is."""
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def tell_all(found: Iterable[Any]) -> None:
    """Print sentences and tables."""
    for part in found:
        if isinstance(part, str):
            say(part)
        else:
            console.print(part)


def tell_json(document: object) -> None:
    """Print JSON on standard output, where ``for_machines`` leaves nothing else."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    sys.stdout.write(orjson.dumps(document, option=options).decode())
    sys.stdout.flush()


@contextmanager
def for_machines(as_json: bool) -> Iterator[None]:
    """Where standard output is JSON, what is said to people meanwhile goes to standard error."""
    console.stderr, before = as_json or console.stderr, console.stderr
    try:
        yield
    finally:
        console.stderr = before


# A rate below it has a decimal.
_SLOW = 10


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = None if task.fields.get("counts_seconds") else task.finished_speed or task.speed
        return Text(f"{speed:,.{int(speed < _SLOW)}f}/s" if speed else "", style="progress.data.speed")


class _Done(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f"/{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}{total}", style="progress.download")


class _AboveBars(io.TextIOBase):
    """The terminal, for whole lines: a bar that moves there makes room, and stays the last line."""

    def isatty(self) -> bool:
        return complaints.file.isatty()

    def write(self, line: str) -> int:
        complaints.print(Text.from_ansi(line.removesuffix("\n")), soft_wrap=True)
        return len(line)


def log_stream() -> TextIO:
    """Where log lines go: standard error, on a terminal past the bars that are there."""
    return cast("TextIO", _AboveBars()) if complaints.is_terminal else sys.stderr


def progress_bar() -> Progress:
    """Bars on a terminal, each with what is done of what, how fast, for how long, and how long it takes yet."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        _Done(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=complaints, disable=not complaints.is_terminal)


@contextmanager
def under_way(what: str) -> Iterator[None]:
    """On a terminal, for how long ``what`` takes by now, where nobody knows how much of it there is."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=complaints, transient=True, disable=not complaints.is_terminal) as progress:
        progress.add_task(what, total=None)
        yield


_COUNTED = re.compile(r"(\d+) of (\d+)( s\b)?")


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """Lines on what is done, and beneath them on a terminal the last one with the time since it began.

    A line that says how many of how many are done (seconds, where time is what is limited) moves a bar.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=complaints, transient=True, disable=not complaints.is_terminal) as progress:
        task, counted = progress.add_task("", total=None), ""

        def tell(line: str) -> None:
            nonlocal counted
            complain(line, "dim")
            what, found = line.partition(":")[0], _COUNTED.search(line)
            if found is None or counted != line[: found.start()]:
                progress.reset(task, description=what, total=None)
            counted = line[: found.start()] if found else ""
            if found:
                done, total, seconds = found.groups()
                progress.update(
                    task, description=what, completed=int(done), total=int(total), counts_seconds=bool(seconds)
                )

        yield tell
