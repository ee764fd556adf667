"""Names on the wire between Envoy and us: headers, metadata namespaces, clusters. One place, used by both sides.

In: nothing. Out: constants that control/render writes into Envoy's configuration and the exchange speaks.
"""

METADATA = "gw"  # dynamic metadata namespace the worker writes
ATTEMPT_METADATA = "gw.attempt"  # what envoy/refusals.lua knows of the last attempt
USAGE_METADATA = "gw.usage"  # where Envoy leaves the usage of a native answer, each count under its dotted path
M_USAGE = "usage"  # key there: the usage object of a stream as the provider wrote it
M_CUT = "cut"  # key there: the stream's client was told an error, by the provider or at its end

ANSWER_METADATA = "gw.answer"  # where envoy/native_stream.lua leaves a native answer that is to be kept or told
M_SSE = "sse"  # key there: its bytes, in base64, whole or a stream's

# Keys below METADATA.
M_TEAM = "team"  # set as soon as the sender is known
M_DECISION = "decision"  # records.Decision as JSON
M_OUTCOME = "outcome"  # records.Outcome as JSON
M_NATIVE = "native"  # for envoy/native_stream.lua: this stream passes by Envoy alone
M_SEVERAL = "several"  # for the same: it has more choices than one
M_PASSING = "passing"  # for envoy/native_answer.lua: no worker will see the answer; what to do without, by these keys:
P_ID = "id"  # the request's
P_WORKER = "worker"  # the cluster that knows it
P_TARGET = "target"  # 1-based index of the first attempt's
P_TOLD = "told"  # what its client is told: lines of headers with LINE_END behind each
P_FIELDS = "fields"  # of a whole answer whose body is to carry the gateway's: what they say, but for P_RATES
P_RATES = "rates"  # what tokens cost at the first attempt: pricing.rates
P_SIGN = "sign"  # begins H_TOLD, so that no provider can pass for a worker
M_CROWDED = "crowded"  # it would have passed so, but too many do
M_HIDE_USAGE = "hide_usage"  # for envoy/native_stream.lua: the client did not ask for usage
M_RECORD = "record"  # cache.ticket.Ticket as JSON: a native answer that is to be kept
M_INPUT = "input"  # where telemetry.content is on: the messages that were sent, telemetry.content's JSON
M_ANSWER = "answer"  # and what the client got: its bytes, of a whole answer or a stream
M_CONTENT = "content"  # for the same: this answer is to be told, so leave it for the access log
M_ROOMIER = "roomier"  # for envoy/refusals.lua: another target has a larger context window
M_TARGET = "target"  # of a fallback attempt: which target it went to
M_TOLD = "told"  # and H_TOLD's value
M_ANSWERED = "answered"  # and the status that came

# Internal headers. Every x-gw-* header of a client is removed at ingress, before the worker sees the request, and
# none leaves for a provider.
INTERNAL_PREFIX = "x-gw-"
H_CLUSTER = "x-gw-cluster"  # the cluster a decided request is routed to
H_MODEL = "x-gw-model"  # the model an attempt goes to: chooses the route that is named for it
H_FALLBACK = "x-gw-fallback"  # set by the fallback listener: an attempt after the first
H_TOO_LONG = "x-gw-too-long"  # the last attempt was refused for the prompt's length; tried again because of it
H_OURS = "x-gw-ours"  # on an answer: it was refused for something that is the operator's, not the client's
H_CLIENT = "x-gw-client"  # the client's address, where a team has allowed_ips; 127.0.0.1 on the unix socket
H_JWT_ISSUER = "x-gw-jwt-issuer"  # a verified token's claims: iss, and what names the team and an administrator
H_JWT_TEAM = "x-gw-jwt-team"
H_JWT_ADMIN = "x-gw-jwt-admin"
H_TARGET = "x-gw-target"  # on a fallback attempt's response: 1-based index of the target that answered
H_TOLD = "x-gw-told"  # instead where the answer passes: P_SIGN, H_TARGET, Outcome.outrun, P_RATES, P_TOLD
H_UNREAD = "x-gw-unread"  # and where the worker died: the bytes that came, the status, if one did, H_TOLD's value
H_NO_PROVIDERS = "x-gw-no-providers"  # and where Envoy answered in its place, which never came to an answer
LINE_END = "\t"
H_ATTEMPTS = "x-envoy-attempt-count"  # on a response: how many attempts there were

H_REQUEST_ID = "x-request-id"
H_METADATA = "x-gateway-metadata"  # of a client: `body` or `headers`, where it wants to be told of its request
H_PER_TRY_TIMEOUT = "x-envoy-upstream-rq-per-try-timeout-ms"
H_MAX_RETRIES = "x-envoy-max-retries"
H_RETRY_ON = "x-envoy-retry-on"  # joined to what the route says
H_HEDGE = "x-envoy-hedge-on-per-try-timeout"

# What another attempt may help against: at the same provider, and more where it goes to another.
RETRY_ANYWHERE = "connect-failure,refused-stream,reset"
RETRY_ELSEWHERE = "5xx,retriable-status-codes,retriable-headers"

LOG_REQUEST = "request"
LOG_ATTEMPT = "attempt"

MODEL_ROUTE_PREFIX = "model:"

# Begins the response code details of every answer that the worker wrote itself.
OWN_ANSWER = "gateway_"
WORKER_GONE = "ext_proc_error"  # and of those that Envoy wrote because a worker died

NOT_AGAIN = "x-envoy-ratelimited"  # on an answer: Envoy retries it no more

MAX_REQUEST_BYTES = 32 * 1024 * 1024

WORKERS = "workers"  # the cluster of all of them


def provider_cluster(provider: str) -> str:
    """The cluster of a provider itself."""
    return f"provider-{provider}"


def fallback_cluster(worker: int) -> str:
    """The loopback to the internal listener of the same name, whose ext_proc is this worker: it holds the request."""
    return f"fallback-{worker}"


def chain_cluster(provider: str, worker: int) -> str:
    """The composite cluster: first attempt to `provider`, the others through `worker`'s fallback listener."""
    return f"chain-{provider}-{worker}"


def model_route(model: str) -> str:
    """The name of a model's routes: an attempt's log entry has nothing else that tells the model."""
    return f"{MODEL_ROUTE_PREFIX}{model}"


def worker_cluster(index: int) -> str:
    """The cluster of one worker alone."""
    return f"worker-{index}"
