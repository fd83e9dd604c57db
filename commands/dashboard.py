"""The command that shows the dashboard, over a worker of its own on made-up songs."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from commands.demo import fill_catalogue, made_up_likes
from commands.first_fits import N_LISTENERS, can_fit, first_fits
from commands.running import run
from commands.screen import console, say, stop, under_way
from config.settings import Settings
from workers.runtime.consuming import prepare, running_consumers
from workers.runtime.http import serving_http
from workers.runtime.parts import Parts, embedded, open_parts
from workers.runtime.process import Signals

ROOT = Path(__file__).resolve().parent.parent
_GRACE_S = 5.0
_HERE = "127.0.0.1"
_IS_MISSING = 9
_IS_THERE = f"import importlib.util, sys; sys.exit({_IS_MISSING} * (importlib.util.find_spec('streamlit') is None))"


def dashboard(*, songs: int, members: int, port: int, seed: int, python: Path) -> None:
    """Serve the dashboard, and a whole worker in this process for it to show: no server, no key; until Ctrl-C."""

    async def step(settings: Settings) -> None:
        await asyncio.to_thread(_check_ports, settings, port)
        await _check_streamlit(python)
        with TemporaryDirectory(prefix="songs-ai-dashboard-") as directory:
            on_a_file = embedded(settings, Path(directory))
            async with open_parts(on_a_file) as parts:
                await fill_catalogue(parts, (), seed, songs)
                await made_up_likes(parts, members, seed)
                signals = Signals()
                async with serving_http(parts, consuming=True):
                    with under_way("index"):
                        await prepare(parts)
                    async with (
                        running_consumers(parts),
                        _page(settings, python, port) as page,
                        _fits(parts, on_a_file, members, seed),
                    ):
                        await _until_the_end(signals, page)

    run(step, log_level="ERROR")


def _check_ports(settings: Settings, port: int) -> None:
    """What would stop it after the work of a minute stops it before; the process ends."""
    if settings.http_port == 0:
        stop("HTTP_PORT is 0, any free one, where the page would not find it: name one")
    with (
        _held(settings.http_host, settings.http_port, "the worker's API", f"HTTP_PORT={settings.http_port + 1}"),
        _held(_HERE, port, "the page", f"--port {port + 1} (make dashboard PORT={port + 1})"),
    ):
        pass


async def _check_streamlit(python: Path) -> None:
    looking = await asyncio.create_subprocess_exec(str(python), "-c", _IS_THERE)
    if await looking.wait() == _IS_MISSING:
        stop(f"Streamlit is missing for {python}: `make dashboard` installs it; --python names one that has it")


@contextmanager
def _held(host: str, port: int, what: str, other: str) -> Iterator[None]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.create_server(address[:2], family=family):
            yield
    except OSError as error:
        stop(f"{what} cannot be served on port {port} of {host}: {error.strerror}. Choose another: {other}")


@asynccontextmanager
async def _fits(parts: Parts, settings: Settings, members: int, seed: int) -> AsyncIterator[None]:
    """Fit models in the background, where that can be."""
    if not can_fit():
        say("no model is fitted, for want of packages: for figures on the page Quality, make install WITH=train")
        yield
        return
    console.print(f"{len(N_LISTENERS)} models are fitted in the background, for the page Quality: about half a minute")
    async with first_fits(parts, settings, members, seed):
        yield


async def _until_the_end(signals: Signals, page: asyncio.subprocess.Process) -> None:
    if not await signals.sooner_than(_ended(page)):
        stop(f"the page ended with code {page.returncode}; is its port free (--port), and Streamlit installed?")


async def _ended(page: asyncio.subprocess.Process) -> None:
    await page.wait()


@asynccontextmanager
async def _page(settings: Settings, python: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """The page's process, which ends with the block; its own session, so that Ctrl-C comes to this process alone."""
    url = f"http://{_HERE}:{settings.http_port}"
    page = await asyncio.create_subprocess_exec(
        str(python),
        *("-m", "streamlit", "run", "dashboard/app.py", "--server.address", _HERE, "--server.port", str(port)),
        env={
            **os.environ,
            "API_URL": url,
            "API_KEY": settings.api_key.get_secret_value(),
            "MADE_UP_FITS": "under_way" if can_fit() else "missing",
        },
        cwd=ROOT,  # where Python finds the package
        stdout=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    console.print(f"the dashboard: [bold]http://{_HERE}:{port}[/bold]   (its API: {url}; Ctrl-C ends both)")
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
