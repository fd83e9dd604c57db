"""Making a recommendation.

The docstrings are the contract that every adapter is tested by. Where a method names no other error, the only one that
it raises is ``DependencyUnavailable``.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from core.ports.results import ProvisionalDocuments, ResultDocuments
from models.job import Job

ProgressReporter = Callable[[int], Awaitable[None]]
RankedReporter = Callable[[Callable[[], Awaitable[ProvisionalDocuments]]], Awaitable[None]]
"""Told that there is a ranked list, before the LLM is asked; makes its documents of it where it has a use for them."""


class Recommender(Protocol):
    """Makes the recommendation of one job."""

    async def recommend(
        self, job: Job, report: ProgressReporter, on_ranked: RankedReporter | None = None
    ) -> ResultDocuments:
        """The finished documents; ``report`` is told how far it is (0..100), and costs nothing when Redis is away.

        ``on_ranked`` is called at most once, and only where an LLM is about to be asked.
        What the LLM does wrong degrades the documents and raises nothing.
        """
