"""Groups, reasons and taste without a language model: sentences that follow from the evidence alone.

They also stand in where the model's own words are missing or unusable.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from config.catalogue_profile import CatalogueProfile, Words
from config.prompt_texts import Phrases, PromptTexts
from config.wish_texts import WishPhrases
from core.plain_text import plain_line
from models.catalogue import Item
from models.recommendation import (
    Candidate,
    CandidateSource,
    Discovery,
    Evidence,
    Group,
    Pick,
    RecommendationType,
    Reranked,
    TasteSummary,
)

MIN_GROUPS = 2
MAX_GROUPS = 6
OFFLINE = "offline"

CLOSE = 0.4
"""The cosine from which on two items are called close."""

_MIN_SHELF = 2
_MAX_NAME_CHARS = 40
_N_GENRES, _N_MOODS, _N_CREATORS = 5, 3, 5
_N_SPOKEN = 2

_Idea = tuple[RecommendationType | Discovery, str]
_IDEAS_BY_KIND = frozenset(
    {RecommendationType.HIDDEN_GEM, RecommendationType.CROSSOVER, RecommendationType.COLLABORATIVE}
)


class Explainer:
    """Explains candidates in the locales of ``texts``, with the domain's nouns from ``profile``."""

    def __init__(self, profile: CatalogueProfile, texts: PromptTexts) -> None:
        self._profile = profile
        self._texts = texts
        self._spoken = {
            locale: spoken.phrases.model_copy(update=profile.phrases.get(locale, {}))
            for locale, spoken in texts.locales.items()
        }

    def explain(self, candidates: Sequence[Candidate], liked: Sequence[Item], locale: str) -> Reranked:
        """The outcome without a language model: all of ``candidates``, given best first, in 2 to 6 groups."""
        shelves, rest = self._shelves(candidates, locale)
        return Reranked(groups=self.arrange(shelves, rest, locale), taste=self.taste(liked, locale), model=OFFLINE)

    def reason(self, candidate: Candidate, locale: str) -> str:
        """One sentence that the candidate's evidence supports."""
        phrases = self._phrases(locale)
        facts = _facts(candidate, locale, phrases, self._profile.words_in(locale))
        of_wish = _wish_phrase(candidate, self._texts.wishes.phrases[locale])
        wish = self._texts.locales[locale].separator.join(_name(each.label(locale)) for each in candidate.evidence.wish)
        return (of_wish or _reason_phrase(candidate, phrases)).format_map({**facts, "wish": wish})

    def pick(self, candidate: Candidate, locale: str) -> Pick:
        """The candidate with that sentence."""
        return Pick(candidate=candidate, reason=self.reason(candidate, locale))

    def taste(self, liked: Sequence[Item], locale: str) -> TasteSummary:
        """What the likes have most of (ties in the order of the likes), and a sentence about it."""
        genres = _most_frequent((genre for item in liked for genre in item.genres), _N_GENRES)
        creators = _most_frequent((item.creator_in(locale) for item in liked), _N_CREATORS)
        return TasteSummary(
            preferred_genres=genres,
            preferred_moods=_most_frequent((mood for item in liked for mood in item.moods), _N_MOODS),
            overall_taste=self._taste_sentence(genres, creators, locale, is_known=bool(liked)),
            favorite_creators=creators,
        )

    def arrange(self, shelves: Sequence[Group], rest: Sequence[Pick], locale: str) -> tuple[Group, ...]:
        """``shelves`` in order as 2 to 6 groups; what they have no room for, and ``rest``, fills a last one.

        The last group's label promises nothing in particular, so that any pick may stand there. A single pick makes a
        single group, none makes none.
        """
        n_kept = MAX_GROUPS - 1 if rest or len(shelves) > MAX_GROUPS else MAX_GROUPS
        kept = list(shelves[:n_kept])
        leftover = [*(pick for shelf in shelves[n_kept:] for pick in shelf.picks), *rest]
        if not kept:
            kept, leftover = [self._best_of(leftover, locale)], []
        if len(kept) == 1 and not leftover:
            kept, leftover = _halved(kept[0])
        groups = [*kept, self._more_of(leftover, locale)]
        return tuple(group for group in groups if group.picks)

    def tagline(self, locale: str) -> str:
        """A tagline that suits any picks."""
        return self._best_of((), locale).tagline

    def _best_of(self, picks: Sequence[Pick], locale: str) -> Group:
        phrases = self._phrases(locale)
        return self._group(phrases.label_best, phrases.tagline_best, picks, locale)

    def _more_of(self, picks: Sequence[Pick], locale: str) -> Group:
        phrases = self._phrases(locale)
        return self._group(phrases.label_more, phrases.tagline_more, picks, locale)

    def _shelves(self, candidates: Sequence[Candidate], locale: str) -> tuple[list[Group], list[Pick]]:
        """Shelves by idea, the one with the best candidate first, and the picks that found no company."""
        by_idea: dict[_Idea, list[Pick]] = {}
        for candidate in candidates:
            by_idea.setdefault(_idea(candidate), []).append(self.pick(candidate, locale))
        shelves = [self._titled(idea, picks, locale) for idea, picks in by_idea.items() if len(picks) >= _MIN_SHELF]
        return shelves, [picks[0] for picks in by_idea.values() if len(picks) < _MIN_SHELF]

    def _titled(self, idea: _Idea, picks: Sequence[Pick], locale: str) -> Group:
        phrases = self._phrases(locale)
        kind, genre = idea
        label, tagline = {
            RecommendationType.ARTIST: (phrases.label_creator, phrases.tagline_creator),
            RecommendationType.HIDDEN_GEM: (phrases.label_gem, phrases.tagline_gem),
            RecommendationType.CROSSOVER: (phrases.label_crossover, phrases.tagline_crossover),
            RecommendationType.COLLABORATIVE: (phrases.label_collaborative, phrases.tagline_collaborative),
            Discovery.NEW_CREATOR: (phrases.label_new_creator, phrases.tagline_new_creator),
            RecommendationType.POPULAR: (phrases.label_popular, phrases.tagline_popular),
            RecommendationType.GENRE: (phrases.label_genre, phrases.tagline_genre),
        }.get(kind, (phrases.label_best, phrases.tagline_best))
        return self._group(label, tagline, picks, locale, genre)

    def _group(self, label: str, tagline: str, picks: Sequence[Pick], locale: str, genre: str = "") -> Group:
        facts = _nouns(self._profile.words_in(locale)) | {"genre": _name(genre)}
        return Group(label=label.format_map(facts), tagline=tagline.format_map(facts), picks=tuple(picks))

    def _taste_sentence(self, genres: Sequence[str], creators: Sequence[str], locale: str, *, is_known: bool) -> str:
        phrases, separator = self._phrases(locale), self._texts.locales[locale].separator
        facts = _nouns(self._profile.words_in(locale)) | {
            "genres": separator.join(map(_name, genres[:_N_SPOKEN])),
            "creators": separator.join(map(_name, creators[:_N_SPOKEN])),
        }
        if not is_known:
            return phrases.taste_unknown.format_map(facts)
        phrase = {
            (True, True): phrases.taste_genres_creators,
            (True, False): phrases.taste_genres,
            (False, True): phrases.taste_creators,
            (False, False): phrases.taste_mixed,
        }[bool(genres), bool(creators)]
        return phrase.format_map(facts)

    def _phrases(self, locale: str) -> Phrases:
        return self._spoken[locale]


def _idea(candidate: Candidate) -> _Idea:
    genres = candidate.evidence.shared_genres or candidate.item.genres
    if candidate.kind in _IDEAS_BY_KIND:
        return candidate.kind, ""
    if candidate.evidence.same_creator:
        return RecommendationType.ARTIST, ""
    if candidate.evidence.discovery is Discovery.NEW_CREATOR:
        return Discovery.NEW_CREATOR, ""
    if candidate.kind is RecommendationType.POPULAR and genres:
        return RecommendationType.POPULAR, genres[0]
    if candidate.evidence.shared_genres:
        return RecommendationType.GENRE, genres[0]
    return RecommendationType.SIMILAR, ""


def _is_close(evidence: Evidence) -> bool:
    """Whether the item is close to the like that a sentence names, and not only to an interest that holds it."""
    return bool(evidence.near_similarity) and evidence.near_similarity[0] >= CLOSE


def _wish_phrase(candidate: Candidate, phrases: WishPhrases) -> str | None:
    """What says that a wish was met, or None where the candidate is there for another reason."""
    evidence = candidate.evidence
    if evidence.wish:
        return phrases.reason_wish_near if _is_close(evidence) else phrases.reason_wish
    return phrases.reason_wish_close if evidence.sources == (CandidateSource.WISH,) and not evidence.near else None


def _reason_phrase(candidate: Candidate, phrases: Phrases) -> str:
    evidence, kind = candidate.evidence, candidate.kind
    is_popular = kind is RecommendationType.POPULAR
    is_close = _is_close(evidence)
    is_by_liked = evidence.same_creator and bool(candidate.item.creator)
    has_genre, has_mood = bool(evidence.shared_genres), bool(evidence.shared_moods)
    rules = (
        (is_by_liked and is_close, phrases.reason_creator_near),
        (is_by_liked, phrases.reason_creator),
        (is_popular and bool(candidate.item.genres), phrases.reason_popular_genre),
        (is_popular, phrases.reason_popular),
        (is_close and kind is RecommendationType.HIDDEN_GEM, phrases.reason_gem),
        (is_close and kind is RecommendationType.CROSSOVER, phrases.reason_crossover),
        (kind is RecommendationType.COLLABORATIVE, phrases.reason_collaborative),
        (is_close and evidence.discovery is Discovery.NEW_CREATOR, phrases.reason_new_creator),
        (is_close and has_genre, phrases.reason_near_genre),
        (is_close and has_mood, phrases.reason_near_mood),
        (is_close, phrases.reason_near),
        (has_genre and has_mood, phrases.reason_genre_mood),
        (has_genre, phrases.reason_genre),
        (has_mood, phrases.reason_mood),
        (True, phrases.reason_plain),
    )
    return next(phrase for applies, phrase in rules if applies)


def _facts(candidate: Candidate, locale: str, phrases: Phrases, words: Words) -> Mapping[str, str]:
    evidence, item = candidate.evidence, candidate.item
    near = evidence.near[0] if evidence.near else item
    title, near_creator = _name(near.title(locale)), _name(near.creator_in(locale))
    work = phrases.work if near_creator else phrases.work_alone
    return _nouns(words) | {
        "creator": _name(item.creator_in(locale)),
        "title": title,
        "work": work.format(title=title, creator=near_creator),
        "genre": _name(next(iter(evidence.shared_genres or item.genres), "")),
        "mood": _name(next(iter(evidence.shared_moods), "")),
    }


def _nouns(words: Words) -> dict[str, str]:
    return {"item": words.item, "items": words.items, "creator_word": words.creator}


def _name(text: str) -> str:
    return plain_line(text, _MAX_NAME_CHARS)


def _halved(group: Group) -> tuple[list[Group], list[Pick]]:
    half = (len(group.picks) + 1) // 2
    return [Group(label=group.label, tagline=group.tagline, picks=group.picks[:half])], list(group.picks[half:])


def _most_frequent(values: Iterable[str], n: int) -> tuple[str, ...]:
    return tuple(value for value, _ in Counter(value for value in values if value).most_common(n))
