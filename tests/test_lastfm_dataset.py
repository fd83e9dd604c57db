"""The Last.fm files as data sets: what of them is written, and that ``evaluate`` reads it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.lastfm_dataset import write_plays, write_tagging
from core.errors import ConfigurationError
from training.evaluate import split_of
from training.interaction_files import dataset_files, read_interactions, read_items

PLAYS = "2\t51\t13883\n2\t52\t11690\n3\t51\t5\n"
TAGS = "tagID\ttagValue\n1\tmetal\n2\tchanson fran\xe7aise\n"
TAGGED = (
    "userID\tartistID\ttagID\tday\tmonth\tyear\n"
    "2\t52\t1\t1\t4\t2009\n"
    "3\t52\t1\t2\t4\t2009\n"
    "2\t52\t2\t31\t12\t2008\n"
    "3\t77\t1\t5\t6\t2010\n"
    "3\t52\t9\t1\t1\t2011\n"
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The files as they are distributed: tabs, one without a header, tags in Latin-1."""
    (tmp_path / "lastfm_user_artists.dat").write_text(PLAYS, encoding="utf-8")
    (tmp_path / "lastfm_tags.dat").write_text(TAGS, encoding="latin-1")
    (tmp_path / "lastfm_user_taggedartists.dat").write_text(TAGGED, encoding="utf-8")
    return tmp_path


def test_plays_are_kept_as_they_are_and_artists_have_each_tag_once(data: Path) -> None:
    write_plays(data, data / "out" / "plays")
    interactions, items = dataset_files(data / "out" / "plays")
    found = read_interactions(interactions)
    assert (found.user_ids, found.item_ids, found.weights.tolist()) == (["2", "3"], ["51", "52"], [13883, 11690, 5])
    assert items is not None
    table = read_items(items)
    # Artist 77 was never played, 51 has no tag, and tag 9 has no name.
    assert (table.item_ids, table.texts) == (["52"], {"tags": ["9; chanson fran\xe7aise; metal"]})


def test_a_tagging_is_of_the_last_day(data: Path) -> None:
    write_tagging(data, data / "out")
    found = read_interactions(data / "out" / "interactions.csv")
    assert found.times_s is not None
    days = {
        (found.user_ids[user], found.item_ids[item]): datetime.fromtimestamp(time_s, UTC).date().isoformat()
        for user, item, time_s in zip(found.users, found.items, found.times_s, strict=True)
    }
    assert days == {("2", "52"): "2009-04-01", ("3", "52"): "2011-01-01", ("3", "77"): "2010-06-05"}


def test_plays_have_no_instants_and_taggings_do(data: Path) -> None:
    write_plays(data, data / "plays")
    write_tagging(data, data / "tagging")
    with pytest.raises(ConfigurationError, match="occurred_at"):
        split_of(read_interactions(data / "plays" / "interactions.csv"), "time", 0)
    split = split_of(read_interactions(data / "tagging" / "interactions.csv"), "time", 0)
    assert split.targets.sum() == 1
