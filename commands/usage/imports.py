"""How ``commands.imports`` is called: what can be typed, and the help on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.listing import examples
from commands.usage.later import later

if TYPE_CHECKING:
    from commands import imports as steps
else:
    steps = later("commands.imports")

imports = typer.Typer(
    no_args_is_help=True,
    help="Fill a catalogue that is ours from a service or another database; what broke off is gone on with.",
)

Limit = Annotated[int | None, typer.Option(min=1, help="How many to import at the most, this time.")]
Afresh = Annotated[bool, typer.Option("--afresh", help="Begin anew, whatever was read before.")]
AsJson = Annotated[bool, typer.Option("--json", help="What became of it as JSON, on standard output alone.")]
Mapping = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="TOML that says what becomes of what the service has."),
]


@imports.command(
    epilog=examples(
        "import spotify --playlist 37i9dQZF1DX9tPFwDMOaN1", "import spotify --search 'city pop' --limit 200 --json"
    )
)
def spotify(
    playlist: Annotated[str, typer.Option(metavar="ID", help="A playlist that anybody may read.")] = "",
    search: Annotated[str, typer.Option(metavar="QUERY", help="What Spotify's search finds, a thousand at most.")] = "",
    limit: Limit = None,
    mapping: Mapping = None,
    afresh: Afresh = False,
    as_json: AsJson = False,
) -> None:
    """Import tracks of a playlist or a search; needs SPOTIFY_CLIENT_ID and SPOTIFY_CLIENT_SECRET."""
    steps.spotify(playlist=playlist, search=search, limit=limit, mapping=mapping, afresh=afresh, as_json=as_json)


@imports.command(epilog=examples("import rawg --limit 1000", "import rawg --search zelda"))
def rawg(
    search: Annotated[str, typer.Option(metavar="QUERY", help="Only games that RAWG's search finds.")] = "",
    limit: Limit = None,
    mapping: Mapping = None,
    afresh: Afresh = False,
    as_json: AsJson = False,
) -> None:
    """Import games, those first that most people have; needs RAWG_API_KEY."""
    steps.rawg(search=search, limit=limit, mapping=mapping, afresh=afresh, as_json=as_json)


@imports.command(
    epilog=examples("import backend --from -", "import backend --from mysql://reader@db.example/music --name main")
)
def backend(
    url: Annotated[str, typer.Option("--from", metavar="URL", help="The other database; -: it is asked for.")],
    name: Annotated[str, typer.Option(help="What its ids are known under; as a rule host and database say.")] = "",
    afresh: Afresh = False,
    as_json: AsJson = False,
) -> None:
    """Copy items, likes and lists from a database with the tables of the catalogue profile; it is only read."""
    steps.backend(url=url, name=name, afresh=afresh, as_json=as_json)
