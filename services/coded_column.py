"""One attribute of a million items: each distinct value once, and a small number per item."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

H = TypeVar("H", bound=Hashable)

Codes = npt.NDArray[np.int32]


class CodedColumn(Sequence[H], Generic[H]):
    """A sequence of ``values[codes[place]]``; ``codes`` may be mapped from a file."""

    def __init__(self, values: Sequence[H], codes: Codes) -> None:
        self.values = values
        self.codes = codes

    @classmethod
    def of(cls, column: Iterable[H]) -> "CodedColumn[H]":
        """The same values in the same order; a column that is coded already is taken as it is."""
        if isinstance(column, CodedColumn):
            return column
        numbers: dict[H, int] = {}
        codes = np.fromiter((numbers.setdefault(value, len(numbers)) for value in column), dtype=np.int32)
        return cls(list(numbers), codes)

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, place: int) -> H: ...

    @overload
    def __getitem__(self, place: slice) -> "CodedColumn[H]": ...

    def __getitem__(self, place: int | slice) -> "H | CodedColumn[H]":
        if isinstance(place, slice):
            return CodedColumn(self.values, self.codes[place])
        return self.values[int(self.codes[place])]

    def at(self, places: npt.NDArray[np.int64]) -> list[H]:
        """The values at all of ``places``."""
        return [self.values[code] for code in self.codes[places].tolist()]

    def where(self, condition: Callable[[H], bool]) -> npt.NDArray[np.bool_]:
        """Bool (n,): whose value meets ``condition``, which is asked once for each distinct value."""
        meets = np.fromiter(map(condition, self.values), dtype=np.bool_, count=len(self.values))
        return meets[self.codes] if len(self) else np.zeros(0, dtype=np.bool_)

    def numbered(self, key: Callable[[H], Hashable | None]) -> npt.NDArray[np.int64]:
        """A number for each distinct ``key`` of a value, int64 (n,); -1 where that is None."""
        numbers: dict[Hashable, int] = {}
        keys = map(key, self.values)
        of_values = [-1 if each is None else numbers.setdefault(each, len(numbers)) for each in keys]
        return np.array(of_values, dtype=np.int64)[self.codes] if len(self) else np.zeros(0, dtype=np.int64)
