"""Where a command's jobs run; imports neither torch nor Ray."""

from pydantic import Field

from overture.core.config import Config


class Where(Config):
    """Where the jobs of a study run; nothing here changes their results."""

    on: str = Field(
        "",
        pattern=r"^(ray(://[^\s/]+)?)?$",
        description="Run jobs on Ray: ray starts workers on this machine, ray://HOST[:PORT] joins a cluster. This "
        "process alone if not given.",
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Workers on Ray, each with a model of its own; one for each GPU or core if not given.",
    )


HERE = Where()
"""In this process."""
