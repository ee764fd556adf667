"""When the gateway's own certificate ends, out of what Envoy says of every one."""

from pathlib import Path

from control.certificates import ends_at, families

AUTHORITY = '{"ca_cert": [{"path": "/ca", "expiration_time": "2026-01-01T00:00:00Z"}], "cert_chain": []}'
OWN = '{"ca_cert": [], "cert_chain": [{"path": "<inline>", "expiration_time": "2027-01-01T00:00:00Z"}]}'
LATER = OWN.replace("2027", "2030")


def test_the_earliest_of_ours_counts_and_authorities_do_not() -> None:
    assert ends_at(f'{{"certificates": [{LATER}, {AUTHORITY}, {OWN}]}}') == 1798761600.0
    assert ends_at(f'{{"certificates": [{AUTHORITY}]}}') is None


async def test_without_envoy_there_is_no_sample(tmp_path: Path) -> None:
    (family,) = await families(tmp_path / "admin.sock")
    assert family.samples == []
