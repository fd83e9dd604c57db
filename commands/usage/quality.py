"""How ``commands.quality`` is called: what can be typed, and the help on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.completion import one_of
from commands.usage.later import later

if TYPE_CHECKING:
    from commands import quality as steps
else:
    steps = later("commands.quality")

Items = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="CSV: item_id and any text and numeric columns.")
]
Budget = Annotated[float, typer.Option(min=0, help="Seconds for choosing parameters, at about.")]


def rank(
    train: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="CSV: user_id,item_id[,weight,occurred_at].")
    ],
    queries: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="CSV: query_id,item_id[,weight].")],
    out: Annotated[Path, typer.Option(dir_okay=False, help="CSV to write: query_id,rank,item_id,score.")],
    items: Items = None,
    n: Annotated[int, typer.Option(min=1, help="Items per query.")] = 20,
    budget_s: Budget = 120.0,
    seed: Annotated[int, typer.Option(help="The same seed and files give the same lists.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="How many were ranked, and what was chosen, as JSON.")
    ] = False,
) -> None:
    """Fit collaborative models on interactions and rank items for lists of liked ones; all from files."""
    steps.rank(train=train, queries=queries, out=out, items=items, n=n, budget_s=budget_s, seed=seed, as_json=as_json)


def evaluate(
    dataset: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="CSV (or tab-separated): user_id,item_id[,weight,occurred_at]; or a directory with "
            "interactions.csv and perhaps items.csv.",
        ),
    ],
    protocol: Annotated[
        str,
        typer.Option(
            help="What is held out: known, some items of each user; new, users whole; cold, items whole (needs items); "
            "time, the last fifth.",
            autocompletion=one_of("known", "new", "cold", "time"),
        ),
    ] = "new",
    items: Items = None,
    k: Annotated[int, typer.Option(min=1, help="Length of the lists.")] = 20,
    budget_s: Budget = 120.0,
    seed: Annotated[int, typer.Option(help="The same seed and files give the same split and figures.")] = 0,
    json_out: Annotated[
        Path | None,
        typer.Option("--json", dir_okay=False, help="Write the figures here too; -: on standard output alone."),
    ] = None,
    llm: Annotated[bool, typer.Option("--llm", help="Measure instead what the LLM's order is worth.")] = False,
    users: Annotated[int, typer.Option(min=1, help="With --llm: listeners that it is asked about.")] = 100,
    max_usd: Annotated[float, typer.Option(min=0, help="With --llm: what it may cost without --yes.")] = 1.0,
    yes: Annotated[bool, typer.Option("--yes", help="With --llm: ask whatever it costs.")] = False,
    answers: Annotated[
        Path, typer.Option(dir_okay=False, help="With --llm: where answers are kept, so that none is paid twice.")
    ] = Path("llm-answers.db"),
) -> None:
    """Measure the collaborative models on a data set, baselines beside them; or the LLM beside the ranking."""
    steps.evaluate(
        dataset=dataset,
        protocol=protocol,
        items=items,
        k=k,
        budget_s=budget_s,
        seed=seed,
        json_out=json_out,
        llm=llm,
        users=users,
        max_usd=max_usd,
        yes=yes,
        answers=answers,
    )
