"""Embeddings by any OpenAI-compatible HTTP API, through the OpenAI SDK."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import openai
from openai.types import CreateEmbeddingResponse

from core.errors import DependencyUnavailable
from core.ports.arrays import Floats
from models.catalogue import Item
from services.openai_endpoint import NO_KEY, OPENAI_URL

# The API takes at most 2,048 inputs and 300,000 tokens a request (API reference, "Create embeddings"): 256 items of
# about 100 tokens stay far below both, and a lost answer costs little.
_MAX_BATCH = 256
# 8,192 tokens an input at the most, and a token of Hangul or kana may be a single letter.
_MAX_CHARS = 4000


class OpenAIEmbedder:
    """``core.ports.Embedder`` over HTTP; opens connections when it is first asked.

    It reads an item's titles, creator, genres, moods, language and ``text_columns``; numeric features are not text and
    are left to the hashing embedder. ``timeout_s`` bounds one request; the SDK tries 429, 5xx and lost connections
    again, ``max_retries`` times.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str | None,
        model: str,
        dim: int,
        timeout_s: float = 30.0,
        max_retries: int = 2,
        batch_size: int = _MAX_BATCH,
        text_columns: Collection[str] = (),
    ) -> None:
        self._model, self._dim = model, dim
        self._batch_size = min(batch_size, _MAX_BATCH)
        self._text_columns = tuple(text_columns)
        self._client = openai.AsyncOpenAI(
            api_key=api_key or NO_KEY,
            base_url=base_url or OPENAI_URL,
            timeout=timeout_s,
            max_retries=max_retries,
            http_client=openai.DefaultAioHttpClient(timeout=timeout_s),
        )

    @property
    def name(self) -> str:
        """Kind, model and dimension."""
        return f"openai-{self._model}-{self._dim}"

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._dim

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def embed(self, items: Sequence[Item]) -> Floats:
        """Unit vectors, float32, shape (len(items), dim), in order; an item without text gets the zero vector.

        Raises ``DependencyUnavailable`` where the server does not answer, refuses, or answers something else.
        """
        vectors = np.zeros((len(items), self._dim), np.float32)
        texts = {row: text for row, item in enumerate(items) if (text := description(item, self._text_columns))}
        rows = list(texts)
        for start in range(0, len(rows), self._batch_size):
            batch = rows[start : start + self._batch_size]
            vectors[batch] = self._checked(await self._ask([texts[row] for row in batch]), len(batch))
        return vectors

    async def embed_wish(self, text: str, item: Item) -> Floats:
        """See ``core.ports.WishEmbedder``: the text itself, and the item in words where there is no text.

        Raises what ``embed`` raises.
        """
        if not (asked := text[:_MAX_CHARS] or description(item)):
            return np.zeros(self._dim, np.float32)
        return np.asarray(self._checked(await self._ask([asked]), 1)[0], np.float32)

    async def _ask(self, texts: list[str]) -> CreateEmbeddingResponse:
        try:
            return await self._client.embeddings.create(model=self._model, input=texts, dimensions=self._dim)
        except openai.APIStatusError as error:
            # The server's sentence may quote the key that it refuses; its code does not.
            code = f" ({error.code})" if error.code else ""
            raise DependencyUnavailable(
                "embeddings", f"{self._model}: HTTP status {error.status_code}{code}"
            ) from error
        except (openai.OpenAIError, ValueError) as error:
            raise DependencyUnavailable("embeddings", f"{self._model}: {type(error).__name__}") from error

    def _checked(self, response: CreateEmbeddingResponse, n_expected: int) -> Floats:
        """The vectors of ``response`` at unit length, in the order of the inputs, float32 (n_expected, dim)."""
        data = response.data or []
        if sorted(entry.index for entry in data) != list(range(n_expected)):
            raise DependencyUnavailable("embeddings", f"{self._model}: {len(data)} vectors for {n_expected} inputs")
        vectors = [entry.embedding for entry in sorted(data, key=lambda entry: entry.index)]
        if wrong := {len(vector) for vector in vectors} - {self._dim}:
            problem = f"vectors of {wrong.pop()} numbers for {self._dim}; the model may not take dimensions"
            raise DependencyUnavailable("embeddings", f"{self._model}: {problem}")
        return self._unit(np.asarray(vectors, np.float32))

    def _unit(self, vectors: Floats) -> Floats:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.all(np.isfinite(lengths) & (lengths > 0)):
            raise DependencyUnavailable("embeddings", f"{self._model}: a vector without a direction")
        return np.asarray(vectors / lengths, np.float32)


def description(item: Item, text_columns: Collection[str] = ()) -> str:
    """``item`` in words, a line for each thing that is known of it; empty where nothing is."""
    further = [item.columns.get(column) for column in text_columns]
    lines: Mapping[str, Iterable[str | None]] = {
        "title": [*item.titles.values(), *(text for text in further if isinstance(text, str))],
        "by": [item.creator, item.creator_local],
        "genre": item.genres,
        "mood": item.moods,
    }
    described = [f"{name}: {text}" for name, parts in lines.items() if (text := _joined(parts))]
    # The language alone says nothing that is worth a vector.
    described += [f"language: {item.language}"] if described and item.language else []
    return "\n".join(described)[:_MAX_CHARS]


def _joined(parts: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(part.strip() for part in parts if part and part.strip()))
