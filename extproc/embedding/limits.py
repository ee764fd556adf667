"""How much of a text is read to judge it. Pure."""

MAX_CHARS = 4096  # of a longer text the first and the last half of this are read: bounded time, and both ends speak


def bounded(text: str) -> str:
    """`text`, or both ends of it when it is long."""
    if len(text) <= MAX_CHARS:
        return text
    half = MAX_CHARS // 2
    return f"{text[:half]} {text[-half:]}"
