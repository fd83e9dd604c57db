"""The commands that fill the catalogue and its vectors, and say how they are searched."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from commands.running import run
from commands.screen import complain, for_machines, progress_bar, say, tell_json, under_way
from config.catalogue_profile import CatalogueProfile
from config.settings import Settings
from config.source_files import SourceMapping, load_mapping
from core.errors import ConfigurationError, DependencyUnavailable
from services.database import parse_url
from services.database_index import DatabaseItemIndex
from services.fitted_embedder import FittedEmbedder
from services.former_embeddings import SqlFormerEmbeddings
from services.ingest_store import SqlIngestStore
from services.overlaid_index import MeasuredIndex
from training.embed import EmbedReport, Fitting, embed_catalogue, fit_and_embed
from training.ingest import IngestReport, layouts_of
from training.ingest import ingest as ingest_whole
from workers.runtime.parts import Parts, open_parts

N_PROBLEMS_SHOWN = 20

_WHY_IN_MEMORY = {
    "exact": "since a scan of so few is as fast",
    "fastscan": "since codes of all items are scanned sooner than the items themselves",
    "fastscan_lists": "since the items lie in clusters, of which a search looks at a few",
}


def migrate(*, revision: str, down: bool, lose_data: bool, as_json: bool) -> None:
    """Create or change the worker's own tables; the backend's are never touched."""

    async def step(settings: Settings) -> None:
        from services import migrations  # noqa: PLC0415 - Alembic is slow to import

        url = parse_url(settings.database_url.get_secret_value(), ca_file=settings.database_ca_file)
        before = await asyncio.to_thread(migrations.current, url) if as_json else None
        with steps_shown() as shown:
            if down:
                there = revision or "-1"
                await asyncio.to_thread(migrations.downgrade, url, there, lose_data=lose_data, on_step=shown)
            else:
                await asyncio.to_thread(migrations.upgrade, url, revision or "head", on_step=shown)
        if as_json:
            tell_json({"before": before, "after": await asyncio.to_thread(migrations.current, url)})

    run(step)


@contextmanager
def steps_shown() -> Iterator[Callable[[str, int, int], None]]:
    """A bar of the steps of a migration, which is there from the first one on."""
    with progress_bar() as progress:
        task = progress.add_task("migrations", total=None, visible=False)

        def show(revision: str, done: int, total: int) -> None:
            progress.update(task, description=f"revision {revision}", completed=done, total=total, visible=True)

        yield show


def ingest(*, files: list[Path], mapping: Path | None, as_json: bool) -> None:
    """Fill a catalogue that is ours from files; where a backend owns the table of items it is left alone."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            found = mapping_of(mapping)
            reports = [(file, await ingest_file(parts, file, found)) for file in files]
        if as_json:
            tell_json([_ingested(file, report) for file, report in reports])

    with for_machines(as_json):
        run(step)


def _ingested(file: Path, report: IngestReport) -> dict[str, object]:
    return {
        "file": str(file),
        "of": "likes" if report.is_of_likes else "items",
        "n_rows": report.n_rows,
        "n_new": report.n_inserted,
        "n_changed": report.n_updated,
        "n_unchanged": report.n_unchanged,
        "n_left_out": report.n_bad_rows,
        "problems": [str(each) for each in report.problems],
    }


def embed(*, refit: bool, as_json: bool) -> None:
    """Bring the stored vectors up to date with the catalogue: what is new or changed."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            await parts.catalogue.check()
            report = await embed_items(parts, refit=refit)
        if as_json:
            tell_json(_embedded(report))

    with for_machines(as_json):
        run(step)


def _embedded(report: EmbedReport) -> dict[str, int]:
    return {
        "n_items": report.n_items,
        "n_embedded": report.n_embedded,
        "n_unchanged": report.n_unchanged,
        "n_deleted": report.n_deleted,
        "n_without_content": report.n_without_content,
    }


def mapping_of(path: Path | None) -> SourceMapping | None:
    """The mapping file at ``path``, if any. Raises ``ConfigurationError``."""
    try:
        return load_mapping(path) if path else None
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def mapped_profile(profile: CatalogueProfile, mapping: SourceMapping | None) -> CatalogueProfile:
    """``profile`` with the files of ``mapping``. Raises ``ConfigurationError`` where its tables do not hold them."""
    try:
        return profile.with_mapping(mapping) if mapping else profile
    except ValueError as error:
        raise ConfigurationError(f"the mapping: {error}") from error


async def ingest_file(parts: Parts, file: Path, mapping: SourceMapping | None = None) -> IngestReport:
    """Take in what ``file`` holds, and say what became of it."""
    store = SqlIngestStore(parts.database, mapped_profile(parts.profile, mapping))
    items = parts.profile.words_in("en").items
    with progress_bar() as progress:
        # Shown with the first rows: a refusal comes without an empty bar.
        task = progress.add_task(items, total=None, visible=False)
        report = await ingest_whole(
            file,
            store,
            layouts_of(parts.profile, mapping),
            lambda done, total: progress.update(task, completed=done, total=total, visible=True),
        )
    for problem in report.problems[:N_PROBLEMS_SHOWN]:
        complain(str(problem), "yellow")
    if report.n_bad_rows > N_PROBLEMS_SHOWN:
        complain(f"... and {report.n_bad_rows - N_PROBLEMS_SHOWN} more", "yellow")
    say(
        f"{report.n_rows} rows: {report.n_inserted} {'likes' if report.is_of_likes else items} new, "
        f"{report.n_updated} changed, "
        f"{report.n_unchanged} as they were; {report.n_bad_rows} rows left out"
    )
    return report


async def n_items(parts: Parts) -> int:
    """How many there are to go through, for a bar."""
    return len((await parts.catalogue.mark()).active_ids)


async def embed_items(parts: Parts, *, refit: bool = False) -> EmbedReport:
    """Embed what is new or changed, and say how much that was."""
    text_columns = parts.profile.item.text
    with progress_bar() as progress:
        task = progress.add_task("embeddings", total=None if progress.disable else await n_items(parts))
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
    say(
        f"{report.n_items} items: {report.n_embedded} embedded, {report.n_unchanged} as they were, "
        f"{report.n_deleted} vectors deleted; {report.n_without_content} without content"
    )
    if report.gone_ids:
        await _withdraw(parts, frozenset(report.gone_ids))
    return report


async def _withdraw(parts: Parts, item_ids: frozenset[int]) -> None:
    """Of what a worker finds gone it does so by itself, but here the vectors that tell it are deleted."""
    try:
        n_documents = await parts.shelves.withdraw_from_all(item_ids)
    except DependencyUnavailable as error:
        complain(f"results may still hold {len(item_ids)} items that are gone: {error}", "yellow")
    else:
        if n_documents:
            say(f"{n_documents} results no longer hold items that are gone")


def retrieval(*, as_json: bool) -> None:
    """Say where candidates are searched for, how, and why; brings what is searched up to date."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            await parts.catalogue.check()
            with under_way("index"):
                await parts.index.load()
            index = parts.index.current()
        where = "database" if isinstance(index, DatabaseItemIndex) else "memory"
        why = index.why if isinstance(index, DatabaseItemIndex) else _WHY_IN_MEMORY[index.kind]
        if as_json:
            tell_json(_searched_by(index, where, why))
            return
        say(f"RETRIEVAL={where}: {index.kind}, {why}")
        say(f"{len(index):,} items of {index.embedder_name}, recall@200 on a sample {index.recall:.3f}")

    run(step)


def _searched_by(index: MeasuredIndex | DatabaseItemIndex, where: str, why: str) -> dict[str, object]:
    return {
        "retrieval": where,
        "kind": index.kind,
        "why": why,
        "n_items": len(index),
        "embedder": index.embedder_name,
        "recall_at_200": index.recall,
    }
