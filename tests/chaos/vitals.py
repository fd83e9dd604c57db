"""What a process holds on to, read from /proc: memory and open sockets; and what it has used of the CPU."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Vitals:
    """Resident memory in MB, open sockets, and all that is open."""

    rss_mb: float
    n_sockets: int
    n_open: int


def vitals(pid: int) -> Vitals:
    """Those of a living process."""
    status = Path(f"/proc/{pid}/status").read_text()
    rss_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    links = [_target(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    return Vitals(rss_kb / 1024, sum(link.startswith("socket:") for link in links), len(links))


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:  # closed since it was listed
        return ""


def cpu_s(pid: int) -> float:
    """Seconds of CPU time that a living process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
