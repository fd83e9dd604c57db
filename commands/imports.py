"""The commands that fill a catalogue that is ours from other services and databases."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path

import typer
from sqlalchemy.engine import URL

from commands.catalogue import mapped_profile, mapping_of
from commands.running import run
from commands.screen import MISCONFIGURED, complain, for_machines, progress_bar, say, stop, tell_json
from config.settings import Settings
from core.errors import ConfigurationError
from core.ports.filling import RowSource
from services.clock import SystemClock
from services.database import Database, open_database, parse_url
from services.import_cursors import SqlImportCursors
from services.ingest_store import SqlIngestStore
from services.list_store import SqlListStore
from services.other_catalogue import TableSource, list_source
from services.paced_calls import PacedCalls
from training.imports import (
    Importing,
    ImportReport,
    copying_layouts,
    import_items,
    import_likes,
    import_lists,
    layout_of,
)
from workers.runtime.parts import Parts, open_parts

_MAX_NAME_CHARS = 64


def spotify(
    *, playlist: str, search: str, limit: int | None, mapping: Path | None, afresh: bool, as_json: bool
) -> None:
    """Import tracks of a playlist or a search; needs SPOTIFY_CLIENT_ID and SPOTIFY_CLIENT_SECRET."""
    if bool(playlist) == bool(search):
        stop("give either --playlist or --search", MISCONFIGURED)

    async def step(settings: Settings) -> None:
        from services.spotify import Spotify  # noqa: PLC0415 - seldom asked for
        from services.spotify_tracks import SpotifySource  # noqa: PLC0415

        calls = _calls("Spotify", settings)
        client = Spotify(settings.spotify_client_id, settings.spotify_client_secret, calls, _tell)
        source = SpotifySource(client, playlist=playlist, query=search)
        report = await _import_service(settings, "spotify", source, mapping, limit=limit, afresh=afresh)
        if as_json:
            tell_json([report])

    with for_machines(as_json):
        run(step)


def rawg(*, search: str, limit: int | None, mapping: Path | None, afresh: bool, as_json: bool) -> None:
    """Import games, those first that most people have; needs RAWG_API_KEY."""

    async def step(settings: Settings) -> None:
        import httpx  # noqa: PLC0415 - seldom asked for

        from services.rawg import RawgSource  # noqa: PLC0415

        async with httpx.AsyncClient() as http:
            source = RawgSource(http, settings.rawg_api_key, _calls("RAWG", settings), query=search)
            report = await _import_service(settings, "rawg", source, mapping, limit=limit, afresh=afresh)
        if as_json:
            tell_json([report])

    with for_machines(as_json):
        run(step)


def backend(*, url: str, name: str, afresh: bool, as_json: bool) -> None:
    """Copy items, likes and lists from a database with the tables of the catalogue profile; it is only read."""
    if len(name) > _MAX_NAME_CHARS:
        stop(f"--name is longer than {_MAX_NAME_CHARS} characters", MISCONFIGURED)
    url = typer.prompt("URL", hide_input=True) if url == "-" else url

    async def step(settings: Settings) -> None:
        source = name or _name_of(_checked(url))
        async with open_parts(settings) as parts, _open_other(url, parts) as other:
            reports = [report async for report in _copied(parts, other, source, afresh=afresh)]
        if as_json:
            tell_json(reports)

    with for_machines(as_json):
        run(step)


async def _import_service(
    settings: Settings, name: str, source: RowSource, mapping: Path | None, *, limit: int | None, afresh: bool
) -> dict[str, object]:
    async with open_parts(settings) as parts:
        profile = mapped_profile(parts.profile, mapping_of(mapping))
        layout, store = layout_of(profile, name), SqlIngestStore(parts.database, profile)
        items = profile.words_in("en").items
        return await _shown(
            parts, source, items, lambda importing: import_items(importing, layout, store), limit=limit, afresh=afresh
        )


async def _copied(parts: Parts, other: Database, source: str, *, afresh: bool) -> AsyncIterator[dict[str, object]]:
    profile, store = parts.profile, SqlIngestStore(parts.database, parts.profile)
    items, likes = copying_layouts(profile, source)
    optional = [profile.item.active] if profile.item.active else []
    tables = TableSource(other, source, profile.item.table, items.needed, optional=optional)
    words = profile.words_in("en").items
    yield await _shown(parts, tables, words, lambda importing: import_items(importing, items, store), afresh=afresh)
    liked = TableSource(other, source, profile.likes.table, likes.needed)
    yield await _shown(parts, liked, "likes", lambda importing: import_likes(importing, likes, store), afresh=afresh)
    if listed := list_source(other, source, profile):
        lists = SqlListStore(parts.database, profile)
        yield await _shown(
            parts,
            listed,
            f"{words} of lists",
            lambda importing: import_lists(importing, profile, source, store, lists),
            afresh=afresh,
        )


async def _shown(
    parts: Parts,
    source: RowSource,
    what: str,
    step: Callable[[Importing], Awaitable[ImportReport]],
    *,
    limit: int | None = None,
    afresh: bool,
) -> dict[str, object]:
    """Take the step with a bar of progress, and say what became of it; the same for machines."""
    with progress_bar() as progress:
        task = progress.add_task(what, total=limit, visible=False)
        importing = Importing(
            source=source,
            cursors=SqlImportCursors(parts.database),
            n_rows=limit,
            afresh=afresh,
            progress=lambda n: progress.update(task, completed=n, visible=True),
        )
        report = await step(importing)
    _tell_all(report.problems)
    went_on = ", going on from where it was" if report.went_on else ""
    say(
        f"{report.n_rows} rows{went_on}: {report.n_inserted} {what} new, {report.n_updated} changed, "
        f"{report.n_unchanged} as they were; {report.n_left_out} rows left out"
    )
    return {
        "source": source.key,
        "of": what,
        "went_on": report.went_on,
        "n_rows": report.n_rows,
        "n_new": report.n_inserted,
        "n_changed": report.n_updated,
        "n_unchanged": report.n_unchanged,
        "n_left_out": report.n_left_out,
        "problems": list(report.problems),
    }


def _calls(name: str, settings: Settings) -> PacedCalls:
    return PacedCalls(name, SystemClock(), per_s=settings.import_calls_per_s)


def _tell(sentence: str) -> None:
    complain(sentence, "yellow")


def _tell_all(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        _tell(sentence)


# --- the other database ---


def _checked(url: str, ca_file: str = "") -> URL:
    try:
        return parse_url(url, ca_file=ca_file)
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace("DATABASE_URL", "--from")) from None


def _name_of(url: URL) -> str:
    where = f"{url.host or ''}:{url.port or ''}/{url.database or ''}"
    return f"backend-{blake2b(where.encode(), digest_size=8).hexdigest()}"


def _need_file(url: URL) -> None:
    """SQLite would make an empty one where there is none."""
    if url.drivername == "sqlite" and "uri" not in url.query and not Path(url.database or "").is_file():
        raise ConfigurationError(f"--from: there is no file {url.database!r}; name the one to read")


@asynccontextmanager
async def _open_other(url: str, parts: Parts) -> AsyncIterator[Database]:
    settings = parts.settings
    ca_file = settings.database_ca_file
    other, ours = _checked(url, ca_file), parts.database.sync_url
    _need_file(other)
    if (other.host, other.port, other.database) == (ours.host, ours.port, ours.database):
        raise ConfigurationError("--from is the database of this site itself")
    async with open_database(url, pool_size=2, timeout_s=settings.dependency_timeout_s, ca_file=ca_file) as database:
        yield database
