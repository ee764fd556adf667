"""The journal's tables, step by step; PostgreSQL's are in `audit.migrations`. Made by `journal.connect`.

Schema changes go forward only: MIGRATIONS is appended to, never edited.
"""

from typing import Final

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL UNIQUE,
        team_id TEXT NOT NULL,
        model_requested TEXT NOT NULL,
        model_routed TEXT NOT NULL,
        model_used TEXT,
        provider_used TEXT,
        status TEXT NOT NULL,
        error_code TEXT,
        http_status INTEGER,
        routing_decision TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        priority TEXT NOT NULL,
        stream INTEGER NOT NULL,
        native INTEGER NOT NULL,
        cache_hit INTEGER NOT NULL,
        prompt_hash TEXT NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        cache_write_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        estimated_input_tokens INTEGER NOT NULL,
        estimated_output_tokens INTEGER NOT NULL,
        estimated INTEGER NOT NULL,
        cost_nano_usd INTEGER,
        finish_reason TEXT,
        received_at REAL NOT NULL,
        completed_at REAL NOT NULL,
        latency_ms REAL NOT NULL,
        first_byte_ms REAL,
        gateway_latency_ms REAL,
        response_bytes INTEGER NOT NULL,
        details TEXT NOT NULL
    );
    CREATE INDEX audit_received ON audit (received_at);
    CREATE INDEX audit_team_received ON audit (team_id, received_at);
    CREATE INDEX audit_status_received ON audit (status, received_at);
    CREATE TABLE attempt (
        id INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL,
        provider TEXT NOT NULL,
        started_at REAL NOT NULL,
        verdict TEXT NOT NULL,
        status INTEGER,
        flags TEXT NOT NULL,
        first_byte_ms REAL,
        total_ms REAL,
        at REAL NOT NULL,
        UNIQUE (request_id, started_at, provider)
    );
    CREATE INDEX attempt_provider_verdict_at ON attempt (provider, verdict, at);
    CREATE TABLE sums (
        bucket_s INTEGER NOT NULL,
        team_id TEXT NOT NULL,
        model TEXT NOT NULL,
        provider TEXT NOT NULL,
        status TEXT NOT NULL,
        requests INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        cost_nano_usd INTEGER NOT NULL,
        unpriced INTEGER NOT NULL,
        latency_ms REAL NOT NULL,
        PRIMARY KEY (bucket_s, team_id, model, provider, status)
    ) WITHOUT ROWID;
    CREATE INDEX sums_team ON sums (team_id, bucket_s);
    CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    """,
    """
    ALTER TABLE audit ADD COLUMN charged INTEGER NOT NULL DEFAULT 0;
    UPDATE audit SET charged = 1;
    CREATE INDEX audit_uncharged ON audit (id) WHERE charged = 0;
    CREATE TABLE alert (
        id TEXT PRIMARY KEY,
        team_id TEXT NOT NULL,
        body TEXT NOT NULL,
        tries INTEGER NOT NULL,
        next_at REAL NOT NULL,
        delivered INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX alert_due ON alert (next_at) WHERE delivered = 0;
    """,
    """
    CREATE TABLE histogram (
        metric TEXT NOT NULL,
        team_id TEXT NOT NULL,
        model TEXT NOT NULL,
        provider TEXT NOT NULL,
        detail TEXT NOT NULL,
        bucket INTEGER NOT NULL,
        count INTEGER NOT NULL,
        total REAL NOT NULL,
        PRIMARY KEY (metric, team_id, model, provider, detail, bucket)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE audit ADD COLUMN traceparent TEXT;
    ALTER TABLE audit ADD COLUMN steps_us TEXT NOT NULL DEFAULT '';
    ALTER TABLE audit ADD COLUMN settled_at REAL;
    CREATE TABLE mark (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO mark SELECT 'traces', coalesce(max(id), 0) FROM audit;
    INSERT INTO mark SELECT 'began_at_s', CAST(coalesce(min(received_at), unixepoch()) AS INTEGER) FROM audit;
    """,
    """
    ALTER TABLE audit ADD COLUMN cache TEXT NOT NULL DEFAULT 'bypass';
    ALTER TABLE audit ADD COLUMN saved_tokens INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE audit ADD COLUMN saved_nano_usd INTEGER DEFAULT 0;
    """,
    """
    CREATE TABLE reason (
        team_id TEXT NOT NULL,
        reason TEXT NOT NULL,
        requests INTEGER NOT NULL,
        PRIMARY KEY (team_id, reason)
    ) WITHOUT ROWID;
    INSERT INTO reason SELECT team_id, error_code, count(*) FROM audit
        WHERE status = 'refused' AND error_code IS NOT NULL OR error_code = 'unreconciled' GROUP BY team_id, error_code;
    """,
    """
    ALTER TABLE attempt ADD COLUMN model TEXT NOT NULL DEFAULT '';
    ALTER TABLE attempt ADD COLUMN stream INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE attempt ADD COLUMN retry_after_s REAL;
    ALTER TABLE audit ADD COLUMN outrun_tokens INTEGER NOT NULL DEFAULT 0;
    """,
    """
    CREATE TABLE routed (
        bucket_s INTEGER NOT NULL,
        team_id TEXT NOT NULL,
        auto INTEGER NOT NULL,
        decision TEXT NOT NULL,
        model TEXT NOT NULL,
        requests INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        cost_nano_usd INTEGER NOT NULL,
        PRIMARY KEY (bucket_s, team_id, auto, decision, model)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE attempted (
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        result TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        PRIMARY KEY (provider, model, result)
    ) WITHOUT ROWID;
    INSERT INTO attempted
        SELECT provider, model, iif(status IN (401, 403), 'credential_refused', verdict), count(*)
        FROM attempt GROUP BY 1, 2, 3;
    """,
    """
    DROP INDEX attempt_provider_verdict_at;
    CREATE INDEX attempt_at ON attempt (at);
    """,
    """
    CREATE TABLE content (
        request_id TEXT PRIMARY KEY,
        input_messages TEXT NOT NULL,
        output_messages TEXT NOT NULL
    ) WITHOUT ROWID;
    """,
)
