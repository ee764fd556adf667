"""The network as the last word: how near two short texts are to one that reads whole sentences, MiniLM's student.

In: a text and the candidates the guards let pass. Out: their cosines, or None when it cannot tell in time. A sentence
vector takes about 0.7 ms of a core, in one thread of its own, so the worker's loop goes on meanwhile; vectors are
remembered. Reads 64 word pieces (`POSITIONS` of `train.confirm`): of longer texts it says nothing, for what it does not
read may differ. Needs onnxruntime; its model comes with the gateway, nothing is fetched.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from extproc.embedding.limits import MAX_CHARS
from extproc.embedding.static import DATA
from extproc.embedding.wordpiece import WordPiece

POSITIONS = 64
CLS, SEP = 101, 102
_REMEMBERED = 20_000  # vectors, about 1 kB each
_WAITING = 4  # texts asked for and not yet read: more, and the thread would never be in time

Vector = NDArray[np.float32]
Answer = asyncio.Future[list[float] | None]


class Confirmer:
    """The model and its thread. `load` once; not for two event loops."""

    def __init__(self, session: Any, pieces: WordPiece) -> None:
        self._session = session
        self._pieces = pieces
        self._thread = ThreadPoolExecutor(1, "confirm")
        self._known: OrderedDict[str, Vector] = OrderedDict()  # touched by the thread only
        self._waiting = 0

    @classmethod
    @cache
    def load(cls) -> Self:
        """The model that comes with the gateway; about 0.2 s and 60 MB."""
        import onnxruntime  # noqa: PLC0415 - 40 MB that only the semantic cache needs

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(DATA / "minilm.onnx"), options, providers=["CPUExecutionProvider"])
        return cls(session, WordPiece.load())

    def fits(self, text: str) -> bool:
        """Whether all of a text is read."""
        return len(text) <= MAX_CHARS and len(self._pieces.ids(text)) <= POSITIONS - 2

    async def cosines(self, text: str, others: Sequence[str], deadline_s: float) -> list[float] | None:
        """Of `text` with each of `others`; None after `deadline_s`, or while too much is waiting already."""
        if self._waiting >= _WAITING:
            return None
        self._waiting += 1
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()
        late = loop.call_later(deadline_s, _give, answer, None)
        self._thread.submit(self._answer, answer, text, tuple(others))
        try:
            return await answer
        finally:
            late.cancel()

    async def read(self, text: str) -> Vector:
        """The sentence vector; remembered, so that it need not be made when the text is a candidate."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.vector, text)

    def know(self, vectors: Mapping[str, Vector]) -> None:
        """Sentence vectors that were made before, by text."""
        self._thread.submit(self._remember, vectors)

    def compare(self, text: str, others: Sequence[str]) -> list[float]:
        """The same, here and now."""
        vector = self.vector(text)
        return [float(np.einsum("i,i->", vector, self.vector(other))) for other in others]

    def vector(self, text: str) -> Vector:
        """The sentence vector, length 1, shape (384,)."""
        vector = self._known.get(text)
        if vector is None:
            ids = np.array([[CLS, *self._pieces.ids(text)[: POSITIONS - 2], SEP]], np.int64)
            vector = self._session.run(None, {"input_ids": ids})[0][0]
            self._remember({text: vector})
        else:
            self._known.move_to_end(text)
        return vector

    def _remember(self, vectors: Mapping[str, Vector]) -> None:
        self._known.update(vectors)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def close(self) -> None:
        """End the thread; what waits is dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _answer(self, answer: Answer, text: str, others: Sequence[str]) -> None:
        """In the thread. One future and one call back: 45 us less than run_in_executor, shield and wait_for."""
        found: list[float] | Exception
        try:
            found = self.compare(text, others)
        except Exception as error:  # told by the caller, if it still waits
            found = error
        answer.get_loop().call_soon_threadsafe(self._done, answer, found)

    def _done(self, answer: Answer, found: list[float] | Exception) -> None:
        self._waiting -= 1
        _give(answer, found)


def _give(answer: Answer, found: list[float] | Exception | None) -> None:
    if answer.done():  # too late, or nobody waits any more
        return
    if isinstance(found, Exception):
        answer.set_exception(found)
    else:
        answer.set_result(found)
