"""What a visitor of the dashboard chose and said, what lists are made of, and what the worker is told of it."""

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from dashboard.shapes import Item
from dashboard.visitor import N_DISLIKED, N_NEWEST_LIKES, N_SEEDS, Verdict, Visitor

LIKE, DISLIKE = Verdict.LIKE, Verdict.DISLIKE


def song(item_id: int) -> Item:
    return cast("Item", {"itemId": item_id, "titles": {"en": f"Song {item_id}"}})


def visitor(*chosen: int, likes: tuple[int, ...] = (), dislikes: tuple[int, ...] = ()) -> Visitor:
    made = Visitor(-7)
    made.choose([song(item_id) for item_id in chosen])
    for item_id in likes:
        made.react(LIKE, song(item_id))
    for item_id in dislikes:
        made.react(DISLIKE, song(item_id))
    return made


# --- what lists are made of ---


def test_a_list_is_made_of_what_was_chosen_and_liked() -> None:
    assert visitor(1, 2, 3, likes=(4, 5)).seed_ids() == [5, 4, 1, 2, 3]


def test_the_newest_likes_count_however_much_was_chosen() -> None:
    full = visitor(*range(1, N_SEEDS + 1), likes=(21, 22, 23, 24, 25))
    assert full.seed_ids() == [25, 24, 23, 22, 1, 2, 3, 4, 5, 6]
    assert full.n_without_a_say() == 5
    assert full.silent_ids() == {7, 8, 9, 10, 21}


def test_where_little_was_chosen_older_likes_fill_the_list() -> None:
    assert visitor(1, 2, 3, likes=tuple(range(11, 21))).seed_ids() == [20, 19, 18, 17, 1, 2, 3, 16, 15, 14]


def test_no_more_is_chosen_than_there_is_room_for_and_what_is_chosen_takes_none_twice() -> None:
    made = visitor(*range(N_SEEDS - 1))
    made.choose([song(0), song(1), song(98), song(99)])
    assert [item["itemId"] for item in made.chosen] == [*range(N_SEEDS - 1), 98]
    assert not made.has_room


def test_only_the_newest_refusals_are_told_as_many_as_the_api_takes() -> None:
    made = visitor(1, 2, 3, dislikes=tuple(range(1000, 1000 + N_DISLIKED + 20)))
    assert made.refused_ids() == list(range(1000 + N_DISLIKED + 19, 1019, -1))
    assert made.silent_ids() == set(range(1000, 1020))


def test_a_refused_song_that_is_chosen_is_refused_no_more() -> None:
    made = visitor(1, 2, dislikes=(3,))
    made.choose([song(3)])
    assert (made.refused_ids(), made.reactions) == ([], [])


def test_to_say_it_again_takes_it_back_and_to_say_the_other_thing_replaces_it() -> None:
    made = visitor(likes=(1, 2))
    made.react(LIKE, song(1))
    assert [each.item["itemId"] for each in made.reactions] == [2]
    made.react(DISLIKE, song(2))
    assert [(each.item["itemId"], each.verdict) for each in made.reactions] == [(2, DISLIKE)]
    assert made.liked == []


# --- what the worker is told ---


def test_whoever_only_chooses_is_nobody_that_the_worker_knows() -> None:
    assert visitor(1, 2, 3).untold() == []


def test_the_first_reaction_tells_what_was_chosen_too() -> None:
    made = visitor(1, 2, likes=(3,), dislikes=(4,))
    assert made.untold() == [("like", 1), ("like", 2), ("like", 3), ("dislike", 4)]
    made.was_told()
    assert made.untold() == []


def test_what_could_not_be_told_is_told_with_the_next() -> None:
    made = visitor(1, likes=(2,))
    assert made.untold() == [("like", 1), ("like", 2)]
    made.react(DISLIKE, song(3))
    assert made.untold() == [("like", 1), ("like", 2), ("dislike", 3)]


def test_what_is_taken_back_or_removed_is_unliked_once_it_was_told() -> None:
    made = visitor(1, 2, likes=(3,), dislikes=(4,))
    made.react(DISLIKE, song(4))
    assert ("unlike", 4) not in made.untold()
    made.react(DISLIKE, song(4))
    made.was_told()
    made.drop(1)
    made.react(LIKE, song(3))
    made.react(DISLIKE, song(4))
    assert made.untold() == [("unlike", 1), ("unlike", 3), ("unlike", 4)]
    made.was_told()
    assert made.untold() == []


def test_whom_the_worker_knows_it_is_told_of_by_each_choice() -> None:
    made = visitor(1, likes=(2,))
    made.was_told()
    made.react(LIKE, song(2))
    made.drop(1)
    made.was_told()
    made.choose([song(5)])
    assert made.untold() == [("like", 5)]


_DEEDS = st.lists(
    st.tuples(st.sampled_from(["choose", "drop", "like", "dislike", "tell"]), st.integers(1, 30)), max_size=120
)


class Told:
    """A visitor, and what the worker makes of the events: the last of a song decides."""

    def __init__(self, deeds: list[tuple[str, int]]) -> None:
        self.visitor = Visitor(-7)
        self.known: dict[int, str] = {}
        for deed, item_id in [*deeds, ("tell", 0)]:
            self._do(deed, item_id)

    def _do(self, deed: str, item_id: int) -> None:
        if deed == "choose":
            self.visitor.choose([song(item_id)])
        elif deed == "drop":
            self.visitor.drop(item_id)
        elif deed == "tell" and (events := self.visitor.untold()):
            self.known.update((item_id, kind) for kind, item_id in events)
            self.visitor.was_told()
        elif deed in ("like", "dislike"):
            self.visitor.react(Verdict(deed), song(item_id))

    def of_kind(self, kind: str) -> set[int]:
        """What the worker holds for liked, or refused."""
        return {item_id for item_id, known in self.known.items() if known == kind}


def shown_as(verdict: Verdict, made: Visitor) -> set[int]:
    """What the page holds for liked, or refused."""
    said = {each.item["itemId"] for each in made.reactions if each.verdict is verdict}
    return said | {item["itemId"] for item in made.chosen} if verdict is LIKE else said


@given(_DEEDS)
def test_whatever_was_done_the_worker_ends_up_with_what_the_page_shows(deeds: list[tuple[str, int]]) -> None:
    told = Told(deeds)
    if told.visitor.n_told:
        assert told.of_kind("like") == shown_as(LIKE, told.visitor)
        assert told.of_kind("dislike") == shown_as(DISLIKE, told.visitor)
    else:
        assert not told.known


@given(_DEEDS)
def test_whatever_was_done_a_list_is_made_of_likes_and_the_newest_have_their_say(deeds: list[tuple[str, int]]) -> None:
    made = Told(deeds).visitor
    seeds, liked, refused = made.seed_ids(), shown_as(LIKE, made), shown_as(DISLIKE, made)
    assert len(seeds) == len(set(seeds)) == min(N_SEEDS, len(liked))
    assert set(seeds) <= liked
    assert not set(seeds) & refused
    newest = [item["itemId"] for item in made.liked[:N_NEWEST_LIKES]]
    assert seeds[: len(newest)] == newest
    assert made.silent_ids() | {*seeds, *made.refused_ids()} == liked | refused
