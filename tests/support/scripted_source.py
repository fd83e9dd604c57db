"""A collaborative source that says what a test wrote down."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from core.ports.arrays import Floats, Ids
from core.ports.collaborative import FusionWeights
from core.ports.index import Hits


@dataclass
class ScriptedSource:
    """A ``CollaborativeSource``: one who likes anything of ``knows`` gets ``scores`` (by item id), all others nothing.

    ``asked`` remembers the likes of every listener.
    """

    scores_by_id: Mapping[int, float]
    knows: Collection[int] = ()
    version: str = "m1"
    weights: FusionWeights = field(default_factory=FusionWeights)
    asked: list[dict[int, float]] = field(default_factory=list)

    def listener(self, likes: Mapping[int, float]) -> Floats | None:
        self.asked.append(dict(likes))
        return np.ones(1, dtype=np.float32) if set(likes) & set(self.knows) else None

    async def search(self, listener: Floats, n: int, *, excluded: Collection[int] = ()) -> Hits:
        best = sorted(self.scores_by_id.keys() - set(excluded), key=lambda item_id: -self.scores_by_id[item_id])[:n]
        ids = np.array(best, dtype=np.int64)
        return Hits(ids=ids, scores=self.scores(listener, ids))

    def scores(self, listener: Floats, item_ids: Ids) -> Floats:
        found = [self.scores_by_id.get(item_id, float("nan")) for item_id in item_ids.tolist()]
        return np.array(found, dtype=np.float32)
