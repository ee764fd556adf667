"""Until when the gateway's own certificate is good, as a metric, so that somebody is told before it ends.

In: Envoy's word (`GET /certs` of its admin interface): the certificate that clients see, not the file on disk. Out: a
metric family, empty without TLS.
"""

import re
from datetime import datetime
from pathlib import Path

from control.families import Family, Sample
from extproc.process.http1 import ask

_ENDS = re.compile(r'"expiration_time": *"([^"]+)"')


async def families(admin: Path) -> list[Family]:
    """One family; no sample while Envoy is not there."""
    try:
        _, text = await ask(admin, "/certs")
    except (OSError, TimeoutError):
        text = ""
    ends = ends_at(text)
    return [
        Family(
            name="gateway.certificate.expiry",
            kind="gauge",
            text="When the certificate that clients see ends, in seconds since the epoch.",
            samples=[] if ends is None else [Sample({}, ends)],
        )
    ]


def ends_at(certs: str) -> float | None:
    """The earliest end of a certificate of ours in what Envoy says of all, seconds since the epoch. Authorities, which
    it lists too (`ca_cert`), are not ours."""
    own = [context.partition('"cert_chain"')[2] for context in certs.split('"ca_cert"')]
    return min((datetime.fromisoformat(at).timestamp() for text in own for at in _ENDS.findall(text)), default=None)
