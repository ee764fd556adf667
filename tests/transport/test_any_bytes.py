"""Whatever a peer sends: no exception, bounded memory, each session closed once. `make fuzz` plays for longer."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.transport.player import play

_FEW = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@given(st.binary(max_size=600))
@_FEW
def test_any_script(data: bytes) -> None:
    play(data)


@given(
    st.lists(
        st.integers(0, 255).flatmap(lambda first: st.binary(max_size=40).map(lambda rest: bytes([first]) + rest)),
        max_size=30,
    )
)
@_FEW
def test_any_order(parts: list[bytes]) -> None:
    play(b"\x01" + b"".join(parts))
