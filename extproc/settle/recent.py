"""Which requests were settled lately: the intake remembers, the follower asks."""

from collections import OrderedDict
from typing import Final

REMEMBERED: Final = 200_000  # ids; at 167 requests a second, twenty minutes


class Recent:
    """Ids the intake has taken, the last ones."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, request_id: str) -> None:
        """Remember an id."""
        self._ids[request_id] = None
        if len(self._ids) > REMEMBERED:
            self._ids.popitem(last=False)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._ids
