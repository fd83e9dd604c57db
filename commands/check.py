"""The command ``check``: are the data what they must be? Of a file before ``ingest``, or of a site before ``fit``."""

import json
from pathlib import Path

import typer

from commands.catalogue import n_items
from commands.running import run
from commands.screen import FAILED, progress_bar, tell_all, tell_json
from config.settings import Settings
from core.data_checks import Limits
from core.data_checks import check as check_figures
from core.data_figures import DataFigures
from core.fitted_collaborative import MODEL_KIND
from models.notice import Notice, NoticeKind
from services.interaction_log import SqlInteractionLog
from services.orphan_count import SqlOrphanCount
from training.data_checks import figures_of_catalogue, figures_of_file, table_of, with_log
from workers.runtime.parts import Parts, open_parts


def check(*, file: Path | None, as_json: bool) -> None:
    """Check a file before it is ingested, or a site's data before they are fitted on."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            before = await last_figures(parts)
            figures = await _figures(parts, file, before)
            report = check_figures(figures, limits_of(settings), before)
            if report.problem:
                text = f"{file.name}: {report.problem}" if file else report.problem
                await parts.notices.tell(Notice(kind=NoticeKind.CHECK_FAILED, text=text))
        if as_json:
            tell_json({**report.document(), "figures": json.loads(figures.to_json())})
        else:
            tell_all(table_of(report))
        if report.failed:
            raise typer.Exit(FAILED)

    run(step)


async def _figures(parts: Parts, file: Path | None, before: DataFigures | None) -> DataFigures:
    with progress_bar() as progress:
        task = progress.add_task("rows" if file else "items", total=None)

        def show(n: int) -> None:
            progress.update(task, completed=n)

        if file:
            return figures_of_file(file, parts.profile, before, show)
        await parts.catalogue.check()
        orphans = SqlOrphanCount(parts.database, parts.profile)
        progress.update(task, total=None if progress.disable else await n_items(parts))
        figures = await figures_of_catalogue(parts.catalogue, parts.profile, orphans, before, show)
        progress.reset(task, description="interactions", total=None)
        return await with_log(figures, SqlInteractionLog(parts.database, parts.profile), before, show)


async def last_figures(parts: Parts) -> DataFigures | None:
    """Of the data of the version in force; None where there is none, or nothing of it was kept."""
    version = await parts.models.active_version(MODEL_KIND)
    origin = await parts.models.origin(MODEL_KIND, version) if version else None
    return DataFigures.from_json(origin.data_figures) if origin else None


def limits_of(settings: Settings) -> Limits:
    """What the settings say."""
    return Limits(
        bad_rows=settings.check_bad_rows,
        orphaned=settings.check_orphaned,
        missing=settings.check_missing,
        drift=settings.check_drift_psi,
    )
