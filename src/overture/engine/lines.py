"""One answer while it is written, and the choice of next tokens: the likeliest ones, or sampled ones.

Shape letters: B rows, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overture.core.decoding import Decoding
from overture.core.injection import LayerMemory
from overture.core.rows import Allowed, Answer, Encoded
from overture.core.seeds import derived_seed


def without(logits: Tensor, unwritten: tuple[Sequence[int], Sequence[int]], lengths: Sequence[int | None]) -> Tensor:
    """Logits with tokens that are never written, or not as the first, at minus infinity.

    Args:
        logits: behind each line, [B, V].
        unwritten: tokens that are never written, and those that no answer begins with.
        lengths: tokens of each line so far; None for one with a rule of its own.
    """
    always, not_first = unwritten
    if not always and not not_first:
        return logits
    masked = logits.clone()
    for number, length in enumerate(lengths):
        if length is not None:
            masked[number, [*always, *(() if length else not_first)]] = float("-inf")
    return masked


def append_next(
    logits: Tensor, lines: Sequence["Line"], unwritten: tuple[Sequence[int], Sequence[int]] = ((), ())
) -> Tensor:
    """Choose the next token of each line, append it where the line is not done, and return the tokens, [B].

    Args:
        logits: behind each line, [B, V].
        lines: the answers so far.
        unwritten: tokens that a line without a rule of its own never has, and does not begin with.
    """
    logits = without(logits, unwritten, [None if line.allowed else len(line.ids) for line in lines])
    allowed_logits = _allowed_logits(logits, lines)
    token = allowed_logits.argmax(-1)
    for number, line in enumerate(lines):
        if line.chance is not None and not line.is_done:
            token[number] = line.chance(allowed_logits[number])
    log_shares = log_shares_of(logits)
    shares = log_shares.gather(1, token[:, None])[:, 0].tolist()
    for number, (line, chosen_token, share) in enumerate(zip(lines, token.tolist(), shares, strict=True)):
        if line.num_top and not line.is_done:
            values, ids = log_shares[number].topk(line.num_top)
            line.tops.append(tuple(zip(ids.tolist(), values.tolist(), strict=True)))
        line.append(chosen_token, share)
    return token


def log_shares_of(logits: Tensor) -> Tensor:
    """Log-probabilities, float32 or finer."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)


class Line:
    """One answer while it is written.

    Args:
        row: may restrict the tokens of the answer.
        eos_id: the token that ends an answer.
        max_new_tokens: the largest number of tokens.
        is_whole: takes the tokens so far; whether the answer ends with them.
        chance: draws tokens; the likeliest ones when None.
        num_top: how many of the likeliest tokens are recorded at each place.
        keeps_memory: its columns are copied to ``memory`` when it is done.

    Attributes:
        ids: the tokens, without the end token.
        shares: their log-probabilities.
        tops: the likeliest tokens at each place, the end token's with them.
        is_cut: whether the answer ends only because of ``max_new_tokens``.
        memory: columns of prompt, row and answer without its last token; None where they are not in one piece.
    """

    def __init__(
        self,
        row: Encoded,
        eos_id: int | None,
        max_new_tokens: int,
        is_whole: Callable[[Sequence[int]], bool],
        chance: "Chance | None" = None,
        num_top: int = 0,
        keeps_memory: bool = False,
    ) -> None:
        self.allowed, self.eos_id, self.max_new_tokens, self.is_whole = (
            allowed_of(row),
            eos_id,
            max_new_tokens,
            is_whole,
        )
        self.chance, self.num_top = chance, num_top
        self.ids: list[int] = []
        self.shares: list[float] = []
        self.tops: list[tuple[tuple[int, float], ...]] = []
        self.keeps_memory = keeps_memory
        self.memory: LayerMemory | None = None
        self.log_likelihood = 0.0
        self.is_done = self.is_cut = False

    def may_follow(self) -> Sequence[int] | None:
        """Tokens that may come next; None for any."""
        return None if self.is_done or self.allowed is None else self.allowed(self.ids)

    def append(self, token: int, share: float) -> None:
        """Write a token, unless the answer has ended."""
        if self.is_done:
            return
        if self.allowed is not None and token not in self.allowed(self.ids):
            # Nothing may follow: the answer ends here.
            self.is_done = True
            return
        self.log_likelihood += share
        if token == self.eos_id:
            self.is_done = True
            return
        self.ids.append(token)
        self.shares.append(share)
        self.is_done = self.is_whole(self.ids)
        self.is_cut = not self.is_done and len(self.ids) == self.max_new_tokens
        self.is_done = self.is_done or self.is_cut


def allowed_of(row: Encoded) -> Allowed | None:
    """The row's rule for tokens of its answer; None where any may follow."""
    return row.target.allowed if isinstance(row.target, Answer) else None


def _allowed_logits(logits: Tensor, lines: Sequence[Line]) -> Tensor:
    """Logits with forbidden tokens at minus infinity; unchanged in rows where any token, or none, may follow."""
    allowed_by_row = [line.may_follow() for line in lines]
    if all(allowed is None for allowed in allowed_by_row):
        return logits
    masked = logits.clone()
    for number, allowed in enumerate(allowed_by_row):
        if allowed:
            tokens = torch.tensor(list(allowed), device=logits.device)
            masked[number] = torch.full_like(logits[number], float("-inf")).index_copy(
                0, tokens, logits[number, tokens]
            )
    return masked


@dataclass(frozen=True, slots=True)
class Chance:
    """Draws the tokens of one row from a stream of its own, so that batches change nothing.

    Source of top-p: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
    """

    generator: torch.Generator
    temperature: float
    top_p: float

    def __call__(self, logits: Tensor) -> int:
        """A token by its logits, [V]."""
        # Subtracting the maximum first keeps the lowest temperatures from giving infinities.
        scores = logits.double().cpu()
        shares = ((scores - scores.max()) / self.temperature).softmax(dim=-1)
        sorted_shares, index = shares.sort(dim=-1, descending=True, stable=True)
        # Top-p keeps a token if the more likely ones together have less than the share.
        nucleus = sorted_shares * (sorted_shares.cumsum(-1) - sorted_shares < self.top_p)
        return int(index[torch.multinomial(nucleus, 1, generator=self.generator)])


def chance_of(row: Encoded, decoding: Decoding) -> Chance | None:
    """A generator seeded by a row's text; None where answers are greedy."""
    if decoding.temperature is None:
        return None
    text = " ".join(map(str, (*row.input_elements, *row.anchor_elements)))
    generator = torch.Generator().manual_seed(derived_seed(decoding.seed, "sample", text))
    return Chance(generator, decoding.temperature, decoding.top_p)
