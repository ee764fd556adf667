"""Sharing what was learnt about output lengths: the settler sees every answer, the workers need the ceilings.

In: OutputEstimates. Out: the same, in every worker of every replica, a few seconds later, through the shared state.
Losing it costs accuracy of holds for a while, never money: so every failure is logged and passed over.
"""

import logging
from contextlib import suppress

from extproc.budget.estimate import OutputEstimates
from extproc.process.beat import beat
from extproc.state import AWAY, State

log = logging.getLogger(__name__)

KEY = "gw:learnt:outputs"
EVERY_S = 5.0
_KEPT_S = 7 * 86_400


async def publish(client: State, outputs: OutputEstimates) -> None:
    """Write what `outputs` holds, now and every few seconds, until cancelled."""
    last = b""
    while True:
        dump = outputs.dump()
        if dump != last:
            with suppress(*AWAY):
                await client.execute_command("SET", KEY, dump, "EX", _KEPT_S)
                last = dump
        await beat(EVERY_S)


async def follow(client: State, outputs: OutputEstimates) -> None:
    """Take over what was published, now and every few seconds, until cancelled."""
    while True:
        await take(client, outputs)
        await beat(EVERY_S)


async def take(client: State, outputs: OutputEstimates) -> None:
    """Take over what was published, once."""
    try:
        dump = await client.execute_command("GET", KEY)
        if isinstance(dump, bytes):
            outputs.load(dump)
    except (*AWAY, ValueError) as error:
        log.debug("output lengths not read", extra={"reason": str(error)})
