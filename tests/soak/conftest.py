"""The servers of a soak are those of the chaos suite."""

from tests.chaos.conftest import chaos_servers

__all__ = ["chaos_servers"]
