"""What the journal still owes to others: rows the ledger has not charged, alerts nobody was told of.

In: audit rows (by the writer), crossings (by the charger). Out: both again, until they are marked as done. Part of the
same SQLite file and transactions as the rows, so that a crash at any moment repeats work and never loses any. Used by
the charger, the expiry and the alerts, from a thread each call.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from extproc.settle.dues import Alert, Charge, Charged
from extproc.settle.journal import Batch, Connection, connect, transaction, write
from extproc.settle.rows import UNRECONCILED, AuditRow

_UNCHARGED: Final = (
    "SELECT id, request_id, team_id, input_tokens + output_tokens + outrun_tokens, cost_nano_usd, received_at, status,"
    " estimated_input_tokens FROM audit WHERE charged = 0 ORDER BY id LIMIT ?"
)
_KNOWN: Final = (
    "SELECT request_id FROM audit WHERE request_id IN (SELECT value FROM json_each(?))"
    " AND coalesce(error_code, '') != ?"
)
_DUE: Final = "SELECT id, team_id, body, tries FROM alert WHERE delivered = 0 AND next_at <= ? ORDER BY next_at LIMIT ?"


class Outbox:
    """On the journal at `path`. Every method raises journal.NOT_NOW when the file cannot be used now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: Connection | None = None

    def uncharged(self, most: int) -> list[Charge]:
        """Rows to charge, oldest first."""
        return [Charge(*row) for row in self._connection().execute(_UNCHARGED, (most,))]

    def charged(self, charged: Charged) -> None:
        """Mark rows as charged; keep the alerts that charging them gave rise to."""
        write(self._connection(), Batch(charged=[charged]))

    def alert(self, alert: Alert, now_s: float) -> None:
        """Have an alert delivered that no charge gave rise to."""
        self.charged(Charged((), now_s, (alert,)))

    def unreconciled(self, rows: Sequence[AuditRow]) -> None:
        """Write rows of holds that were charged by their lease's end; a row that came meanwhile stays."""
        write(self._connection(), Batch(requests=rows))

    def known(self, request_ids: Iterable[str]) -> set[str]:
        """Which of the ids have a row that is more than what is left of a hold."""
        wanted = msgspec.json.encode(list(request_ids)).decode()
        rows = self._connection().execute(_KNOWN, (wanted, UNRECONCILED))
        return {row[0] for row in rows}

    def due(self, now_s: float, most: int) -> list[Alert]:
        """Alerts to deliver now."""
        return [Alert(*row) for row in self._connection().execute(_DUE, (now_s, most))]

    def delivered(self, alert: Alert) -> None:
        """`alert` has reached its receiver."""
        connection = self._connection()
        with transaction(connection):
            connection.execute("UPDATE alert SET delivered = 1 WHERE id = ?", (alert.id,))

    def postponed(self, alert: Alert, next_at: float) -> None:
        """`alert` could not be delivered; try again at `next_at`."""
        connection = self._connection()
        with transaction(connection):
            connection.execute("UPDATE alert SET tries = tries + 1, next_at = ? WHERE id = ?", (next_at, alert.id))

    def close(self) -> None:
        """Close the file."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _connection(self) -> Connection:
        if self._open is None:
            self._open = connect(self._path)
        return self._open
