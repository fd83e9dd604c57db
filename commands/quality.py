"""The commands that fit, rank and measure the models; what they need beside the worker is imported when they run."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from commands.running import offline_step, run
from commands.screen import (
    MISCONFIGURED,
    STANDARD_OUTPUT,
    complain,
    for_machines,
    progress_bar,
    stop,
    tell_all,
    tell_json,
    telling,
)
from config.settings import Settings
from services.collaborative_source import InMemoryCollaborativeSource
from services.item_index import InMemoryItemIndex
from workers.runtime.judge import open_judge


def rank(
    *, train: Path, queries: Path, out: Path, items: Path | None, n: int, budget_s: float, seed: int, as_json: bool
) -> None:
    """Fit collaborative models on interactions and rank items for lists of liked ones; all from files."""
    with for_machines(as_json):
        found = _quality("rank", train, queries, out, items=items, n=n, budget_s=budget_s, seed=seed)
    if as_json:
        tell_json({"out": str(out), **asdict(found)})


def evaluate(
    *,
    dataset: Path,
    protocol: str,
    items: Path | None,
    k: int,
    budget_s: float,
    seed: int,
    json_out: Path | None,
    llm: bool,
    users: int,
    max_usd: float,
    yes: bool,
    answers: Path,
) -> None:
    """Measure the collaborative models on a data set, baselines beside them; or the LLM beside the ranking."""
    as_json = json_out == STANDARD_OUTPUT
    file = None if as_json else json_out
    with for_machines(as_json):
        if llm:
            study = {"items": items, "n_users": users, "budget_s": budget_s, "seed": seed}
            most_usd = math.inf if yes else max_usd
            found = _uplift(dataset, protocol, study, answers, k=k, max_usd=most_usd, json_out=file)
        else:
            options = {"items": items, "k": k, "budget_s": budget_s, "seed": seed, "json_out": file}
            found = _quality("evaluate", dataset, protocol, **options)
    if as_json:
        tell_json(found.document() if llm else asdict(found))


def _quality(step: str, *arguments: object, **options: Any) -> Any:  # noqa: ANN401 - of a step that takes and says its own
    """Run a step of ``training`` on files, and say what came of it."""
    module = offline_step(step)
    # most of the algebra is of small matrices, which a second BLAS thread makes many times slower
    with threadpool_limits(1, user_api="blas"), telling() as tell:
        found = getattr(module, step)(*arguments, **options, tell=tell)
    tell_all(found)
    return found


def _uplift(
    dataset: Path,
    protocol: str,
    options: Mapping[str, object],
    answers: Path,
    *,
    k: int,
    max_usd: float,
    json_out: Path | None,
) -> Any:  # noqa: ANN401 - of ``training.uplift``
    """Prepare outside of any event loop, where Ctrl-C ends it at once; say what asking costs; ask; tell."""
    found: list[Any] = []

    async def try_to_open(settings: Settings) -> None:
        async with open_judge(settings):
            pass

    async def measure(settings: Settings) -> None:
        async with open_judge(settings) as judge:
            index = InMemoryItemIndex(study.rows, study.embedder_name)
            questions = await uplift.questions_of(study, index, InMemoryCollaborativeSource(study.fitted), judge, k=k)
            with kept_answers.open_kept_answers(answers) as kept:
                _tell_price(uplift.estimate(questions, kept, judge), max_usd)
                with progress_bar() as progress:
                    task = progress.add_task("listeners", total=len(questions))
                    show = partial(progress.update, task)
                    heard = await uplift.ask(questions, judge, kept, done=lambda n: show(completed=n))
            found.append(uplift.report(study, questions, heard, judge, k=k))

    run(try_to_open)
    uplift, first_stage, kept_answers = map(offline_step, ("uplift", "first_stage", "kept_answers"))
    with threadpool_limits(1, user_api="blas"):
        with telling() as tell:
            study = first_stage.prepare(dataset, protocol, **options, tell=tell)
        run(measure, log_level="ERROR")
    tell_all(found[0])
    if json_out is not None:
        found[0].write(json_out)
    return found[0]


def _tell_price(estimate: Any, max_usd: float) -> None:  # noqa: ANN401 - of ``training.uplift``
    complain(str(estimate), "")
    if not estimate.is_within(max_usd):
        stop(f"that is not known to be within --max-usd {max_usd:g}: give --yes to ask all the same", MISCONFIGURED)
