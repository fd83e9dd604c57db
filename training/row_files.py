"""Files of rows, by the ending of their names: Parquet, else CSV."""

from pathlib import Path

from training.csv_rows import CsvFile
from training.parquet_rows import SUFFIXES, ParquetFile

RowFile = CsvFile | ParquetFile


def open_rows(path: Path) -> RowFile:
    """Raises ``ConfigurationError`` where the file cannot be read."""
    return ParquetFile(path) if path.suffix.lower() in SUFFIXES else CsvFile(path)
