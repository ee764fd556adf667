"""Output tokens of an answer that was cut, from the bytes that were sent of it; learnt from those that ended whole.

In: audit rows, each once: at start those the journal still has (so that nothing else need be kept over a restart), then
each new one. Out: an estimate per model. Called by the intake.

Bytes tell of visible tokens only. Reasoning goes before them and sends none, so a model's usual share of it is added as
soon as visible output has begun.
"""

from typing import Final

from extproc.budget.estimate import WireKind, WireSizes
from extproc.settle.rows import AuditRow

_FADE = 0.95  # of a model's mean reasoning, per answer
_CLIENT_FORMAT: Final = "openai"  # bytes are counted as sent to the client, whatever the provider speaks


class OutputFromBytes:
    """What each model's answers weigh."""

    def __init__(self) -> None:
        self._sizes = WireSizes()
        self._reasoning: dict[str, float] = {}  # by model: fading mean of reasoning tokens

    def learn(self, row: AuditRow) -> None:
        """Take in a finished request; those that do not tell a true size are passed over."""
        if row.estimated or row.model_used is None or row.status not in ("success", "fallback"):
            return
        visible = row.output_tokens - row.reasoning_tokens
        if visible <= 0 or row.response_bytes <= 0:
            return
        self._sizes.observe(_kind(row.model_used, row.stream), row.response_bytes, visible)
        mean = self._reasoning.get(row.model_used, float(row.reasoning_tokens))
        self._reasoning[row.model_used] = _FADE * mean + (1 - _FADE) * row.reasoning_tokens

    def tokens(self, model: str, stream: bool, sent_bytes: int) -> tuple[int, int]:
        """Output tokens behind `sent_bytes` of an answer's body and, among them, reasoning tokens."""
        visible = self._sizes.tokens(_kind(model, stream), sent_bytes)
        reasoning = round(self._reasoning.get(model, 0.0)) if visible > 0 else 0
        return visible + reasoning, reasoning


def _kind(model: str, stream: bool) -> WireKind:
    return WireKind(model, _CLIENT_FORMAT, stream)
