"""Catalogue profiles: what is wrong with one is said, and the page about them names every field."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from config.catalogue_profile import (
    PROFILES,
    CatalogueProfile,
    FeatureScale,
    Fitting,
    InteractionTable,
    ItemTable,
    JoinedInteractionTable,
    MemberTable,
    ResultNames,
    VersionWords,
    Words,
    load_profile,
)
from config.prompt_texts import Phrases, load_prompt_texts
from config.signal_strengths import SignalStrengths
from config.source_files import ItemFile, LikeFile, Popularity
from config.wish_table import PartOfDay, WishTable

PAGE = Path(__file__).parents[1] / "docs" / "catalogue-profiles.md"
SECTIONS: dict[str, type[BaseModel]] = {
    "The profile": CatalogueProfile,
    "`[item]`": ItemTable,
    "`[item.feature_scales]`": FeatureScale,
    "`[likes]`": InteractionTable,
    "`[lists]`": JoinedInteractionTable,
    "`[members]`": MemberTable,
    "`[words.<locale>]`": Words,
    "`[versions]`": VersionWords,
    "`[result]`": ResultNames,
    "`[signals]`": SignalStrengths,
    "`[fitting]`": Fitting,
    "`[[item_files]]`": ItemFile,
    "`popularity`": Popularity,
    "`[[like_files]]`": LikeFile,
    "`[wishes]`": WishTable,
    "Traits: `[wishes.genres.<key>]` and the like": PartOfDay,
}


def section(heading: str) -> list[tuple[list[str], str]]:
    """Names and defaults of the rows of a section's table."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n### {heading}\n")[2]
    lines = [line.split("|")[1:3] for line in re.split(r"\n##+ ", text)[0].splitlines() if line.startswith("| `")]
    return [(re.findall(r"`(\w+)`", names), default) for names, default in lines]


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_page_names_every_field_and_no_other(heading: str) -> None:
    told = [name for names, _ in section(heading) for name in names]
    assert sorted(told) == sorted(SECTIONS[heading].model_fields)


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_page_says_which_fields_must_be_given(heading: str) -> None:
    fields = SECTIONS[heading].model_fields
    for names, default in section(heading):
        assert [fields[name].is_required() for name in names] == [not default.strip()] * len(names), names


def test_every_section_of_the_page_is_checked() -> None:
    assert set(re.findall(r"^### (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)) == set(SECTIONS)


def test_the_example_of_the_page_is_a_profile(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "books.toml"
    path.write_text(example, encoding="utf-8")
    assert load_profile(str(path)).item_files[0].needed == ("isbn", "written_by", "shelves", "name", "n_pages")


@pytest.mark.parametrize("name", [path.stem for path in PROFILES.glob("*.toml")])
def test_the_profiles_of_the_repository_are_valid(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert {"en", "ko", "ja"} <= profile.words.keys()


def changed(**changes: Any) -> CatalogueProfile:
    document = tomllib.loads((PROFILES / "games.toml").read_text(encoding="utf-8"))
    return CatalogueProfile.model_validate({**document, **changes})


ITEM_FILE: dict[str, Any] = {"source": "s", "id": "i", "titles": {"en": "t"}}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"words": {"en": {"item": "game", "items": "games", "creator": "studio"}}},
            "words.en: creator is to be named",
        ),
        ({"phrases": {"en": {"reason_nice": "x"}}}, "phrases.en.there is no phrase 'reason_nice'"),
        ({"phrases": {"ko": {"reason_plain": "{song}"}}}, "phrases.ko.reason_plain: {song} is none of "),
        ({"phrases": {"ko": {"label_best": "{"}}}, "phrases.ko.label_best: "),
        ({"item_files": [{**ITEM_FILE, "titles": {"fr": "t"}}], "like_files": []}, "titles has 'fr'"),
        ({"item_files": [{**ITEM_FILE, "creator": "c"}], "like_files": []}, "creator has no column item.creator"),
        ({"item_files": [{**ITEM_FILE, "features": {"f": [1, 1]}}]}, "the range 1 to 1 holds nothing"),
        ({"like_files": [{"source": "x", "member": "m", "item": "i"}]}, "no item_files of source 'x'"),
        ({"like_files": [{"source": "popular_games", "member": "m", "item": "m"}]}, "one column cannot be two things"),
        ({"likes": {"table": "l", "member": "m", "item": "i", "when": "w"}}, "when"),
        ({"item": {"table": "t", "id": "i", "titles": {"en": "t"}, "types": {"t": "word"}}}, "item.types.t"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        changed(**changes)


def test_likes_with_instants_need_a_column_for_them() -> None:
    likes = {"table": "l", "member": "m", "item": "i"}
    files = [{"source": "popular_games", "member": "m", "item": "i", "liked_at": "w"}]
    with pytest.raises(ValueError, match=r"liked_at has no column likes\.created_at"):
        changed(likes=likes, like_files=files)


def test_every_phrase_can_be_put_otherwise_in_the_words_that_it_has() -> None:
    for locale in ("en", "ko", "ja"):
        texts = tomllib.loads((PROFILES.parent / "prompts" / f"{locale}.toml").read_text(encoding="utf-8"))
        phrases = {name: texts["phrases"][name] for name in Phrases.model_fields}
        assert changed(phrases={locale: phrases}).phrases[locale] == phrases


def test_names_in_results_are_neutral_where_nothing_is_said() -> None:
    names = changed(result={}).result
    assert (names.items, names.favorites) == ("items", "favorite_item_ids")


def test_words_of_claims_are_those_of_the_language_and_of_the_domain() -> None:
    english = load_prompt_texts().locales["en"]
    games, songs = load_profile("games"), load_profile("songs")
    assert " by " in english.claims.names_before
    for profile, own, foreign in ((games, " studio ", " singer "), (songs, " singer ", " studio ")):
        found = profile.claims_in("en", english)
        assert {" by ", own} <= set(found.names_before)
        assert foreign not in found.names_before
    assert changed(claims={}).claims_in("en", english) == english.claims


def test_a_dump_of_a_profile_is_the_same_in_every_process() -> None:
    program = "from config.catalogue_profile import load_profile; print(load_profile('songs').model_dump_json())"
    dumps = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            cwd=PROFILES.parents[1],
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(dumps) == 1


def test_how_files_are_laid_out_changes_no_answer() -> None:
    """What answers are made with has a version; imports are no part of it."""
    assert changed(item_files=[], like_files=[], fitting={}).model_dump_json() == changed().model_dump_json()
