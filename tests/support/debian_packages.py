"""Installs Debian's server packages where that is possible, without starting the services that come with them."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

_APT_GET = ("apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq")
_POLICY = Path("/usr/sbin/policy-rc.d")


def can_install() -> bool:
    """Whether this is root on a system with apt."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: Sequence[str]) -> str | None:
    """Install ``packages``; None, or the end of apt's complaint where it failed (no network, say)."""
    with tempfile.TemporaryFile() as log, _services_stay_stopped():
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run([*_APT_GET, *arguments], env=environment, stdout=log, stderr=log, check=False)
        log.seek(0)
        return None if done.returncode == 0 else log.read()[-1000:].decode(errors="replace").strip()


@contextlib.contextmanager
def _services_stay_stopped() -> Iterator[None]:
    """Answer "101: not allowed" to every service start that a package asks for (invoke-rc.d(8)), unless one answers."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
