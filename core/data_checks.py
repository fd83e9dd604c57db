"""What data must be like: one table of rules, for files before they are taken in and for a site before it is fitted.

A rule measures shares, or drift, of some subjects (a feature, a reason) and has a limit. Beyond the limit it fails, or
warns where what it finds is odd but may be right: a catalogue of karaoke may well be all instrumental, and tracks that
look alike are often two recordings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from core.data_figures import DataFigures

Outcome = Literal["passed", "warned", "failed"]
Measured = Iterator[tuple[str, float]]

# Of fewer items or rows a share says little.
_MIN_ITEMS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Shares, and an index of stability, from which on data are not what they must be; 0 for ``drift``: no limit."""

    bad_rows: float = 0.05
    orphaned: float = 0.2
    missing: float = 0.5
    drift: float = 0.25


@dataclass(frozen=True, slots=True)
class Rule:
    """``measure`` yields subjects and figures; one above ``limit`` fails, or warns where the rule ``only_warns``."""

    name: str
    says: str
    measure: Callable[[DataFigures, DataFigures], Measured]
    limit: Callable[[Limits], float]
    only_warns: bool = False


def _bad_rows(now: DataFigures, _: DataFigures) -> Measured:
    if now.n_rows:
        yield "all rows", sum(now.bad_rows.values()) / now.n_rows


def _conflicting(now: DataFigures, _: DataFigures) -> Measured:
    if now.n_rows:
        yield "rows", now.n_conflicting / now.n_rows


def _repeated(now: DataFigures, _: DataFigures) -> Measured:
    if now.n_rows:
        yield "rows", now.n_repeated / now.n_rows


def _lookalikes(now: DataFigures, _: DataFigures) -> Measured:
    if now.n_items >= _MIN_ITEMS:
        yield "items", now.n_lookalikes / now.n_items


def _beyond(now: DataFigures, _: DataFigures) -> Measured:
    for name, feature in now.features.items():
        yield name, feature.beyond


def _missing(now: DataFigures, before: DataFigures) -> Measured:
    if now.n_items:
        for name, feature in now.features.items():
            yield name, feature.n_missing / now.n_items
        for name in before.features.keys() - now.features.keys():
            yield name, 1.0


def _constant(now: DataFigures, _: DataFigures) -> Measured:
    for name, feature in now.features.items():
        spread = feature.spread
        if spread.n >= _MIN_ITEMS:
            yield name, float(spread.low == spread.high)


def _orphaned(now: DataFigures, _: DataFigures) -> Measured:
    if now.n_signs:
        yield "likes, lists and events", now.n_orphaned / now.n_signs


def _drift(now: DataFigures, _: DataFigures) -> Measured:
    yield from now.drift.items()


RULES: Sequence[Rule] = (
    Rule("schema", "bad rows of the file", _bad_rows, lambda limits: limits.bad_rows),
    Rule("conflicts", "rows that say something else of an id", _conflicting, lambda limits: limits.bad_rows),
    Rule("duplicates", "rows that only repeat another", _repeated, lambda limits: limits.bad_rows, only_warns=True),
    Rule("lookalikes", "items with title and creator of another", _lookalikes, lambda _: 0.2, only_warns=True),
    Rule("ranges", "numbers beyond their range", _beyond, lambda limits: limits.bad_rows),
    Rule("missing", "items without what others have", _missing, lambda limits: limits.missing),
    Rule("constant", "a feature with one value for all", _constant, lambda _: 0.5, only_warns=True),
    Rule("orphans", "interactions with items that there are not", _orphaned, lambda limits: limits.orphaned),
    Rule("drift", "stability index against the last accepted version", _drift, lambda limits: limits.drift),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule says of one subject."""

    rule: str
    says: str
    subject: str
    figure: float
    limit: float
    outcome: Outcome

    def __str__(self) -> str:
        return f"{self.rule}, {self.subject}: {self.figure:.4g} is above {self.limit:.4g} ({self.says})"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All findings, and the figures that they are of; ``compared`` says whether there was a last version."""

    figures: DataFigures
    findings: Sequence[Finding] = field(default_factory=tuple)
    compared: bool = False

    @property
    def failed(self) -> Sequence[Finding]:
        """Those that stop a promotion."""
        return [each for each in self.findings if each.outcome == "failed"]

    @property
    def problem(self) -> str | None:
        """Why no version of these data should be put in force; None where nothing failed."""
        failed = "; ".join(map(str, self.failed))
        return f"a check of the data failed: {failed}" if failed else None

    def document(self) -> Mapping[str, object]:
        """For programs."""
        return {
            "passed": not self.failed,
            "compared_with_last_version": self.compared,
            "findings": [
                {name: getattr(each, name) for name in ("rule", "subject", "figure", "limit", "outcome", "says")}
                for each in self.findings
            ],
        }


def check(now: DataFigures, limits: Limits, before: DataFigures | None = None) -> CheckReport:
    """Apply every rule; drift, and features that are gone, are seen where ``before`` is given."""
    return CheckReport(now, tuple(_findings(now, limits, before or DataFigures())), before is not None)


def _findings(now: DataFigures, limits: Limits, before: DataFigures) -> Iterator[Finding]:
    for rule in RULES:
        limit = rule.limit(limits)
        if rule.name == "drift" and not limit:
            continue
        for subject, figure in rule.measure(now, before):
            bad: Outcome = "warned" if rule.only_warns else "failed"
            yield Finding(rule.name, rule.says, subject, figure, limit, bad if figure > limit else "passed")
