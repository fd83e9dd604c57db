"""The model's answer and the ranking, merged into the groups of one result."""

from collections.abc import Iterable, Mapping, Sequence

from core.explanation import Explainer
from core.model_answer import Answer, Choice
from models.recommendation import Candidate, Group, Pick


def fused_order(chosen: Sequence[Candidate], candidates: Sequence[Candidate], order_weight: float) -> dict[int, float]:
    """Scores from 0 to 1 by item id: the model's order of ``chosen`` fused with the first stage's scores.

    A linear combination after min-max normalisation (Fox and Shaw, "Combination of multiple searches", 1994):
    ``order_weight`` 1 keeps the model's order, 0 the first stage's. ``candidates`` are all that were ranked.
    """
    scores = [candidate.score for candidate in candidates]
    low, span = min(scores, default=0.0), (max(scores, default=0.0) - min(scores, default=0.0)) or 1.0
    return {
        candidate.item.item_id: order_weight * (1 - place / len(chosen))
        + (1 - order_weight) * (candidate.score - low) / span
        for place, candidate in enumerate(chosen)
    }


def merge(
    answer: Answer,
    candidates: Sequence[Candidate],
    *,
    explainer: Explainer,
    locale: str,
    n_picks: int,
    order_weight: float,
) -> tuple[tuple[Group, ...], dict[int, str]]:
    """``n_picks`` picks (as far as there are candidates) in 2 to 6 groups, and reasons for picks that found no room.

    The model's picks come first, as it grouped them, in fused order; the best of ``candidates`` (given best first)
    fill the list. No item stands twice.
    """
    fused = fused_order([choice.candidate for choice in answer.choices], candidates, order_weight)
    ids = sorted(fused, key=lambda item_id: -fused[item_id])
    kept = set(ids[:n_picks])
    shelves, homeless = _shelves(answer, kept, fused, explainer, locale)
    missing = (candidate for candidate in candidates if candidate.item.item_id not in fused)
    fill = [
        explainer.pick(candidate, locale) for candidate, _ in zip(missing, range(n_picks - len(kept)), strict=False)
    ]
    spare = {
        choice.candidate.item.item_id: choice.reason
        for choice in answer.choices
        if choice.reason and choice.candidate.item.item_id not in kept
    }
    return explainer.arrange(shelves, [*homeless, *fill], locale), spare


def _shelves(
    answer: Answer, kept: set[int], fused: Mapping[int, float], explainer: Explainer, locale: str
) -> tuple[list[Group], list[Pick]]:
    """The model's groups, the one with the best pick first, and the picks of groups that it left without a label."""
    members: dict[str, list[Pick]] = {}
    taglines: dict[str, str] = {}
    for group in answer.groups:
        taglines.setdefault(group.label, group.tagline)
        picks = (_pick(choice, explainer, locale) for choice in group.choices)
        members.setdefault(group.label, []).extend(pick for pick in picks if pick.candidate.item.item_id in kept)

    def best_first(picks: Iterable[Pick]) -> list[Pick]:
        return sorted(picks, key=lambda pick: -fused[pick.candidate.item.item_id])

    homeless = best_first(members.pop("", []))
    shelves = [
        Group(label=label, tagline=taglines[label] or explainer.tagline(locale), picks=tuple(best_first(picks)))
        for label, picks in members.items()
        if picks
    ]
    return sorted(shelves, key=lambda shelf: -fused[shelf.picks[0].candidate.item.item_id]), homeless


def _pick(choice: Choice, explainer: Explainer, locale: str) -> Pick:
    reason = choice.reason or explainer.reason(choice.candidate, locale)
    return Pick(candidate=choice.candidate, reason=reason)
