"""Which members the LLM is asked for: two arms, so that what it costs can be set against what it brings."""

from enum import StrEnum
from hashlib import blake2b

from models.job import Strategy

_HASH_BYTES = 8


class Arm(StrEnum):
    """What a member's jobs are: answered with the LLM, by the ranking alone, or not compared.

    ``none`` is a job for which nobody would ask the LLM: none is configured, or its strategy is ``fast``. A job whose
    call failed stays ``llm``, for the arms compare what was meant to be done (intention to treat).
    """

    LLM = "llm"
    RANKING = "ranking"
    NONE = "none"

    def strategy(self, asked: Strategy) -> Strategy:
        """What a job that asks for ``asked`` may spend in this arm."""
        return Strategy.FAST if self is Arm.RANKING else asked


def arm_of(member_id: int, *, share: float, experiment: str) -> Arm:
    """``llm`` for a ``share`` (0 to 1) of the members, ``ranking`` for the others; on every worker the same.

    A member's place on the line from 0 to 1 is a hash of ``experiment`` and the id, so that a larger share moves
    members to ``llm`` alone, and only so many as it must. Another ``experiment`` draws them anew, independently.
    """
    digest = blake2b(f"{experiment}:{member_id}".encode(), digest_size=_HASH_BYTES).digest()
    return Arm.LLM if int.from_bytes(digest, "big") < share * 2 ** (8 * _HASH_BYTES) else Arm.RANKING
