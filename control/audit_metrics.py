"""How far the audit database is behind, as metric families; 0 where the journal is the audit store.

In: the journal's rows and the mark of what was copied. Out: families.
"""

from sqlalchemy import Connection

from control.families import Family, Sample
from extproc.audit.shipper import marks_of
from extproc.settings.audit import Audit

_LAST = "SELECT coalesce((SELECT value FROM mark WHERE name = ?), 0), coalesce(max(id), 0) FROM audit"
_OLDEST = "SELECT completed_at FROM audit WHERE id > ? ORDER BY id LIMIT 1"


def families(connection: Connection, audit: Audit, now_s: float) -> list[Family]:
    """What waits to be copied. Raises SQLAlchemyError."""
    waiting, lag_s = _behind(connection, audit, now_s) if audit.shared else (0, 0.0)
    return [
        _gauge("audit.waiting", "Audit rows in the journal that are not in the audit database yet.", "", waiting),
        _gauge("audit.lag", "Age of the oldest of them.", "s", lag_s),
    ]


def _behind(connection: Connection, audit: Audit, now_s: float) -> tuple[int, float]:
    copied, last = connection.exec_driver_sql(_LAST, (marks_of(audit)["audit"],)).one()
    oldest = connection.exec_driver_sql(_OLDEST, (copied,)).scalar()
    # Ids are nearly without gaps, and a count of all that waits would take longest when much does.
    return max(0, last - copied), 0.0 if oldest is None else max(0.0, now_s - float(oldest))


def _gauge(name: str, text: str, unit: str, value: float) -> Family:
    return Family(name=f"gateway.{name}", kind="gauge", text=text, unit=unit, samples=[Sample({}, value)])
