"""The words by which a listener wishes for something, and what each means in a catalogue: a part of its profile."""

from collections.abc import Iterator
from datetime import time
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Label = dict[str, str]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trait(_Section):
    """What one may wish for.

    ``words`` name it in any language and script; where a catalogue has one of them as genre (of a genre) or mood (of
    all else), the items so tagged have it. ``features``: the ranges, ends included, that an item without such a tag
    has it by. ``weight``: how much it counts; what counts less than a half only tilts the order.
    """

    labels: Label = Field(min_length=1, description="its name per locale, for reasons")
    words: tuple[str, ...] = ()
    features: dict[str, tuple[float, float]] = {}
    weight: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        for name, (low, high) in self.features.items():
            if not low < high:
                raise ValueError(f"{name}: the range {low} to {high} holds nothing")
        return self


class PartOfDay(Trait):
    """What suits hours of the day: from ``begins`` to before ``ends``, which may be after midnight."""

    begins: time
    ends: time
    weight: Annotated[float, Field(gt=0, le=1)] = 0.25

    def holds(self, moment: time) -> bool:
        """Whether ``moment`` is within it."""
        if self.begins < self.ends:
            return self.begins <= moment < self.ends
        return moment >= self.begins or moment < self.ends


class WishTable(_Section):
    """All that a profile knows to be wished for, under keys.

    ``not_before`` and ``not_after`` are words that deny what stands after and before them; ``still_before`` and
    ``still_after`` hold such words and deny nothing ("not only"). Between a word and what denies it may stand
    ``stepped_over``, with ``particles``. ``joiners`` make a denial hold for both of their sides, ``qualifying`` are
    endings by which a word says of what sort the next one is. ``fillers`` say nothing of what is wished for.
    """

    genres: dict[str, Trait] = {}
    moods: dict[str, Trait] = {}
    activities: dict[str, Trait] = {}
    times: dict[str, PartOfDay] = {}
    not_before: tuple[str, ...] = ()
    not_after: tuple[str, ...] = ()
    still_before: tuple[str, ...] = ()
    still_after: tuple[str, ...] = ()
    stepped_over: tuple[str, ...] = ()
    particles: tuple[str, ...] = ()
    joiners: tuple[str, ...] = ()
    qualifying: tuple[str, ...] = ()
    fillers: tuple[str, ...] = ()

    def worded(self) -> Iterator[tuple[str, str, Trait]]:
        """Kind, key and trait of all that words name."""
        for kind, traits in (("genre", self.genres), ("mood", self.moods), ("activity", self.activities)):
            for key, trait in traits.items():
                yield kind, key, trait

    def part_of_day(self, moment: time) -> tuple[str, PartOfDay] | None:
        """The first part of the day that holds ``moment``, and its key."""
        return next(((key, part) for key, part in self.times.items() if part.holds(moment)), None)
