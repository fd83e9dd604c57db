"""All commands: what each is for in a line, how it is called, where it stands, and what an interruption leaves.

Nothing else is imported to show it. How a command is called is in a module of ``commands.usage``, which is imported for
its help; what it does is in one of ``commands``, which takes a second to import, and is once the command runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

PROGRAM = "python main.py"


def examples(*lines: str) -> str:
    """What stands beneath a command's help: each line after the program's name."""
    return "\n\n".join(("Examples:", *(f"{PROGRAM} {line}" for line in lines)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A command, or a group of them; ``place`` is ``module:name`` in ``commands.usage``, a Typer or a function.

    ``interrupted`` says what Ctrl-C leaves, and how to go on.
    """

    line: str
    place: str
    examples: tuple[str, ...] = ()
    interrupted: str = "What was done is kept; the same command can be run again."


_LOOKED = "Nothing was changed."
_SERVED = "What was under way is given back to the queue; start it again at any time."

PANELS: Mapping[str, Mapping[str, Listed]] = {
    "Start here": {
        "demo": Listed(
            line="Run the whole worker in this process: no server, no key",
            place="demo:demo",
            examples=("demo", "demo --tracks songs.csv --locale ko", "demo --members 100 --shown 5"),
            interrupted="Nothing is kept: a demonstration is made anew each time.",
        ),
        "dashboard": Listed(
            line="Serve the dashboard over a worker of its own",
            place="dashboard:dashboard",
            examples=("dashboard", "dashboard --songs 500 --port 8600"),
            interrupted="Nothing is kept: its songs are made up anew each time.",
        ),
        "demo-catalogue": Listed(
            line="Fill an empty database with made-up songs and listeners",
            place="demo_site:demo_catalogue",
            examples=("demo-catalogue", "demo-catalogue --songs 500 --members 20"),
            interrupted="What was made up is kept; the same command goes on where it broke off.",
        ),
        "first-recommendation": Listed(
            line="Show one listener's songs, by a running worker; needs RabbitMQ",
            place="demo_site:first_recommendation",
            examples=("first-recommendation", "first-recommendation --timeout-s 30"),
            interrupted="The job stays published: a worker does it all the same.",
        ),
    },
    "Serve": {
        "worker": Listed(
            line="Consume jobs, and serve /health and /metrics",
            place="serve:worker",
            examples=("worker", "--debug worker"),
            interrupted=_SERVED,
        ),
        "api": Listed(
            line="Serve HTTP alone, without consuming jobs", place="serve:api", examples=("api",), interrupted=_SERVED
        ),
    },
    "Jobs": {
        "publish": Listed(
            line="Publish a job as the backend does",
            place="jobs:publish",
            examples=(
                "publish --member 7",
                "publish --member 7 --favorites 12,34,56 --wait",
                "publish --member 7 --wish 'songs for a rainy night' --wait --json",
            ),
            interrupted="A job that was published stays so: `result JOB_ID` shows what comes of it.",
        ),
        "result": Listed(
            line="Print a job's result",
            place="jobs:result",
            examples=("result 7c9e6679-7425-40de-944b-e07fc1f90ae7", "result 7c9e6679-... --timeout-s 30 --json"),
            interrupted="The job goes on: ask again later.",
        ),
        "refresh": Listed(
            line="Bring the results of active members up to date",
            place="refresh:refresh",
            examples=("refresh --dry-run", "refresh --batch --members 5000", "refresh --queue --members 100 --json"),
            interrupted="What was sent is kept, and paid for once; the same command goes on where it was.",
        ),
        "dead-letters": Listed(
            line="Look at jobs that were given up; send them back, or drop them",
            place="dead_letters:dead_letters",
            examples=("dead-letters list", "dead-letters replay --all"),
            interrupted="Letters that were dealt with stay so, the others are where they were; run it again for those.",
        ),
    },
    "Catalogue": {
        "migrate": Listed(
            line="Create or change the worker's own tables",
            place="catalogue:migrate",
            examples=("migrate", "migrate --down --revision 0009", "migrate --json"),
            interrupted="Each step was taken whole or not at all; the same command goes on with the rest.",
        ),
        "ingest": Listed(
            line="Fill a catalogue that is ours from files",
            place="catalogue:ingest",
            examples=(
                "ingest songs.csv",
                "ingest songs.csv likes.csv --mapping map.toml",
                "ingest songs.csv --json",
            ),
            interrupted="The rows that were saved are kept; the same command goes on with the rest.",
        ),
        "import": Listed(
            line="Fill a catalogue that is ours from a service or another database",
            place="imports:imports",
            examples=("import spotify --search 'city pop'", "import backend --from -"),
            interrupted="What was read is kept; the same command goes on from there.",
        ),
        "check": Listed(
            line="Check a file, or a site's data, before they are used",
            place="check:check",
            examples=("check", "check songs.csv", "check --json | jq .findings"),
            interrupted=_LOOKED,
        ),
        "embed": Listed(
            line="Bring the stored vectors up to date with the catalogue",
            place="catalogue:embed",
            examples=("embed", "embed --refit", "embed --json"),
            interrupted="The vectors that were saved are kept; the same command goes on with the rest.",
        ),
        "retrieval": Listed(
            line="Say where candidates are searched for, how, and why",
            place="catalogue:retrieval",
            examples=("retrieval", "retrieval --json"),
            interrupted="What is searched is as it was; the same command brings it up to date.",
        ),
    },
    "Quality": {
        "fit": Listed(
            line="Fit the collaborative model; put it in force if it is no worse",
            place="models:fit",
            examples=("fit", "fit --budget-s 600 --seed 1", "fit --dry-run --json"),
            interrupted="The version in force is still in force, and the lease is given back; `fit` begins anew.",
        ),
        "models": Listed(
            line="Look at fitted versions; put another one in force",
            place="models:models",
            examples=("models list", "models rollback --why 'complaints since noon'"),
            interrupted="A version is put in force whole or not at all; `models list` says which is.",
        ),
        "rank": Listed(
            line="Rank items for lists of liked ones; all from files",
            place="quality:rank",
            examples=("rank --train likes.csv --queries asked.csv --out ranked.csv",),
            interrupted="No file was written, and an older one is as it was; run it again.",
        ),
        "evaluate": Listed(
            line="Measure the models on a data set, baselines beside them",
            place="quality:evaluate",
            examples=(
                "evaluate likes.csv --protocol known",
                "evaluate data/ --protocol cold --items items.csv --json figures.json",
                "evaluate likes.csv --json - | jq .",
            ),
            interrupted="No figures were written; what the LLM answered is kept and not paid for again.",
        ),
        "simulate": Listed(
            line="Simulate listeners whose tastes are known",
            place="simulate:simulate",
            examples=("simulate --members 1000 --days 30", "simulate --out data/ --judge", "simulate --live --rate 50"),
            interrupted="The events that were written are kept; the same command goes on with the rest, and --remove "
            "takes them away. A file is there when it is whole, else not.",
        ),
    },
    "Site": {
        "schedule": Listed(
            line="Say when each scheduled task runs, and how it last ended",
            place="site:schedule",
            examples=("schedule", "schedule --json"),
            interrupted=_LOOKED,
        ),
        "digest": Listed(
            line="Say in a few lines how the site is",
            place="site:digest",
            examples=("digest", "digest --tell", "digest --json"),
            interrupted=_LOOKED,
        ),
        "clean-up": Listed(
            line="Delete what is kept no longer",
            place="site:clean_up",
            examples=("clean-up", "clean-up --json"),
            interrupted="What was deleted is deleted; the same command goes on with the rest.",
        ),
        "log-level": Listed(
            line="Change what all running workers log, for a while",
            place="log_level:log_level",
            examples=("log-level debug --minutes 5", "log-level own"),
        ),
        "forget": Listed(
            line="Remove what is kept of one member",
            place="members:forget",
            examples=("forget --member 7 --look", "forget --member 7", "forget --member 7 --json"),
            interrupted="Perhaps not all is removed: the same command removes the rest, and lists what is left.",
        ),
    },
}

LISTED: Mapping[str, Listed] = {name: each for panel in PANELS.values() for name, each in panel.items()}
PANEL_OF: Mapping[str, str] = {name: panel for panel, found in PANELS.items() for name in found}
