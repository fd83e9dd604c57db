"""How much memory there is for the worker, and how much of it is used: what the kernel kills by, not what Python says.

In a container both are the container's, with the tasks that the worker started as processes of their own. A limit of
cgroups (version 2 or 1) holds for all groups below it, so the tightest on the way up is the one that counts.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class _Version:
    """What one version of cgroups calls its files (kernel: cgroup-v2.rst, cgroup-v1/memory.rst)."""

    directory: str
    limit: str
    used: str
    idle_cache: str


_SECOND = _Version("", "memory.max", "memory.current", "inactive_file")
_FIRST = _Version("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes; ``limit`` is the machine's memory, and ``used`` this process's, where no group is limited."""

    limit: int
    used: int


class MemoryMetrics(Collector):
    """``songs_ai_memory_limit_bytes`` and ``songs_ai_memory_used_bytes``, read when they are asked for.

    ``root`` is for tests: where ``/proc`` and ``/sys`` are.
    """

    def __init__(self, registry: CollectorRegistry, root: Path = Path("/")) -> None:
        self._root = root
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families, as a registry asks for them."""
        memory = read_memory(self._root)
        yield GaugeMetricFamily(
            "songs_ai_memory_limit_bytes",
            "What the worker may use: its container's limit, or the machine's memory.",
            value=memory.limit,
        )
        yield GaugeMetricFamily(
            "songs_ai_memory_used_bytes", "What counts against that limit and cannot be dropped.", value=memory.used
        )


def read_memory(root: Path = Path("/")) -> Memory:
    """Of the tightest limited group that this process is in, or of the machine."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limited = [
        (limit, version, group)
        for version, group in _groups(root)
        if (limit := _number(group / version.limit)) is not None and limit < machine
    ]
    for limit, version, group in sorted(limited, key=lambda found: found[0]):
        if (used := _used(version, group)) is not None:
            return Memory(limit, used)
    return Memory(machine, _resident(root))


def _groups(root: Path) -> Iterator[tuple[_Version, Path]]:
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            version = _FIRST if controllers else _SECOND
            top = root / "sys/fs/cgroup" / version.directory
            # A container sees its own group as the top one, and may still be told its path outside.
            own = top / path.lstrip("/")
            yield from ((version, group) for group in (own, *own.parents) if group.is_relative_to(top))


def _used(version: _Version, group: Path) -> int | None:
    """Without file pages that nobody has touched lately: the kernel drops those first. (So Kubernetes counts, too.)"""
    used = _number(group / version.used)
    idle = [line.split()[1] for line in _lines(group / "memory.stat") if line.startswith(f"{version.idle_cache} ")]
    return None if used is None else used - sum(map(int, idle))


def _resident(root: Path) -> int:
    pages = [line.split()[1] for line in _lines(root / "proc/self/statm")]  # proc(5): the second is what is resident
    return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")


def _number(file: Path) -> int | None:
    """What the file holds; None where there is none, or it says ``max``."""
    text = "".join(_lines(file))
    return int(text) if text.isdigit() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
