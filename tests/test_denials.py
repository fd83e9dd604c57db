"""What is denied in a wish, as listeners write it, labelled by hand: what each phrase still seeks."""

from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.catalogue_profile import load_profile
from config.wish_table import WishTable
from core.denials import Denials
from core.ports.arrays import Floats
from core.wish import WishReader
from core.wish_stage import WishStage
from models.catalogue import Item
from models.job import JobContext

TABLE = load_profile("songs").wishes
READER = WishReader(TABLE)

ENGLISH = """
anything but rock                            |
I hate jazz                                  |
not in the mood for sad songs                |
I'm not in the mood for anything sad         |
not sad or calm                              |
no rock or jazz                              |
no rap, rock or metal                        |
nothing sad, slow or dark                    |
I don't want sad songs                       |
I don’t want any rap                         |
no more ballads please                       |
skip the jazz, something happy               | happy
without rap and metal                        |
can't stand metal, give me jazz              | jazz
happy songs instead of sad ones              | happy
no sad rock songs                            |
calm, not sad                                | calm
not sad, but calm                            | calm
not sad, calm please                         | calm
nothing but jazz                             | jazz
not only sad songs                           | sad
not just rock but jazz too                   | rock jazz
I don't mind sad songs                       | sad
sad or calm songs                            | calm sad
no problem, happy songs                      | happy
rock and jazz, no metal                      | jazz rock
a sad song that is not slow                  | sad
I don't want to be sad                       |
I do not want to feel so sad, play jazz      | jazz
rock is not what I want, jazz is             | jazz
sad songs aren't what I want today           |
rap isn’t my thing                           |
"""
KOREAN = """
슬픈 노래는 싫어요                           |
슬픈 노래 말고 신나는 노래                   | energetic
슬픈 거 말고 밝은 거                         | bright
슬픈 것 말고                                 |
슬픈 곡은 빼고 틀어줘                        |
슬픈 건 싫어                                 |
슬픈 음악은 정말 듣기 싫어요                 |
슬픈 노래는 듣고 싶지 않아요                 |
발라드는 제외하고 댄스                       | danceable
재즈 같은 거 말고 힙합                       | hip_hop
슬프거나 우울한 노래는 빼고                  |
락이나 메탈 말고 재즈                        | jazz
재즈와 클래식은 빼고 팝                      | pop
슬픈 발라드 말고 힙합                        | hip_hop
락도 메탈도 싫어요                           |
랩 없는 노래                                 |
락이 아니라 재즈                             | jazz
이별 노래는 안 듣고 싶고 잔잔한 노래         | calm
슬픈 노래는 필요 없어                        |
슬픈 노래만 말고 밝은 노래도                 | bright sad
슬픈 노래뿐만 아니라 밝은 노래도             | bright sad
락 아니면 재즈                               | jazz rock
재즈도 싫지 않아요                           | jazz
신나고 슬프지 않은 노래                      | energetic
신나는 노래, 발라드는 빼고                   | energetic
밝은 슬프지 않은 노래                        | bright
잔잔한 노래랑 밝은 노래                      | bright calm
안 슬픈 노래                                 |
슬픈 노래 없어요?                            | sad
신나는 거 없나요                             | energetic
보컬 없는 재즈                               | jazz
"""
JAPANESE = """
静かすぎない曲                               |
静かすぎないロック                           | rock
悲しい曲じゃなくて明るい曲                   | bright
悲しい曲以外                                 |
悲しい曲は嫌                                 |
悲しい曲は抜きで                             |
悲しいのは嫌い、楽しいのがいい               | happy
ロックはいらない                             |
ロックやメタルは抜きで                       |
ジャズとクラシック以外で                     |
悲しいバラード以外                           |
切ない曲はもう聴きたくない                   |
バラードは苦手です                           |
暗い曲ではなく明るい曲                       | bright
激しい音楽は避けて静かな曲                   | calm
悲しい曲も暗い曲も嫌                         |
ジャズなしで                                 |
悲しい曲だけじゃなくて明るい曲も             | bright sad
ロックだけでなくジャズも                     | jazz rock
ジャズは嫌いじゃない                         | jazz
静かで激しくない曲                           | calm
明るい曲、バラード以外                       | bright
ジャズとロック                               | jazz rock
悲しい曲や静かな曲                           | calm sad
"""


def phrases(listed: str) -> list[tuple[str, set[str]]]:
    lines = [line.rsplit("|", 1) for line in listed.strip().splitlines()]
    return [(phrase.strip(), set(named.split())) for phrase, named in lines]


def sought(query: str, reader: WishReader = READER) -> set[str]:
    wish = reader.read(JobContext(query=query))
    return {part.key.split(":")[1] for part in wish.parts} if wish else set()


@pytest.mark.parametrize(
    ("query", "named"), [each for listed in (ENGLISH, KOREAN, JAPANESE) for each in phrases(listed)]
)
def test_what_is_refused_is_not_sought_and_what_is_not_is(query: str, named: set[str]) -> None:
    assert sought(query) == named


@pytest.mark.parametrize("query", ["슬픈 거 말고", "슬픈 노래는 싫", "悲しいの以外", "no sad songs"])
def test_nothing_of_a_refusal_is_searched_for_as_text(query: str) -> None:
    wish = READER.read(JobContext(query=query))
    assert wish is not None
    assert wish.rest == ""


@pytest.mark.parametrize("listed", [ENGLISH, KOREAN, JAPANESE])
def test_a_refusal_in_one_field_does_not_reach_another(listed: str) -> None:
    for query, named in phrases(listed):
        wish = READER.read(JobContext(query=query, mood="romantic"))
        assert wish is not None
        assert {part.key for part in wish.parts if part.kind != "time"} >= {"mood:romantic"}
        assert len(wish.parts) == len(named) + 1


@pytest.mark.parametrize(
    ("query", "embedded"),
    [
        ("Happy songs, nothing sad or dark", "happy songs, nothing or"),
        ("슬픈 노래 말고 신나는 노래", "말고 신나는 노래"),
        ("悲しい曲じゃなくて明るい曲", "じゃなくて明るい曲"),
        ("sad songs", "sad songs"),
    ],
)
async def test_what_is_refused_is_not_embedded(query: str, embedded: str) -> None:
    class Recording:
        texts: ClassVar[list[str]] = []

        async def embed_wish(self, text: str, item: Item) -> Floats:
            self.texts.append(text)
            return np.ones(2, dtype=np.float32)

    embedder = Recording()
    stage = WishStage(TABLE, embedder, NoFeatures())
    wish = READER.read(JobContext(query=query))
    assert wish is not None
    await stage.search(wish)
    assert embedder.texts[-1:] == [embedded]


class NoFeatures:
    async def features(self, item_ids: Collection[int]) -> dict[int, Mapping[str, float]]:
        return {}


def test_a_table_without_words_of_denial_denies_nothing() -> None:
    bare = WishTable(genres=TABLE.genres, moods=TABLE.moods)
    assert sought("not sad or calm", WishReader(bare)) == {"sad", "calm"}
    assert sought("슬픈 노래는 싫어요", WishReader(bare)) == {"sad"}


WORDS = st.sampled_from(
    [
        "not",
        "no",
        "or",
        "and",
        ",",
        "sad",
        "jazz",
        "songs",
        "슬픈",
        "노래",
        "는",
        "싫",
        "말고",
        "거나",
        "曲",
        "悲し",
        "嫌",
        "じゃな",
        "や",
        "'",
        "x",
    ]
)


@given(
    st.lists(st.tuples(WORDS, st.sampled_from(["", " "])), max_size=40).map(lambda parts: "".join(map("".join, parts)))
)
def test_any_order_of_words_is_read_and_denials_only_take_away(query: str) -> None:
    bare = WishTable(genres=TABLE.genres, moods=TABLE.moods, activities=TABLE.activities)
    assert sought(query) <= sought(query, WishReader(bare))


def test_what_is_denied_is_told_with_where_the_denial_begins() -> None:
    line = "슬픈 노래는 싫어요"

    class Word:
        start, end = 0, 2

    assert Denials(TABLE).ends(line, [Word()], [False]) == {0: line.index("싫")}
    assert Denials(TABLE).ends("no 슬픈", [type("W", (), {"start": 3, "end": 5})()], [False]) == {0: 5}
