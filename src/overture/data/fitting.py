"""Rows that are too long for the model, shortened."""

from collections.abc import Callable, Mapping

from overture.core.rows import Encoded


def shortened(
    texts: Mapping[str, str],
    build: Callable[[Mapping[str, str]], Encoded],
    over: Callable[[Encoded], int],
    whole: Encoded,
) -> tuple[Mapping[str, str], Encoded] | None:
    """The row's texts, the longest cut to one length, as long as fits, and the row of them; None if nothing fits.

    One length for all: the longest is shortened first, and no field disappears for another's sake.
    """

    def cut(length: int) -> dict[str, str]:
        return {name: text[:length] for name, text in texts.items()}

    fits, fails = 1, max(map(len, texts.values()))
    best, fails_over = build(cut(fits)), over(whole)
    if over(best) > 0:
        return None
    step = 0
    while fails - fits > 1 and over(best) < 0:
        # Tokens grow about evenly with characters, so a straight line lands close; halving in turn bounds the steps.
        share = 0.5 if step % 2 else -over(best) / (fails_over - over(best))
        length = min(max(fits + int(share * (fails - fits)), fits + 1), fails - 1)
        item = build(cut(length))
        if over(item) <= 0:
            fits, best = length, item
        else:
            fails, fails_over = length, over(item)
        step += 1
    return cut(fits), best
