"""How ``commands.models`` is called: what can be typed, and the help on it."""

from typing import TYPE_CHECKING, Annotated

import typer

from commands.completion import one_of
from commands.listing import examples
from commands.usage.later import later

if TYPE_CHECKING:
    from commands import models as steps
else:
    steps = later("commands.models")

models = typer.Typer(no_args_is_help=True, help="Look at fitted versions; put another one in force.")

# As ``core.fitted_collaborative`` and ``core.catalogue_statistics`` call them.
KINDS = ("collaborative", "embedder")

Kind = Annotated[
    str,
    typer.Option(
        help="collaborative, or embedder: the statistics that vectors are made by.",
        autocompletion=one_of(*KINDS),
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


def fit(
    budget_s: Annotated[float, typer.Option(min=0, help="Seconds for choosing parameters, at about.")] = 120.0,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same model.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fit and tell, but keep nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fit the collaborative model on what members like and do, and put it in force if it is no worse than the last."""
    steps.fit(budget_s=budget_s, seed=seed, dry_run=dry_run, as_json=as_json)


@models.command("list", epilog=examples("models list", "models list --kind embedder --json"))
def list_versions(kind: Kind = KINDS[0], as_json: AsJson = False) -> None:
    """List the versions that are kept, newest first."""
    steps.list_versions(kind=kind, as_json=as_json)


@models.command(epilog=examples("models history", "models history --json"))
def history(kind: Kind = KINDS[0], as_json: AsJson = False) -> None:
    """Tell which version was put in force when, in whose place and why; the newest last."""
    steps.history(kind=kind, as_json=as_json)


def _kept_versions(ctx: typer.Context, incomplete: str) -> list[str]:
    return steps.kept_versions(ctx.params.get("kind") or KINDS[0], incomplete)


@models.command(epilog=examples("models promote 3f2a", "models promote 3f2a --why 'better with new songs'"))
def promote(
    version: Annotated[
        str, typer.Argument(help="The version, or how it begins, as `list` prints it.", autocompletion=_kept_versions)
    ],
    kind: Kind = KINDS[0],
    why: Annotated[str, typer.Option(help="Kept in the history.")] = "by hand",
    as_json: AsJson = False,
) -> None:
    """Put a version in force whatever its figures; workers follow within INDEX_REFRESH_S."""
    steps.promote(version=version, kind=kind, why=why, as_json=as_json)


@models.command(epilog=examples("models rollback", "models rollback --why 'complaints since noon' --json"))
def rollback(
    kind: Kind = KINDS[0],
    why: Annotated[str, typer.Option(help="Kept in the history.")] = "by hand",
    as_json: AsJson = False,
) -> None:
    """Put the version in force again that was before the one that is now; again: the one before that."""
    steps.rollback(kind=kind, why=why, as_json=as_json)
