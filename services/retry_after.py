"""How long a server asks to wait."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def seconds_of(retry_after: str | None) -> float | None:
    """Of a Retry-After, which holds seconds or a date (RFC 9110, 10.2.3)."""
    if not retry_after:
        return None
    if retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
