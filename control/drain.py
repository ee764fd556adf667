"""Envoy's drain: no new connections, and what is in flight to its end.

In: Envoy's admin interface. Out: returns when nothing is in flight any more, or not within the limit.
"""

import asyncio
import logging
import re
import time
from pathlib import Path

from extproc.process.http1 import ask

_log = logging.getLogger(__name__)

_POLL_S = 0.1
# Envoy sends access log entries every 0.1 s: the last ones get twice that before it is stopped.
_LAST_LOG_ENTRIES_S = 0.25


async def drain(admin: Path, limit_s: float, accept_s: float = 0.0) -> None:
    """Stop accepting after `accept_s`, and wait until nothing is in flight, for `limit_s` at most. Returns early when
    Envoy is not there."""
    try:
        # Answers now carry `connection: close`. Only the ingress stops accepting: attempts of requests in flight still
        # pass the internal listener.
        await ask(admin, "/healthcheck/fail", "POST")
        await asyncio.sleep(accept_s)
        await ask(admin, "/drain_listeners?inboundonly", "POST")
        deadline = time.monotonic() + limit_s
        while (active := await _active_requests(admin)) and time.monotonic() < deadline:  # noqa: ASYNC110 - Envoy tells nobody
            await asyncio.sleep(_POLL_S)
        if active:
            _log.warning("requests still in flight are cut off", extra={"requests": active, "after_s": limit_s})
        await asyncio.sleep(_LAST_LOG_ENTRIES_S)
    except (OSError, TimeoutError):
        return


async def _active_requests(admin: Path) -> int:
    name = "http.ingress.downstream_rq_active"
    _, text = await ask(admin, f"/stats?filter=^{name}$")
    found = re.search(rf"{re.escape(name)}: (\d+)", text)
    return int(found[1]) if found else 0
