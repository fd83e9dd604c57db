"""What people who run a site are told of by themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class NoticeKind(StrEnum):
    """Of each kind one is sent at a time; see ``NOTICE_INTERVAL_S``."""

    MODEL_PROMOTED = "model_promoted"
    MODEL_REJECTED = "model_rejected"
    REFRESH_FINISHED = "refresh_finished"
    CHECK_FAILED = "check_failed"
    BUDGET_REACHED = "budget_reached"
    DIGEST = "digest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One sentence, with figures beside it by name; nothing in it is a secret or tells of a member."""

    kind: NoticeKind
    text: str
    figures: Mapping[str, float | int | str] = field(default_factory=dict)
