"""The precision/recall curves as an SVG, written by hand: a panel a set, a line a set of steps.

In: curves by set and by which steps were on. Out: a file a browser shows.
"""

from pathlib import Path

from bench.cache.cascade import Curve

WIDTH, HEIGHT, MARGIN = 460, 340, 50
LOW = 0.7  # where the axis of precision begins
COLOURS = ("#b2182b", "#ef8a62", "#67a9cf", "#2166ac")
_POINTS = 300  # of a line, at most
_FIRST = 10  # hits before which a share says nothing


def draw(curves: dict[str, dict[str, Curve]], path: Path) -> None:
    """Write the picture."""
    size = f'width="{WIDTH * len(curves)}" height="{HEIGHT}"'
    panels = "".join(_panel(name, lines, at * WIDTH) for at, (name, lines) in enumerate(curves.items()))
    style = "<style>text{font:11px sans-serif}</style><rect width='100%' height='100%' fill='white'/>"
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{style}{panels}</svg>\n', "utf-8")


def _x(recall: float) -> float:
    return MARGIN + recall * (WIDTH - MARGIN - 20)


def _y(precision: float) -> float:
    return HEIGHT - MARGIN - (precision - LOW) / (1 - LOW) * (HEIGHT - MARGIN - 30)


def _panel(name: str, lines: dict[str, Curve], left: int) -> str:
    parts = [f'<g transform="translate({left},0)">', f'<text x="{_x(0.5)}" y="18" text-anchor="middle">{name}</text>']
    parts += [_grid(step / 10) for step in range(0, 11, 2)]
    for at, (label, curve) in enumerate(lines.items()):
        parts.append(f'<polyline fill="none" stroke="{COLOURS[at]}" stroke-width="1.5" points="{_points(curve)}"/>')
        y = _y(LOW) - 12 * (len(lines) - at)
        parts.append(f'<text x="{_x(0.02)}" y="{y}" fill="{COLOURS[at]}">{label}</text>')
    parts.append(f'<text x="{_x(0.5)}" y="{HEIGHT - 15}" text-anchor="middle">recall</text>')
    parts.append(f'<text transform="translate(14,{_y(0.85)}) rotate(-90)" text-anchor="middle">precision</text></g>')
    return "".join(parts)


def _grid(share: float) -> str:
    """A line each way, and its number."""
    precision = LOW + share * (1 - LOW)
    return (
        f'<path d="M{_x(0)},{_y(precision)}H{_x(1)}M{_x(share)},{_y(LOW)}V{_y(1)}" stroke="#ddd"/>'
        f'<text x="{_x(0) - 6}" y="{_y(precision) + 4}" text-anchor="end">{precision:.2f}</text>'
        f'<text x="{_x(share)}" y="{_y(LOW) + 15}" text-anchor="middle">{share:.1f}</text>'
    )


def _points(curve: Curve) -> str:
    rows = list(zip(curve.recall.tolist(), curve.precision.tolist(), strict=True))[_FIRST:]
    step = max(1, len(rows) // _POINTS)
    return " ".join(f"{_x(recall):.1f},{_y(max(precision, LOW)):.1f}" for recall, precision in rows[::step])
