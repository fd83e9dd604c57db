"""What a listener is told is in their language, whatever titles and artists it names."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.catalogue_profile import load_profile
from config.prompt_texts import load_prompt_texts
from core.explanation import Explainer
from core.model_answer import only_written_in, parse_answer
from core.reranking import Reranker, RerankRequest
from core.script import Script
from core.truth import ClaimRules, Truth
from models.job import Strategy
from tests.support.builders import make_candidate, make_item
from tests.support.labelled_claims import HELD_OUT, LIKES, OTHERS, PICKS, SENTENCES, Labelled
from tests.support.scripted_language_model import RecordingObserver, ScriptedLanguageModel

PROFILE, TEXTS = load_profile("songs"), load_prompt_texts()
SCRIPTS = {locale: Script(spoken) for locale, spoken in TEXTS.locales.items()}
MOODS = tuple(PROFILE.wishes.moods.values())
RULES = {
    locale: ClaimRules(PROFILE.claims_in(locale, spoken), PROFILE.kinds, MOODS)
    for locale, spoken in TEXTS.locales.items()
}
TRUTHS = {locale: Truth(rules, [*PICKS.values(), *OTHERS], LIKES) for locale, rules in RULES.items()}


def is_of(locale: str, sentence: str) -> bool:
    return SCRIPTS[locale].is_of(sentence, TRUTHS[locale].without_names(sentence))


@pytest.mark.parametrize(
    ("locale", "sentence"),
    [
        ("en", "감성"),
        ("en", "Mood 감성"),
        ("en", "이 노래는 BTS를 좋아하신다면 추천해요"),
        ("en", "이 노래는 Blinding Lights를 닮았어요"),
        ("en", "“Blinding Lights”와 이어 듣기 좋아요"),
        ("en", "“감성적인 밤”"),
        ("en", "밤편지"),
        ("en", "夜の静けさ、The Weekndが好きな方に"),
        ("ko", "A calm pick near what you like 노래"),
        ("ko", "Chill Vibes"),
        ("ko", "静かな夜に聴きたい一曲です"),
        ("ko", "这首歌很温柔，适合喜欢아이유的你"),
        ("ko", "A song as calm as 밤편지"),
        ("ja", "这首歌很温柔，适合夜晚听"),
        ("ja", "喜欢夜に駆ける的你会喜欢这首歌"),
        ("ja", "适合喜欢「マリーゴールド」的你"),
        ("ja", "深夜感性"),
        ("ja", "좋아하시는 「夜に駆ける」와 가까운 노래예요"),
        ("ja", "A calm J-POP の song"),
    ],
)
def test_a_sentence_of_another_language_is_found(locale: str, sentence: str) -> None:
    assert not is_of(locale, sentence)


@pytest.mark.parametrize(
    ("locale", "sentence"),
    [
        ("ko", "“Blinding Lights”와 닮은 밤"),
        ("ko", "The Weeknd의 Blinding Lights와는 다른 노래"),
        ("ko", "‘Somewhere Only We Know When It Rains’처럼 잔잔해요"),
        ("ko", "Someone Like You 느낌"),
        ("ko", "夜に駆ける와 듣기"),
        ("ko", "K-POP 감성"),
        ("ko", "R&B 그루브"),
        ("en", "Close to “밤편지”, by 아이유"),
        ("en", "As calm as 밤편지 by 아이유"),
        ("en", "Like 「夜に駆ける」 by YOASOBI"),
        ("en", "Home"),
        ("en", "BTS, IU & Adele"),
        ("en", "Café nights"),
        ("ja", "「Blinding Lights」に近い"),
        ("ja", "IUの밤편지のような静けさ"),
        ("ja", "夜に駆ける"),
        ("ja", "隠れた名曲"),
        ("ja", "ﾎﾟｯﾌﾟな夜"),
        ("ja", "人々の歌"),
    ],
)
def test_titles_and_artists_of_other_scripts_may_be_named(locale: str, sentence: str) -> None:
    assert is_of(locale, sentence)


@pytest.mark.parametrize("labelled", [*SENTENCES, *HELD_OUT], ids=lambda labelled: labelled.text)
def test_every_labelled_sentence_is_of_its_language_and_of_no_other(labelled: Labelled) -> None:
    assert {locale for locale in SCRIPTS if is_of(locale, labelled.text)} == {labelled.locale}


@given(st.sampled_from(sorted(SCRIPTS)), st.text(max_size=60))
def test_any_text_is_judged_and_one_without_letters_is_of_no_language(locale: str, text: str) -> None:
    judged = is_of(locale, text)
    assert judged in (True, False)
    assert not is_of(locale, "".join(char for char in text if not char.isalpha()))


@pytest.mark.parametrize(
    ("locale", "good", "bad"),
    [("en", "A calm pick", "감성"), ("ko", "잔잔한 밤", "Calm picks"), ("ja", "静かな夜", "深夜歌曲")],
)
def test_what_is_of_another_language_is_dropped_and_counted_by_its_part(locale: str, good: str, bad: str) -> None:
    picks = [{"h": 1, "r": good * 2}, {"h": 2, "r": bad * 2}]
    said = {"taste": bad * 3, "groups": [{"label": bad, "tagline": good, "picks": picks}]}
    handles = {1: make_candidate(PICKS["love"]), 2: make_candidate(PICKS["home"])}
    answer = only_written_in(parse_answer(json.dumps(said), handles), SCRIPTS[locale], TRUTHS[locale])
    assert [choice.reason for choice in answer.choices] == [good * 2, None]
    assert (answer.groups[0].label, answer.groups[0].tagline, answer.taste) == ("", good, "")
    assert answer.dropped == {"foreign_reason": 1, "foreign_label": 1, "foreign_taste": 1}


@pytest.mark.parametrize("locale", ["en", "ko", "ja"])
async def test_an_answer_in_chinese_gives_way_to_sentences_of_the_evidence(locale: str) -> None:
    explainer, observer = Explainer(PROFILE, TEXTS), RecordingObserver()
    candidates = [replace(make_candidate(make_item(number)), score=1 / number) for number in range(1, 7)]
    picks = [{"h": number, "r": "这首歌很温柔，适合夜晚听"} for number in range(1, 7)]
    said = {"taste": "你喜欢安静的音乐", "groups": [{"label": "深夜感性", "tagline": "适合夜晚", "picks": picks}]}
    reranker = Reranker(ScriptedLanguageModel(json.dumps(said)), explainer, observer, profile=PROFILE, texts=TEXTS)
    request = RerankRequest(candidates=candidates, liked=LIKES, locale=locale, strategy=Strategy.DEFAULT, n_picks=6)
    outcome = await reranker.rerank(request)
    picked = [pick for group in outcome.groups for pick in group.picks]
    assert len(picked) == 6
    assert all(pick.reason == explainer.reason(pick.candidate, locale) for pick in picked)
    assert not [group for group in outcome.groups if "深夜" in group.label or "适合" in group.tagline]
    assert outcome.taste.overall_taste == explainer.taste(LIKES, locale).overall_taste


@given(st.sampled_from(sorted(SCRIPTS)), st.text(st.sampled_from("aZé 1밤가夜の、.!²ﾊＡ『』"), max_size=30))
def test_a_sentence_that_is_all_of_a_language_is_of_it_whatever_is_taken_for_a_name(locale: str, sentence: str) -> None:
    script = SCRIPTS[locale]
    if script.is_all_of(sentence):
        places = range(len(sentence) + 1)
        assert all(script.is_of(sentence, sentence[:place]) for place in places)


@pytest.mark.parametrize(
    ("locale", "sentence", "is_all"),
    [
        ("en", "As bright as “Blinding Lights”, at 120 bpm.", True),
        ("en", "For who likes 밤편지", False),
        ("en", "1987!", False),
        ("ko", "밤에 듣기 좋아요", True),
        ("ko", "Blinding Lights와 닮았어요", False),
        ("ja", "夜に聴きたい", False),  # kana may be a name's alone
    ],
)
def test_the_names_of_a_sentence_are_looked_for_where_they_may_matter(locale: str, sentence: str, is_all: bool) -> None:
    assert SCRIPTS[locale].is_all_of(sentence) is is_all
