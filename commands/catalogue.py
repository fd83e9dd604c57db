"""The commands that fill the catalogue and its vectors, and say how they are searched."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from commands.running import complaints, console, progress_bar, run
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
from training.embed import Fitting, embed_catalogue, fit_and_embed
from training.ingest import ingest as ingest_whole
from training.ingest import layouts_of
from workers.runtime.parts import Parts, open_parts

N_PROBLEMS_SHOWN = 20

_WHY_IN_MEMORY = {
    "exact": "since a scan of so few is as fast",
    "fastscan": "since codes of all items are scanned sooner than the items themselves",
    "fastscan_lists": "since the items lie in clusters, of which a search looks at a few",
}


def migrate(
    revision: Annotated[
        str, typer.Option(help="Where to go, such as 0009; base undoes everything. By default all, or with --down one.")
    ] = "",
    down: Annotated[bool, typer.Option("--down", help="Go back to the revision instead of forward.")] = False,
    lose_data: Annotated[
        bool, typer.Option("--lose-data", help="Go back though older tables have no place for some data.")
    ] = False,
) -> None:
    """Create or change the worker's own tables; the backend's are never touched."""

    async def step(settings: Settings) -> None:
        from services import migrations  # noqa: PLC0415 - Alembic is slow to import

        url = parse_url(settings.database_url.get_secret_value(), ca_file=settings.database_ca_file)
        if down:
            await asyncio.to_thread(migrations.downgrade, url, revision or "-1", lose_data=lose_data)
        else:
            await asyncio.to_thread(migrations.upgrade, url, revision or "head")

    run(step)


def ingest(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            exists=True,
            dir_okay=False,
            help="CSV or Parquet in a layout of the profile: items first, then likes.",
        ),
    ],
    mapping: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="TOML that says what their columns are, in place of the profile."
        ),
    ] = None,
) -> None:
    """Fill a catalogue that is ours from files; where a backend owns the table of items it is left alone."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            found = mapping_of(mapping)
            for file in files:
                await ingest_file(parts, file, found)

    run(step)


def embed(
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit the statistics of the catalogue anew, and embed all of it by them.")
    ] = False,
) -> None:
    """Bring the stored vectors up to date with the catalogue: what is new or changed.

    All of it the first time, and where the catalogue has doubled or halved since its statistics were fitted.
    """

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            await parts.catalogue.check()
            await embed_items(parts, refit=refit)

    run(step)


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


async def ingest_file(parts: Parts, file: Path, mapping: SourceMapping | None = None) -> None:
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
        complaints.print(str(problem), style="yellow", markup=False, highlight=False)
    if report.n_bad_rows > N_PROBLEMS_SHOWN:
        complaints.print(f"... and {report.n_bad_rows - N_PROBLEMS_SHOWN} more", style="yellow")
    console.print(
        f"{report.n_rows} rows: {report.n_inserted} {'likes' if report.is_of_likes else items} new, "
        f"{report.n_updated} changed, "
        f"{report.n_unchanged} as they were; {report.n_bad_rows} rows left out"
    )


async def embed_items(parts: Parts, *, refit: bool = False) -> None:
    """Embed what is new or changed, and say how much that was."""
    text_columns = parts.profile.item.text
    with progress_bar() as progress:
        task = progress.add_task("embeddings", total=None)
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
    console.print(
        f"{report.n_items} items: {report.n_embedded} embedded, {report.n_unchanged} as they were, "
        f"{report.n_deleted} vectors deleted; {report.n_without_content} without content"
    )
    if report.gone_ids:
        await _withdraw(parts, frozenset(report.gone_ids))


async def _withdraw(parts: Parts, item_ids: frozenset[int]) -> None:
    """Of what a worker finds gone it does so by itself, but here the vectors that tell it are deleted."""
    try:
        n_documents = await parts.shelves.withdraw_from_all(item_ids)
    except DependencyUnavailable as error:
        complaints.print(f"results may still hold {len(item_ids)} items that are gone: {error}", style="yellow")
    else:
        if n_documents:
            console.print(f"{n_documents} results no longer hold items that are gone")


def retrieval() -> None:
    """Say where candidates are searched for, how, and why; brings what is searched up to date."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            await parts.catalogue.check()
            await parts.index.load()
            typer.echo(_searched_by(parts.index.current()))

    run(step)


def _searched_by(index: MeasuredIndex | DatabaseItemIndex) -> str:
    """What ``retrieval`` prints."""
    where = "database" if isinstance(index, DatabaseItemIndex) else "memory"
    why = index.why if isinstance(index, DatabaseItemIndex) else _WHY_IN_MEMORY[index.kind]
    return "\n".join(
        (
            f"RETRIEVAL={where}: {index.kind}, {why}",
            f"{len(index):,} items of {index.embedder_name}, recall@200 on a sample {index.recall:.3f}",
        )
    )
