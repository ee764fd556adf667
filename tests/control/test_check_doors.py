"""The settings of the doors: what is wrong with them is told by its key, what they do is explained."""

import json
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from click.testing import CliRunner

from control.check_doors import listens, tokens, warnings
from control.cli import main
from control.prepare import StartError, require_free_socket
from extproc.settings import Settings, SettingsError, load, parse

BASE: dict[str, Any] = {
    "providers": {"demo": {"format": "demo"}},
    "models": [{"name": "m", "provider": "demo"}],
    "teams": [{"id": "t", "keys": ["k"]}],
}
PUBLIC = {"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}
ISSUER = {"issuer": "https://a.example", "audiences": ["gw"], "jwks": PUBLIC}


def settings(**changes: Any) -> Settings:
    return parse(yaml.safe_dump(BASE | changes), {})


def problems(changes: dict[str, Any]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        settings(**changes)
    return caught.value.problems


TLS = {"cert_file": "a", "key_file": "b"}
URI = {"issuer": "i", "audiences": ["a"], "jwks_uri": "https://a.example/jwks"}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"listen": {"port": None}}, "listen: port: is needed without unix_socket"),
        (
            {"listen": {"port": None, "unix_socket": "s", "tls": TLS}},
            "listen: port: tls and allowed_ips are of the TCP",
        ),
        ({"listen": {"unix_socket": "/" + "s" * 120}}, "listen: unix_socket: is longer than the 107 bytes"),
        ({"listen": {"unix_socket_mode": "888"}}, "listen.unix_socket_mode: not a file mode"),
        ({"listen": {"tsl": {}}}, "listen.tsl: unknown key; did you mean tls?"),
        ({"listen": {"tls": {"cert_file": "a"}}}, "listen.tls.key_file: field required"),
        (
            {"listen": {"tls": TLS | {"require_client_certificate": True}}},
            "listen.tls: require_client_certificate: need",
        ),
        ({"listen": {"tls": TLS | {"min_version": "1.1"}}}, "listen.tls.min_version: input should be '1.2' or '1.3'"),
        (
            {"listen": {"allowed_ips": ["10.0.0.1/8"]}},
            "listen.allowed_ips[0]: has bits after its prefix; write 10.0.0.0/8",
        ),
        ({"listen": {"allowed_ips": ["example.com"]}}, "listen.allowed_ips[0]: not a network: write 10.0.0.0/8"),
        ({"teams": [{"id": "t", "keys": ["k"], "allowed_ips": ["::1/999"]}]}, "teams[0].allowed_ips[0]: not a network"),
        ({"cors": {"allow_origins": ["app.example.com"]}}, "cors.allow_origins[0]: not an origin"),
        ({"cors": {"allow_origins": ["https://a.example/"]}}, "cors.allow_origins[0]: not an origin"),
        ({"cors": {"allow_origins": ["*"], "allow_credentials": True}}, "cors: allow_credentials: not together with"),
        ({"auth": {"jwt": [URI | {"jwks": PUBLIC}]}}, "auth.jwt[0]: needs one of jwks_uri, jwks_file and jwks"),
        ({"auth": {"jwt": [{"issuer": "i", "audiences": ["a"]}]}}, "auth.jwt[0]: needs one of jwks_uri"),
        ({"auth": {"jwt": [ISSUER | {"audiences": []}]}}, "auth.jwt[0].audiences: needs 1 or more"),
        ({"auth": {"jwt": [ISSUER | {"jwks": {}}]}}, "auth.jwt[0].jwks: not a JSON Web Key Set"),
        (
            {"auth": {"jwt": [ISSUER | {"jwks": {"keys": [{"kty": "oct", "k": "x"}]}}]}},
            "keys[0].kty: must be one of RSA",
        ),
        ({"auth": {"jwt": [ISSUER | {"jwks": {"keys": [{"kty": "EC", "d": "x"}]}}]}}, "keys[0]: is a private key"),
        (
            {"auth": {"jwt": [ISSUER | {"teams": {"x": "tt"}}]}},
            "auth.jwt[0].teams.x: no team is named tt; did you mean t",
        ),
        ({"auth": {"jwt": [ISSUER, ISSUER]}}, "auth.jwt[1].issuer: https://a.example is defined twice"),
        ({"auth": {"jwt": [ISSUER | {"team_claim": "a b"}]}}, "auth.jwt[0].team_claim: string should match"),
        ({"teams": [{"id": "t"}]}, "teams[0].keys: at least one is needed"),
    ],
)
def test_what_is_wrong(changes: dict[str, Any], line: str) -> None:
    found = problems(changes)
    assert len(found) == 1
    assert line in found[0]


def test_a_team_without_keys_may_come_by_tokens() -> None:
    assert settings(teams=[{"id": "t"}], auth={"jwt": [ISSUER]}).teams[0].keys == []


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    made = trustme.CA().issue_cert("gateway.example.com")
    made.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    made.private_key_pem.write_to_path(tmp_path / "tls.key")
    return {"cert_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}


def loaded(folder: Path, **changes: Any) -> Settings:
    (folder / "gateway.yaml").write_text(yaml.safe_dump(BASE | changes))
    return load(folder / "gateway.yaml", {})


def test_files_that_are_missing_or_not_what_they_should_be(tmp_path: Path, certificate: dict[str, str]) -> None:
    (tmp_path / "empty").write_text("")
    tls = {"cert_file": str(tmp_path / "empty"), "key_file": str(tmp_path), "client_ca_file": certificate["key_file"]}
    issuer = {name: value for name, value in ISSUER.items() if name != "jwks"} | {"jwks_file": str(tmp_path / "no")}
    remote = URI | {"ca_file": str(tmp_path / "absent")}
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, listen={"tls": tls}, auth={"jwt": [issuer, remote]})
    assert caught.value.problems == [
        f"listen.tls.cert_file: {tmp_path / 'empty'} holds no certificate in PEM that can be read",
        "listen.tls.key_file: cannot be read: Is a directory",
        f"listen.tls.client_ca_file: {certificate['key_file']} holds no certificate in PEM that can be read",
        "auth.jwt[1].ca_file: cannot be read: No such file or directory",
        "auth.jwt[0].jwks_file: cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "is not JSON"),
        ("[]", "not a JSON Web Key Set"),
        ('{"keys": [{"kty": "oct"}]}', "keys[0].kty: must be one"),
    ],
)
def test_public_keys_of_a_file_that_are_none(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "jwks.json").write_text(text)
    issuer = {name: value for name, value in ISSUER.items() if name != "jwks"}
    with pytest.raises(SettingsError, match=r"auth\.jwt\[0\]\.jwks_file: ") as caught:
        loaded(tmp_path, auth={"jwt": [issuer | {"jwks_file": str(tmp_path / "jwks.json")}]})
    assert line in caught.value.problems[0]


def test_public_keys_of_a_file_go_the_way_of_those_written_here(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(json.dumps(PUBLIC))
    issuer = {name: value for name, value in ISSUER.items() if name != "jwks"}
    found = loaded(tmp_path, auth={"jwt": [issuer | {"jwks_file": str(tmp_path / "jwks.json")}]})
    assert found.auth.jwt[0].jwks == PUBLIC
    assert Settings.model_validate_json(found.model_dump_json()) == found, "as the runtime file is read"


def test_it_is_explained(tmp_path: Path, certificate: dict[str, str]) -> None:
    listen = {"host": "0.0.0.0", "tls": certificate, "trusted_hops": 1, "allowed_ips": ["10.0.0.0/8"]}
    listen |= {"unix_socket": "/run/gateway.sock"}
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(BASE | {"listen": listen, "auth": {"jwt": [URI]}, "cors": {"allow_origins": ["*"]}}))
    done = CliRunner().invoke(main, ["check", str(file)])
    assert done.exit_code == 0, done.output
    assert done.output.startswith(
        "listens on 0.0.0.0:8080, TLS 1.2 or newer, for 10.0.0.0/8, behind 1 trusted hops"
        " and unix:/run/gateway.sock (mode 0600); 2 workers"
    )
    assert "tokens\n  i for a: team is the team's id; keys https://a.example/jwks\n" in done.output
    assert "pages that may call: *\n" in done.output
    assert "cors.allow_origins: * lets every page call" in done.output
    rendered = CliRunner().invoke(main, ["render", str(file)])
    assert "PRIVATE KEY" not in rendered.output
    assert certificate["key_file"] in rendered.output


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"listen": {"host": "0.0.0.0"}}, "listen.tls: none"),
        (
            {"auth": {"jwt": [URI | {"jwks_uri": "http://a.example"}]}},
            "auth.jwt[0].jwks_uri: keys that come unencrypted",
        ),
    ],
)
def test_what_is_probably_not_meant(changes: dict[str, Any], warning: str) -> None:
    assert [text for text in warnings(settings(**changes)) if text.startswith(warning)]
    assert not list(warnings(settings(listen={"host": "::1"})))


def test_how_an_administrator_is_known_is_told() -> None:
    issuer = settings(
        auth={"jwt": [ISSUER | {"teams": {"x": "t"}, "admin": {"claim": "r", "values": ["a"]}}]}
    ).auth.jwt[0]
    assert tokens(issuer) == "https://a.example for gw: team is by a mapping; admin by r; keys written here"


def test_where_it_listens_without_a_port() -> None:
    assert listens(settings(listen={"port": None, "unix_socket": "/s"})) == "unix:/s (mode 0600)"


def test_a_socket_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"the folder .* does not exist"):
        require_free_socket(tmp_path / "no" / "s")
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="is there already, and is no socket"):
        require_free_socket(tmp_path / "file")
    require_free_socket(tmp_path / "s")
