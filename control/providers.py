"""Providers: how they are doing, and taking one out of use by hand.

In: `health.json`, which the settler keeps for all replicas; an administrator's word. Out: `GET /v1/providers/health`;
`POST /v1/providers/{name}/drain` and `/enable`, told to every replica through the shared state. An attempt that was
refused for its rate counts as an error in the rates (it served nobody) but opens no circuit. Latency is the time to the
first byte of an answer, which is all of it where the answer is not streamed.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import msgspec
from aiohttp import web

from control.auth import Caller
from control.families import Family, Sample
from control.web import answer, query
from extproc.errors import NotFound, StateUnavailable
from extproc.process.logs import rfc3339
from extproc.routing import shared
from extproc.routing.breaker import CLOSED
from extproc.routing.deadline import Asked, usual_s
from extproc.routing.health import Figures, Latency, key_of
from extproc.settings import Settings
from extproc.settle.health import HealthFile
from extproc.snapshot.shared import SharedStateUnavailable, record_once
from extproc.state import AWAY, State
from extproc.wire import H_REQUEST_ID

log = logging.getLogger(__name__)

Status = Literal["healthy", "degraded", "down", "drained", "unknown"]

_DEGRADED_FROM = 0.05
_FEWEST_FOR_DOWN = 3
_CIRCUIT_VALUES = {"closed": 0, "half-open": 1, "open": 2}
_NOTHING_YET = Figures(0.0, 0.0, 0, 0, 0, 0, None, None, None, None, None, None)


class Providers:
    """The handlers. `caller`: who asks, or raises; `settings`: as they are now."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        caller: Callable[[web.Request], Caller],
        path: Path,
        client: State,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._caller = caller
        self._path = path
        self._client = client
        self._wall_s = wall_s

    def routes(self) -> list[web.RouteDef]:
        """Every path that is served."""
        return [
            web.get("/v1/providers/health", self.health),
            web.post("/v1/providers/{name}/drain", self.drain),
            web.post("/v1/providers/{name}/enable", self.enable),
        ]

    async def health(self, request: web.Request) -> web.Response:
        """How providers answered lately; for any valid key."""
        self._caller(request)
        query(request, ())
        return answer(report(self._settings(), read(self._path), self._wall_s()))

    async def drain(self, request: web.Request) -> web.Response:
        """Ask a provider no more; requests in flight go on."""
        name = self._administered(request)
        await self._tell(request, name, drained=True)
        return answer({"provider": name, "drained": True})

    async def enable(self, request: web.Request) -> web.Response:
        """Ask a provider again, whatever its circuits say."""
        name = self._administered(request)
        await self._tell(request, name, drained=False)
        return answer({"provider": name, "drained": False})

    def families(self) -> list[Family]:
        """Metrics of what is known now."""
        return [*families(self._settings(), read(self._path), self._wall_s()), silence(self._path, self._wall_s())]

    def _administered(self, request: web.Request) -> str:
        self._caller(request).require_admin()
        query(request, ())
        name = request.match_info["name"]
        if name not in self._settings().providers:
            raise NotFound(f"There is no provider {name}.", param="name")
        return name

    async def _tell(self, request: web.Request, name: str, *, drained: bool) -> None:
        now_s, who = self._wall_s(), self._caller(request).key
        action = "provider.drain" if drained else "provider.enable"
        request_id = request.headers.get(H_REQUEST_ID) or uuid4().hex
        entry = {"at": rfc3339(now_s), "who": who, "action": action, "provider": name}
        try:
            await record_once(self._client, f"provider:{request_id}", entry)
            if drained:
                await shared.drain(self._client, name, shared.Drain(now_s, who))
            else:
                await shared.drain(self._client, name, None)
                models = [model.name for model in self._settings().models if model.provider == name]
                await shared.reset(self._client, name, models, now_s)
        except (SharedStateUnavailable, *AWAY) as error:
            log.warning("provider cannot be changed now", extra={"provider": name, "reason": str(error)})
            raise StateUnavailable(
                "The shared state cannot be reached; the change may not have been made. Try again."
            ) from None
        log.warning("provider drained" if drained else "provider enabled", extra={"provider": name, "by": who})


def read(path: Path) -> HealthFile:
    """What the settler knows; nothing, before it has written."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=HealthFile)
    except FileNotFoundError:
        return HealthFile({}, {}, frozenset(), {}, {})
    except (OSError, msgspec.DecodeError) as error:
        log.warning("providers' health cannot be read", extra={"reason": str(error)})
        return HealthFile({}, {}, frozenset(), {}, {})


def report(settings: Settings, known: HealthFile, now_s: float) -> dict[str, Any]:
    """The answer's JSON object: every configured provider with its models."""
    return {"providers": [_provider(name, settings, known, now_s) for name in settings.providers]}


def _provider(name: str, settings: Settings, known: HealthFile, now_s: float) -> dict[str, Any]:
    drained = name in known.drained
    limited_until_s = known.limited_until_s.get(name, 0.0)
    models = [model.name for model in settings.models if model.provider == name]
    return {
        "provider": name,
        **_row(name, known, now_s, settings.breaker.error_rate, drained=drained),
        "drained": drained,
        "rate_limited_until": rfc3339(limited_until_s) if limited_until_s > now_s else None,
        "models": [
            {"model": model, **_row(key_of(name, model), known, now_s, settings.breaker.error_rate, drained=drained)}
            for model in models
        ],
    }


def _row(key: str, known: HealthFile, now_s: float, down_from: float, *, drained: bool) -> dict[str, Any]:
    found = known.figures.get(key, _NOTHING_YET)
    circuit = known.circuits.get(key, CLOSED)
    state = circuit.at(now_s)
    return {
        "status": "drained" if drained else "down" if state == "open" else health_of(found, down_from),
        "error_rate_1m": found.error_rate_1m,
        "error_rate_5m": found.error_rate_5m,
        "p50_latency_ms": found.p50_latency_ms,
        "p99_latency_ms": found.p99_latency_ms,
        "circuit": state,
        "last_failure_at": _moment(found.last_failure_s),
        "last_success_at": _moment(found.last_success_s),
        "circuit_reason": circuit.reason if state != "closed" else None,
        "circuit_open_until": rfc3339(circuit.until_s) if state == "open" else None,
        "attempts_1m": found.attempts_1m,
        "attempts_5m": found.attempts_5m,
        "p50_total_ms": found.p50_total_ms,
        "p99_total_ms": found.p99_total_ms,
    }


def health_of(found: Figures, down_from: float) -> Status:
    """What to call a provider, by its last minute, or its last five if it was not asked since."""
    lately = found.attempts_1m == 0
    attempts = found.attempts_5m if lately else found.attempts_1m
    errors = found.errors_5m if lately else found.errors_1m
    if not attempts:
        return "unknown"
    if errors >= _FEWEST_FOR_DOWN and errors / attempts >= down_from:
        return "down"
    rate = found.error_rate_5m if lately else found.error_rate_1m
    return "degraded" if rate >= _DEGRADED_FROM else "healthy"


def _moment(at_s: float | None) -> str | None:
    return None if at_s is None else rfc3339(at_s)


def families(settings: Settings, known: HealthFile, now_s: float) -> list[Family]:
    """As many samples as there are configured providers and models."""
    labels = {name: {"provider": name, "model": ""} for name in settings.providers}
    labels |= {key_of(m.provider, m.name): {"provider": m.provider, "model": m.name} for m in settings.models}
    shown = {key: known.figures[key] for key in labels if key in known.figures}
    return [
        Family(
            name="gateway.provider.circuit",
            kind="gauge",
            text="0 closed, 1 half-open, 2 open; of a provider and of each of its models.",
            samples=[
                Sample(label, _CIRCUIT_VALUES[known.circuits.get(key, CLOSED).at(now_s)])
                for key, label in labels.items()
            ],
        ),
        Family(
            name="gateway.provider.drained",
            kind="gauge",
            text="1: taken out of use by hand.",
            samples=[Sample({"provider": name}, float(name in known.drained)) for name in settings.providers],
        ),
        Family(
            name="gateway.provider.rate_limited",
            kind="gauge",
            text="1: left alone because it asked to wait.",
            samples=[
                Sample({"provider": name}, float(known.limited_until_s.get(name, 0.0) > now_s))
                for name in settings.providers
            ],
        ),
        Family(
            name="gateway.provider.error_ratio",
            kind="gauge",
            text="Share of attempts that served nobody.",
            samples=[
                Sample(labels[key] | {"window": window}, rate)
                for key, found in shown.items()
                for window, rate in (("1m", found.error_rate_1m), ("5m", found.error_rate_5m))
            ],
        ),
        Family(
            name="gateway.provider.first_byte",
            kind="gauge",
            unit="s",
            text="Time to the first byte of an answer, of the last five minutes.",
            samples=[
                Sample(labels[key] | {"quantile": quantile}, value / 1000)
                for key, found in shown.items()
                for quantile, value in (("0.5", found.p50_latency_ms), ("0.99", found.p99_latency_ms))
                if value is not None
            ],
        ),
        Family(
            name="gateway.provider.deadline",
            kind="gauge",
            unit="s",
            text="First-byte deadline of a model's streams (stream: true) and other answers, before a prompt's length.",
            samples=_deadlines(settings, known.latencies, labels),
        ),
    ]


def silence(path: Path, now_s: float) -> Family:
    """How long the settler has not been heard of."""
    try:
        samples = [Sample({}, max(0.0, now_s - path.stat().st_mtime))]
    except OSError:
        samples = []  # it has not begun
    return Family(
        name="gateway.settler.silence",
        kind="gauge",
        unit="s",
        text="Since the settler last said how providers are doing, or that nothing is new, which it does every 5 s.",
        samples=samples,
    )


def _deadlines(
    settings: Settings, latencies: Mapping[str, Latency], labels: Mapping[str, Mapping[str, str]]
) -> list[Sample]:
    fixed = settings.routing.first_byte_timeout
    return [
        Sample(
            {**labels[key], "stream": str(stream).lower()},
            usual_s(latencies.get(key, Latency()), Asked(stream), settings.routing) if fixed == "auto" else fixed,
        )
        for key in (key_of(model.provider, model.name) for model in settings.models)
        for stream in (False, True)
    ]
