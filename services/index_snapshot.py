"""An index as one file, which all processes of a host map into their memory and so share.

The file is a magic number, the header's length and digest, the header (JSON: what it holds and where), and arrays at
multiples of 64 bytes: ids, popularity, numbers of attribute values, what the store had then, rows, codes. It is written
beside its place and renamed into it, so that there is never a half of one. A file of another format or length, or whose
arrays are not those that their checksums are of, is no snapshot; the rows alone are not looked at again, which would
read them all before the first search.
"""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import orjson

from core.ports.catalogue import ItemsMark
from core.ports.index import IndexMark, IndexRows
from services.coded_column import CodedColumn
from services.vector_scan import ExactScan, FastScan, Tuning, VectorScan

_MAGIC = b"SongsIx2"
_DIGEST_BYTES = 16
_ALIGNED_TO = 64
_COLUMNS = ("genres", "moods", "languages", "creators")

Bytes = npt.NDArray[np.uint8]


class SnapshotUnreadable(Exception):
    """The file is no whole snapshot of this format."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an index is made of, mapped from a file; ``rows.vectors`` are those of ``scan``."""

    rows: IndexRows
    scan: VectorScan


class SnapshotDirectory:
    """The snapshots of one embedder on this host: the newest, and the one before for those who still read it."""

    def __init__(self, directory: Path, embedder_name: str) -> None:
        self._directory = directory
        self._prefix = blake2b(embedder_name.encode(), digest_size=4).hexdigest()

    def path(self, version: str) -> Path:
        """Where the snapshot of ``version`` is, or will be."""
        return self._directory / f"{self._prefix}-{version}.index"

    def newest(self) -> Snapshot | None:
        """The snapshot that was written last and is whole. Raises ``OSError``."""
        for path in reversed(self._oldest_first()):
            try:
                return read_snapshot(path)
            except (FileNotFoundError, SnapshotUnreadable):
                continue
        return None

    def _oldest_first(self) -> list[Path]:
        found: list[tuple[int, Path]] = []
        for path in self._directory.glob(f"{self._prefix}-*.index"):
            # Another process may be taking old ones away.
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def write(self, rows: IndexRows, scan: VectorScan) -> Snapshot:
        """Write a snapshot, forget all but the one before it, and read it. Raises ``OSError``."""
        path = self.path(rows.version)
        older = [each for each in self._oldest_first() if each != path]
        write_snapshot(path, rows, scan)
        for each in older[:-1]:
            each.unlink(missing_ok=True)
        return read_snapshot(path)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the directory against the other processes of this host, so that one of them builds for all.

        Blocks until it is free; a holder that dies lets go. Raises ``OSError``.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / f"{self._prefix}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def write_snapshot(path: Path, rows: IndexRows, scan: VectorScan) -> None:
    """Write the index of ``rows`` to ``path``, whole or not at all. Raises ``OSError``."""
    temporary = NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False)  # noqa: SIM115
    try:
        with temporary as file:
            _write(file, rows, scan)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary.name).rename(path)
    except BaseException:
        Path(temporary.name).unlink(missing_ok=True)
        raise


def _write(file: IO[bytes], rows: IndexRows, scan: VectorScan) -> None:
    columns = {name: CodedColumn.of(getattr(rows, name)) for name in _COLUMNS}
    sections: dict[str, tuple[int, int, int]] = {}

    def section(name: str, write: Callable[[Callable[[bytes], object]], object]) -> None:
        file.seek(-(-file.tell() // _ALIGNED_TO) * _ALIGNED_TO)
        start, checksum = file.tell(), 0

        def out(part: bytes) -> None:
            nonlocal checksum
            checksum = crc32(part, checksum)
            file.write(part)

        write(out)
        sections[name] = (start, file.tell() - start, checksum)

    def array(name: str, values: npt.NDArray[Any], kind: str) -> None:
        section(name, lambda out: out(values.astype(kind).tobytes()))

    file.seek(_ALIGNED_TO)
    array("ids", rows.ids, "<i8")
    array("popularity", rows.popularity, "<f4")
    for name, column in columns.items():
        array(name, column.codes, "<i4")
    if rows.mark:
        array("active_ids", rows.mark.items.active_ids, "<i8")
        array("dates", rows.mark.items.dates, "<i8")
    if isinstance(scan, FastScan):
        section("rows", scan.write_rows)
        section("codes", scan.write_codes)
    else:
        array("rows", scan.rows, "<f4")
    header_at = file.tell()
    tuning = scan.tuning if isinstance(scan, FastScan) else None
    header = orjson.dumps(
        {
            "version": rows.version,
            "dim": scan.rows.shape[1],
            "sections": sections,
            "values": {name: column.values for name, column in columns.items()},
            "mark": _mark_header(rows.mark) if rows.mark else None,
            "tuning": [tuning.k_factor, tuning.n_probes, tuning.recall] if tuning else None,
        }
    )
    file.write(header)
    file.seek(0)
    numbers = np.array([header_at, len(header)], dtype="<u8").tobytes()
    file.write(_MAGIC + numbers + blake2b(header, digest_size=_DIGEST_BYTES).digest())


def read_snapshot(path: Path) -> Snapshot:
    """The index in ``path``, mapped: read-only, and shared with whoever maps it too.

    Raises ``SnapshotUnreadable`` and ``OSError``.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < _ALIGNED_TO:
            raise SnapshotUnreadable(path.name)
        whole = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
    header = _header(whole, path.name)
    parts = {name: whole[start : start + size] for name, (start, size, _) in header["sections"].items()}
    for name, (_, _, checksum) in header["sections"].items():
        if name != "rows" and crc32(parts[name].data) != checksum:
            raise SnapshotUnreadable(path.name)
    scan = _scan(parts, header)

    def column(name: str) -> CodedColumn[Any]:
        values = header["values"][name]
        return CodedColumn(
            [tuple(each) if isinstance(each, list) else each for each in values], parts[name].view("<i4")
        )

    genres, moods, languages, creators = map(column, _COLUMNS)
    rows = IndexRows(
        ids=parts["ids"].view("<i8"),
        vectors=scan.rows,
        popularity=parts["popularity"].view("<f4"),
        genres=genres,
        moods=moods,
        languages=languages,
        creators=creators,
        version=header["version"],
        mark=_mark(parts, header["mark"]) if header["mark"] else None,
    )
    return Snapshot(rows, scan)


def _header(whole: Bytes, name: str) -> dict[str, Any]:
    start, size = (int(number) for number in whole[8:24].view("<u8"))
    header = whole[start : start + size].tobytes()
    digest = blake2b(header, digest_size=_DIGEST_BYTES).digest()
    if (
        whole[:8].tobytes() != _MAGIC
        or len(whole) != start + size
        or digest != whole[24 : 24 + _DIGEST_BYTES].tobytes()
    ):
        raise SnapshotUnreadable(name)
    found: dict[str, Any] = orjson.loads(header)
    return found


def _mark_header(mark: IndexMark) -> list[Any]:
    modified_at = mark.items.modified_at
    return [mark.origin, mark.change_no, modified_at.isoformat() if modified_at else None]


def _mark(parts: dict[str, Bytes], header: list[Any]) -> IndexMark:
    origin, change_no, modified_at = header
    active_ids, dates = parts["active_ids"].view("<i8"), parts["dates"].view("<i8")
    items = ItemsMark(datetime.fromisoformat(modified_at) if modified_at else None, active_ids, dates)
    return IndexMark(origin=origin, change_no=change_no, items=items)


def _scan(parts: dict[str, Bytes], header: dict[str, Any]) -> VectorScan:
    if header["tuning"] is None:
        return ExactScan(parts["rows"].view("<f4").reshape(-1, header["dim"]))
    return FastScan.read(parts["rows"], parts["codes"], Tuning(*header["tuning"]))
