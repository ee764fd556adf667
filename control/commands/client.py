"""One gateway, over HTTP.

In: a URL and a key. Out: decoded JSON, or one of two errors: Unreachable (nobody answers, or not as a gateway does) and
Refused (it said no, and why). A certificate of one's own authority is named by SSL_CERT_FILE, as for other tools.
"""

import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import msgspec

_TIMEOUT_S = 65.0  # Envoy's for the control API, and a little
_MOST_OF_A_PAGE = 1000
_OURS = "x-gateway-request-id"  # on every answer of a gateway


class CommandError(Exception):
    """What is told in one line; `exit_code` is the command's."""

    exit_code = 1


class Unreachable(CommandError):
    """The gateway could not be asked."""


class Refused(CommandError):
    """The gateway's own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.exit_code = 3 if status in (401, 403, 429) else 2 if status < 500 else 1


class Client:
    """`url`: without a path; `key`: whose answers are asked for."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self._key = key

    def get(self, path: str, **query: Any) -> Any:
        """Raises CommandError. A query parameter that is None is left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return self.send("GET", f"{path}?{urllib.parse.urlencode(given)}" if given else path)

    def send(self, method: str, path: str, body: Any = None) -> Any:
        """Raises CommandError."""
        data = None if body is None else msgspec.json.encode(body)
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310 - options checks it
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                if _OURS not in answer.headers:
                    raise Unreachable(f"what answers at {self.url} is no gateway")
                return msgspec.json.decode(answer.read())
        except urllib.error.HTTPError as error:
            raise _refused(error) from None
        except (urllib.error.URLError, http.client.HTTPException, OSError, msgspec.DecodeError) as error:
            reason = getattr(error, "reason", None) or error
            raise Unreachable(f"no gateway answers at {self.url}: {reason}") from None

    def pages(
        self, path: str, most: int, page_rows: int = _MOST_OF_A_PAGE, **query: Any
    ) -> Iterator[list[dict[str, Any]]]:
        """Requests, page by page, newest first, `most` at most. Raises CommandError."""
        cursor, left = None, most
        while left > 0:
            page = self.get(path, limit=min(left, page_rows), cursor=cursor, **query)
            yield page["requests"]
            left -= len(page["requests"])
            cursor = page["next_cursor"]
            if cursor is None:
                return


def _refused(error: urllib.error.HTTPError) -> CommandError:
    try:
        message = msgspec.json.decode(error.read())["error"]["message"]
    except (msgspec.DecodeError, KeyError, TypeError, OSError):
        return Unreachable(f"what answers at {error.url} is no gateway: HTTP {error.code}")
    return Refused(error.code, str(message))


def segment(text: str) -> str:
    """`text` as one part of a path."""
    return urllib.parse.quote(text, safe="")
