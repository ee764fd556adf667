"""Memory for large messages: who may have how much of it, shared by all connections of a server.

A message that fits its stream's window needs nothing. For a larger one the peer needs credit for the whole: it is lent
when there is enough of it, in the order of asking, and given back when the message was answered. Lending the whole at
once means that whoever got it can finish, so nobody waits for ever.
"""

from collections import deque
from collections.abc import Callable


class Loan:
    """Credit asked for."""

    __slots__ = ("grant", "size")

    def __init__(self, size: int, grant: Callable[[], None]) -> None:
        self.size = size  # bytes
        self.grant: Callable[[], None] | None = grant  # None once lent or given up


class Budget:
    """So many bytes."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._size = size
        self._waiting: deque[Loan] = deque()

    def ask(self, size: int, grant: Callable[[], None]) -> Loan:
        """`grant` is called once `size` bytes are lent: now or later."""
        loan = Loan(min(size, self._size), grant)
        self._waiting.append(loan)
        self._lend()
        return loan

    def give_back(self, loan: Loan) -> None:
        """The message is answered, or will not come."""
        if loan.grant is None:
            self._left += loan.size
        else:
            self._waiting.remove(loan)
        self._lend()

    def _lend(self) -> None:
        while self._waiting and self._waiting[0].size <= self._left:
            loan = self._waiting.popleft()
            self._left -= loan.size
            grant, loan.grant = loan.grant, None
            if grant is not None:
                grant()
