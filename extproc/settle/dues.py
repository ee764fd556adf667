"""What the journal owes to others, and that it no longer does.

In: rows that are new, and what the ledger says of them. Out: a `Charge` for each, to the charger; `Charged` and its
alerts back, to the journal.
"""

from collections.abc import Sequence

import msgspec

from extproc.settle.rows import AuditRow


class Charge(msgspec.Struct, frozen=True):
    """One audit row as the ledger is to be told of it."""

    id: int
    request_id: str
    team_id: str
    tokens: int
    nano_usd: int | None
    received_at: float
    status: str
    held_input_tokens: int

    @classmethod
    def of(cls, number: int, row: AuditRow) -> "Charge":
        """What the row with this id owes."""
        tokens = row.input_tokens + row.output_tokens + row.outrun_tokens
        return cls(
            *(number, row.request_id, row.team_id, tokens, row.cost_nano_usd, row.received_at, row.status),
            row.estimated_input_tokens,
        )

    @property
    def owes_nothing(self) -> bool:
        """Refused before anything was held: there is nothing to charge and nothing to give back."""
        return self.status == "refused" and self.held_input_tokens == 0


class Alert(msgspec.Struct, frozen=True):
    """An alert to deliver. `id` is its idempotency key."""

    id: str
    team_id: str
    body: str  # the JSON to send, byte for byte the same at every try
    tries: int = 0


class Charged(msgspec.Struct, frozen=True):
    """Rows (their ids) that owe nothing any more, since when (seconds since the epoch), and the alerts that charging
    them gave rise to."""

    ids: Sequence[int]
    at_s: float
    alerts: Sequence[Alert] = ()
