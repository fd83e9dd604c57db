"""Puts one answer together, whole or from the chunks of a stream, and says whether it is one."""

import json
import re
from dataclasses import dataclass, field
from typing import NamedTuple

from langchain_core.messages import AIMessage, AIMessageChunk

from core.errors import LanguageModelFailed
from core.json_salvage import read_object
from core.ports.language_model import CallUse, Completion
from services.llm_failures import AnswerTooLong

_MAX_TOKENS = 2**53
_MAX_CHARS = 65_536
_THOUGHTS = re.compile(r"\s*(?:<think>)?.*?</think>", re.DOTALL)


@dataclass(slots=True)
class Heard:
    """What has come of an answer so far, and what ``use`` was made; that is paid for whether or not it is usable."""

    use: CallUse = field(default_factory=CallUse)
    _content: list[str] = field(default_factory=list)
    _arguments: list[str] = field(default_factory=list)
    _n_chars: int = 0
    _refusal: object = None
    _finish_reason: object = None
    _told: "_Told | None" = None

    def begin(self) -> None:
        """A request is about to be sent: forget what came of the one before, but not what that used."""
        self._content.clear()
        self._arguments.clear()
        self._n_chars = 0
        self._refusal = self._finish_reason = self._told = None
        self.use.n_requests += 1
        self.use.n_untold += 1

    def unpaid(self) -> None:
        """The request that has ended costs nothing."""
        if self._told is None:
            self.use.n_untold -= 1

    def add(self, message: AIMessage) -> None:
        """Take in an answer, or the next chunk of one; raises ``AnswerTooLong`` before it takes in too much."""
        self._count(message)
        content, arguments = str(message.text), _arguments(message)
        self._n_chars += len(content) + sum(map(len, arguments))
        if self._n_chars > _MAX_CHARS:
            raise AnswerTooLong(f"more than {_MAX_CHARS} characters")
        self._content.extend([content] if content else [])
        self._arguments.extend(arguments)
        self._refusal = message.additional_kwargs.get("refusal") or self._refusal
        self._finish_reason = message.response_metadata.get("finish_reason") or self._finish_reason

    def _count(self, message: AIMessage) -> None:
        """What the provider says that this request used, in the place of what it said before."""
        if (usage := message.usage_metadata) is None:
            return
        cached = usage.get("input_token_details", {}).get("cache_read")
        told = _Told(_tokens(usage["input_tokens"]), _tokens(usage["output_tokens"]), _tokens(cached))
        if not told.prompt + told.completion:
            return
        before, self._told = self._told or _Told(), told
        self.use.n_untold -= before == _Told()
        self.use.prompt_tokens += told.prompt - before.prompt
        self.use.completion_tokens += told.completion - before.completion
        self.use.cached_tokens += told.cached - before.cached

    @property
    def is_finished(self) -> bool:
        """Whether the model has said that it is done."""
        return self._finish_reason is not None

    @property
    def text(self) -> str:
        """The arguments of the function that was called, or the content without a reasoning model's thoughts."""
        return "".join(self._arguments) or _without_thoughts("".join(self._content))

    def completion(self, model: str) -> Completion:
        """The finished answer; raises ``LanguageModelFailed`` where it is none."""
        if self._finish_reason == "content_filter":
            raise self.failure("filtered", "finish_reason content_filter")
        if self._refusal:
            raise self.failure("refused", f"finish_reason {self._finish_reason}")
        text = self.text
        if self._finish_reason == "length" or (self._finish_reason is None and _is_broken(text)):
            raise self.failure("truncated", f"{self.use.completion_tokens} tokens")
        if not text:
            raise self.failure("malformed", "empty content")
        return Completion(
            text=text,
            model=model,
            prompt_tokens=self.use.prompt_tokens,
            completion_tokens=self.use.completion_tokens,
            cached_tokens=self.use.cached_tokens,
            n_requests=self.use.n_requests,
        )

    def failure(self, reason: str, problem: str) -> LanguageModelFailed:
        """The failure of this call, with what had come of the answer unless nobody should read that."""
        return LanguageModelFailed(
            reason,
            problem,
            partial_text=None if reason in ("filtered", "refused") else self.text or None,
            prompt_tokens=self.use.prompt_tokens,
            completion_tokens=self.use.completion_tokens,
            cached_tokens=self.use.cached_tokens,
            n_requests=self.use.n_requests,
        )


class _Told(NamedTuple):
    """Tokens of one request."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


def _arguments(message: AIMessage) -> list[str]:
    """The arguments of the first function call as JSON text; those of a whole answer LangChain has read already."""
    if isinstance(message, AIMessageChunk):
        return [str(call["args"] or "") for call in message.tool_call_chunks if not call["index"]]
    read = [json.dumps(call["args"], ensure_ascii=False, separators=(",", ":")) for call in message.tool_calls]
    return (read or [str(call["args"] or "") for call in message.invalid_tool_calls])[:1]


def _without_thoughts(text: str) -> str:
    """``text`` from the end of what a reasoning model says to itself; a thought that was cut off leaves nothing.

    Some chat templates put the opening tag into the prompt, so that only the closing one is here.
    """
    if text.lstrip().startswith("{"):
        return text
    if (thoughts := _THOUGHTS.match(text)) is not None:
        return text[thoughts.end() :].lstrip()
    return "" if text.lstrip().startswith("<think>") else text


def _is_broken(text: str) -> bool:
    """Whether ``text`` holds the beginning of an object that does not end."""
    try:
        return not read_object(text)[1]
    except ValueError:
        return "{" in text


def _tokens(said: object) -> int:
    """From 0 to 2**53, which every reader of JSON takes; LangChain hands on whatever the server ``said``."""
    # In this order of its arguments ``max`` makes 0 of what is not a number (NaN).
    return int(min(max(0, said), _MAX_TOKENS)) if isinstance(said, int | float) else 0
