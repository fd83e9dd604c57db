"""A member's taste, counted from what they like."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from dashboard.charts import Row
from dashboard.shapes import Liked

N_GENRES = 7
N_DAYS = 90


def genre_counts(likes: Sequence[Liked]) -> list[tuple[str, int]]:
    """How many of the likes are of each genre, most first."""
    return Counter(genre for liked in likes for genre in liked["item"]["genres"]).most_common()


def taste_over_time(likes: Sequence[Liked], other: str) -> list[Row]:
    """For each day with a like, or each month where there are many days, the share of each genre in all likes so far.

    Of the ``N_GENRES`` most frequent ones, and of all the rest as ``other``; likes without a date are left out.
    """
    dated = sorted((each for each in likes if each["since"]), key=lambda each: str(each["since"]))
    leading = [name for name, _ in genre_counts(dated)[:N_GENRES]]
    counts: Counter[str] = Counter()
    n_days = len({str(each["since"])[:10] for each in dated})
    by_date: dict[str, Counter[str]] = {}
    for liked in dated:
        counts.update(genre if genre in leading else other for genre in liked["item"]["genres"])
        by_date[_date(str(liked["since"]), by_month=n_days > N_DAYS)] = counts.copy()
    names = [*leading, other] if any(other in seen for seen in by_date.values()) else leading
    return [
        {"when": date, "name": name, "share": seen[name] / seen.total()}
        for date, seen in by_date.items()
        if seen.total()
        for name in names
    ]


def _date(since: str, *, by_month: bool) -> str:
    return datetime.fromisoformat(since).strftime("%Y-%m-01" if by_month else "%Y-%m-%d")
