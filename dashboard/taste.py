"""A member's taste, counted from what they like."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from dashboard.charts import Row
from dashboard.shapes import Liked

N_GENRES = 7


def genre_counts(likes: Sequence[Liked]) -> list[tuple[str, int]]:
    """How many of the likes are of each genre, most first."""
    return Counter(genre for liked in likes for genre in liked["item"]["genres"]).most_common()


def taste_over_time(likes: Sequence[Liked], other: str) -> list[Row]:
    """For the end of each month with a like, the share of each genre among all likes until then.

    Of the ``N_GENRES`` most frequent ones, and of all the rest as ``other``; likes without a date are left out.
    """
    dated = sorted((each for each in likes if each["since"]), key=lambda each: str(each["since"]))
    leading = [name for name, _ in genre_counts(dated)[:N_GENRES]]
    counts: Counter[str] = Counter()
    by_month: dict[str, Counter[str]] = {}
    for liked in dated:
        counts.update(genre if genre in leading else other for genre in liked["item"]["genres"])
        by_month[_month(str(liked["since"]))] = counts.copy()
    names = [*leading, other] if any(other in seen for seen in by_month.values()) else leading
    return [
        {"when": month, "name": name, "share": seen[name] / seen.total()}
        for month, seen in by_month.items()
        if seen.total()
        for name in names
    ]


def _month(since: str) -> str:
    return datetime.fromisoformat(since).strftime("%Y-%m-01")
