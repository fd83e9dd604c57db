"""A language model whose calls are spans."""

from core.ports.language_model import CallUse, Completion, Prompt, TimedLanguageModel
from core.tracing import Tracing


class TracedLanguageModel:
    """``model``, each call of which is a span of ``tracing``: which model, how many tokens, and how it ended."""

    def __init__(self, model: TimedLanguageModel, tracing: Tracing) -> None:
        self._model = model
        self._tracing = tracing

    def name(self, *, deep: bool) -> str:
        """The model that ``complete`` would ask."""
        return self._model.name(deep=deep)

    async def complete(
        self, prompt: Prompt, *, deep: bool = False, within_s: float | None = None, use: CallUse | None = None
    ) -> Completion:
        """See ``TimedLanguageModel``."""
        use = use or CallUse()
        with self._tracing.llm_call(self.name(deep=deep), max_tokens=prompt.max_output_tokens, use=use):
            return await self._model.complete(prompt, deep=deep, within_s=within_s, use=use)
