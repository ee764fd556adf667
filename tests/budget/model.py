"""The ledger as it is promised, in plain Python: a hold is open or closed, a window's counters are sums over holds.

In: what happens to holds. Out: what the ledger must say. The stateful test holds the real one to it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from extproc.budget.ledger import (
    Account,
    Caps,
    Crossing,
    Minute,
    Standing,
)
from extproc.budget.windows import Windows

THRESHOLDS = (50.0, 80.0)


@dataclass
class Hold:
    """One hold of the model. `tokens` and `nano_usd` are what it holds or, expired, was charged."""

    windows: Windows
    state: str = "none"
    tokens: int = 0
    nano_usd: int | None = None
    output: int = 0
    at_ms: int = 0
    lease_until_ms: int = 0


@dataclass
class Model:
    """What the ledger should think. Windows are named `(kind, id)`."""

    accounts: dict[tuple[str, str], Account] = field(default_factory=dict)
    slack: dict[tuple[str, str, str], int] = field(default_factory=dict)  # used beyond a hold, by window and unit
    alerted: dict[tuple[str, str, str, float], str] = field(default_factory=dict)
    minute: dict[str, tuple[int, int]] = field(default_factory=dict)  # hold -> (at, tokens)

    def account(self, kind: str, windows: Windows) -> Account:
        return self.accounts.get((kind, getattr(windows, kind).id), Account())

    def post(self, windows: Windows, **changes: int) -> None:
        for kind in ("daily", "monthly"):
            account = self.account(kind, windows)
            changed = {name: getattr(account, name) + change for name, change in changes.items()}
            self.accounts[kind, getattr(windows, kind).id] = msgspec.structs.replace(account, **changed)

    def post_used(self, windows: Windows, tokens: int, nano_usd: int | None, sign: int = 1) -> None:
        if nano_usd is None:
            self.post(windows, used_tokens=sign * tokens, unpriced_tokens=sign * tokens)
        else:
            self.post(windows, used_tokens=sign * tokens, used_nano_usd=sign * nano_usd)

    def post_held(self, hold: Hold, sign: int) -> None:
        self.post(hold.windows, held_tokens=sign * hold.tokens, held_nano_usd=sign * (hold.nano_usd or 0))

    def allow(self, windows: Windows, tokens: int, nano_usd: int) -> None:
        """From now on these windows may be that much over their limits."""
        for kind in ("daily", "monthly"):
            for unit, amount in (("tokens", tokens), ("nano_usd", nano_usd)):
                key = (kind, getattr(windows, kind).id, unit)
                self.slack[key] = self.slack.get(key, 0) + max(0, amount)

    def standing(self, windows: Windows, now_ms: int) -> Standing:
        self.minute = {hold: entry for hold, entry in self.minute.items() if entry[0] > now_ms - 60_000}
        entries = list(self.minute.values())
        reset_ms = max((at for at, _ in entries), default=now_ms - 60_000) + 60_000 - now_ms
        minute = Minute(len(entries), sum(tokens for _, tokens in entries), reset_ms)
        return Standing(self.account("daily", windows), self.account("monthly", windows), minute)

    def crossings(self, names: Sequence[str], windows: Windows, caps: Caps) -> set[Crossing]:
        """Thresholds whose alert is for one of `names` to send; the first one's, if it is new."""
        found = set()
        for kind, unit, pct in itertools.product(("daily", "monthly"), ("tokens", "nano_usd"), THRESHOLDS):
            cap, account = getattr(caps, f"{kind}_{unit}"), self.account(kind, windows)
            if cap is None:
                continue
            limit, used = cap + getattr(account, f"topup_{unit}"), getattr(account, f"used_{unit}")
            window_id = getattr(windows, kind).id
            passed = limit > 0 and used * 100 >= limit * pct
            if passed and self.alerted.setdefault((kind, window_id, unit, pct), names[0]) in names:
                found.add(Crossing(kind, window_id, unit, pct, used, limit))
        return found
