"""PostgreSQL's tables, made and brought up to date. The journal has migrations of its own.

In: a connection in a transaction. Out: the schema that this version of the gateway knows, or a newer one: an older
gateway goes on beside a newer one, so a migration only ever adds (columns with a default, tables, indexes). MIGRATIONS
is appended to, never edited. One replica at a time migrates; the others wait, and find it done.

`audit` and `attempt` are partitioned by time (`audit.partitions`), so their keys hold a time too. That a request has
one row is the writer's to hold (`audit.write`).
"""

from typing import Final

from sqlalchemy import Connection, text

LOCK: Final = 0x6C6C6D6777  # "llmgw"; of the database: one migration, and one batch, at a time

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """
        CREATE TABLE audit (
            request_id text NOT NULL,
            team_id text NOT NULL,
            model_requested text NOT NULL,
            model_routed text NOT NULL,
            model_used text,
            provider_used text,
            status text NOT NULL,
            error_code text,
            http_status bigint,
            routing_decision text NOT NULL,
            attempts bigint NOT NULL,
            priority text NOT NULL,
            stream boolean NOT NULL,
            native boolean NOT NULL,
            cache_hit boolean NOT NULL,
            prompt_hash text NOT NULL,
            input_tokens bigint NOT NULL,
            output_tokens bigint NOT NULL,
            cached_tokens bigint NOT NULL,
            cache_write_tokens bigint NOT NULL,
            reasoning_tokens bigint NOT NULL,
            estimated_input_tokens bigint NOT NULL,
            estimated_output_tokens bigint NOT NULL,
            estimated boolean NOT NULL,
            outrun_tokens bigint NOT NULL,
            cost_nano_usd bigint,
            finish_reason text,
            received_at double precision NOT NULL,
            completed_at double precision NOT NULL,
            latency_ms double precision NOT NULL,
            first_byte_ms double precision,
            gateway_latency_ms double precision,
            response_bytes bigint NOT NULL,
            details text NOT NULL,
            traceparent text,
            steps_us text NOT NULL DEFAULT '',
            cache text NOT NULL DEFAULT 'bypass',
            saved_tokens bigint NOT NULL DEFAULT 0,
            saved_nano_usd bigint DEFAULT 0,
            PRIMARY KEY (request_id, received_at)
        ) PARTITION BY RANGE (received_at)
        """,
        "CREATE INDEX audit_received ON audit (received_at, request_id)",
        "CREATE INDEX audit_team_received ON audit (team_id, received_at, request_id)",
        "CREATE INDEX audit_status_received ON audit (status, received_at, request_id)",
        """
        CREATE TABLE attempt (
            request_id text NOT NULL,
            provider text NOT NULL,
            model text NOT NULL,
            started_at double precision NOT NULL,
            verdict text NOT NULL,
            status bigint,
            flags text NOT NULL,
            first_byte_ms double precision,
            total_ms double precision,
            stream boolean NOT NULL,
            retry_after_s double precision,
            at double precision NOT NULL,
            PRIMARY KEY (request_id, started_at, provider, at)
        ) PARTITION BY RANGE (at)
        """,
        "CREATE INDEX attempt_at ON attempt (at)",
        """
        CREATE TABLE sums (
            bucket_s bigint NOT NULL,
            team_id text NOT NULL,
            model text NOT NULL,
            provider text NOT NULL,
            status text NOT NULL,
            requests bigint NOT NULL,
            input_tokens bigint NOT NULL,
            output_tokens bigint NOT NULL,
            cached_tokens bigint NOT NULL,
            reasoning_tokens bigint NOT NULL,
            cost_nano_usd bigint NOT NULL,
            unpriced bigint NOT NULL,
            latency_ms double precision NOT NULL,
            PRIMARY KEY (bucket_s, team_id, model, provider, status)
        )
        """,
        "CREATE INDEX sums_team ON sums (team_id, bucket_s)",
        """
        CREATE TABLE routed (
            bucket_s bigint NOT NULL,
            team_id text NOT NULL,
            auto boolean NOT NULL,
            decision text NOT NULL,
            model text NOT NULL,
            requests bigint NOT NULL,
            input_tokens bigint NOT NULL,
            output_tokens bigint NOT NULL,
            cached_tokens bigint NOT NULL,
            cost_nano_usd bigint NOT NULL,
            PRIMARY KEY (bucket_s, team_id, auto, decision, model)
        )
        """,
    ),
)


def lock(connection: Connection) -> None:
    """Wait until nobody else migrates, writes or drops; held until the transaction ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})


def migrate(connection: Connection, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS) -> int:
    """Bring the database up to date, in the caller's transaction. Returns the version it has then."""
    lock(connection)
    connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS gateway_schema (version integer PRIMARY KEY)")
    done = int(connection.execute(text("SELECT coalesce(max(version), 0) FROM gateway_schema")).scalar_one())
    for number, statements in enumerate(migrations[done:], start=done + 1):
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.execute(text("INSERT INTO gateway_schema VALUES (:number)"), {"number": number})
    return max(done, len(migrations))
