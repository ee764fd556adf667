"""What is kept and given again: to the same request, and to similar ones."""

from pydantic import Field

from extproc.settings.fields import Duration, Section, Wait


class Semantic(Section):
    """Answers given to similar requests too, each partition's threshold held to `max_wrong_hit_rate`."""

    enabled: bool = False
    max_wrong_hit_rate: float = Field(default=0.01, gt=0, lt=1)
    sample_share: float = Field(
        default=0.05, ge=0, le=1, description="of the similar hits, asked of the provider too and compared"
    )
    samples_per_minute: int = Field(default=30, ge=0, description="at most, by each worker")


class Cache(Section):
    """Answers kept and given again. `exact`: to the same request; each team's apart unless it opted to share."""

    exact: bool = False
    semantic: Semantic = Semantic()
    ttl: Duration = 86400.0
    temperature_above_zero: bool = Field(default=False, description="keep answers to a temperature above 0 too")
    tool_calls: bool = Field(default=False, description="keep answers that call tools")
    record: bool = Field(default=True, description="false: answer from what is kept, keep nothing new")
    max_entry_bytes: int = Field(default=1024 * 1024, ge=1024, description="a larger answer is not kept")
    max_bytes_per_team: int = Field(
        default=256 * 1024 * 1024, ge=1024 * 1024, description="beyond it what was not used for longest goes"
    )
    coalesce_wait: Wait = Field(
        default=10.0,
        le=25,
        description="how long a request waits for the answer to the same one in flight; 0: not at all",
    )
