"""How much of a text is read to judge it. Pure."""

MAX_CHARS = 4096  # of a longer text the first and the last half of this are read: bounded time, and both ends speak


def bounded(text: str, chars: int = MAX_CHARS) -> str:
    """`text`, or both ends of it when it is longer than `chars`."""
    if len(text) <= chars:
        return text
    half = chars // 2
    return f"{text[:half]} {text[-half:]}"
