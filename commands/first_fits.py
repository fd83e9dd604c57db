"""Fits the first versions of a made-up site beside what serves it, so that there is a quality to show."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from commands.demo import made_up_likes
from commands.screen import say
from config.settings import Settings
from core.errors import SongsAIError
from workers.runtime.parts import Parts

N_LISTENERS = (150, 250, 400)
"""How many there are when each version is fitted: with every one there is more to learn from."""
BUDGET_S = 3.0
NICENESS = 10
_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("implicit", "scipy", "threadpoolctl")


def can_fit() -> bool:
    """Whether the packages that fit a model are installed, which serving needs not."""
    return all(find_spec(name) for name in _PACKAGES)


@asynccontextmanager
async def first_fits(parts: Parts, settings: Settings, n_members: int, seed: int) -> AsyncIterator[None]:
    """Within the block versions are fitted one by one; what is under way at its end is given up.

    ``settings``: with the database that ``parts`` are opened on.
    """
    fitting = asyncio.create_task(_fit_all(parts, settings, n_members, seed))
    try:
        yield
    finally:
        fitting.cancel()
        with suppress(asyncio.CancelledError):
            await fitting


async def _fit_all(parts: Parts, settings: Settings, n_members: int, seed: int) -> None:
    for place, n_listeners in enumerate(N_LISTENERS):
        if n_listeners > n_members:
            try:
                await made_up_likes(parts, n_listeners, seed)
            except SongsAIError as error:
                say(f"no more listeners could be made up, and Quality stays as it is: {error}")
                return
        if problem := await _fit(settings, place):
            say(f"no model could be fitted, and Quality stays as it is: {problem}")
            return
        say(f"fitted {place + 1} of {len(N_LISTENERS)} versions for the page Quality")


async def _fit(settings: Settings, seed: int) -> str:
    """Fit in a process of its own, which serving goes before; the last line of what it says where it fails."""
    options = ("fit", "--budget-s", str(BUDGET_S), "--seed", str(seed))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "main.py", *options),
        env={**os.environ, **_environment(settings)},
        cwd=_ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C comes to this process alone
    )
    try:
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _last_line(said.decode(errors="replace").splitlines()) if process.returncode else ""


def _environment(settings: Settings) -> dict[str, str]:
    """The same database, and nobody else's ears: a fit at hand tells no channel and no MLflow."""
    return {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "BROKER_URL": settings.broker_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "LOG_LEVEL": "ERROR",
        **dict.fromkeys(("MLFLOW_TRACKING_URI", "NOTICE_SLACK", "NOTICE_WEBHOOK", "NOTICE_SMTP_URL"), ""),
    }


def _last_line(lines: Sequence[str]) -> str:
    return next((line for line in reversed(lines) if line.strip()), "it says nothing")
