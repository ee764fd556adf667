"""The alerts: of budgets and of providers -> a log line each, and a webhook, tried until it takes them.

In: alerts of the outbox. Out: `POST` of the JSON body with an `idempotency-key` and, where there is a secret, an
`x-gateway-signature: sha256=<hmac of the body>`. At least once: a receiver drops what it knows by its key. Run by the
settler.
"""

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from extproc.process.beat import beat
from extproc.process.logs import rfc3339
from extproc.routing.breaker import Circuit
from extproc.settle.dues import Alert
from extproc.settle.journal import NOT_NOW
from extproc.settle.outbox import Outbox

log = logging.getLogger(__name__)

OPERATOR = ""  # instead of a team's id

_EVERY_S = 1.0
_AT_ONCE = 16
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0
_MOST_TRIES = 300  # about a day


class Receiver(msgspec.Struct, frozen=True):
    """Where an alert goes; without a webhook the log line is all."""

    webhook: str | None
    secret: str | None


def tell_of_refusal(outbox: Outbox, key: str, status: int, circuit: Circuit) -> None:
    """Alert the operator: a provider refused our credential (`status`), and is left alone, or with 403 the model that
    was asked for; `key` is of either. Never raises."""
    now_s = time.time()
    provider, _, model = key.partition("/")
    body = {
        "event": "provider.credential_refused",
        "provider": provider,
        "model": model or None,
        "status": status,
        "circuit": circuit.state,
        "at": rfc3339(now_s),
    }
    log.error("provider refuses our credential", extra={"provider": key, "status": status})
    alert = Alert(f"provider:{key}:{circuit.version}", OPERATOR, msgspec.json.encode(body).decode())
    try:
        outbox.alert(alert, now_s)
    except NOT_NOW as error:
        log.error("alert not kept", extra={"alert": msgspec.Raw(alert.body.encode()), "reason": str(error)})


class Alerts:
    """`receiver_of`: who is told of a team's alerts now, or of an operator's."""

    def __init__(self, outbox: Outbox, receiver_of: Callable[[str], Receiver | None]) -> None:
        self._outbox = outbox
        self._receiver_of = receiver_of

    async def run(self) -> None:
        """Deliver whatever is due, until cancelled."""
        while True:
            try:
                for alert in await asyncio.to_thread(self._outbox.due, time.time(), _AT_ONCE):
                    await self._deliver(alert)
            except NOT_NOW as error:
                log.debug("alerts wait", extra={"reason": str(error)})
            await beat(_EVERY_S)

    async def _deliver(self, alert: Alert) -> None:
        if alert.tries == 0:
            log.warning(_event(alert), extra={"alert": msgspec.Raw(alert.body.encode())})
        receiver = self._receiver_of(alert.team_id)
        problem = await _told(receiver, alert)
        if problem is None:
            await asyncio.to_thread(self._outbox.delivered, alert)
            return
        if alert.tries + 1 >= _MOST_TRIES:
            log.error("alert given up", extra={"alert_id": alert.id, "reason": problem})
            await asyncio.to_thread(self._outbox.delivered, alert)
            return
        log.warning("alert not delivered", extra={"alert_id": alert.id, "reason": problem})
        pause_s = min(_FIRST_PAUSE_S * 2**alert.tries, _LONGEST_PAUSE_S)
        await asyncio.to_thread(self._outbox.postponed, alert, time.time() + pause_s)


def _event(alert: Alert) -> str:
    return "provider alert" if alert.team_id == OPERATOR else "budget alert"


async def _told(receiver: Receiver | None, alert: Alert) -> str | None:
    """What went wrong, or None. Without a webhook the log line was all."""
    if receiver is None or receiver.webhook is None:
        return None
    from extproc.settle.webhook import post  # noqa: PLC0415 - see there

    return await post(receiver.webhook, receiver.secret, alert)
