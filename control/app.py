"""The control API: usage, providers' health, audit rows, metrics, over HTTP on a unix socket behind Envoy.

In: requests that Envoy's route table sends here. Out: JSON, or Prometheus text. Read from the ledger, the journal and
the audit store; changes go to the shared state. Nothing here is on the way of a chat request. Started by `gateway up`
as `gateway control`.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import uvloop
from aiohttp import web
from sqlalchemy import Connection

from control import (
    audit_metrics,
    budget_metrics,
    certificates,
    config,
    envoy_counters,
    metrics,
    otlp,
    prometheus,
    requests,
    usage,
)
from control.auth import Caller, Keys
from control.cache import CacheApi
from control.changes import Changes
from control.charts import ChartsApi
from control.families import Family, Sample
from control.keys import KeysApi
from control.openapi.document import document
from control.otlp import MetricsSender
from control.providers import Providers
from control.standings import standings
from control.store import Store
from control.teams import TeamsApi
from control.tokens import Tokens
from control.ui import Ui
from control.web import answer, errors, query
from extproc import runtime
from extproc.budget.redis import RedisLedger
from extproc.cache.redis import RedisStore
from extproc.cache.setup import replica_of
from extproc.errors import InvalidApiKey, NotFound
from extproc.paths import Paths
from extproc.process import logs
from extproc.settings import Settings
from extproc.snapshot.current import Current, Snapshot, compile_snapshot
from extproc.snapshot.refresh import Refresher
from extproc.state import State
from extproc.state.pipe import open_state
from extproc.telemetry.tracing import FAILURES
from extproc.wrong_keys import WrongKeys

log = logging.getLogger(__name__)

_MOST_BODY_BYTES = 64 * 1024
_LAST_REQUESTS_S = 2.0


class Api:
    """The handlers, bound to the configuration as it is now, a journal, the shared state and the settler's health.

    `audit`: where audit rows are read; None: they are in the journal.
    """

    def __init__(
        self,
        current: Current,
        journal: Store,
        refresher: Refresher,
        client: State,
        paths: Paths,
        *,
        wall_s: Callable[[], float] = time.time,
        replica: str = "",
        audit: Store | None = None,
    ) -> None:
        self._current = current
        self._journal = journal
        self._audit = audit = audit or journal
        self._paths = paths
        self._ledger = ledger = RedisLedger(client)
        self._cache = CacheApi(current, RedisStore(client), replica, self._caller, wall_s)
        changes = Changes(client, ledger, current, refresher, paths)
        self._teams = TeamsApi(current, changes, ledger, self._caller, wall_s)
        self._team_keys = KeysApi(current, changes, self._caller, wall_s)
        self._charts = ChartsApi(current, audit, self._caller, wall_s)
        self._wrong_keys = WrongKeys()
        self._swapped(current.snapshot)
        current.on_swap.append(self._swapped)
        self._wall_s = wall_s
        self.sender = MetricsSender(self.families, lambda: current.snapshot.settings.telemetry)
        self._providers = Providers(lambda: current.snapshot.settings, self._caller, paths.health, client, wall_s)

    def routes(self) -> list[web.RouteDef]:
        """Every path that is served."""
        return [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
            web.get("/openapi.json", self.openapi),
            web.get("/v1/config", self.config),
            web.get("/v1/requests", self.requests),
            web.get("/v1/requests/{id}", self.request),
            web.get("/v1/usage", self.usage),
            web.get("/v1/teams/{id}/usage", self.team_usage),
            *self._providers.routes(),
            *self._teams.routes(),
            *self._team_keys.routes(),
            *self._cache.routes(),
            *self._charts.routes(),
            *Ui().routes(),
        ]

    async def healthz(self, _: web.Request) -> web.Response:
        """The process is alive."""
        return answer({"status": "ok"})

    async def readyz(self, _: web.Request) -> web.Response:
        """The journal can be read."""
        await self._journal.read(
            lambda connection: connection.exec_driver_sql("SELECT 1 FROM counter LIMIT 1").fetchall()
        )
        return answer({"status": "ready"})

    async def families(self) -> tuple[Sequence[Family], float]:
        """All metrics, and since when they count. Raises AuditUnavailable."""
        teams, now_s = self._current.snapshot.settings.teams, self._wall_s()
        models = self._current.snapshot.settings.models
        known = await standings(self._ledger, teams, now_s)

        def read(connection: Connection) -> tuple[Sequence[Family], float]:
            settled = [*metrics.families(connection, models), *budget_metrics.settled(connection, teams, now_s)]
            lost = otlp.failures(metrics.counter(connection, FAILURES), self.sender.failures)
            copied = audit_metrics.families(connection, self._current.snapshot.settings.audit, now_s)
            return [*settled, *budget_metrics.budgets(teams, known), lost, *copied], metrics.began_s(connection)

        found, began_s = await self._journal.read(read)
        others = [
            *self._providers.families(),
            *await self._cache.families(),
            *await config.families(self._paths),
            *await certificates.families(self._paths.admin_socket),
            *await envoy_counters.families(self._paths.admin_socket),
        ]
        return [*found, *others, self._refusals()], began_s

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus text."""
        families, _began_s = await self.families()
        return web.Response(body=prometheus.text(families).encode(), headers={"Content-Type": prometheus.CONTENT_TYPE})

    async def openapi(self, _: web.Request) -> web.Response:
        """What this API is."""
        return answer(document())

    async def config(self, request: web.Request) -> web.Response:
        """Which configuration is in force."""
        self._caller(request).require_admin()
        query(request, ())
        return answer(await config.state(self._paths))

    async def requests(self, request: web.Request) -> web.Response:
        """Audit rows: all for an administrator, a team's own for the team."""
        caller = self._caller(request)
        wanted = requests.read_filter(query(request, requests.PARAMETERS), caller)
        return answer(await self._audit.read(partial(requests.select_page, wanted=wanted)))

    async def request(self, request: web.Request) -> web.Response:
        """One audit row; a team finds its own."""
        caller, request_id = self._caller(request), request.match_info["id"]
        query(request, ())
        read = partial(requests.select_one, request_id=request_id, team_id=caller.team_id)
        return answer(await self._audit.read(read))

    async def usage(self, request: web.Request) -> web.Response:
        """Usage of all teams."""
        self._caller(request).require_admin()
        query(request, ())
        teams, now_s = self._current.snapshot.settings.teams, self._wall_s()
        known = await standings(self._ledger, teams, now_s)
        read = partial(usage.all_usage, teams=teams, standings=known, now_s=now_s)
        return answer(await self._audit.read(read))

    async def team_usage(self, request: web.Request) -> web.Response:
        """Usage of one team."""
        caller, team_id = self._caller(request), request.match_info["id"]
        caller.require_team(team_id)
        query(request, ())
        team = self._current.team(team_id)
        if team is None:
            raise NotFound(f"There is no team {team_id}.", param="id")
        known = await standings(self._ledger, [team], now_s := self._wall_s())
        read = partial(usage.team_usage, team=team, standing=known.get(team.id), now_s=now_s)
        return answer(await self._audit.read(read))

    def _swapped(self, snapshot: Snapshot) -> None:
        self._keys = Keys(snapshot.settings)
        self._tokens = Tokens(snapshot.settings, snapshot.catalog)

    def _caller(self, request: web.Request) -> Caller:
        headers = request.headers
        caller = self._tokens.caller(headers)
        if caller is None:
            caller = self._of_key(headers)
        self._tokens.check_address(caller, headers)
        return caller

    def _of_key(self, headers: Mapping[str, str]) -> Caller:
        try:
            return self._keys.caller(headers.get("Authorization", ""))
        except InvalidApiKey as error:
            hops, forwarded_for = self._tokens.trusted_hops, headers.get("X-Forwarded-For", "")
            raise self._wrong_keys.refusal(error, forwarded_for, self._wall_s(), hops) from None

    def _refusals(self) -> Family:
        return Family(
            name="gateway.control.unauthenticated_requests",
            kind="counter",
            text="Requests to the control API without a valid key; limited: those answered 429.",
            samples=[
                Sample({"limited": "true"}, self._wrong_keys.limited),
                Sample({"limited": "false"}, self._wrong_keys.total - self._wrong_keys.limited),
            ],
        )


def application(api: Api) -> web.Application:
    """The aiohttp application of `api`."""
    app = web.Application(middlewares=[errors], client_max_size=_MOST_BODY_BYTES)
    app.add_routes(api.routes())
    app.on_response_prepare.append(_nameless)
    return app


async def _nameless(_request: web.Request, response: web.StreamResponse) -> None:
    """What serves, in which version, is nobody's business."""
    response.headers.popall("Server", None)


def run(data_dir: Path) -> None:
    """Serve until SIGTERM or SIGINT."""
    logs.setup("control")
    paths = Paths.of(data_dir)
    uvloop.run(_serve(runtime.read(paths.runtime), paths))


async def _serve(settings: Settings, paths: Paths) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    journal = Store(paths.journal)
    client = open_state(paths.state_url(settings.state.url), timeout_s=settings.state.timeout)
    current = Current(compile_snapshot(settings))
    refresher = Refresher(current, client, paths)
    await refresher.start()
    audit = Store(paths.journal, lambda: current.snapshot.settings.audit)
    api = Api(current, journal, refresher, client, paths, replica=replica_of(paths), audit=audit)
    runner = web.AppRunner(application(api), access_log=None, shutdown_timeout=_LAST_REQUESTS_S)
    await runner.setup()
    socket = paths.control_socket
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket.unlink(missing_ok=True)
    await web.UnixSite(runner, str(socket)).start()
    behind = [asyncio.create_task(work) for work in (refresher.run(), api.sender.run())]
    log.info("serving")
    await stop.wait()
    for task in behind:
        task.cancel()
    await runner.cleanup()
    await client.aclose()
    await asyncio.to_thread(journal.close)
    await asyncio.to_thread(audit.close)
    log.info("stopped")
