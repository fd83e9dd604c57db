"""Every change of every job's status, in order, none missed: read from the append-only file that Redis writes.

Keyspace events do not say the value, polling misses steps, and MONITOR ends with its connection. The append-only file
holds the effects of every write and every script in the order in which they took place, over all restarts.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

STATUS_PREFIX, RESULT_PREFIX = b"job:status:", b"job:result:"
TERMINAL = frozenset({"succeeded", "failed"})
GONE = "gone"

_LAWFUL = {None: {"queued", "running", "failed"}, "queued": {"running", "failed"}, "running": {"running", *TERMINAL}}
_LONGEST_KEPT = 256

Command = list[bytes]


class StatusTrace:
    """The statuses of all jobs so far; ``read`` brings it up to date. ``faults`` says what was against the rules.

    The file must never be rewritten while it is followed (``auto-aof-rewrite-percentage 0``).
    """

    def __init__(self, append_only_file: Path) -> None:
        self._path = append_only_file
        self._offset = 0
        self._statuses: dict[str, list[str]] = defaultdict(list)
        self._with_result: set[str] = set()
        self.n_terminal = 0
        self.faults: list[str] = []

    @property
    def statuses(self) -> Mapping[str, list[str]]:
        """All statuses that a job has had, in order; one that is written again is there again."""
        return self._statuses

    def is_over(self, job_id: str) -> bool:
        """Whether the job has ended."""
        return job_id in self._statuses and self._statuses[job_id][-1] in TERMINAL

    def skip(self) -> None:
        """Forget all jobs, and follow from here."""
        self._offset = self._path.stat().st_size
        self._statuses.clear()
        self._with_result.clear()
        self.faults.clear()
        self.n_terminal = 0

    def read(self) -> None:
        """Follow the file to its present end, or to the last command that is whole."""
        with self._path.open("rb") as file:
            for command, end in _transactions(file, self._offset, self._path.stat().st_size):
                for each in command:
                    self._apply(each)
                self._offset = end

    def _apply(self, command: Command) -> None:
        name, *arguments = command
        match name.upper():
            case b"HSET" | b"HMSET" | b"HSETNX" if arguments[0].startswith(STATUS_PREFIX):
                fields = dict(zip(arguments[1::2], arguments[2::2], strict=True))
                if b"status" in fields:
                    self._moved(_id(arguments[0]), fields[b"status"].decode())
            case b"SET" if arguments[0].startswith(RESULT_PREFIX):
                self._with_result.add(_id(arguments[0]))
            case b"DEL" | b"UNLINK":
                for key in arguments:
                    if key.startswith(STATUS_PREFIX):
                        self._moved(_id(key), GONE)
            case _:
                pass

    def _moved(self, job_id: str, status: str) -> None:
        history = self._statuses[job_id]
        before = history[-1] if history else None
        history.append(status)
        if status not in _LAWFUL.get(before, set()):
            self.faults.append(f"{job_id} went from {before} to {status}: {' '.join(history)}")
        if status == "succeeded" and job_id not in self._with_result:
            self.faults.append(f"{job_id} succeeded before its result was there")
        if status in TERMINAL and before not in TERMINAL:
            self.n_terminal += 1


def _id(key: bytes) -> str:
    return key.split(b":", 2)[2].decode()


def _transactions(file: BinaryIO, offset: int, size: int) -> Iterator[tuple[list[Command], int]]:
    """What was written at once, and where it ends; what a killed server left half-written is not there."""
    file.seek(offset)
    inside: list[Command] | None = None
    while (command := _command(file, size)) is not None:
        if command[0].upper() == b"MULTI":
            inside = []
        elif command[0].upper() == b"EXEC":
            yield inside or [], file.tell()
            inside = None
        elif inside is not None:
            inside.append(command)
        else:
            yield [command], file.tell()


def _command(file: BinaryIO, size: int) -> Command | None:
    """The next command, or None where it is not there to its end; long values are skipped and left empty."""
    n_arguments = _length(file, b"*")
    if n_arguments is None:
        return None
    command = []
    for _ in range(n_arguments):
        length = _length(file, b"$")
        if length is None or file.tell() + length + 2 > size:
            return None
        if length > _LONGEST_KEPT:
            file.seek(length + 2, 1)
            command.append(b"")
        else:
            command.append(file.read(length + 2)[:-2])
    return command


def _length(file: BinaryIO, sign: bytes) -> int | None:
    line = file.readline()
    if not line.endswith(b"\r\n"):
        return None
    if line[:1] != sign:
        raise ValueError(f"no append-only file: {line[:40]!r} where {sign!r} was due")
    return int(line[1:])
