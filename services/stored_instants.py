"""Instants as the databases hold them: in UTC, and without saying so."""

from datetime import UTC, datetime


def naive(instant: datetime) -> datetime:
    """An aware instant as a column takes it."""
    return instant.astimezone(UTC).replace(tzinfo=None)


def aware(stored: datetime) -> datetime:
    """What a column held, as an instant that says its zone."""
    return stored.replace(tzinfo=UTC)
