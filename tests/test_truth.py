"""A reason may name what the likes and its pick hold, and nothing else."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.catalogue_profile import load_profile
from config.prompt_texts import load_prompt_texts
from core.explanation import Explainer
from core.name_index import NameIndex, all_folded, folded, is_word
from core.truth import ClaimRules, Truth
from core.wish import WishReader
from models.catalogue import Item
from models.job import JobContext
from models.recommendation import Candidate, Evidence, RecommendationType, WishedFor
from tests.support.builders import make_candidate, make_item
from tests.support.labelled_claims import HELD_OUT, LIKES, OTHERS, PICKS, SENTENCES, Labelled
from tests.test_token_budget import real_songs

PROFILE, TEXTS = load_profile("songs"), load_prompt_texts()
MOODS = tuple(PROFILE.wishes.moods.values())
RULES = {
    locale: ClaimRules(PROFILE.claims_in(locale, spoken), PROFILE.kinds, MOODS)
    for locale, spoken in TEXTS.locales.items()
}
TRUTHS = {locale: Truth(rules, [*PICKS.values(), *OTHERS], LIKES) for locale, rules in RULES.items()}
PICK = make_candidate(PICKS["love"])
QUEEN = make_candidate(OTHERS[0])

# What the check is known to get wrong: each is a sentence of the labelled ones.
TAKEN_FOR_CLAIMS = {
    "Its synths could rock you to sleep",
    "태양처럼 따뜻한 위로를 건네요",
    "切ない「片想い」を描いた静かな曲です",
    "A small rock in a stormy sea",
}
NOT_NOTICED = {
    "김광석의 쓸쓸함을 닮았어요",
    "Country storytelling with a twist",
    "성시경의 발라드를 좋아하신다면 추천해요",
    "지코 특유의 리듬이 있어요",
    "설레는 봄의 시작을 알려요",
    "Official髭男dismのような華やかさです",
    "ロックバンドの熱さを感じます",
    "明るいポップスで元気になれます",
}


def unsupported(text: str, about: Candidate | None = PICK, *, locale: str = "en", is_title: bool = False) -> list[str]:
    return list(TRUTHS[locale].unsupported(text, [about] if about else [], is_title=is_title))


# --- how often it is right ---


@pytest.mark.parametrize("labelled", [*SENTENCES, *HELD_OUT], ids=lambda labelled: labelled.text)
def test_each_labelled_sentence_is_judged_as_a_person_would(labelled: Labelled) -> None:
    claims = unsupported(labelled.text, labelled.pick, locale=labelled.locale)
    is_mistake = labelled.text in TAKEN_FOR_CLAIMS | NOT_NOTICED
    assert (claims == []) is (labelled.is_true is not is_mistake), claims


@pytest.mark.parametrize(
    ("sentences", "n_least", "least_precision", "least_recall"),
    [(SENTENCES, 40, 0.95, 0.95), (HELD_OUT, 25, 0.9, 0.75)],
)
@pytest.mark.parametrize("locale", ["en", "ko", "ja"])
def test_most_of_what_is_replaced_ought_to_be_and_most_of_what_ought_to_be_is(
    sentences: Sequence[Labelled],
    n_least: int,
    least_precision: float,
    least_recall: float,
    locale: str,
    record_property: Callable[[str, object], None],
) -> None:
    judged = [
        (labelled.is_true, unsupported(labelled.text, labelled.pick, locale=locale) == [])
        for labelled in sentences
        if labelled.locale == locale
    ]
    n_caught, n_replaced = judged.count((False, False)), sum(not passed for _, passed in judged)
    n_untrue = sum(not is_true for is_true, _ in judged)
    record_property("precision", f"{n_caught} of {n_replaced}")
    record_property("recall", f"{n_caught} of {n_untrue}")
    assert len(judged) >= n_least
    assert n_caught >= least_precision * n_replaced
    assert n_caught >= least_recall * n_untrue


PLAIN_SENTENCES = [
    "Feels like coming home after a long drive",
    "A tender journey straight to the heart",
    "I will stay with you until the morning",
    "Big chorus, bigger feelings",
    "A little sunshine for your Monday",
    "Perfect when you want to slow down",
    "Midnight glow and a steady pulse",
    "Smoke, velvet and a slow groove",
    "Turn it up and let it run",
    "You and I against the world kind of song",
]


@pytest.mark.parametrize("seed", range(5))
def test_among_real_songs_neither_plain_words_nor_the_evidence_are_taken_for_claims(data_dir: Path, seed: int) -> None:
    random = Random(seed)
    items = real_songs(data_dir / "spotify_songs.csv", random, 160)
    explainer = Explainer(PROFILE, TEXTS)
    for locale, rules in RULES.items():
        truth = Truth(rules, items[:100], items[100:])
        for item in items[:20]:
            near = (random.choice(items[100:]),)
            evidence = Evidence(similarity=0.9, near=near, near_similarity=(0.9,), shared_genres=item.genres)
            candidate = replace(make_candidate(item), evidence=evidence)
            sentences = [explainer.reason(candidate, locale), *(PLAIN_SENTENCES if locale == "en" else [])]
            assert [claims for said in sentences if (claims := truth.unsupported(said, [candidate]))] == []


# --- what is a claim ---


def test_a_claim_is_told_as_the_sentence_has_it() -> None:
    assert unsupported("As grand as Bohemian Rhapsody by Queen") == ["Bohemian Rhapsody", "Queen"]
    assert unsupported("방탄소년단의 ‘벚꽃 엔딩’ 같은 곡", locale="ko") == ["벚꽃 엔딩"]
    assert unsupported("しみじみとした演歌です", locale="ja") == ["演歌"]


def test_what_is_true_of_another_pick_is_not_of_this_one() -> None:
    assert unsupported("Warm and dark rock by Queen", QUEEN) == ["Warm"]
    assert unsupported("A dark rock classic by Queen") == ["dark", "rock", "Queen"]


def test_the_taste_is_about_the_likes_alone() -> None:
    assert unsupported("You like The Weeknd and bright synth-pop.", None) == []
    assert unsupported("You like calm indie pop, by Lauv above all.", None) == ["indie pop", "Lauv"]
    assert unsupported("You like dark songs above all.", None) == ["dark"]


@pytest.mark.parametrize(
    "label",
    [
        "Neon Night Drives",
        "Good Vibes Only",
        "Home Sweet Home",
        "Heart Of The Night",
        "The Journey Home",
        "Stay Awhile",
    ],
)
def test_a_label_of_plain_words_may_capitalise_them(label: str) -> None:
    assert unsupported(label, is_title=True) == []


@pytest.mark.parametrize(
    ("label", "claim"),
    [
        ("For Queen Fans", "Queen"),
        ("Dua Lipa Deep Cuts", "Dua Lipa"),
        ("Rock Anthems", "Rock"),
        ("After “Levitating”", "Levitating"),
        ("Like Rihanna", "Rihanna"),
    ],
)
def test_a_label_may_not_name_what_nothing_in_its_group_supports(label: str, claim: str) -> None:
    assert unsupported(label, is_title=True) == [claim]


def test_a_label_may_name_what_any_pick_of_its_group_has() -> None:
    truth = TRUTHS["en"]
    assert truth.unsupported("Dark Rock By Queen", [PICK, QUEEN], is_title=True) == ()
    assert truth.unsupported("Dark Rock By Queen", [PICK], is_title=True) == ("Dark", "Rock", "Queen")


def test_korean_and_japanese_labels_too() -> None:
    assert unsupported("신나는 힙합 모음", locale="ko", is_title=True) == ["신나는", "힙합"]
    assert unsupported("비 오는 날의 발라드", locale="ko", is_title=True) == []
    assert unsupported("激しいロック", locale="ja", is_title=True) == ["激しい", "ロック"]
    assert unsupported("切ないJ-POP", locale="ja", is_title=True) == []


def test_a_long_title_may_be_quoted_as_the_prompt_cut_it() -> None:
    like = make_item(5, title="A Very Long Title That Never Seems To End")
    assert Truth(RULES["en"], [PICK.item], [like]).unsupported("Close to “A Very Long Title…”", [PICK]) == ()


def test_a_title_may_be_quoted_without_its_version() -> None:
    like = make_item(5, title="Umi (2019 Remaster)", creator="Someone")
    assert Truth(RULES["en"], [], [like]).unsupported("As deep as “Umi”") == ()


def test_a_creator_and_a_title_may_share_the_quotation_marks() -> None:
    assert unsupported("Close to “Blinding Lights by The Weeknd”") == []
    assert unsupported("‘아이유의 밤편지’처럼 따뜻해요", locale="ko") == []


@pytest.mark.parametrize(
    ("title", "creator"),
    [
        ("The Truth", "India.Arie"),
        ("So Many Tears", "2Pac"),
        ("Next Level", "7UBO"),
        ("Shout", "S.A.S."),
        ("Mockingbird", "Dylan 'N' Alice"),
        ("...Baby One More Time", "Someone"),
        ("Dust In The Wind (Acoustic Guitar Solo) With Jazz Rock Band", "Kansas"),
        ("Calypso (with Dardust) (feat. Sfera Ebbasta & Others)", "Charlie Charles"),
        ("Who's Afraid?", "P!nk"),
    ],
)
@pytest.mark.parametrize("locale", ["ko", "ja", "en"])
def test_a_like_may_be_named_however_it_is_written(title: str, creator: str, locale: str) -> None:
    near = make_item(5, title=title, creator=creator, genres=())
    candidate = replace(PICK, evidence=Evidence(similarity=0.9, near=(near,), near_similarity=(0.9,)))
    sentence = Explainer(PROFILE, TEXTS).reason(candidate, locale)
    assert creator in sentence
    assert Truth(RULES[locale], [PICK.item, *OTHERS], [near]).unsupported(sentence, [candidate]) == ()


def test_a_title_of_plain_words_is_one_only_where_its_letters_tell() -> None:
    shown = [make_item(5, title="You and I"), make_item(6, title="Golden Hour"), PICK.item]
    truth = Truth(RULES["en"], shown, LIKES)
    assert truth.unsupported("You and I against the world", [PICK]) == ()
    assert truth.unsupported("Golden hour light on every line", [PICK]) == ()
    assert truth.unsupported("Glows as Golden Hour does", [PICK]) == ("Golden Hour",)
    assert truth.unsupported("Glows as “You and I” does", [PICK]) == ("You and I",)


def test_each_of_several_creators_may_be_named() -> None:
    like = make_item(5, title="Duet", creator="Ingrid Michaelson;ZAYN")
    other = make_item(6, title="Other", creator="Sam Smith;Calvin Harris")
    truth = Truth(RULES["en"], [other], [like])
    assert truth.unsupported("A duet like those of Ingrid Michaelson and ZAYN") == ()
    assert truth.unsupported("A duet like those of Calvin Harris") == ("Calvin Harris",)


def test_a_genre_is_one_in_every_language_that_it_is_written_in() -> None:
    assert unsupported("부드러운 재즈 선율이에요", make_candidate(PICKS["home"]), locale="ko") == []
    assert unsupported("부드러운 재즈 선율이에요", make_candidate(PICKS["star"]), locale="ko") == ["재즈"]
    assert unsupported("バラードが好きな方に", locale="ja") == []
    assert unsupported("レゲエが好きな方に", locale="ja") == ["レゲエ"]


def test_parts_of_a_genre_are_supported_by_it() -> None:
    assert unsupported("Indie with a pop heart, all synth-pop shine") == []


def test_the_evidence_of_a_pick_may_be_named_though_the_like_is_older_than_those_shown() -> None:
    old = make_item(77, title="Forgotten Favourite", creator="Old Hero", genres=("polka",))
    assert unsupported("Close to “Forgotten Favourite” by Old Hero, with polka verve") != []
    assert unsupported("Close to “Forgotten Favourite” by Old Hero", make_candidate(PICK.item, near=[old])) == []


def test_what_a_pick_fulfils_of_a_wish_may_be_said_of_it() -> None:
    happy = WishedFor("mood:happy", {"en": "happy", "ko": "행복한"})
    fulfilling = replace(PICK, evidence=replace(PICK.evidence, wish=(happy,)))
    assert unsupported("A happy tune") == ["happy"]
    assert unsupported("A happy tune", fulfilling) == []


@pytest.mark.parametrize("said", ["A sunny tune", "A cheerful tune", "Sad or furious", "A gloomy tune"])
def test_a_mood_may_be_said_by_any_of_its_words_where_the_data_has_it(said: str) -> None:
    sunny = make_candidate(replace(PICK.item, moods=("明るい",)))
    sad = make_candidate(replace(PICK.item, features={"valence": 0.1, "energy": 0.65}))
    alone = Truth(RULES["en"], [sunny.item, sad.item], [])
    claims = [alone.unsupported(said, [about]) for about in (sunny, sad)]
    assert (
        claims
        == {
            "A sunny tune": [(), ()],
            "A cheerful tune": [(), ("cheerful",)],
            "Sad or furious": [("furious",), ()],
            "A gloomy tune": [("gloomy",), ()],
        }[said]
    )


def test_figures_are_claims_but_for_those_of_the_data() -> None:
    made = replace(PICK.item, features={"tempo": 127.6}, columns={"release_date": "2018-05-01"})
    about = make_candidate(made)
    truth = Truth(RULES["en"], [made], LIKES)
    assert truth.unsupported("128 BPM of calm, from 2018", [about]) == ()
    assert truth.unsupported("190bpm of calm, from 2019", [about]) == ("190bpm", "2019")
    assert truth.unsupported("Made in 1,999 takes, 12019 miles away, as in the 1990s", [about]) == ()


def test_a_year_in_a_title_is_part_of_it() -> None:
    named = make_candidate(replace(PICK.item, titles={"en": "1979"}))
    assert Truth(RULES["en"], [named.item], LIKES).unsupported("“1979” is a calm one", [named]) == ()


@pytest.mark.parametrize(
    ("locale", "sentence", "claim"),
    [
        ("en", "An award-winning voice", "award-winning"),
        ("ko", "빌보드를 휩쓴 발라드예요", "빌보드"),
        ("ja", "オリコンを沸かせた静かな曲です", "オリコン"),
    ],
)
def test_prizes_and_charts_are_claims(locale: str, sentence: str, claim: str) -> None:
    assert unsupported(sentence, make_candidate(PICKS["star" if locale == "ko" else "flower"]), locale=locale) == [
        claim
    ]


def test_what_a_wish_denies_supports_nothing_and_what_it_seeks_only_what_fulfils_it() -> None:
    wish = WishReader(PROFILE.wishes).read(JobContext(query="nothing sad or dark, romantic like Vogue"))
    assert wish is not None
    truth = Truth(RULES["en"], [PICK.item], [], wish.sought)
    assert truth.unsupported("A dark, sad song", [PICK]) == ("dark", "sad")
    assert truth.unsupported("A romantic song, as you asked, like Vogue", [PICK]) == ("romantic",)
    fulfilled = next(part.wished_for for part in wish.parts)
    fulfilling = replace(PICK, evidence=replace(PICK.evidence, wish=(fulfilled,)))
    assert truth.unsupported("A romantic song, as you asked, like Vogue", [fulfilling]) == ()


def test_what_the_listener_said_may_be_repeated() -> None:
    truth = Truth(RULES["en"], [PICK.item], LIKES, "something like Vogue for the way home")
    assert truth.unsupported("You asked for Vogue: close to “Vogue” in spirit", [PICK]) == ()
    assert truth.unsupported("You asked for “Purple Rain”", [PICK]) == ("Purple Rain",)


@pytest.mark.parametrize("locale", ["ko", "ja", "en"])
@pytest.mark.parametrize("kind", list(RecommendationType))
def test_every_sentence_of_the_evidence_is_true(locale: str, kind: RecommendationType) -> None:
    explainer = Explainer(PROFILE, TEXTS)
    for near in LIKES:
        for same_creator in (True, False):
            evidence = Evidence(
                similarity=0.9,
                near=(near,),
                near_similarity=(0.9,),
                shared_genres=near.genres,
                shared_moods=near.moods,
                same_creator=same_creator,
            )
            candidate = Candidate(item=PICK.item, score=1.0, kind=kind, evidence=evidence)
            assert unsupported(explainer.reason(candidate, locale), candidate, locale=locale) == []


# --- any catalogue, any sentence ---

_NAMES = st.text(st.characters(codec="utf-8"), max_size=12)


def _items(first_id: int) -> st.SearchStrategy[list[Item]]:
    made = st.builds(
        lambda title, creator, genres: make_item(first_id, title=title or "x", creator=creator, genres=genres),
        _NAMES, _NAMES, st.lists(_NAMES, max_size=2),
    )  # fmt: skip
    return st.lists(made, max_size=4)


@given(_items(1), _items(2), _NAMES, st.text(max_size=80), st.sampled_from(["en", "ko", "ja"]))
def test_whatever_a_catalogue_and_a_model_say_is_checked(
    shown: list[Item], liked: list[Item], name: str, sentence: str, locale: str
) -> None:
    truth = Truth(RULES[locale], shown, liked, name)
    about = [make_candidate(item) for item in shown[:1]]
    for said in (sentence, f"Like “{name}” by {name}"):
        assert all(isinstance(claim, str) for claim in truth.unsupported(said, about, is_title=len(said) % 2 == 0))


@given(st.sampled_from(LIKES), st.sampled_from(["“{}”", '"{}"', "「{}」", "『{}』", "«{}»", "‘{}’", "《{}》"]))
def test_a_like_may_be_quoted_in_every_kind_of_marks(like: Item, marks: str) -> None:
    title = next(iter(like.titles.values()))
    assert unsupported("close to " + marks.format(title)) == []
    assert unsupported("close to " + marks.format("Nonexistent")) == ["Nonexistent"]


@given(st.lists(st.text(max_size=12)))
def test_names_folded_in_one_go_are_as_folded_one_by_one(names: list[str]) -> None:
    together = all_folded(names)
    assert len(together) == len(names)
    for name, alone in zip(names, together, strict=True):
        assert alone == all_folded([name])[0] == " ".join(alone.split())
        if name.isascii() and name.isprintable() and "  " not in name and name == name.strip():
            assert alone == folded(name)


@given(st.lists(st.text("ab 가나アイ日", min_size=2, max_size=4)), st.text("ab 가나アイ日", max_size=30))
def test_the_index_finds_what_a_plain_search_finds(names: list[str], text: str) -> None:
    index = NameIndex(set(names[::2]), NameIndex(set(names[1::2]) - set(names[::2])))
    for place in range(len(text)):
        expected = {name for name in names if text.startswith(name, place) and is_word(text, place, place + len(name))}
        found = index.at(text, place)
        assert set(found) == expected
        assert [len(name) for name in found] == sorted(map(len, found), reverse=True)
        assert not found or index.starts_at(text, [place])


@pytest.mark.parametrize(
    ("text", "word", "is_one"),
    [
        ("아이유의 노래", "아이유", True),
        ("싸이유의 노래", "이유", False),
        ("ブロックの街", "ロック", False),
        ("ロックンロール", "ロック", False),
        ("激しいロックな曲", "ロック", True),
        ("a brocken rock", "rock", True),
        ("rocking on", "rock", False),
        ("post-rock", "rock", False),
        ("rock-infused", "rock", True),
        ("IU와 함께".lower(), "iu", True),
        ("米津玄師の世界", "米津玄師", True),
    ],
)
def test_where_a_word_ends_depends_on_its_script(text: str, word: str, is_one: bool) -> None:
    assert (
        any(is_word(text, place, place + len(word)) for place in range(len(text)) if text.startswith(word, place))
        is is_one
    )


# --- what it costs ---


@pytest.mark.parametrize("locale", ["en", "ko", "ja"])
def test_an_answer_is_checked_faster_than_a_pattern_of_all_names_is_compiled(locale: str) -> None:
    """The first version of this check compiled patterns, which took 25 ms and more of every answer."""
    import re  # noqa: PLC0415 - the contestant's

    items = [make_item(number, title=f"Some Title {number}", creator=f"Artist {number}") for number in range(160)]
    about = [make_candidate(item) for item in items[:20]]
    names = [name for item in items for name in (*item.titles.values(), str(item.creator))]
    pattern = "|".join(re.escape(name) for name in names)

    def check() -> None:
        truth = Truth(RULES[locale], items[:100], items[100:])
        for candidate in about:
            truth.unsupported("Shares the bright energy of Some Title 120 that you love", [candidate])

    def compile_() -> None:
        re.purge()
        re.compile(pattern)

    def seconds(run: Callable[[], None]) -> float:
        begun = time.thread_time()
        run()
        return time.thread_time() - begun

    check()
    pairs = [(seconds(check), seconds(compile_)) for _ in range(7)]
    assert min(checked for checked, _ in pairs) < min(compiled for _, compiled in pairs)
