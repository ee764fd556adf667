"""What a provider's failure means to the client: status, error type and text in, one GatewayError out.

In: the HTTP status (or, inside a 200 stream, the provider's error type), headers and the provider's decoded error.
Out: an error of `extproc.errors`. Who calls it: the adapters' `error` and their streams. The class comes from the
status and the provider's own error type; texts are read only to name two things that providers name no other way (a
full context, an account of ours), and are shown to the client only when a 4xx is about the client's own input.
"""

import math
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec

from extproc.errors import (
    UNSAID_RETRY_AFTER_S,
    GatewayError,
    ProviderError,
    ProviderRejected,
    ProviderTimeout,
    RateLimitExceeded,
)

MAX_RETRY_AFTER_S = 3600.0
CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"

# Providers' words for a prompt longer than the model's context, lower case. Only a refused request is searched.
_CONTEXT_PHRASES = (
    "maximum context length",  # OpenAI, Azure, vLLM, Mistral, DeepSeek, OpenRouter, SGLang
    "exceeds the context window",  # OpenAI, Azure
    "input tokens exceed the configured limit",  # OpenAI, Azure: GPT-5
    "prompt is too long",  # Anthropic, on Vertex and Bedrock too
    "exceed context limit",  # Anthropic: input length and max_tokens together
    "exceeds the maximum number of tokens allowed",  # Google AI
    "input token count is",  # Google Vertex: "Unable to submit request because the input token count is …"
    "longer than the model's context length",  # SGLang
    "input is too long",  # Bedrock
    "too many input tokens",  # Bedrock
    "number of input tokens exceeds",  # Bedrock
    "longer than the maximum model length",  # vLLM
    "exceeds the available context size",  # llama.cpp
    "maximum prompt length is",  # xAI
    "`inputs` tokens + `max_new_tokens` must be",  # TGI, Together
    "all messages is too long",  # Perplexity
    "exceeded model token limit",  # Moonshot
)
# What a refusal for the prompt's length has in it, in lower case, wherever.
CONTEXT_LENGTH_SIGNS = (CONTEXT_LENGTH_EXCEEDED, *_CONTEXT_PHRASES)
# Refusals that are about the operator's account though their status says "your request": not the client's business.
_ACCOUNT_PHRASES = (
    "credit balance is too low",  # Anthropic, status 400
    "your organization must be verified",  # OpenAI, status 400: streams of some models (continue#8209)
)
_ACCOUNT_CODES = frozenset(
    {
        "API_KEY_INVALID",
        "FAILED_PRECONDITION",
        "billing_hard_limit_reached",
        "invalid_api_key",
        "ServiceQuotaExceededException",
    }
)
_GONE = "model_decommissioned"  # Groq, status 400 (openfang#60)
# Groq, status 413: more tokens than the account may send in a minute, however long one waits (openclaw#147644).
_TOO_MANY_AT_ONCE = "rate_limit_exceeded"
# What a 400 or 413 that another provider may not make has in it, in lower case, wherever.
OUR_SIGNS = (*sorted(code.lower() for code in (*_ACCOUNT_CODES, _GONE, _TOO_MANY_AT_ONCE)), *_ACCOUNT_PHRASES)
# Codes of OpenAI's that clients act on and that say nothing of the operator.
_PUBLIC_CODES = frozenset({CONTEXT_LENGTH_EXCEEDED, "content_filter", "content_policy_violation"})


class Problem(msgspec.Struct, frozen=True):
    """A provider's error, read from its body. All None: the body said nothing we know how to read."""

    message: str | None = None  # the documented human-readable field
    code: str | None = None  # the provider's own code or type
    param: str | None = None
    retry_after_s: float | None = None  # said in the body


def classify(provider: str, status: int, problem: Problem, retry_after: float | None = None) -> GatewayError:
    """The client's error for a provider's `status` (>= 400). `retry_after`: seconds, from the headers."""
    if status in (400, 404, 413, 422) and not _about_our_account(problem):
        return _rejected(provider, status, problem)
    if status == 429:
        said = (wait for wait in (retry_after, problem.retry_after_s) if wait is not None)
        text = f"{provider} is limiting the rate of requests; try again later."
        return RateLimitExceeded(text, retry_after_s=next(said, UNSAID_RETRY_AFTER_S))
    if status == 408:
        return ProviderTimeout(f"{provider} did not answer in time.")
    if status < 500 and status != 424:  # by which Bedrock says that the model failed
        return ProviderError(f"{provider} refused the gateway's request ({status}).")
    return ProviderError(f"{provider} failed ({status}).")


def _about_our_account(problem: Problem) -> bool:
    message = (problem.message or "").lower()
    return problem.code in _ACCOUNT_CODES or any(phrase in message for phrase in _ACCOUNT_PHRASES)


def _rejected(provider: str, status: int, problem: Problem) -> ProviderRejected:
    if status == 413 and problem.code == _TOO_MANY_AT_ONCE:
        return ProviderRejected(413, f"The request is larger than {provider} takes in one minute.")
    if problem.code == _GONE:
        status = 404
    message = problem.message or f"{provider} refused the request ({status})."
    if problem.code == CONTEXT_LENGTH_EXCEEDED or any(phrase in message.lower() for phrase in _CONTEXT_PHRASES):
        return ProviderRejected(400, message, param=problem.param or "messages", code=CONTEXT_LENGTH_EXCEEDED)
    code = problem.code if problem.code in _PUBLIC_CODES else None
    return ProviderRejected(status, message, param=problem.param, code=code)


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `retry-after` (seconds or an HTTP date), 0 to MAX_RETRY_AFTER_S.

    `now`: seconds since the epoch. None: not said, or not readable. Source: RFC 9110, section 10.2.3.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return capped(milliseconds / 1000)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is None and value:
        try:
            date = parsedate_to_datetime(value)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return None if seconds is None else capped(seconds)


def capped(seconds: float) -> float:
    """`seconds` within what a client can be asked to wait."""
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def duration_s(text: object) -> float | None:
    """A protobuf Duration in JSON, such as `17.5s`, in seconds."""
    seconds = _number(text[:-1]) if isinstance(text, str) and text.endswith("s") else None
    return None if seconds is None else capped(seconds)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
