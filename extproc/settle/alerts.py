"""The alerts: budget alerts -> a log line each, and the team's webhook, tried until it takes them.

In: alerts of the outbox. Out: `POST` of the JSON body with an `idempotency-key` and, where the team has a secret, an
`x-gateway-signature: sha256=<hmac of the body>`. At least once: a receiver drops what it knows by its key. Run by the
settler.
"""

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Callable

import aiohttp

from extproc.settings import Team
from extproc.settle.journal import NOT_NOW
from extproc.settle.outbox import Alert, Outbox

log = logging.getLogger(__name__)

_EVERY_S = 0.5
_AT_ONCE = 16
_ANSWER_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0
_MOST_TRIES = 300  # about a day


class Alerts:
    """`team_of`: the settings of a team now."""

    def __init__(self, outbox: Outbox, team_of: Callable[[str], Team | None]) -> None:
        self._outbox = outbox
        self._team_of = team_of

    async def run(self) -> None:
        """Deliver whatever is due, until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session:
            while True:
                try:
                    for alert in await asyncio.to_thread(self._outbox.due, time.time(), _AT_ONCE):
                        await self._deliver(session, alert)
                except NOT_NOW as error:
                    log.debug("alerts wait", extra={"reason": str(error)})
                await asyncio.sleep(_EVERY_S)

    async def _deliver(self, session: aiohttp.ClientSession, alert: Alert) -> None:
        if alert.tries == 0:
            log.warning("budget alert", extra={"team": alert.team_id, "alert": alert.body})
        team = self._team_of(alert.team_id)
        problem = await _post(session, team.alert.webhook, team.alert.secret, alert) if team else None
        if problem is None:
            await asyncio.to_thread(self._outbox.delivered, alert)
            return
        if alert.tries + 1 >= _MOST_TRIES:
            log.error("budget alert given up", extra={"alert_id": alert.id, "reason": problem})
            await asyncio.to_thread(self._outbox.delivered, alert)
            return
        log.warning("budget alert not delivered", extra={"alert_id": alert.id, "reason": problem})
        pause_s = min(_FIRST_PAUSE_S * 2**alert.tries, _LONGEST_PAUSE_S)
        await asyncio.to_thread(self._outbox.postponed, alert, time.time() + pause_s)


async def _post(session: aiohttp.ClientSession, url: str | None, secret: str | None, alert: Alert) -> str | None:
    """Send it; what went wrong, or None. Without a webhook the log line was all."""
    if url is None:
        return None
    body = alert.body.encode()
    headers = {"content-type": "application/json", "idempotency-key": alert.id}
    if secret:
        headers["x-gateway-signature"] = signature(secret, body)
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            return None if answer.status < 300 else f"status {answer.status}"
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return f"{type(error).__name__}"


def signature(secret: str, body: bytes) -> str:
    """The value of `x-gateway-signature`."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
