"""The first call of the strategy ``deep``: a few of many candidates, by their handles and without a word.

One list of 240 in one call buys little: models overlook the middle of long inputs (Liu et al., "Lost in the Middle",
2023), and words for all of it are paid for four times as dear as what is read. What helps is to look at the best once
more: RankGPT (Sun et al., 2023) slides a window from the end of a list to its top, so that the top is ranked last and
among few, at nine calls for 100 items; Tang et al. ("Permutation Self-Consistency", 2023) ask in several shuffled
orders, so that a place in the list is nobody's gain, at twenty calls. Two calls get the most of both: the first reads
all lines and answers some 40 numbers, a fifth of what an explained list takes; the second sees these alone, in another
shuffle, and ranks and explains them. Two halves of the list explained apart would cost twice the words, and their two
orders could not be compared.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from core.handles import Handles, read_handle
from core.json_salvage import read_object
from models.recommendation import Candidate

FINALISTS_PER_PICK = 2


@dataclass(frozen=True, slots=True)
class Screened:
    """What is usable of an answer, in the model's order; ``dropped`` counts the rest, as of an ``Answer``."""

    chosen: tuple[Candidate, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)


def parse_screening(text: str, handles: Handles, n_kept: int) -> Screened:
    """The first ``n_kept`` usable picks of ``text``, which may be anything."""
    try:
        document, _ = read_object(text)
    except ValueError:
        return Screened()
    picks = document.get("picks")
    read = [read_handle(value) for value in (picks if isinstance(picks, list) else [])]
    dropped = Counter("bad_pick" if each is None else "unknown_handle" for each in read if each not in handles)
    known = [each for each in read if each is not None and each in handles]
    chosen = list(dict.fromkeys(known))
    dropped["repeated_handle"] = len(known) - len(chosen)
    return Screened(tuple(handles[each] for each in chosen[:n_kept]), {each: n for each, n in dropped.items() if n})
