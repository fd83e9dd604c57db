"""Runs a command to its end: settings in, what goes wrong as one sentence and an exit code; and what the user sees."""

import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import typer
import uvloop
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from config.secret_values import secret_values
from config.setting_problems import setting_problems
from config.settings import Settings
from core.errors import SongsAIError
from services.logs import LogLevel, configure_logging

# Where no terminal says how wide it is: for every figure of a table, and sentences that no reader of a log finds cut.
WIDTH = 180


def _console(*, stderr: bool) -> Console:
    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=WIDTH)


console = _console(stderr=False)
complaints = _console(stderr=True)

Step = Callable[[Settings], Coroutine[Any, Any, None]]

FAILED = 1
MISCONFIGURED = 2


def run(step: Step, *, log_level: LogLevel | None = None) -> None:
    """Run ``step`` to its end; what is expected to go wrong becomes one sentence and an exit code."""
    settings = read_settings(log_level)
    with told_errors():
        uvloop.run(step(settings))


def read_settings(log_level: LogLevel | None = None) -> Settings:
    """The settings, and logging as they say; the process ends where they are wrong."""
    try:
        settings = Settings()
    except (ValidationError, SettingsError, UnicodeDecodeError) as error:
        stop("\n".join(setting_problems(error, Settings)), MISCONFIGURED)
    configure_logging(log_level or settings.log_level, settings.log_format, secrets=secret_values(settings))
    return settings


@contextmanager
def told_errors() -> Iterator[None]:
    """What is expected to go wrong becomes one sentence and an exit code."""
    try:
        yield
    except SongsAIError as error:
        stop(f"{type(error).__name__}: {error}", FAILED)


def offline_step(name: str) -> Any:  # noqa: ANN401 - a module
    """A module of ``training`` that needs scipy, which is not where the worker serves."""
    try:
        return import_module(f"training.{name}")
    except ModuleNotFoundError as error:
        stop(f"{error.name} is missing: pip install -r requirements-train.txt", MISCONFIGURED)


def stop(sentence: str, code: int = FAILED) -> NoReturn:
    """End the process with a sentence on what is wrong."""
    complaints.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def tell_all(found: Iterable[Any]) -> None:
    """Print sentences and tables."""
    for part in found:
        if isinstance(part, str):
            typer.echo(part)
        else:
            console.print(part)


def progress_bar(on: Console = console) -> Progress:
    """Bars, each with what is done and for how long."""
    rate = TextColumn("{task.completed:,.0f}")
    return Progress(TextColumn("{task.description}"), BarColumn(), rate, TimeElapsedColumn(), console=on)


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """Lines on what is done, and beneath them on a terminal the last one with the time since it began."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=complaints, transient=True, disable=not complaints.is_terminal) as progress:
        task = progress.add_task("")

        def tell(line: str) -> None:
            complaints.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
            progress.reset(task, description=line.partition(":")[0])

        yield tell
