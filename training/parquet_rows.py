"""Reads Parquet files row by row, as ``training/csv_rows.py`` reads CSV: a batch at a time, and the columns needed.

What stands in a cell becomes the text that a CSV file would have there. Missing values, NaN among them, are empty
cells; a list is its members, joined by commas.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from core.errors import ConfigurationError
from training.csv_rows import AnyLayout, InvalidRow, RowProblem, clean, layout_among

T = TypeVar("T")

SUFFIXES = (".parquet", ".pq")

_BATCH = 2048
# With a buffer a column of a row group is read bit by bit, else whole.
_BUFFER_BYTES = 1 << 16


class ParquetFile:
    """A Parquet file. Reading blocks, and streams."""

    def __init__(self, path: Path) -> None:
        """Raises ``ConfigurationError`` where the file cannot be read, or PyArrow is not installed."""
        self.path = path
        try:
            self._arrow: Any = import_module("pyarrow")
            self._parquet: Any = import_module("pyarrow.parquet")
            self._compute: Any = import_module("pyarrow.compute")
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"{path.name}: {error.name} is missing: pip install -r requirements-import.txt"
            ) from None
        with self._open() as file:
            self.header: tuple[str, ...] = tuple(file.schema_arrow.names)
        self._wanted = self.header

    def layout_among(self, layouts: Sequence[AnyLayout]) -> AnyLayout:
        """See ``CsvFile.layout_among``; from then on only the columns of that layout are read."""
        layout = layout_among(self.path.name, self.header, layouts)
        self._wanted = layout.needed
        return layout

    def rows(self, read: Callable[[Mapping[str, str]], T]) -> Iterator[T | RowProblem]:
        """See ``CsvFile.rows``; of a problem the row is told, from 1."""
        number = 0
        for batch in self._batches():
            for cells in zip(*batch, strict=True):
                number += 1
                try:
                    named = zip(self._wanted, cells, strict=True)
                    yield read({name: clean(name, cell) for name, cell in named})
                except InvalidRow as error:
                    yield RowProblem(number, str(error), place="row")

    def _batches(self) -> Iterator[list[list[str]]]:
        with self._open() as file:
            batches = file.iter_batches(batch_size=_BATCH, columns=list(self._wanted), use_threads=False)
            while (batch := self._read(lambda: next(batches, None))) is not None:
                yield [self._texts(name, batch.column(name)) for name in self._wanted]

    def _open(self) -> Any:  # noqa: ANN401 - PyArrow has no types
        return self._read(lambda: self._parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=_BUFFER_BYTES))

    def _read(self, step: Callable[[], Any]) -> Any:  # noqa: ANN401 - PyArrow has no types
        try:
            return step()
        except (OSError, self._arrow.ArrowException) as error:
            raise ConfigurationError(f"{self.path.name} cannot be read as Parquet: {error}") from error

    def _texts(self, name: str, column: Any) -> list[str]:  # noqa: ANN401 - PyArrow has no types
        types, kind = self._arrow.types, column.type
        if types.is_binary(kind) or types.is_large_binary(kind):
            # Old writers do not say that it is text; what is no UTF-8 makes that row alone a bad one.
            return [(cell or b"").decode(errors="surrogateescape") for cell in column.to_pylist()]
        try:
            if types.is_list(kind) or types.is_large_list(kind):
                parts = column.cast(self._arrow.list_(self._arrow.string()))
                texts = self._compute.binary_join(parts, ",").to_pylist()
            else:
                texts = column.cast(self._arrow.string()).to_pylist()
        except self._arrow.ArrowException:
            raise ConfigurationError(f"{self.path.name}: the column {name} holds {kind}, which is no text") from None
        if types.is_floating(kind):
            return ["" if text is None or text == "nan" else text for text in texts]
        return [text or "" for text in texts]
