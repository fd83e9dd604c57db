"""The commands on fitted versions: ``fit``, and ``models list``, ``history``, ``promote`` and ``rollback``.

Only fits hold a lease. A promotion or rollback by hand goes at once, also while a fit is under way, for it may be what
stops a fault; the fit, which was compared with another version, then keeps its own and says so.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from io import StringIO
from typing import Any

import uvloop
from rich.table import Table
from threadpoolctl import threadpool_limits

from commands.check import last_figures, limits_of
from commands.running import offline_step, read_settings, run
from commands.screen import for_machines, say, tell_all, tell_json, telling
from config.settings import Settings
from core.data_checks import CheckReport, check
from core.data_figures import with_interactions
from core.errors import ConfigurationError, DependencyUnavailable, SongsAIError
from core.fitted_collaborative import MODEL_KIND
from core.ports.model_store import Promotion, StoredVersion
from models.notice import Notice, NoticeKind
from services.clock import SystemClock
from services.database import parse_url
from services.fit_lease import held_lease
from services.fitted_embedder import FittedEmbedder
from services.impressions import RedisImpressions
from services.interaction_log import SqlInteractionLog
from services.mlflow_runs import MlflowRuns, Run, flattened
from services.orphan_count import SqlOrphanCount
from training.data_checks import figures_of_catalogue, table_of
from workers.runtime.parts import Parts, open_parts


def fit(*, budget_s: float, seed: int, dry_run: bool, as_json: bool) -> None:
    """Fit the collaborative model on what members like and do, and put it in force if it is no worse than the last."""
    told: dict[str, object] = {}
    with for_machines(as_json):
        try:
            _fit(budget_s, seed, told, dry_run=dry_run)
        finally:
            if as_json and told:
                tell_json(told)


def _fit(budget_s: float, seed: int, told: dict[str, object], *, dry_run: bool) -> None:
    """Fit and say what came of it, in ``told`` to machines."""
    training = offline_step("fit")
    with telling() as tell, _alone(dry_run=dry_run):
        runs = None if dry_run else _mlflow_runs()
        read = _read(training, tell)
        # outside of any event loop, where Ctrl-C ends it at once; most of the algebra is of small matrices, which a
        # second BLAS thread makes many times slower
        with threadpool_limits(1, user_api="blas"):
            report = training.fit_on(
                read.observed, active=read.active, budget_s=budget_s, seed=seed, tell=tell, shown_to=_shown_to(tell)
            )
        outcome = None if dry_run else _kept(training, report, read.checked)
    tell_all([*report, *table_of(read.checked, whole=False), str(outcome or "nothing is kept: --dry-run")])
    told |= {
        "version": report.fitted.version,
        "kept": outcome is not None,
        "in_force": outcome is not None and outcome.in_force,
        "changed": outcome is not None and outcome.changed,
        "reason": outcome and outcome.reason,
        "metrics": dict(report.metrics),
        "checks": read.checked.document(),
        "mlflow_run": None,
    }
    if runs and outcome:
        # Last, and after everything is told: what is fitted and in force stays so, whatever MLflow says.
        told["mlflow_run"] = runs.log(_run_of(report, outcome, read.checked))
        say(f"MLflow run {told['mlflow_run']}")


@contextmanager
def _alone(*, dry_run: bool) -> Iterator[None]:
    settings = read_settings()
    if dry_run:
        yield
        return
    url = parse_url(settings.database_url.get_secret_value(), ca_file=settings.database_ca_file)
    with held_lease(url, SystemClock()):
        yield


def _mlflow_runs() -> MlflowRuns | None:
    uri = read_settings().mlflow_tracking_uri
    return MlflowRuns(uri) if uri.get_secret_value() else None


def _run_of(report: Any, kept: Any, checked: CheckReport) -> Run:  # noqa: ANN401 - of ``training.fit``
    recipe = report.recipe.to_json()
    return Run(
        name=report.fitted.version,
        params=flattened(json.loads(recipe)),
        metrics=report.metrics,
        tags={"kind": MODEL_KIND, "in_force": str(kept.in_force).lower(), "reason": kept.reason},
        artifacts={
            "collaborative.npz": report.fitted.to_bytes(),
            "recipe.json": recipe.encode(),
            "checks.json": json.dumps(checked.document(), indent=2).encode(),
            "data-figures.json": checked.figures.to_json().encode(),
        },
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """What there is to fit on, what checks say of it, and the version in force."""

    observed: Any
    checked: CheckReport
    active: Any


def _read(training: Any, tell: Callable[[str], None]) -> _Read:  # noqa: ANN401 - a module
    observations = offline_step("observations")
    found: list[_Read] = []

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            await parts.catalogue.check()
            if isinstance(parts.embedder, FittedEmbedder):
                await parts.embedder.refresh()
            log = SqlInteractionLog(parts.database, parts.profile)
            least = parts.profile.fitting
            observed = await observations.observe(log, parts.embeddings, parts.embedder.name, least=least, tell=tell)
            tell("checking the data")
            before, orphans = await last_figures(parts), SqlOrphanCount(parts.database, parts.profile)
            figures = await figures_of_catalogue(parts.catalogue, parts.profile, orphans, before)
            figures = with_interactions(figures, observed.data.users, observed.data.weights, before)
            checked = check(figures, limits_of(settings), before)
            found.append(_Read(observed, checked, await training.active_of(parts.models)))

    run(step)
    return found[0]


def _shown_to(tell: Callable[[str], None]) -> Callable[[Sequence[int]], Mapping[int, frozenset[int]]]:
    """What members were recommended; nothing where Redis is away, which a fit needs for nothing else."""

    def shown_to(member_ids: Sequence[int]) -> Mapping[int, frozenset[int]]:
        found: list[Mapping[int, frozenset[int]]] = []

        async def step(settings: Settings) -> None:
            async with open_parts(settings) as parts:
                impressions = RedisImpressions(parts.redis, parts.clock, time_zone=settings.time_zone)
                found.append(await impressions.shown_to(member_ids))

        try:
            uvloop.run(step(read_settings()))
        except DependencyUnavailable as error:
            tell(f"what members were shown is not known, and counts like all else: {error}")
        return found[0] if found else {}

    return shown_to


def _kept(training: Any, report: Any, checked: CheckReport) -> Any:  # noqa: ANN401 - of ``training.fit``
    found: list[Any] = []

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            figures = checked.figures.to_json()
            kept = await training.keep(parts.models, report, data_figures=figures, refused=checked.problem)
            found.append(kept)
            await parts.models.prune(settings.model_versions_kept)
            if checked.problem:
                await parts.notices.tell(Notice(kind=NoticeKind.CHECK_FAILED, text=checked.problem))
            if kept.changed or not kept.in_force:
                kind = NoticeKind.MODEL_PROMOTED if kept.changed else NoticeKind.MODEL_REJECTED
                await parts.notices.tell(Notice(kind=kind, text=str(kept), figures=_figures(report)))

    run(step)
    return found[0]


def _figures(report: Any) -> dict[str, float]:  # noqa: ANN401 - of ``training.fit``
    return {name: round(value, 4) for name, value in report.comparison.metrics()}


def list_versions(*, kind: str, as_json: bool) -> None:
    """List the versions that are kept, newest first."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            found = await parts.models.versions(kind)
        if as_json:
            tell_json([_document(each) for each in found])
            return
        table = Table("version", "fitted", "", "kB", "Recall@20", "NDCG@20", "held out: Recall@20, NDCG@20")
        for each in found:
            table.add_row(*_row(each))
        tell_all([table, f"{len(found)} versions of {kind}"])

    run(step)


def _row(each: StoredVersion) -> Iterator[str]:
    yield each.version
    yield f"{each.created_at:%Y-%m-%d %H:%M}"
    yield "active" if each.active else "previous" if each.previous else ""
    yield f"{each.n_bytes / 1000:,.0f}"
    shown = [_shown(each.metrics, name) for name in ("recall", "ndcg", "holdout_recall", "holdout_ndcg")]
    yield from (*shown[:2], " ".join(shown[2:]).strip())


def _shown(metrics: Any, name: str) -> str:  # noqa: ANN401 - numbers by name
    return f"{metrics[name]:.4f}" if name in metrics else ""


def _document(each: StoredVersion) -> dict[str, object]:
    return {
        "kind": each.kind,
        "version": each.version,
        "created_at": each.created_at.isoformat(),
        "active": each.active,
        "previous": each.previous,
        "n_bytes": each.n_bytes,
        "metrics": dict(each.metrics),
    }


def history(*, kind: str, as_json: bool) -> None:
    """Tell which version was put in force when, in whose place and why; the newest last."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            found = await parts.models.promotions(kind)
        if as_json:
            tell_json([_step(each) for each in found])
            return
        table = Table("at", "version", "in place of", "by", "why")
        for each in found:
            row = (f"{each.promoted_at:%Y-%m-%d %H:%M}", each.version, each.replaced or "", each.cause, each.reason)
            table.add_row(*row)
        tell_all([table])

    run(step)


def _step(each: Promotion) -> dict[str, object]:
    return {
        "kind": each.kind,
        "version": each.version,
        "replaced": each.replaced,
        "cause": each.cause,
        "reason": each.reason,
        "promoted_at": each.promoted_at.isoformat(),
    }


def kept_versions(kind: str, incomplete: str) -> list[str]:
    """Those that begin so, for a shell; none where the site cannot be asked: there is no place for a complaint."""
    found: list[StoredVersion] = []

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            found.extend(await parts.models.versions(kind))

    with suppress(SongsAIError, SystemExit), redirect_stderr(StringIO()):
        run(step, log_level="ERROR")
    return [each.version for each in found if each.version.startswith(incomplete)]


def promote(*, version: str, kind: str, why: str, as_json: bool) -> None:
    """Put a version in force whatever its figures; workers follow within INDEX_REFRESH_S."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            whole, active = await _found(parts, kind, version), await parts.models.active_version(kind)
            if not await parts.models.promote(kind, whole, instead_of=active, cause="promote", reason=why):
                raise ConfigurationError("another version was put in force at the same moment: look, and try again")
            await parts.models.prune(settings.model_versions_kept)
            if whole != active:
                await _tell_people(parts, f"version {whole} of {kind} was put in force in place of {active}: {why}")
        _tell_change(kind, whole, active, as_json=as_json)

    run(step)


async def _tell_people(parts: Parts, text: str) -> None:
    await parts.notices.tell(Notice(kind=NoticeKind.MODEL_PROMOTED, text=text))


async def _found(parts: Parts, kind: str, version: str) -> str:
    found = [each.version for each in await parts.models.versions(kind) if each.version.startswith(version)]
    if len(found) != 1:
        which = "no version" if not found else f"{len(found)} versions"
        raise ConfigurationError(f"{which} of {kind!r} begins with {version!r}: see `models list`")
    return found[0]


def rollback(*, kind: str, why: str, as_json: bool) -> None:
    """Put the version in force again that was before the one that is now; again: the one before that."""

    async def step(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            version = await parts.models.roll_back(kind, why)
            replaced = (await parts.models.promotions(kind))[-1].replaced
            await _tell_people(parts, f"version {version} of {kind} is in force again in place of {replaced}: {why}")
        _tell_change(kind, version, replaced, as_json=as_json)

    run(step)


def _tell_change(kind: str, version: str, replaced: str | None, *, as_json: bool) -> None:
    if as_json:
        tell_json({"kind": kind, "version": version, "replaced": replaced})
    elif version == replaced:
        say(f"version {version} is in force already")
    else:
        say(f"version {version} is in force" + (f" in place of {replaced}" if replaced else ""))
