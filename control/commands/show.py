"""Figures as people read them, and tables that look alike.

In: values of the API. Out: text for rich's tables. Texts of others (names, models) are never read as markup.
"""

from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

NOTHING = Text("-", style="dim")
_BAR_CHARS = 12
_WIDE = 120
_STYLES = {
    "success": "green", "fallback": "yellow", "failed": "bold red", "cancelled": "dim", "refused": "magenta",
    "active": "green", "expired": "dim", "revoked": "red",
    "healthy": "green", "degraded": "yellow", "down": "bold red", "drained": "dim", "unknown": "dim",
    "closed": "green", "half-open": "yellow", "open": "bold red",
}  # fmt: skip


def console() -> Console:
    """As wide as the terminal; into a pipe wide enough for every column."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_WIDE)


def table(*columns: str, title: str | None = None) -> Table:
    """Columns whose name begins with `>` are figures, to the right."""
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for name in columns:
        made.add_column(name.lstrip(">"), justify="right" if name[0] == ">" else "left", no_wrap=name[0] == ">")
    return made


def text(value: Any) -> Text:
    """Any text, as it is."""
    return NOTHING if value in (None, "") else Text(str(value))


def word(value: str) -> Text:
    """A status, in its colour."""
    return Text(value, style=_STYLES.get(value, ""))


def count(value: float | None) -> Text:
    """1234567 is 1.23M."""
    if value is None:
        return NOTHING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size * 0.9995:
            return Text(f"{value / size:.3g}{unit}" if value < size * 999.5 else f"{value / size:,.0f}{unit}")
    return Text(f"{value:g}")


def usd(value: float | None) -> Text:
    """Small amounts keep their figures."""
    if value is None:
        return NOTHING
    return Text(f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.{4 if value >= 0.01 else 6}f}")


def ms(value: float | None) -> Text:
    """Milliseconds, or seconds where there are many."""
    if value is None:
        return NOTHING
    return Text(f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.1f} s")


def share(value: float) -> Text:
    """0.125 is 12.5 %."""
    return Text(f"{100 * value:.1f} %")


def bar(pct: float | None) -> Text:
    """How much of a limit is used."""
    if pct is None:
        return Text("no limit", style="dim")
    filled = min(_BAR_CHARS, round(_BAR_CHARS * pct / 100))
    style = "red" if pct >= 100 else "yellow" if pct >= 80 else "green"
    return Text.assemble(("━" * filled, style), ("·" * (_BAR_CHARS - filled), "bright_black"), f" {pct:3.0f} %")


def clock(moment: str | None) -> Text:
    """The time of day, here; with the date where it is not today's."""
    if moment is None:
        return NOTHING
    at = datetime.fromisoformat(moment).astimezone()
    today = datetime.now(UTC).astimezone().date()
    return Text(f"{at:%H:%M:%S}" if at.date() == today else f"{at:%Y-%m-%d %H:%M}")
