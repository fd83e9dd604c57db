"""The command that shows the dashboard, over a worker of its own on made-up songs."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from commands.demo import N_MADE_UP, fill_catalogue, made_up_likes
from commands.running import run
from commands.screen import console, stop
from config.settings import Settings
from workers.runtime.consuming import prepare, running_consumers
from workers.runtime.http import serving_http
from workers.runtime.parts import embedded, open_parts
from workers.runtime.process import Signals

ROOT = Path(__file__).resolve().parent.parent
_GRACE_S = 5.0


def dashboard(
    songs: Annotated[int, typer.Option(min=20, max=100_000, help="How many songs are made up.")] = N_MADE_UP,
    members: Annotated[int, typer.Option(min=1, max=10_000, help="How many listeners like some of them.")] = 40,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the page, on this machine alone.")] = 8501,
    seed: Annotated[int, typer.Option(help="The same seed makes the same catalogue and listeners.")] = 7,
    python: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="The Python that Streamlit is installed for.")
    ] = Path(sys.executable),
) -> None:
    """Serve the dashboard, and a whole worker in this process for it to show: no server, no key; until Ctrl-C."""

    async def step(settings: Settings) -> None:
        with TemporaryDirectory(prefix="songs-ai-dashboard-") as directory:
            async with open_parts(embedded(settings, Path(directory))) as parts:
                await fill_catalogue(parts, (), seed, songs)
                await made_up_likes(parts, members, seed)
                signals = Signals()
                async with serving_http(parts, consuming=True):
                    await prepare(parts)
                    async with running_consumers(parts), _page(settings, python, port) as page:
                        await _until_the_end(signals, page)

    run(step, log_level="ERROR")


async def _until_the_end(signals: Signals, page: asyncio.subprocess.Process) -> None:
    if not await signals.sooner_than(_ended(page)):
        stop(f"the page ended with code {page.returncode}; is its port free (--port), and Streamlit installed?")


async def _ended(page: asyncio.subprocess.Process) -> None:
    await page.wait()


@asynccontextmanager
async def _page(settings: Settings, python: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """The page's process, which ends with the block; its own session, so that Ctrl-C comes to this process alone."""
    url = f"http://127.0.0.1:{settings.http_port}"
    page = await asyncio.create_subprocess_exec(
        str(python),
        *("-m", "streamlit", "run", "dashboard/app.py", "--server.address", "127.0.0.1", "--server.port", str(port)),
        env={**os.environ, "API_URL": url, "API_KEY": settings.api_key.get_secret_value()},
        cwd=ROOT,  # where Python finds the package
        stdout=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    console.print(f"the dashboard: [bold]http://127.0.0.1:{port}[/bold]   (its API: {url}; Ctrl-C ends both)")
    try:
        yield page
    finally:
        await _end(page)


async def _end(page: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        page.terminate()
    try:
        await asyncio.wait_for(page.wait(), _GRACE_S)
    except TimeoutError:
        page.kill()
        await page.wait()
