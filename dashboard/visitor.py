"""Somebody at the page: what they chose, what they said of songs, and what the worker has been told of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dashboard.shapes import Item

N_SEEDS, N_DISLIKED = 10, 100
"""As many as the API takes of what is liked, and of what is not."""
N_NEWEST_LIKES = 4
"""So many of the newest likes count before what was chosen: a like is to change the list, however much was chosen."""
VISITOR = "visitor"
"""Under which name a session holds whoever looks at it."""
_TAKEN_BACK = "unlike"


class Verdict(StrEnum):
    """What somebody says of a song; the values are types of events."""

    LIKE = "like"
    DISLIKE = "dislike"


@dataclass(frozen=True, slots=True)
class Reaction:
    """What was said of which song."""

    item: Item
    verdict: Verdict


class Visitor:
    """One visitor; ``member_id`` is whom the worker knows them as, and ``n_told`` how often it was told something.

    Of each song the page holds one thing: that it was chosen, that it was liked, or that it was refused; what is said
    last stands. The worker is told of differences between that and what it knows, so that what could not be told, and
    what was taken back, is told the next time.
    """

    def __init__(self, member_id: int) -> None:
        self.member_id = member_id
        self._chosen: dict[int, Item] = {}
        self._reactions: dict[int, Reaction] = {}
        self._told: dict[int, Verdict] = {}
        self.n_told = 0

    # --- what the visitor does ---

    def choose(self, items: Sequence[Item]) -> None:
        """As many of them as there is room for."""
        new = [item for item in items if item["itemId"] not in self._chosen]
        for item in new[: N_SEEDS - len(self._chosen)]:
            self._reactions.pop(item["itemId"], None)
            self._chosen[item["itemId"]] = item

    def drop(self, item_id: int) -> None:
        """Choose it no more."""
        self._chosen.pop(item_id, None)

    def react(self, verdict: Verdict, item: Item) -> None:
        """Say it of a song; to say it again takes it back."""
        self._chosen.pop(item["itemId"], None)
        before = self._reactions.pop(item["itemId"], None)
        if before is None or before.verdict is not verdict:
            self._reactions[item["itemId"]] = Reaction(item, verdict)

    # --- what lists are made of ---

    @property
    def chosen(self) -> Sequence[Item]:
        """In the order of choosing."""
        return list(self._chosen.values())

    @property
    def liked(self) -> Sequence[Item]:
        """Newest first."""
        return [each.item for each in self.reactions if each.verdict is Verdict.LIKE]

    @property
    def reactions(self) -> Sequence[Reaction]:
        """Newest first."""
        return list(reversed(self._reactions.values()))

    @property
    def has_room(self) -> bool:
        """Whether one more can be chosen."""
        return len(self._chosen) < N_SEEDS

    def has_chosen(self, item_id: int) -> bool:
        """Whether it is among the chosen."""
        return item_id in self._chosen

    def seed_ids(self) -> list[int]:
        """The songs that a list is made of: the newest likes, what was chosen first, then older likes."""
        likes = self._said(Verdict.LIKE)
        return [*likes[:N_NEWEST_LIKES], *self._chosen, *likes[N_NEWEST_LIKES:]][:N_SEEDS]

    def n_without_a_say(self) -> int:
        """How many of the liked and chosen songs are more than a list can be made of."""
        return len(self._chosen) + len(self._said(Verdict.LIKE)) - len(self.seed_ids())

    def refused_ids(self) -> list[int]:
        """The newest of what was refused."""
        return self._said(Verdict.DISLIKE)[:N_DISLIKED]

    def silent_ids(self) -> frozenset[int]:
        """What the visitor has spoken of and the API is not told, since it takes no more: not to be listed either."""
        return frozenset({*self._chosen, *self._reactions} - {*self.seed_ids(), *self.refused_ids()})

    def _said(self, verdict: Verdict) -> list[int]:
        """The songs of that verdict, newest first."""
        return [each.item["itemId"] for each in self.reactions if each.verdict is verdict]

    # --- what the worker is told ---

    def untold(self) -> list[tuple[str, int]]:
        """Events that the worker wants, as type and item; none while the visitor has but chosen and said nothing."""
        if not (self.n_told or self._reactions):
            return []
        verdicts = self._verdicts()
        new = [(said.value, item_id) for item_id, said in verdicts.items() if self._told.get(item_id) is not said]
        return [*new, *((_TAKEN_BACK, item_id) for item_id in self._told if item_id not in verdicts)]

    def was_told(self) -> None:
        """The worker has taken all that was ``untold``."""
        self._told = self._verdicts()
        self.n_told += 1

    def _verdicts(self) -> dict[int, Verdict]:
        """By item; to choose a song is to like it."""
        said = {item_id: reaction.verdict for item_id, reaction in self._reactions.items()}
        return {**dict.fromkeys(self._chosen, Verdict.LIKE), **said}
