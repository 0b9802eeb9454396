"""A prompt's label probabilities on rows whose right label is known; they tell how sure a later answer is."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from overture.core.config import Config
from overture.core.errors import ArtifactError
from overture.core.records.base import Record

WHOLE = 10_000
"""Shares are kept in ten-thousandths."""
_MOST_CELLS = 50_000
"""Rows times labels that are kept, in about 5 bytes each."""


class Doubt(Config):
    """How answers say that they are not sure."""

    coverage: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Give the set of labels that holds the right one in this share of rows, by split conformal "
        "prediction from the rows kept with the prompt.",
    )
    abstain: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Answer only where this share of the answers is right, with 95% confidence; say nothing elsewhere.",
    )

    @property
    def is_wanted(self) -> bool:
        """Whether anything is asked."""
        return self.coverage is not None or self.abstain is not None


class KeptShares(Record):
    """Label shares of rows with known labels."""

    source: Literal["validation", "file"] = Field(
        description="validation rows of the run, which chose the epoch too; or rows of a file"
    )
    num_rows: int = Field(description="rows that are kept", gt=0)
    of_rows: int = Field(description="rows that were scored", gt=0)
    is_calibrated: bool = Field(False, description="whether shares were divided by those of rows without content")
    rows: str = Field(
        description="for each row the index of the right label and all labels' shares in ten-thousandths, empty for 0",
        pattern=r"^\d{1,6}:\d{0,5}(,\d{0,5})+(;\d{1,6}:\d{0,5}(,\d{0,5})+)*$",
        max_length=500_000,
    )

    def pairs(self) -> list[tuple[int, tuple[int, ...]]]:
        """The right label of each row, and the shares of all.

        Raises:
            ArtifactError: they are not those of `num_rows` rows.
        """
        pairs = []
        for row in self.rows.split(";"):
            gold, _, shares = row.partition(":")
            pairs.append((int(gold), tuple(int(share or 0) for share in shares.split(","))))
        if len(pairs) != self.num_rows or any(gold >= len(shares) or max(shares) > WHOLE for gold, shares in pairs):
            raise ArtifactError(
                "the kept shares are damaged",
                got=f"{len(pairs)} rows",
                wanted=f"{self.num_rows} rows of shares up to {WHOLE}, each with one of its labels",
                fix="overture eval PROMPT FILE --keep-shares makes them again",
            )
        return pairs


def in_parts(shares: Sequence[float]) -> tuple[int, ...]:
    """Shares in ten-thousandths, as they are kept and compared."""
    return tuple(round(share * WHOLE) for share in shares)


def kept_shares(
    pairs: Sequence[tuple[int, Sequence[float]]], source: Literal["validation", "file"], is_calibrated: bool
) -> KeptShares | None:
    """The record of rows with known labels; None where there are none.

    Args:
        pairs: for each row the index of the right label, and all labels' shares. Of many rows, evenly spaced ones are
            kept.
        source: where they come from.
        is_calibrated: whether label scores were calibrated.
    """
    if not pairs:
        return None
    most = max(1, _MOST_CELLS // max(len(shares) for _, shares in pairs))
    count = min(len(pairs), most)
    chosen = [pairs[number * len(pairs) // count] for number in range(count)]
    rows = ";".join(f"{gold}:" + ",".join(str(part or "") for part in in_parts(shares)) for gold, shares in chosen)
    return KeptShares(source=source, num_rows=count, of_rows=len(pairs), is_calibrated=is_calibrated, rows=rows)
