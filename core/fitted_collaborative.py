"""What ``main.py fit`` leaves behind: the collaborative model, whose items are places, and what those places are."""

import io
import zipfile
from dataclasses import astuple, dataclass
from hashlib import blake2b

import numpy as np

from core.collaborative import CollaborativeModel
from core.errors import ConfigurationError
from core.ports.arrays import Ids
from core.ports.collaborative import FusionWeights

MODEL_KIND = "collaborative"

_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False)
class FittedCollaborative:
    """``item_ids`` int64 (n_items,), rising, are the ids of the model's items; ``version`` names this very content.

    ``version`` is found from the content where it is not given. Raises ``ConfigurationError`` where ids and model do
    not fit together.
    """

    item_ids: Ids
    model: CollaborativeModel
    weights: FusionWeights
    version: str = ""

    def __post_init__(self) -> None:
        n_items = len(self.model.item_vectors)
        if self.item_ids.shape != (n_items,) or np.any(np.diff(self.item_ids) <= 0):
            raise ConfigurationError(f"the collaborative model has {n_items} items, which its item ids do not fit")
        if not self.version:
            object.__setattr__(self, "version", version_of(self.to_bytes()))

    def to_bytes(self) -> bytes:
        """Everything but the version, as ``.npz`` without pickle; the same content makes the same bytes."""
        file = io.BytesIO()
        np.savez(
            file,
            allow_pickle=False,
            ids=self.item_ids,
            model=np.frombuffer(self.model.to_bytes(), np.uint8),
            fusion=np.array(astuple(self.weights), np.float64),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, payload: bytes) -> "FittedCollaborative":
        """What ``to_bytes`` wrote; raises ``ConfigurationError`` where it is something else."""
        try:
            with np.load(io.BytesIO(payload), allow_pickle=False) as file:
                ids, model, fusion = (file[name] for name in ("ids", "model", "fusion"))
            content, collaborative, popularity, same_creator = np.asarray(fusion, np.float64).tolist()
        # TypeError: numpy reads a single array as well, which is no file of several
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigurationError(f"the fitted model cannot be read ({error}); fit it again") from error
        weights = FusionWeights(
            content=content, collaborative=collaborative, popularity=popularity, same_creator=same_creator
        )
        fitted = CollaborativeModel.from_bytes(np.asarray(model, np.uint8).tobytes())
        return cls(np.asarray(ids, np.int64), fitted, weights, version_of(payload))


def version_of(payload: bytes) -> str:
    """What bytes of ``to_bytes`` are stored under: their digest, 16 hexadecimal digits."""
    return blake2b(payload, digest_size=_DIGEST_BYTES).hexdigest()
