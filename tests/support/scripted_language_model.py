"""A language model that says what a test tells it to, and an observer that remembers what it was told."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from core.errors import LanguageModelFailed
from core.ports.language_model import Completion, Prompt


class ScriptedLanguageModel:
    """Answers with ``script(prompt)``, or raises what that raises; remembers the prompts."""

    def __init__(self, script: Callable[[Prompt], str] | str) -> None:
        self._script = script
        self.prompts: list[Prompt] = []
        self.asked_deep: list[bool] = []

    def name(self, *, deep: bool) -> str:
        return "scripted-deep" if deep else "scripted"

    async def complete(self, prompt: Prompt, *, deep: bool = False) -> Completion:
        self.prompts.append(prompt)
        self.asked_deep.append(deep)
        text = self._script if isinstance(self._script, str) else self._script(prompt)
        return Completion(text=text, model=self.name(deep=deep), prompt_tokens=7, completion_tokens=3)


def failing_language_model(reason: str, partial_text: str | None = None) -> ScriptedLanguageModel:
    """A model whose every call fails with ``reason``."""

    def fail(_: Prompt) -> str:
        raise LanguageModelFailed(reason, partial_text=partial_text)

    return ScriptedLanguageModel(fail)


class RecordingObserver:
    """Remembers calls as (outcome, prompt tokens, completion tokens), drops by cause, retries, and degradations.

    ``counts`` is of the rest: ``unknown`` items, ``hit`` and ``miss`` of the cache, and answers by arm and kind.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.models: list[str] = []
        self.cached_tokens = 0
        self.retries: list[str] = []
        self.dropped: dict[str, int] = {}
        self.degradations: list[str] = []
        self.counts: Counter[str] = Counter()

    def stage(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def unknown_items(self, n: int) -> None:
        self.counts["unknown"] += n

    def answer_cache(self, *, hit: bool) -> None:
        self.counts["hit" if hit else "miss"] += 1

    def llm_call(
        self,
        *,
        model: str,
        outcome: str,
        seconds: float,
        prompt_tokens: int,
        completion_tokens: int,
        cached_tokens: int = 0,
    ) -> None:
        assert seconds >= 0
        self.models.append(model)
        self.calls.append((outcome, prompt_tokens, completion_tokens))
        self.cached_tokens += cached_tokens

    def llm_retried(self, cause: str) -> None:
        self.retries.append(cause)

    def llm_dropped(self, cause: str, n: int) -> None:
        self.dropped[cause] = self.dropped.get(cause, 0) + n

    def degraded(self, reason: str) -> None:
        self.degradations.append(reason)

    def answered(self, *, arm: str, kind: str, seconds: float) -> None:
        assert seconds >= 0
        self.counts[f"{arm} {kind}"] += 1
