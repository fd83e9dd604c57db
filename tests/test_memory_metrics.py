"""The memory that a worker may use, and what it does: as cgroups of both versions, and none, tell of it."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.metric_parts.memory import Memory, MemoryMetrics, read_memory

MIB = 2**20
MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
PAGE = os.sysconf("SC_PAGE_SIZE")
UNLIMITED_OF_THE_FIRST = 9_223_372_036_854_771_712


def machine(root: Path, membership: str, files: Mapping[str, object]) -> Path:
    """Files as a kernel shows them."""
    contents = {"proc/self/cgroup": membership, "proc/self/statm": "90000 5000 4000 1 0 30000 0", **files}
    for name, content in contents.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
    return root


def second(group: str, limit: object, used: int = 0, idle: int = 0) -> dict[str, object]:
    directory = f"sys/fs/cgroup/{group}"
    return {
        f"{directory}/memory.max": limit,
        f"{directory}/memory.current": used,
        f"{directory}/memory.stat": f"anon 7\nfile 9\ninactive_anon 5\ninactive_file {idle}\nactive_file 3",
    }


def first(group: str, limit: object, used: int = 0, idle: int = 0) -> dict[str, object]:
    directory = f"sys/fs/cgroup/memory/{group}"
    return {
        f"{directory}/memory.limit_in_bytes": limit,
        f"{directory}/memory.usage_in_bytes": used,
        f"{directory}/memory.stat": f"cache 9\ninactive_file 1\ntotal_inactive_file {idle}",
    }


def test_a_container_of_cgroups_2_is_told_its_limit_and_what_it_uses_less_the_idle_cache(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/", second("", 512 * MIB, used=400 * MIB, idle=100 * MIB))
    assert read_memory(root) == Memory(512 * MIB, 300 * MIB)


def test_a_container_of_cgroups_1_is_told_the_same_though_its_path_is_that_of_the_host(tmp_path: Path) -> None:
    membership = "9:name=systemd:/docker/abc\n4:memory:/docker/abc\n0::/"
    root = machine(tmp_path, membership, first("", 512 * MIB, used=400 * MIB, idle=100 * MIB))
    assert read_memory(root) == Memory(512 * MIB, 300 * MIB)


@pytest.mark.parametrize("tight", ["system.slice", "system.slice/songs.service"])
def test_the_tightest_limit_on_the_way_up_counts_wherever_it_is(tmp_path: Path, tight: str) -> None:
    groups = {"system.slice": 800 * MIB, "system.slice/songs.service": 700 * MIB, tight: 300 * MIB}
    files: dict[str, object] = {}
    for group, limit in groups.items():
        files |= second(group, limit, used=limit // 2)
    assert read_memory(machine(tmp_path, "0::/system.slice/songs.service", files)) == Memory(300 * MIB, 150 * MIB)


@pytest.mark.parametrize(
    "files",
    [
        {},
        second("", "max", used=10 * MIB),
        first("", UNLIMITED_OF_THE_FIRST, used=10 * MIB),
        second("", MACHINE + 1, used=10 * MIB),
        {"sys/fs/cgroup/memory.max": 512 * MIB},
        {"sys/fs/cgroup/memory.max": "", "sys/fs/cgroup/memory.current": ""},
    ],
    ids=["no groups", "max", "the first version's none", "more than the machine has", "no use told", "empty files"],
)
def test_without_a_limit_it_is_the_machines_memory_and_what_this_process_holds(
    tmp_path: Path, files: Mapping[str, object]
) -> None:
    root = machine(tmp_path, "4:memory:/\n0::/", files)
    assert read_memory(root) == Memory(MACHINE, 5000 * PAGE)


def test_where_there_is_no_such_kernel_nothing_breaks(tmp_path: Path) -> None:
    assert read_memory(tmp_path) == Memory(MACHINE, 0)


def test_it_is_read_anew_at_every_scrape(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    MemoryMetrics(registry, machine(tmp_path, "0::/", second("", 512 * MIB, used=100 * MIB)))
    assert registry.get_sample_value("songs_ai_memory_used_bytes") == 100 * MIB
    machine(tmp_path, "0::/", second("", 512 * MIB, used=500 * MIB))
    assert registry.get_sample_value("songs_ai_memory_limit_bytes") == 512 * MIB
    assert registry.get_sample_value("songs_ai_memory_used_bytes") == 500 * MIB


def test_of_this_very_machine_it_says_what_can_be_true() -> None:
    memory = read_memory()
    assert 0 < memory.used < memory.limit <= MACHINE
