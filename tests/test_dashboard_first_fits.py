"""Fitting the first versions of a made-up site, beside what serves it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from commands import dashboard as dashboard_command
from commands import first_fits as fits
from commands.demo import fill_catalogue
from commands.first_fits import can_fit, first_fits
from config.settings import Settings
from core.fitted_collaborative import MODEL_KIND
from tests.support.command import run_here
from tests.support.private_servers import free_port
from tests.support.waiting import until
from workers.runtime.parts import Parts, embedded, open_parts
from workers.runtime.process import Signals

N_SONGS, N_MEMBERS, SEED = 400, 40, 7


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return embedded(Settings(_env_file=None), tmp_path)


@pytest.fixture
async def parts(settings: Settings) -> AsyncIterator[Parts]:
    async with open_parts(settings) as made:
        await fill_catalogue(made, (), SEED, N_SONGS)
        yield made


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the terminal is told."""
    sentences: list[str] = []
    monkeypatch.setattr(fits, "say", sentences.append)
    monkeypatch.setattr(fits, "BUDGET_S", 0.0)
    monkeypatch.setattr(fits, "NICENESS", 0)  # where many tests run side by side it would wait for all of them
    return sentences


async def are_told(said: list[str], n: int) -> None:
    async def are_so_many() -> bool:
        return len(said) == n

    await until(are_so_many, within_s=90)


async def test_versions_are_fitted_one_by_one_on_ever_more_listeners(
    parts: Parts, settings: Settings, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fits, "N_LISTENERS", (130, 160))
    # Whoever runs it may have channels and an MLflow of their own, for which made-up models are no news.
    monkeypatch.setenv("NOTICE_WEBHOOK", f"http://127.0.0.1:{free_port()}/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://")
    async with first_fits(parts, settings, N_MEMBERS, SEED):
        await are_told(said, 2)
    assert said == [f"fitted {n} of 2 versions for the page Quality" for n in (1, 2)]
    versions = await parts.models.versions(MODEL_KIND)
    assert len(versions) == 2
    assert all(each.metrics for each in versions)
    assert await parts.models.active_version(MODEL_KIND) in {each.version for each in versions}


async def test_why_no_model_could_be_fitted_is_told_and_no_more_are_tried(
    parts: Parts, settings: Settings, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fits, "N_LISTENERS", (20, 130))
    async with first_fits(parts, settings, 3, SEED):
        await are_told(said, 1)
    assert "no model could be fitted" in said[0]
    assert "too few listeners to fit on: 20 have 5 items or more, 100 are needed" in said[0]
    assert not await parts.models.versions(MODEL_KIND)


async def test_a_fit_that_is_under_way_ends_with_the_site(
    parts: Parts, settings: Settings, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def overheard(*command: str, **options: Any) -> asyncio.subprocess.Process:
        started.append(await start(*command, **options))
        return started[-1]

    monkeypatch.setattr(fits, "N_LISTENERS", (1,))
    monkeypatch.setattr(asyncio, "create_subprocess_exec", overheard)

    async def is_under_way() -> bool:
        return bool(started)

    async with first_fits(parts, settings, N_MEMBERS, SEED):
        await until(is_under_way)
    assert [process.returncode for process in started] == [-9]
    assert said == []


# --- what the page is told of it ---


class NoSignals(Signals):
    """None are taken in a thread."""

    def __init__(self) -> None:
        self._arrived = asyncio.Queue()


@pytest.mark.parametrize(("is_missing", "told"), [(False, "under_way"), (True, "missing")])
async def test_the_page_is_told_whether_models_are_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_missing: bool, told: str
) -> None:
    assert can_fit()
    if is_missing:
        monkeypatch.setattr(fits, "_PACKAGES", ("scipy", "no_such_package_anywhere"))
    page, noted = tmp_path / "python", tmp_path / "noted"
    page.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "$MADE_UP_FITS" > {noted}\nexit 3\n', encoding="utf-8")
    page.chmod(0o700)
    small = ("dashboard", "--songs", "20", "--members", "1", "--port", str(free_port()), "--python", str(page))
    monkeypatch.setattr(dashboard_command, "Signals", NoSignals)
    outcome = await run_here(*small, environment={"HTTP_PORT": str(free_port())})
    assert "the page ended with code 3" in outcome.err
    assert noted.read_text(encoding="utf-8").strip() == told
    assert ("make install WITH=train" in outcome.out) == is_missing
    assert ("models are fitted in the background" in outcome.out) != is_missing
