"""Where a command's jobs run; imports neither torch nor Ray."""

from importlib.util import find_spec

from pydantic import Field

from overture.core.config import Config
from overture.core.errors import ConfigError


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


def check_ray() -> None:
    """Refuse a run on Ray where Ray is missing.

    Raises:
        ConfigError: it is not installed here.
    """
    if find_spec("ray") is None:
        raise ConfigError(
            "Ray is not installed in this environment",
            where="--on ray",
            fix="make ray, then .venv-ray/bin/python -m overture ...; or pip install ray",
        )
