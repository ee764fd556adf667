"""Tokens of an identity provider in the place of keys: who issues them, and which claim names the team."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from extproc.settings.fields import Duration, Section, Wait

_CLAIM = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"
_PRIVATE = frozenset({"d", "k", "p", "q", "oth"})  # members of a key that no verifier needs (RFC 7518, 6.2-6.4)
_KEY_TYPES = ("RSA", "EC", "OKP")


def _public_keys(value: Any) -> Any:
    """A JSON Web Key Set of public keys (RFC 7517, 5)."""
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise ValueError('not a JSON Web Key Set: {"keys": [...]} with at least one key')
    for index, key in enumerate(keys):
        if key.get("kty") not in _KEY_TYPES:
            raise ValueError(f"keys[{index}].kty: must be one of {', '.join(_KEY_TYPES)}")
        if _PRIVATE & key.keys():
            raise ValueError(f"keys[{index}]: is a private key; only public ones belong here")
    return value


Jwks = Annotated[dict[str, Any], BeforeValidator(_public_keys)]


class AdminClaim(Section):
    """Tokens whose claim is, or has, one of these values are an administrator's."""

    claim: str = Field(pattern=_CLAIM)
    values: list[str] = Field(min_length=1)


class JwtIssuer(Section):
    """An issuer of tokens. Envoy checks signature, issuer, audience and time; workers see only what passed.

    Its public keys are at `jwks_uri`, in `jwks_file`, or here as `jwks`.
    """

    issuer: str = Field(min_length=1, description="what a token's iss must be")
    audiences: list[str] = Field(min_length=1, description="one of them must be in a token's aud")
    jwks_uri: str | None = Field(default=None, pattern=r"^https?://[^/\s]+(/\S*)?$")
    ca_file: Path | None = Field(default=None, description="authorities for jwks_uri; default: the system's")
    jwks_refresh: Duration = Field(default=300.0, ge=10, description="how long fetched keys are used")
    jwks_file: Path | None = Field(default=None, description="its change is noticed")
    jwks: Jwks | None = None
    team_claim: str = Field(default="team", pattern=_CLAIM, description="dots lead into objects; may be a list")
    teams: dict[str, str] = Field(default={}, description="claim value: team id; empty: the value is the team's id")
    admin: AdminClaim | None = None
    clock_skew: Wait = Field(default=60.0, le=600)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        fixed = self.jwks_file is not None or self.jwks is not None  # both, once the file has been read
        if (self.jwks_uri is not None) == fixed:
            raise ValueError("needs one of jwks_uri, jwks_file and jwks")
        if self.ca_file is not None and not (self.jwks_uri or "").startswith("https://"):
            raise ValueError("ca_file: is for a jwks_uri of https")
        return self


class Auth(Section):
    """How clients may show who they are, beside their keys."""

    jwt: list[JwtIssuer] = Field(default=[], max_length=20)
