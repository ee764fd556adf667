"""Every error a client can see, and the one place where it becomes bytes.

    GatewayError                      status  code
    ├── InvalidRequest                400     invalid_request_error   the client's request is wrong; names the parameter
    ├── InvalidApiKey                 401     invalid_api_key         MissingApiKey: there was none
    ├── TeamMismatch                  403     team_mismatch
    ├── ModelNotAllowed               403     model_not_allowed
    ├── ModelNotFound                 404     model_not_found
    ├── PermissionDenied              403     permission_denied       the key is good, but not for this
    ├── NotFound                      404     not_found               no such path or object
    ├── MethodNotAllowed              405     method_not_allowed
    ├── RequestTimeout                408     request_timeout         the request took too long to arrive
    ├── Conflict                      409     conflict                what is there does not go with what is wanted
    ├── RequestTooLarge               413     request_too_large
    ├── RateLimitExceeded             429     rate_limit_exceeded     ours or the provider's; has retry_after_s
    ├── BudgetExceeded                429     budget_exceeded         has retry_after_s
    ├── HeadersTooLarge               431     headers_too_large
    ├── ProviderRejected              4xx     by status               the provider refused the client's own input
    ├── ProviderError                 502     provider_error          5xx, reset, unreadable answer, our key refused
    │   ├── AnswerUnread              502     answer_unread           it had to be read, and no worker was there
    │   └── NoUsableAnswer            502     no_usable_answer        the model's doing: no failure of its provider
    ├── NoProviderAvailable           503     no_provider_available   has retry_after_s
    ├── Overloaded                    503     overloaded              too much in hand at once; has retry_after_s
    ├── AuditUnavailable              503     audit_unavailable       the journal cannot be read now, or not in time
    ├── LimitsUnavailable             503     limits_unavailable      the ledger is away and on_outage is fail_closed
    ├── ControlUnavailable            503     control_unavailable     the process that serves all but chat is away
    ├── TokensUnavailable             503     tokens_unavailable      a token's issuer is away, and its keys not known
    ├── StateUnavailable              503     state_unavailable       the shared state is away: nothing can be changed
    └── ProviderTimeout               504     provider_timeout

In: a failure anywhere, raised. Out: `body()`, OpenAI's shape, written by the exchange, and by control for its API.
Texts are ours; a provider's text reaches a client only through ProviderRejected, which the adapters build from the
provider's documented message field of a 4xx about the client's own input.
"""

import re
from typing import ClassVar, Self

import msgspec

from extproc.records import Usage

MAX_PROVIDER_TEXT_CHARS = 2_000
# A provider that limits our rate and does not say for how long.
UNSAID_RETRY_AFTER_S = 1.0
_LONGEST_NAME_CHARS = 200  # of what a client named, told back

_TYPES = re.compile(r"`([a-z]+(?: \| [a-z]+)*)`")
_JSON_NAMES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}


def in_json_words(finding: str) -> str:
    """What msgspec found wrong, in the words of JSON and not of Python: "Expected integer or null, got string"."""
    # Where any number will do, `int | float` is said of one thing.
    each = finding.replace("int | float", "float")
    return _TYPES.sub(lambda types: " or ".join(_JSON_NAMES.get(one, one) for one in types[1].split(" | ")), each)


class GatewayError(Exception):
    """An error with the client-visible status, code, OpenAI class of error, and the parameter it is about."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers: tuple[tuple[str, str], ...] = ()  # more headers of the answer
        self.usage: Usage | None = None  # what its provider counted all the same

    @property
    def http_status(self) -> int:
        """The status the client sees."""
        return self.status

    @property
    def client_code(self) -> str:
        """The code the client sees."""
        return self.code

    def payload(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's error object: `{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.client_code}}

    def body(self) -> bytes:
        """The payload as JSON bytes."""
        return msgspec.json.encode(self.payload())


class InvalidRequest(GatewayError):
    status, code, type = 400, "invalid_request_error", "invalid_request_error"


class InvalidApiKey(GatewayError):
    status, code, type = 401, "invalid_api_key", "invalid_request_error"


class MissingApiKey(InvalidApiKey):
    """There was no key at all, as with a probe: nobody tried one."""


class TeamMismatch(GatewayError):
    status, code, type = 403, "team_mismatch", "permission_error"


class ModelNotAllowed(GatewayError):
    status, code, type = 403, "model_not_allowed", "permission_error"


class PermissionDenied(GatewayError):
    status, code, type = 403, "permission_denied", "permission_error"


class ModelNotFound(GatewayError):
    status, code, type = 404, "model_not_found", "invalid_request_error"

    @classmethod
    def of(cls, name: str) -> Self:
        """There is no model of that name, for this team at least."""
        short = name if len(name) <= _LONGEST_NAME_CHARS else f"{name[:_LONGEST_NAME_CHARS]}…"
        return cls(f"The model `{short}` does not exist or you do not have access to it.", param="model")


class NotFound(GatewayError):
    status, code, type = 404, "not_found", "invalid_request_error"


class MethodNotAllowed(GatewayError):
    status, code, type = 405, "method_not_allowed", "invalid_request_error"
    allow = ""  # the method, where it is one


class RequestTimeout(GatewayError):
    status, code, type = 408, "request_timeout", "invalid_request_error"


class Conflict(GatewayError):
    status, code, type = 409, "conflict", "invalid_request_error"


class RequestTooLarge(GatewayError):
    status, code, type = 413, "request_too_large", "invalid_request_error"


class RateLimitExceeded(GatewayError):
    status, code, type = 429, "rate_limit_exceeded", "rate_limit_error"


class BudgetExceeded(GatewayError):
    status, code, type = 429, "budget_exceeded", "insufficient_quota"


class HeadersTooLarge(GatewayError):
    status, code, type = 431, "headers_too_large", "invalid_request_error"


class ProviderRejected(GatewayError):
    """The provider refused the client's own input (400, 404, 413, 422): the same status, translated."""

    type = "invalid_request_error"

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message[:MAX_PROVIDER_TEXT_CHARS], param=param)
        self._status = status
        self._code = code

    @property
    def http_status(self) -> int:
        return self._status

    @property
    def client_code(self) -> str:
        by_status = {404: "model_not_found", 413: "request_too_large"}
        return self._code or by_status.get(self._status, "invalid_request_error")


class ProviderError(GatewayError):
    status, code, type = 502, "provider_error", "server_error"


class AnswerUnread(ProviderError):
    """What the provider sent had to be read, and no worker did: told by Envoy."""

    code = "answer_unread"


class NoUsableAnswer(ProviderError):
    """The model said something that is no answer: its doing, or the request's, and no failure of its provider."""

    code = "no_usable_answer"


class NoProviderAvailable(GatewayError):
    """Where nobody knows when there will be one, it is worth asking again as soon as after a limited rate."""

    status, code, type = 503, "no_provider_available", "server_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s or UNSAID_RETRY_AFTER_S)


class Overloaded(GatewayError):
    status, code, type = 503, "overloaded", "server_error"


class AuditUnavailable(GatewayError):
    status, code, type = 503, "audit_unavailable", "server_error"


class StateUnavailable(GatewayError):
    status, code, type = 503, "state_unavailable", "server_error"


class ControlUnavailable(GatewayError):
    status, code, type = 503, "control_unavailable", "server_error"


class TokensUnavailable(GatewayError):
    status, code, type = 503, "tokens_unavailable", "server_error"


class LimitsUnavailable(GatewayError):
    status, code, type = 503, "limits_unavailable", "server_error"


class ProviderTimeout(GatewayError):
    status, code, type = 504, "provider_timeout", "server_error"
