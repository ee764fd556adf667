"""What an exchange's replies are made of: which headers pass, how an attempt is routed, an answer of our own.

In: attempts and records. Out: headers and replies. Pure.
"""

import msgspec

from extproc import frames
from extproc.frames import Metadata
from extproc.plan import Attempt
from extproc.wire import H_MODEL, OWN_ANSWER

# What may go from a client to a provider; all else stays here (cookies, our own keys, SDK fingerprints).
# x-forwarded-proto is for Envoy, which routes nothing without it; its provider clusters take it off.
TO_PROVIDER = frozenset({"content-type", "content-length", "accept", "user-agent", "x-request-id", "x-forwarded-proto"})
# What may go from a provider to a client; its account's rate limits, cookies and ids are not the client's business.
TO_CLIENT = frozenset({":status", "content-type", "content-length", "transfer-encoding", "date", "cache-control"})


def immediate(status: int, body: bytes, headers: list[tuple[str, str]], metadata: Metadata, details: str) -> bytes:
    """An answer that no provider has seen; `details` is how Envoy's log calls it."""
    return frames.immediate(
        status=status, headers=headers, body=body, metadata=metadata, details=f"{OWN_ANSWER}{details}"
    )


def as_json(record: msgspec.Struct) -> str:
    """A record as it goes into dynamic metadata."""
    return msgspec.json.encode(record).decode()


def routing_headers(attempt: Attempt, authority: str, path: str) -> list[tuple[str, str]]:
    """Where an attempt goes, and what its provider's format wants in headers."""
    return [
        (":path", path),
        (":authority", authority),
        ("content-length", str(len(attempt.request.body))),
        ("accept-encoding", "identity"),
        (H_MODEL, attempt.target.model),
        *attempt.request.headers,
    ]


def provider_path(base_path: str, query: str, attempt: Attempt) -> str:
    """The path of the request at its provider's base URL, with the queries of both."""
    path, _, own_query = attempt.request.path.partition("?")
    joined = "&".join(part for part in (own_query, query) if part)
    return f"{base_path}{path}?{joined}" if joined else f"{base_path}{path}"
