"""Context-aware prompt: token vectors of labelled training rows, moved a little, that still predict their labels.

The prompt begins as the text of examples, each its input, its anchor, its label word (or answer) and an empty line.
With the vectors' start E [P, D] and trained changes d [P, D]:

    vector_i = E_i + d_i min(1, epsilon_i / |d_i|)
    loss     = sum of the rows' losses + rows * w * sum over examples n = 1..K of g^(K + 1 - n) * loss of their label

so no vector leaves a ball around its token: epsilon_i is `epsilon` where the token holds the row's own text, and
`format_epsilon` for what the template writes around it, the start token, the label and the empty line. The newest
example, next to the text, weighs most (w `context_loss`, g `decay`). The vector before each label token predicts it;
that loss counts in training alone, scores do not have it. Trainable values: P D, where P is what the examples take: the
prompt's `length` is their upper limit, and `init` is not looked at.

Source: Blau et al. 2024, "Context-aware Prompt Tuning: Advancing In-Context Learning with Adversarial Methods", the
section on the method (the context of templates, inputs and labels, the loss with its decay, the projection), and peft's
`CPTEmbedding`. Deviations: peft projects the values after each step and fixes the label tokens, ours scales them inside
the pass and lets labels change as the template does; balls are measured in the model's mean vector length instead
of sqrt(D / 2048); the losses are added up, not averaged over the labels of context and row. What is kept are the
vectors, without the examples' tokens and their roles: peft's files of type CPT need those, so prompts of this method
leave for peft as plain vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

import torch
from torch import Tensor

from overture.core.errors import ConfigError
from overture.core.injection import Injection, Vectors, VectorTarget
from overture.core.rows import Encoded, OneOf, Signal
from overture.core.seeds import named_random
from overture.prompt.methods import CptOptions
from overture.prompt.module import PromptModule, Request

SEPARATOR = "\n\n"


@dataclass(frozen=True, slots=True)
class Example:
    """A training row with its label as tokens.

    Args:
        input_ids: its input.
        anchor_ids: the template's end.
        gold_ids: the label's tokens, which are predicted.
        separator_ids: tokens between two examples.
        is_text: for each token of input and anchor whether it is the row's own text, which may move far, and not the
            template's, which may move little.
    """

    input_ids: tuple[int, ...]
    anchor_ids: tuple[int, ...]
    gold_ids: tuple[int, ...]
    separator_ids: tuple[int, ...]
    is_text: tuple[bool, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """All its tokens, in order."""
        return (*self.input_ids, *self.anchor_ids, *self.gold_ids, *self.separator_ids)


class ContextPrompt(PromptModule):
    """Changes [P, D] of constant vectors, each held within its ball."""

    start: Tensor
    radius: Tensor

    def __init__(self, start: Tensor, radius: Tensor, targets: tuple[VectorTarget, ...]) -> None:
        super().__init__()
        self.targets = targets
        self.register_buffer("start", start)
        self.register_buffer("radius", radius)
        self.change = torch.nn.Parameter(torch.zeros_like(start))

    def injection(self) -> Injection:
        """The vectors, and the tokens that they must predict."""
        length = self.change.norm(dim=1, keepdim=True)
        values = self.start + self.change * (self.radius / torch.maximum(length, self.radius))
        return Injection(Vectors(values, "before", targets=self.targets))


def build(request: Request) -> ContextPrompt:
    """The examples as they are.

    Raises:
        ConfigError: there are no labelled examples, or none fits into the prompt's length.
    """
    options: CptOptions = request.options
    source = request.source
    groups = _examples(source.examples, tuple(source.encode(SEPARATOR)), source.bos_ids)
    examples = drawn_examples(groups, request, options.num_examples)
    ids = [token for example in examples for token in example.ids]
    shares: list[float] = []
    for example in examples:
        shares += [options.epsilon if is_text else options.format_epsilon for is_text in example.is_text]
        # The label and the empty line move as little as the template.
        shares += [options.format_epsilon] * (len(example.ids) - len(example.is_text))
    start = source.embed(ids).detach().float().clone()
    radius = start.new_tensor(shares)[:, None] * source.embedding_norm
    return ContextPrompt(start, radius, targets_of(examples, options))


def drawn_examples(groups: Sequence[list[Example]], request: Request, count: int) -> list[Example]:
    """Examples drawn by seed, label after label, as many as fit into the prompt's length.

    The model's start tokens stand once, in front of the first example; the row behind the prompt has its own.
    """
    bos, random = request.source.bos_ids, named_random(request.seed, "examples")
    for group in groups:
        random.shuffle(group)
    room = request.length - len(bos)
    examples: list[Example] = []
    for example in filter(None, chain.from_iterable(zip_longest(*groups))):
        if len(examples) < count and len(example.ids) <= room:
            examples.append(example)
            room -= len(example.ids)
    if not examples:
        sizes = [len(bos) + len(example.ids) for group in groups for example in group]
        raise ConfigError(
            "no training row fits into the prompt as an example" if sizes else "there are no labelled training rows",
            where="prompt.length",
            got=str(request.length),
            wanted=f"at least {min(sizes)}" if sizes else "",
            fix=f"--length {4 * sorted(sizes)[len(sizes) // 2]}" if sizes else "",
        )
    first_example = examples[0]
    with_bos = replace(
        first_example,
        input_ids=(*bos, *first_example.input_ids),
        is_text=(*(False for _ in bos), *first_example.is_text),
    )
    return [with_bos, *examples[1:]]


def targets_of(examples: Sequence[Example], options: CptOptions) -> tuple[VectorTarget, ...]:
    """The label tokens as targets of the vectors in front of them; newer examples weigh more."""
    targets, begin = [], 0
    for number, example in enumerate(examples):
        weight = options.context_loss * options.decay ** (len(examples) - number)
        # The output in front of a token predicts it.
        index_before = begin + len(example.input_ids) + len(example.anchor_ids) - 1
        targets += [VectorTarget(index_before + index, token, weight) for index, token in enumerate(example.gold_ids)]
        begin += len(example.ids)
    return tuple(targets) if options.context_loss else ()


def _examples(rows: Sequence[Encoded], separator: tuple[int, ...], bos: tuple[int, ...] = ()) -> list[list[Example]]:
    """Labelled rows by label, or all together for free text, without the model's start tokens."""
    groups: dict[int, list[Example]] = {}
    for row in rows:
        if any(isinstance(segment, Signal) for segment in (*row.input, *row.anchor)):
            raise ConfigError(
                "method 'cpt' starts from the texts of training rows",
                where="prompt.method",
                got="rows with images or sounds",
                fix="--method vectors",
            )
        gold = _gold(row)
        if gold:
            num_bos = len(bos) if row.input_ids[: len(bos)] == bos else 0
            example = Example(row.input_ids[num_bos:], row.anchor_ids, gold, separator, _is_text(row)[num_bos:])
            groups.setdefault(row.label or 0, []).append(example)
    return [groups[label] for label in sorted(groups)]


def _is_text(row: Encoded) -> tuple[bool, ...]:
    """For each token of input and anchor whether it is the row's own; the whole input if that is unknown."""
    texts = ((0, len(row.input_ids)),) if row.texts is None else row.texts
    text_places = {index for start, end in texts for index in range(start, end)}
    return tuple(index in text_places for index in range(len(row.input_ids) + len(row.anchor_ids)))


def _gold(row: Encoded) -> tuple[int, ...]:
    """A label's first word, or the answer; empty when unknown."""
    if not isinstance(row.target, OneOf):
        return row.answer_ids or ()
    candidates, label = row.target.candidates, row.target.label
    return () if label is None else candidates.words[candidates.label_of.index(label)]
