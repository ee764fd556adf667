"""What the types of gateway.yaml are made of: a section, and durations, memory, keys, addresses and amounts.

In: what pydantic hands over. Out: seconds, bytes, key digests, URLs without a last slash; ValueError says what is
wrong.
"""

import hashlib
import ipaddress
import re
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]|[KMGT]i)?")
_UNIT_BYTES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"


class Section(BaseModel):
    """A mapping of gateway.yaml: no unknown keys, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _duration_s(value: object) -> object:
    """`2s`, `1500ms`, `24h`, `90d` or a number of seconds -> seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if not match:
            raise ValueError("not a duration: write 2s, 1500ms, 24h or a number of seconds")
        return float(match[1]) * _UNIT_S[match[2]]
    return value


def _memory_bytes(value: object) -> object:
    """`1Gi`, `1.5Gi`, `800M`, as Kubernetes has them, or a number of bytes -> bytes."""
    if isinstance(value, str):
        match = _MEMORY.fullmatch(value.strip())
        if not match:
            raise ValueError("not an amount of memory: write 1Gi, 800Mi, 800M or a number of bytes")
        return int(float(match[1]) * _UNIT_BYTES.get(match[2], 1))
    return value


def _key_digest(value: object) -> object:
    """A plain key or `sha256:<hex>` -> `sha256:<hex>`: from here on no process holds the key itself."""
    if not isinstance(value, str):
        raise ValueError("a key must be a string")
    if value.startswith("sha256:"):
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
            raise ValueError("after sha256: there must be 64 lower-case hex digits")
        return value
    if not value.strip():
        raise ValueError("a key must not be empty")
    return "sha256:" + hashlib.sha256(value.encode()).hexdigest()


def _known_zone(value: str) -> str:
    if value != "UTC":
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("not a time zone: write UTC or an IANA name such as Europe/Berlin") from None
    return value


def _network(value: str) -> str:
    """`10.0.0.0/8`, or one address, which is a network of its own."""
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("not a network: write 10.0.0.0/8, 2001:db8::/32 or one address") from None
    raise ValueError(f"has bits after its prefix; write {meant}")


def _address(value: str) -> str:
    """Envoy takes no name to listen on; of all names only one means the same everywhere."""
    if value == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("not an address: write 127.0.0.1, 0.0.0.0, ::1 or localhost") from None


def _several(value: object) -> object:
    """One is a list of one."""
    return value if isinstance(value, list) else [value]


def _without_last_slash(value: str) -> str:
    return value.rstrip("/")


_DURATION_TEXT = {"type": "string", "pattern": rf"^\s*{_DURATION.pattern}\s*$|\$\{{"}
_POSITIVE = WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, _DURATION_TEXT]})
_MEMORY_TEXT = {"type": "string", "pattern": rf"^\s*{_MEMORY.pattern}\s*$|\$\{{"}
_NOT_NEGATIVE = WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, _DURATION_TEXT]})

Duration = Annotated[float, BeforeValidator(_duration_s), Field(gt=0), _POSITIVE]
Wait = Annotated[float, BeforeValidator(_duration_s), Field(ge=0), _NOT_NEGATIVE]
Memory = Annotated[
    int,
    BeforeValidator(_memory_bytes),
    Field(ge=64 * 2**20),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 64 * 2**20}, _MEMORY_TEXT]}),
]
KeyDigest = Annotated[str, BeforeValidator(_key_digest)]
Url = Annotated[str, Field(pattern=r"^https?://[^/\s]+"), AfterValidator(_without_last_slash)]
Network = Annotated[str, AfterValidator(_network)]
Address = Annotated[str, AfterValidator(_address)]
Zone = Annotated[str, AfterValidator(_known_zone)]
# As much as a script of the shared state can add up exactly; and what, in billionths of a USD, is not far from it.
Amount = Annotated[int, Field(ge=0, le=2**53 - 1)]
Usd = Annotated[float, Field(ge=0, le=1e9)]
UsdPerMillion = Annotated[float, Field(ge=0, le=1e6)]
Percent = Annotated[float, Field(gt=0, le=100)]
_PERCENT = {"type": "number", "exclusiveMinimum": 0, "maximum": 100}
Percents = Annotated[
    list[Percent],
    Field(min_length=1),
    BeforeValidator(_several),
    WithJsonSchema({"anyOf": [_PERCENT, {"type": "array", "items": _PERCENT, "minItems": 1}]}),
]
