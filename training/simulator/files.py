"""Writes what was simulated as a data set that ``main.py evaluate`` and ``rank`` read: no server is needed."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from config.signal_strengths import SignalStrengths
from models.catalogue import Item
from training.simulator.happenings import DISLIKE, LIKE, PLAY, REPEAT, SKIP, UNLIKE, Happenings
from training.simulator.reacting import Mask
from training.simulator.world import Doubles, Indices

INTERACTIONS, ITEMS = "interactions.csv", "items.csv"

_WEIGHT_OF_LIKE = 1.0
_NEVER = -1


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Distinct pairs that say something is liked: ids int64, ``weights`` above 0, and microseconds; all (n,)."""

    members: Indices
    items: Indices
    weights: Doubles
    at_us: Indices


def positive_pairs(found: Happenings, strengths: SignalStrengths | None = None) -> Pairs:
    """What the events come to, as the worker's log of interactions has it; ``strengths`` are those of a profile.

    The last verdict decides, and takes back with it what was done before. What is disliked is none; a like counts 1.
    """
    strengths = strengths or SignalStrengths()
    pairs, of_event = np.unique(np.stack([found.members, found.items]), axis=1, return_inverse=True)
    of_event = of_event.ravel()
    last = {kind: _last(found, of_event, pairs.shape[1], kind) for kind in (LIKE, UNLIKE, DISLIKE)}
    refused_us = np.maximum(last[UNLIKE], last[DISLIKE])
    is_liked = last[LIKE] > refused_us
    is_disliked = last[DISLIKE] > np.maximum(last[LIKE], last[UNLIKE])
    stands = found.at_us > refused_us[of_event]
    weights, at_us = _WEIGHT_OF_LIKE * is_liked, np.where(is_liked, last[LIKE], _NEVER)
    for sign, strength in _signs(found, strengths):
        counts = np.bincount(of_event, sign & stands, pairs.shape[1])
        weights = weights + strength * np.where(counts > 0, 1 + np.log2(np.maximum(counts, 1)), 0)
        np.maximum.at(at_us, of_event[sign & stands], found.at_us[sign & stands])
    weights = np.asarray(np.round(weights, 3), np.float64)
    kept = (weights > 0) & ~is_disliked
    return Pairs(pairs[0, kept], pairs[1, kept], np.asarray(weights[kept], np.float64), at_us[kept])


def _signs(found: Happenings, strengths: SignalStrengths) -> Iterator[tuple[Mask, float]]:
    """Which events are a sign of a kind, and what it says."""
    is_play, is_whole = found.kinds == PLAY, found.completed == 1
    yield is_play & is_whole, strengths.play
    yield is_play & ~is_whole & (found.seconds >= strengths.min_play_s), strengths.partial_play
    yield found.kinds == REPEAT, strengths.repeat
    yield found.kinds == SKIP, strengths.skip


def _last(found: Happenings, of_event: Indices, n: int, kind: int) -> Indices:
    last = np.full(n, _NEVER, np.int64)
    mask = found.kinds == kind
    np.maximum.at(last, of_event[mask], found.at_us[mask])
    return last


def write_interactions(path: Path, parts: Iterable[Happenings], start: datetime) -> int:
    """``user_id,item_id,weight,occurred_at`` of every pair, part by part; how many.

    The file is there when it is whole: until then it has the ending ``.part``.
    """
    partial, n = path.with_name(f"{path.name}.part"), 0
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.write("user_id,item_id,weight,occurred_at\n")
            for found in parts:
                pairs = positive_pairs(found)
                file.writelines(_lines(pairs, start))
                n += len(pairs.members)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return n


def _lines(pairs: Pairs, start: datetime) -> Iterable[str]:
    columns = (pairs.members.tolist(), pairs.items.tolist(), pairs.weights.tolist(), pairs.at_us.tolist())
    for member, item, weight, at_us in zip(*columns, strict=True):
        at = start + timedelta(microseconds=at_us)
        yield f"{member},{item},{weight:g},{at:%Y-%m-%dT%H:%M:%SZ}\n"


def write_items(path: Path, items: Sequence[Item]) -> None:
    """``item_id``, what is known in words (as far as anything is), and every numeric feature."""
    features = sorted({name for item in items for name in item.features})
    words = {
        "title": [next(iter(item.titles.values()), "") for item in items],
        "creator": [item.creator or "" for item in items],
        "genres": [", ".join(item.genres) for item in items],
        "language": [item.language or "" for item in items],
    }
    known = {name: cells for name, cells in words.items() if any(cells)}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("item_id", *known, *features))
        for item, *told in zip(items, *known.values(), strict=True):
            writer.writerow((item.item_id, *told, *(item.features.get(name, "") for name in features)))
