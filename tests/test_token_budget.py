"""What a job costs, counted with o200k_base: the prompt as it is sent, and answers as long as they are asked to be."""

import csv
import json
import string
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.catalogue_profile import load_profile
from config.llm_strategies import DEFAULT_STRATEGIES, StrategyLimits
from config.prompt_texts import load_prompt_texts
from core.ports.language_model import Prompt
from core.prompting import Wanted, affordable_picks, build_prompt
from core.token_estimate import rough_tokens
from models.catalogue import Item
from models.recommendation import Candidate, Evidence, RecommendationType
from tests.support.builders import make_candidate
from tests.support.llm_server import count_tokens

MAX_PROMPT_TOKENS = 2600
LIMITS = DEFAULT_STRATEGIES.default
N_CANDIDATES, N_LIKES, N_PICKS = LIMITS.n_candidates, LIMITS.n_likes, LIMITS.n_explained
PROFILE, TEXTS = load_profile("songs"), load_prompt_texts()

KOREAN_TITLES = [
    *(
        "밤편지",
        "좋은 날",
        "봄날",
        "사건의 지평선",
        "어떻게 이별까지 사랑하겠어, 널 사랑하는 거지",
        "취중고백",
        "야생화",
    ),
    *(
        "그대라는 사치",
        "첫눈처럼 너에게 가겠다",
        "주저하는 연인들을 위해",
        "헤어지자 말해요",
        "모든 날, 모든 순간",
        "시작",
    ),
    *("나의 아저씨", "너의 의미", "벚꽃 엔딩", "한숨", "흔들리는 꽃들 속에서 네 샴푸향이 느껴진거야"),
]
KOREAN_ARTISTS = [
    *("아이유", "방탄소년단", "윤하", "잔나비", "볼빨간사춘기", "임영웅", "악동뮤지션", "멜로망스", "폴킴", "박효신"),
    *("버스커 버스커", "장범준"),
]
JAPANESE_TITLES = [
    *(
        "夜に駆ける",
        "ひまわりの約束",
        "前前前世",
        "残酷な天使のテーゼ",
        "シャルル",
        "千本桜",
        "紅蓮華",
        "炎",
        "恋",
        "糸",
        "猫",
    ),
    *("ドライフラワー", "マリーゴールド", "打上花火", "さよならエレジー", "女々しくて", "群青", "怪獣の花唄", "新時代"),
    *("アイドル", "カタオモイ", "第ゼロ感"),
]
JAPANESE_ARTISTS = [
    *(
        "YOASOBI",
        "米津玄師",
        "あいみょん",
        "優里",
        "Official髭男dism",
        "LiSA",
        "秦基博",
        "RADWIMPS",
        "高橋洋子",
        "菅田将暉",
    ),
    "Vaundy",
]


def songs_of(locale: str, random: Random, n: int) -> list[Item]:
    titles, creators = (KOREAN_TITLES, KOREAN_ARTISTS) if locale == "ko" else (JAPANESE_TITLES, JAPANESE_ARTISTS)
    genre, mood = ("발라드", "잔잔한") if locale == "ko" else ("J-POP", "切ない")
    return [
        Item(
            item_id=number,
            titles={locale: random.choice(titles)},
            creator=(name := random.choice(creators)),
            creator_local=name,
            genres=(genre, "OST"),
            moods=(mood,),
        )
        for number in range(n)
    ]


def real_songs(path: Path, random: Random, n: int) -> list[Item]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = random.sample(list(csv.DictReader(file)), n)
    moods = ("energetic", "calm", "happy", "melancholic")
    return [
        Item(
            item_id=number,
            titles={"en": row["track_name"]},
            creator=row["artist_name"],
            genres=(row["genre"],),
            moods=(random.choice(moods),),
        )
        for number, row in enumerate(rows)
    ]


def ask(
    items: list[Item], random: Random, locale: str, *, n_likes: int = N_LIKES, limits: StrategyLimits = LIMITS
) -> Prompt:
    """A prompt for as many picks as ``limits`` explain; the first ``n_likes`` of ``items`` are liked."""
    likes, rest = items[:n_likes], items[n_likes:]
    candidates = [
        Candidate(
            item=item,
            score=0.5,
            kind=RecommendationType.SIMILAR,
            evidence=Evidence(similarity=0.5, near=(random.choice(likes),) if likes else ()),
        )
        for item in rest
    ]
    prompt, _ = build_prompt(
        candidates, likes, locale=locale, profile=PROFILE, texts=TEXTS, n_picks=limits.n_explained, limits=limits
    )
    return prompt


def prompt_tokens(prompt: Prompt) -> int:
    """All that is paid for: both messages with the 4 tokens that frame each, and the response format."""
    schema = {"name": prompt.schema_name, "schema": prompt.schema, "strict": True}
    response_format = json.dumps({"type": "json_schema", "json_schema": schema}, separators=(",", ":"))
    return count_tokens(prompt.system) + count_tokens(prompt.user) + count_tokens(response_format) + 8


def test_the_default_strategy_sends_what_the_budget_is_for() -> None:
    assert (N_CANDIDATES, N_LIKES, N_PICKS, LIMITS.max_prompt_tokens) == (100, 30, 20, MAX_PROMPT_TOKENS)


@pytest.mark.parametrize("locale", ["ko", "ja"])
@pytest.mark.parametrize("seed", range(5))
def test_a_prompt_of_korean_or_japanese_songs_stays_in_budget(locale: str, seed: int) -> None:
    random = Random(seed)
    prompt = ask(songs_of(locale, random, N_LIKES + N_CANDIDATES), random, locale)
    assert prompt_tokens(prompt) <= MAX_PROMPT_TOKENS


@pytest.mark.parametrize("seed", range(10))
def test_a_prompt_of_real_songs_stays_in_budget_and_shows_titles_in_full(data_dir: Path, seed: int) -> None:
    random = Random(seed)
    items = real_songs(data_dir / "spotify_songs.csv", random, N_LIKES + N_CANDIDATES)
    prompt = ask(items, random, "en")
    assert prompt_tokens(prompt) <= MAX_PROMPT_TOKENS
    n_cut = sum("…" in line for line in prompt.user.splitlines())
    assert n_cut <= 15


@pytest.mark.parametrize(
    "title", ["긴 제목을 가진 아주 긴 노래 " * 9, "A Very Long Title Of A Song That Never Ends " * 9]
)
def test_a_catalogue_of_endless_titles_stays_in_budget_too(title: str) -> None:
    items = [
        Item(item_id=number, titles={"en": title}, creator=title, genres=(title,), moods=(title,))
        for number in range(N_LIKES + N_CANDIDATES)
    ]
    assert prompt_tokens(ask(items, Random(0), "en")) <= MAX_PROMPT_TOKENS


@pytest.mark.parametrize("locale", ["ko", "ja"])
def test_tokens_are_estimated_well_enough_to_cut_by(locale: str) -> None:
    random = Random(1)
    lines = ask(songs_of(locale, random, N_LIKES + N_CANDIDATES), random, locale).user.splitlines()
    counted = count_tokens("\n".join(lines))
    assert 0.9 * counted <= rough_tokens(lines) <= 1.25 * counted


# --- whatever a catalogue holds ---


def between(first: int, last: int) -> str:
    return "".join(map(chr, range(first, last + 1)))


ALPHABETS = {
    "lower": string.ascii_lowercase,
    "letters": string.ascii_letters,
    "upper": string.ascii_uppercase,
    "rare letters": "qxzvkjwpf",
    "digits": string.digits,
    "letters and digits": string.ascii_lowercase + string.digits,
    "marks": string.punctuation,
    "latin": between(0xC0, 0x24F),
    "cyrillic": between(0x430, 0x44F),
    "arabic": between(0x627, 0x64A),
    "thai": between(0xE01, 0xE2F),
    "ethiopic": between(0x1200, 0x1247),
    "kana": between(0x3042, 0x3092) + between(0x30A1, 0x30F5),
    "hangul": between(0xAC00, 0xD7A3),
    "jamo": between(0x1100, 0x117F),
    "ideographs": between(0x4E00, 0x9FFE),
    "rare ideographs": between(0x20000, 0x204FF),
    "emoji": between(0x1F300, 0x1F5FE),
    "letters of mathematics": between(0x1D400, 0x1D69F),
}


def gibberish(alphabet: str, random: Random, n: int, n_chars: int) -> list[Item]:
    def word() -> str:
        return "".join(random.choices(alphabet, k=n_chars))

    return [
        Item(item_id=number, titles={"en": word()}, creator=word(), genres=(word(), word()), moods=(word(),))
        for number in range(n)
    ]


@pytest.mark.parametrize("n_chars", [12, 80])
@pytest.mark.parametrize("name", ALPHABETS)
def test_no_script_however_strange_its_words_takes_a_prompt_over_its_budget(name: str, n_chars: int) -> None:
    random = Random(f"{name} {n_chars}")
    items = gibberish(ALPHABETS[name], random, N_LIKES + N_CANDIDATES, n_chars)
    assert prompt_tokens(ask(items, random, "en")) <= MAX_PROMPT_TOKENS


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(ALPHABETS)),
    n_chars=st.integers(6, 70),
    max_prompt_tokens=st.integers(1000, 4000),
    locale=st.sampled_from(["en", "ko", "ja"]),
    seed=st.integers(0, 999),
)
def test_no_prompt_is_over_what_its_strategy_allows(
    name: str, n_chars: int, max_prompt_tokens: int, locale: str, seed: int
) -> None:
    random, limits = Random(seed), LIMITS.model_copy(update={"max_prompt_tokens": max_prompt_tokens})
    items = gibberish(ALPHABETS[name], random, N_LIKES + N_CANDIDATES, n_chars)
    assert prompt_tokens(ask(items, random, locale, limits=limits)) <= max_prompt_tokens


@pytest.mark.parametrize("locale", ["en", "ko", "ja"])
def test_where_the_shortest_lines_do_not_fit_the_last_candidates_are_left_out(locale: str) -> None:
    limits = LIMITS.model_copy(update={"max_prompt_tokens": 1000})
    items = songs_of("ko", Random(0), N_LIKES + N_CANDIDATES)
    candidates = [make_candidate(item) for item in items[N_LIKES:]]
    prompt, handles = build_prompt(
        candidates,
        items[:N_LIKES],
        locale=locale,
        profile=PROFILE,
        texts=TEXTS,
        n_picks=N_PICKS,
        limits=limits,
        seed="a",
    )
    shown = {candidate.item.item_id for candidate in handles.values()}
    assert 0 < len(shown) < N_CANDIDATES
    assert shown == {candidate.item.item_id for candidate in candidates[: len(shown)]}
    assert f"Exactly {min(N_PICKS, len(shown))} picks" in prompt.system
    assert prompt_tokens(prompt) <= 1000


@pytest.mark.parametrize("locale", ["ko", "ja"])
def test_a_screening_of_many_stays_in_budget_and_its_answer_is_short(locale: str) -> None:
    random, limits = Random(4), DEFAULT_STRATEGIES.deep
    items = songs_of(locale, random, limits.n_likes + limits.n_candidates)
    prompt, handles = build_prompt(
        [make_candidate(item) for item in items[limits.n_likes :]],
        items[: limits.n_likes],
        locale=locale,
        profile=PROFILE,
        texts=TEXTS,
        n_picks=40,
        wanted=Wanted.HANDLES,
        limits=limits,
        seed="s",
    )
    assert len(handles) == 240
    assert prompt_tokens(prompt) <= limits.max_prompt_tokens
    answer = {"picks": random.sample(range(1, 241), 40)}
    assert count_tokens(json.dumps(answer, separators=(",", ":"))) <= 100
    assert count_tokens(json.dumps(answer, indent=1)) <= prompt.max_output_tokens


@pytest.mark.parametrize(("locale", "n_picks"), [("en", 16), ("ko", 10), ("ja", 10)])
def test_fewer_explanations_are_asked_for_where_their_words_would_not_fit(locale: str, n_picks: int) -> None:
    limits = LIMITS.model_copy(update={"max_completion_tokens": 1500 if locale != "en" else 1200})
    n_affordable = affordable_picks(N_PICKS, TEXTS.locales[locale], limits)
    assert n_affordable == n_picks
    asked = ask(
        songs_of("ko", Random(0), 50), Random(0), locale, limits=limits.model_copy(update={"n_explained": n_picks})
    )
    assert asked.max_output_tokens <= limits.max_completion_tokens


# --- answers ---

# Answers that use up what the instructions allow, in the words a model would use.
FULL_ANSWERS = {
    "en": {
        "reason": "Shares the bright synth-pop energy of Blinding Lights you love",
        "label": "Neon Night Drives",
        "tagline": "Shimmering synths for the long way home",
        "taste": "You love glossy, upbeat pop with big choruses, dancefloor energy and late-night melancholy.",
    },
    "ko": {
        "reason": "좋아하시는 밤편지처럼 잔잔하고 따뜻한 감성의 발라드예요",
        "label": "비 오는 밤의 발라드",
        "tagline": "조용한 밤에 어울리는 따뜻한 목소리",
        "taste": "잔잔하고 서정적인 발라드와 따뜻한 어쿠스틱 사운드를 즐기시는 감성적인 취향이시네요.",
    },
    "ja": {
        "reason": "お好きな「夜に駆ける」に近い、疾走感のある切ない曲です",
        "label": "夜を駆けるポップス",
        "tagline": "切なくて走り出したくなるメロディー",
        "taste": "疾走感のあるメロディーと切ない歌詞が印象的な、現代的なJ-POPがお好きなようです。",
    },
}


def full_answer(locale: str, n_picks: int = N_PICKS, n_groups: int = 4) -> str:
    words = FULL_ANSWERS[locale]
    picks = [{"h": 100 - place, "r": words["reason"]} for place in range(n_picks)]
    groups = [
        {"label": words["label"], "tagline": words["tagline"], "picks": picks[place::n_groups]}
        for place in range(n_groups)
    ]
    return json.dumps({"taste": words["taste"], "groups": groups}, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize(("locale", "max_tokens"), [("en", 600), ("ko", 1000), ("ja", 1000)])
def test_an_answer_that_keeps_to_the_instructions_stays_in_budget(locale: str, max_tokens: int) -> None:
    assert count_tokens(full_answer(locale)) <= max_tokens


@pytest.mark.parametrize("locale", ["en", "ko", "ja"])
@pytest.mark.parametrize("n_picks", [1, 5, 20, 50])
def test_no_such_answer_is_truncated_even_when_it_is_indented(locale: str, n_picks: int) -> None:
    limits = LIMITS.model_copy(update={"n_explained": n_picks})
    prompt = ask(songs_of("ko", Random(0), n_picks), Random(0), locale, n_likes=0, limits=limits)
    indented = json.dumps(json.loads(full_answer(locale, n_picks, n_groups=6)), ensure_ascii=False, indent=1)
    assert count_tokens(indented) < prompt.max_output_tokens
