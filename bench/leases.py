"""What it costs to hold one team's budget in many places at once: overshoot, false refusals, waiting, by lease size.

    python -m bench.leases          a minute's output on docs/scaling.md; takes no data, starts nothing

A discrete simulation of one team's budget, asked for by gateways in several regions whose ledger is at home in one.
In: a scheme (how a gateway knows what is left) and a `World`. Out: a `Result`. Every draw comes of a seed.

home           every request asks the ledger at home and waits for it: what the gateway does today within a region
lease L        a gateway spends from an amount of L tokens that the ledger took off the budget before; at half of it,
               it asks for more in the background; told that there is none, it refuses by itself for `DRY_S`; what a
               gateway that had no request for `IDLE_S` holds goes back
taper L        the same, and the ledger gives no more than 1/(2 x gateways) of what is left, so leases shrink at the end
told every T   each gateway admits by what it last heard of all, and tells its own use every T seconds

over           tokens used beyond the budget, % of it (0 by construction for home and leases; shown, not assumed)
first          how much of the budget was used when the first request was refused, %: what is short of 100 lay idle
               elsewhere, or was too little for that request
left           tokens nobody had used at the end, % of the budget
calls          messages to the ledger per request
waited         requests that waited for the ledger, %, and the p99 of all requests' wait in ms
cut off        requests refused while the ledger could not be reached for `AWAY_S` seconds, % of those that came then
"""

import heapq
import math
import random
from collections.abc import Callable

import msgspec

AWAY_S = 30.0
IDLE_S = 10.0
DRY_S = 1.0


class World(msgspec.Struct, frozen=True):
    """Traffic of one team. Tokens, seconds; `demand` is what is asked for over what the budget holds."""

    gateways: int = 24
    per_second: float = 200.0
    seconds: float = 300.0
    demand: float = 1.25
    mean_tokens: float = 900.0
    sigma: float = 1.0  # of the logarithm of a request's tokens
    most_tokens: int = 8192
    round_trip_s: float = 0.12
    skew: float = 1.0  # a gateway's share of the traffic falls with its rank to this power
    away_at: float = math.inf  # from when the ledger cannot be reached, for AWAY_S
    seed: int = 1

    @property
    def budget(self) -> int:
        """Tokens, so that `demand` of it is asked for."""
        return round(self.per_second * self.seconds * self.mean_tokens / self.demand)


class Result(msgspec.Struct):
    """What a run counted. Tokens, requests, seconds."""

    budget: int
    requests: int = 0
    admitted: int = 0
    used: int = 0
    refused: int = 0
    used_at_first_refusal: int | None = None
    calls: int = 0
    waits: list[float] = []
    came_cut_off: int = 0
    refused_cut_off: int = 0

    @property
    def over_pct(self) -> float:
        """Used beyond the budget, % of it."""
        return 100 * max(0, self.used - self.budget) / self.budget

    @property
    def first_pct(self) -> float:
        """Used of the budget when a request was first refused, %."""
        return 100 * (self.used if self.used_at_first_refusal is None else self.used_at_first_refusal) / self.budget

    @property
    def left_pct(self) -> float:
        """Never used, % of the budget."""
        return 100 * max(0, self.budget - self.used) / self.budget

    @property
    def wait_p99_ms(self) -> float:
        """Over all requests, those that did not wait as 0."""
        silent = self.requests - len(self.waits)
        at = math.ceil(0.99 * self.requests) - 1
        return 0.0 if at < silent else 1000 * sorted(self.waits)[at - silent]


class Request(msgspec.Struct, frozen=True):
    """One request: when it came, at which gateway, and its tokens."""

    at: float
    gateway: int
    tokens: int


def requests(world: World) -> list[Request]:
    """The team's traffic: Poisson arrivals, lognormal lengths, gateways by Zipf's law."""
    draw = random.Random(world.seed)
    weights = [1 / (rank + 1) ** world.skew for rank in range(world.gateways)]
    mu = math.log(world.mean_tokens) - world.sigma**2 / 2
    out, at = [], 0.0
    while (at := at + draw.expovariate(world.per_second)) < world.seconds:
        tokens = min(world.most_tokens, max(1, round(draw.lognormvariate(mu, world.sigma))))
        out.append(Request(at, draw.choices(range(world.gateways), weights)[0], tokens))
    return out


class Clock:
    """Things to come, in the order of their times."""

    def __init__(self, world: World) -> None:
        self.now = 0.0
        self._world = world
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Have `do` done at `when`; of the same time, in the order of asking."""
        self._count += 1
        heapq.heappush(self._due, (when, self._count, do))

    @property
    def reachable(self) -> bool:
        """Whether the ledger answers now."""
        return not self._world.away_at <= self.now < self._world.away_at + AWAY_S

    def run(self) -> None:
        """All of it."""
        while self._due:
            self.now, _, do = heapq.heappop(self._due)
            do()


class Scheme:
    """How gateways share the budget; `ask` decides about one request, now or later."""

    def __init__(self, world: World, clock: Clock, result: Result) -> None:
        self.world, self.clock, self.result = world, clock, result
        self.left = world.budget  # at the ledger

    def ask(self, request: Request) -> None:
        """Admit or refuse `request`."""
        raise NotImplementedError

    def admit(self, request: Request) -> None:
        """Count it, and its wait if it had one."""
        self.result.admitted += 1
        self.result.used += request.tokens
        self._waited(request)

    def refuse(self, request: Request) -> None:
        """Count it, and its wait if it had one."""
        self.result.refused += 1
        if self.result.used_at_first_refusal is None:
            self.result.used_at_first_refusal = self.result.used
        if not self.clock.reachable:
            self.result.refused_cut_off += 1
        self._waited(request)

    def _waited(self, request: Request) -> None:
        if self.clock.now > request.at:
            self.result.waits.append(self.clock.now - request.at)


class Home(Scheme):
    """Every request asks at home."""

    def ask(self, request: Request) -> None:
        """Half a round trip there, half back."""
        if not self.clock.reachable:
            return self.refuse(request)
        self.result.calls += 1
        self.clock.at(self.clock.now + self.world.round_trip_s / 2, lambda: self._decide(request))
        return None

    def _decide(self, request: Request) -> None:
        fits = request.tokens <= self.left
        if fits:
            self.left -= request.tokens
        answer = self.admit if fits else self.refuse
        self.clock.at(self.clock.now + self.world.round_trip_s / 2, lambda: answer(request))


class _Holder(msgspec.Struct):
    """What one gateway holds of the budget. Tokens, seconds."""

    balance: int = 0
    asking: bool = False
    last_used: float = 0.0
    dry_until: float = 0.0
    waiting: list[Request] = []


class Lease(Scheme):
    """Gateways spend from what the ledger took off the budget for them."""

    def __init__(self, world: World, clock: Clock, result: Result, size: int, *, taper: bool = False) -> None:
        super().__init__(world, clock, result)
        self._size, self._taper = size, taper
        self._holders = [_Holder() for _ in range(world.gateways)]
        self._tick()

    def ask(self, request: Request) -> None:
        """From the balance, without waiting, if it has room and nobody waits before it."""
        holder = self._holders[request.gateway]
        holder.last_used = self.clock.now
        if not holder.waiting and request.tokens <= holder.balance:
            holder.balance -= request.tokens
            self.admit(request)
        else:
            holder.waiting.append(request)
        if holder.balance < self._size / 2 or holder.waiting:
            self._refill(holder)

    def _refill(self, holder: _Holder) -> None:
        if holder.asking:
            return None
        if self.clock.now < holder.dry_until or not self.clock.reachable:
            return self._serve(holder, last=True)
        holder.asking = True
        self.result.calls += 1
        wanted = max(self._size, sum(request.tokens for request in holder.waiting))
        self.clock.at(self.clock.now + self.world.round_trip_s / 2, lambda: self._grant(holder, wanted))
        return None

    def _grant(self, holder: _Holder, wanted: int) -> None:
        most = self.left
        if self._taper:
            most = min(most, max(self.left // (2 * self.world.gateways), self.world.most_tokens))
        granted = min(wanted, most)
        self.left -= granted
        self.clock.at(self.clock.now + self.world.round_trip_s / 2, lambda: self._take(holder, granted))

    def _take(self, holder: _Holder, granted: int) -> None:
        holder.asking = False
        holder.balance += granted
        if not granted:
            holder.dry_until = self.clock.now + DRY_S
        self._serve(holder, last=not granted)
        if holder.waiting:
            self._refill(holder)

    def _serve(self, holder: _Holder, *, last: bool) -> None:
        """Answer who waits, in order; if there is no more to be had, refuse whom the balance has no room for."""
        while holder.waiting and (last or holder.waiting[0].tokens <= holder.balance):
            request = holder.waiting.pop(0)
            if request.tokens <= holder.balance:
                holder.balance -= request.tokens
                self.admit(request)
            else:
                self.refuse(request)

    def _tick(self) -> None:
        """Give back what idle gateways hold."""
        for holder in self._holders:
            idle = self.clock.now - holder.last_used >= IDLE_S
            if idle and holder.balance and not holder.asking and self.clock.reachable:
                self.left += holder.balance
                holder.balance = 0
                self.result.calls += 1
        if self.clock.now < self.world.seconds:
            self.clock.at(self.clock.now + 1.0, self._tick)


class Told(Scheme):
    """Every gateway admits by what it last heard, and tells what it used every `every` seconds."""

    def __init__(self, world: World, clock: Clock, result: Result, every: float) -> None:
        super().__init__(world, clock, result)
        self._every = every
        self._untold = [0] * world.gateways
        self._heard = [0] * world.gateways  # of all gateways' use, this one's untold part left out
        self._told = 0
        for gateway in range(world.gateways):
            clock.at(every * gateway / world.gateways, lambda gateway=gateway: self._tell(gateway))  # type: ignore[misc]

    def ask(self, request: Request) -> None:
        """At once, by what is known here."""
        at = request.gateway
        if self._heard[at] + self._untold[at] + request.tokens <= self.world.budget:
            self._untold[at] += request.tokens
            self.admit(request)
        else:
            self.refuse(request)

    def _tell(self, gateway: int) -> None:
        if self.clock.reachable:
            self.result.calls += 1
            self._told += self._untold[gateway]
            self._untold[gateway] = 0
            self._heard[gateway] = self._told
        if self.clock.now < self.world.seconds:
            self.clock.at(self.clock.now + self._every, lambda: self._tell(gateway))


Make = Callable[[World, Clock, Result], Scheme]


def lease(share: float, *, taper: bool = False) -> Make:
    """Leases of `share` of the budget each."""
    return lambda world, clock, result: Lease(world, clock, result, round(share * world.budget), taper=taper)


def told(every: float) -> Make:
    """Use told every `every` seconds."""
    return lambda world, clock, result: Told(world, clock, result, every)


def simulate(world: World, make: Make) -> Result:
    """One run of a scheme over the world's traffic."""
    clock, result = Clock(world), Result(world.budget)
    scheme = make(world, clock, result)

    def come(request: Request) -> None:
        result.requests += 1
        result.came_cut_off += not clock.reachable
        scheme.ask(request)

    for request in requests(world):
        clock.at(request.at, lambda request=request: come(request))  # type: ignore[misc]
    clock.run()
    return result


SCHEMES: tuple[tuple[str, Make], ...] = (
    ("home", Home),
    *((f"lease {share:.3%}", lease(share)) for share in (0.00025, 0.001, 0.005, 0.02)),
    *((f"taper {share:.3%}", lease(share, taper=True)) for share in (0.001, 0.005, 0.02)),
    *((f"told every {every:g} s", told(every)) for every in (0.4, 2.0, 10.0)),
)


def table(world: World) -> str:
    """A line for each scheme."""
    lines = [
        f"{'':18}{'over %':>8}{'first %':>9}{'left %':>8}{'calls':>7}{'waited %':>10}{'p99 ms':>8}{'cut off %':>11}"
    ]
    cut = msgspec.structs.replace(world, away_at=world.seconds / 3)
    for name, make in SCHEMES:
        result, away = simulate(world, make), simulate(cut, make)
        lines.append(
            f"{name:18}{result.over_pct:8.3f}{result.first_pct:9.2f}"
            f"{result.left_pct:8.3f}{result.calls / result.requests:7.3f}"
            f"{100 * len(result.waits) / result.requests:10.2f}{result.wait_p99_ms:8.0f}"
            f"{100 * away.refused_cut_off / max(1, away.came_cut_off):11.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    world = World()
    print(
        f"{world.gateways} gateways, {world.per_second:g} requests/s for {world.seconds:g} s, {world.demand:.0%} of a "
        f"budget of {world.budget:,} tokens asked for, {1000 * world.round_trip_s:g} ms to the ledger and back\n"
    )
    print(table(world))
