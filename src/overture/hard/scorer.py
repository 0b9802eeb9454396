"""Scores many candidates on the same rows, with the rows' texts cached for candidates that do not change them.

A candidate is one injection of embeddings of its tokens: an instruction `after` the input stands behind the input's
kept keys and values; what stands `before` becomes memory, so it costs no live tokens in any row.

Shape letters: J candidates, B rows, C labels.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from overture.core.config import validated
from overture.core.errors import DataError
from overture.core.injection import Injection, Vectors
from overture.core.records.hard import Candidate, Wording
from overture.core.records.prompt import Shot, TextPrompt
from overture.core.rows import Encoded, OneOf, Segment
from overture.data.encode import Encoder
from overture.data.kinds.classification import corrected
from overture.data.row import Row
from overture.data.rows import texts_of
from overture.data.shots import row_text, shot_ids
from overture.data.task import Task
from overture.engine.answerer import LocalAnswerer
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.compiled import compiled_prompt
from overture.engine.judge import LocalJudge
from overture.evaluate.scoring import grouped

_PROBES = 8
_COPIED_WORDS = 5
_BLOCK = 16
Progress = Callable[[int, int], None]


class Refused(Exception):
    """A candidate that cannot be scored, with the reason."""


@dataclass(frozen=True, slots=True)
class _EncodedRows:
    """Rows encoded under one wording.

    Args:
        encoder: of the wording.
        parts: split -> all parts of all rows; long rows have several.
        rows: split -> the part of each row that races score: the first that holds an answer.
    """

    encoder: Encoder
    parts: dict[str, list[Encoded]]
    rows: dict[str, list[Encoded]]

    @property
    def longest(self) -> int:
        """Tokens of the longest part."""
        return max((part.num_tokens for parts in self.parts.values() for part in parts), default=0)


class TextScorer:
    """Scores candidates on a task's rows.

    Args:
        task: the task file's own.
        backbone: the model.
        splits: split -> rows; those of ``train`` may be shown as examples.
        room: largest number of tokens of an instruction.
        cache: of the texts' keys and values.
        shares: split -> target shares of the labels for each of its rows, [B, C], in place of the rows' own labels.

    Attributes:
        tokens: live tokens that were run.
    """

    def __init__(
        self,
        task: Task,
        backbone: Backbone,
        splits: Mapping[str, Sequence[Row]],
        room: int,
        cache: InputCache | None = None,
        shares: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.task, self.backbone, self.splits, self.room, self.shares = task, backbone, splits, room, shares or {}
        self.answerer = LocalAnswerer(backbone, cache or InputCache())
        self.judge = LocalJudge(self.answerer, max_tokens=4096)
        self.tokens = 0.0
        self._encoded: dict[tuple[str, bool], _EncodedRows] = {}
        self._texts: dict[str, TextPrompt] = {}
        self._blocks: dict[str, list[list[int]]] = {}
        self._read_inputs: set[tuple[Segment, ...]] = set()
        self._row_grams = {gram for row in splits["train"] for gram in _grams(" ".join(texts_of(task, row).values()))}

    # -- the task, text and rows of a candidate

    def task_of(self, wording: Wording) -> Task:
        """The task under a wording."""
        changes = {name: value for name in ("template", "labels") if (value := getattr(wording, name)) is not None}
        task = validated(Task, {**self.task.dump(), **changes}, "wording") if changes else self.task
        return task.scaled(**wording.scaling.dump()) if wording.scaling else task

    def text_of(self, candidate: Candidate) -> TextPrompt:
        """A candidate's text and tokens.

        Raises:
            Refused: its text is empty of tokens, too long, no plain text, copied from a training row, or tokenised
                otherwise in front of or behind rows than alone.
        """
        if candidate.key not in self._texts:
            tokenizer, text = self.backbone.text.tokenizer, candidate.text
            if text and not text.strip():
                raise Refused("an empty text")
            if len(tokenizer.split_specials(text)) > 1 or any(special for _, special in tokenizer.split_specials(text)):
                raise Refused("special tokens in the text")
            ids = tokenizer.encode_plain(text) if text else []
            if len(ids) > self.room:
                raise Refused(f"longer than {self.room} tokens")
            if any(gram in self._row_grams for gram in _grams(text)):
                raise Refused(f"{_COPIED_WORDS} words or more of a training row")
            prompt = self._rendered(candidate, ids)
            if prompt.ids and len(prompt.ids) + self.encoded(candidate.wording, prompt.begins).longest > (
                tokenizer.max_length
            ):
                raise Refused("no room for rows in the model's context")
            if prompt.ids and not self._is_stable(candidate, prompt):
                raise Refused("tokenised otherwise beside a row")
            self._texts[candidate.key] = prompt
        return self._texts[candidate.key]

    def _rendered(self, candidate: Candidate, ids: list[int]) -> TextPrompt:
        tokenizer = self.backbone.text.tokenizer
        is_front = candidate.place == "before" and bool(ids)
        if is_front and not isinstance(self.task.template, str):
            raise Refused("an instruction in front of a chat: write it into the template's messages")
        after, after_ids = ("", []) if is_front else (candidate.text, ids)
        if not candidate.shots and not is_front:
            return TextPrompt(after=after, after_ids=after_ids)
        instruction = candidate.text if is_front else ""
        front, shots = list(tokenizer.bos_ids), list[Shot]()
        front += ids if is_front else []
        example_text = ""
        if candidate.shots:
            rows = [self.splits["train"][number] for number in candidate.shots]
            encoder = self.encoded(candidate.wording, False).encoder
            # An example is formatted like its row, without the instruction behind the input.
            try:
                example_ids = shot_ids(encoder, rows)
            except DataError as error:
                raise Refused(f"examples: {error.what}") from None
            front += example_ids[len(tokenizer.bos_ids) :]
            example_text = "".join(row_text(encoder, row) + "\n\n" for row in rows)
            shots = [Shot(fields=dict(texts_of(self.task, row)), answer=self._answer(encoder, row)) for row in rows]
        return TextPrompt(
            before=instruction + example_text,
            after=after,
            before_ids=front,
            after_ids=after_ids,
            begins=True,
            instruction=instruction,
            shots=shots,
        )

    def _answer(self, encoder: Encoder, row: Row) -> str:
        return encoder.task.spec.shot(encoder.task, row) or ""

    def _is_stable(self, candidate: Candidate, prompt: TextPrompt) -> bool:
        """Whether the texts of some rows, rendered with the prompt, tokenise to the tokens that are scored.

        Rows whose text without a prompt already tokenises differently at the cut between input and anchor are skipped.
        """
        if not isinstance(self.task.template, str) or candidate.shots:
            # A chat's marks, and an example's cuts, are tokens of their own on both sides.
            return True
        encoded_rows = self.encoded(candidate.wording, prompt.begins)
        tokenizer, bos = self.backbone.text.tokenizer, list(self.backbone.text.tokenizer.bos_ids)
        anchor_text, anchor_ids = encoded_rows.encoder.anchor
        for row, encoded in zip(self.splits["train"][:_PROBES], encoded_rows.rows["train"][:_PROBES], strict=True):
            answer = self._answer(encoded_rows.encoder, row)
            row_as_text = row_text(encoded_rows.encoder, row).removesuffix(answer)
            input_text = row_as_text.removesuffix(anchor_text)
            input_ids = list(encoded.input_ids)[0 if prompt.begins else len(bos) :]
            if tokenizer.encode_template(row_as_text) != [*input_ids, *anchor_ids] or not anchor_ids:
                continue
            text = prompt.before + input_text + prompt.after + anchor_text
            front = prompt.before_ids[len(bos) :] if prompt.begins else []
            if tokenizer.encode_template(text) != [*front, *input_ids, *prompt.after_ids, *anchor_ids]:
                return False
        return True

    def encoded(self, wording: Wording, follows: bool) -> _EncodedRows:
        """The rows encoded under a wording; cached.

        Raises:
            Refused: label words that cannot be told apart, or rows that do not fit.
        """
        # Scaling changes the scores and not the rows.
        wording = wording.model_copy(update={"scaling": None})
        key = (json.dumps(wording.dump(), sort_keys=True), follows)
        if key not in self._encoded:
            try:
                task = self.task_of(wording)
                encoder = Encoder(task, self.backbone.text.tokenizer, reserve=self.room, follows=follows)
                parts = {name: self._with_shares(name, encoder.encode(split)) for name, split in self.splits.items()}
            except (DataError, ValueError) as error:
                raise Refused(f"wording: {getattr(error, 'what', error)}") from None
            rows = {
                name: [next((part for part in row if part.target.is_known), row[0]) for row in grouped(split)]
                for name, split in parts.items()
            }
            self._encoded[key] = _EncodedRows(encoder, parts, rows)
        return self._encoded[key]

    def _with_shares(self, split: str, rows: list[Encoded]) -> list[Encoded]:
        """Rows whose targets are the split's shares, where it has them."""
        if split not in self.shares:
            return rows
        rows_with_shares = []
        for row, shares in zip(rows, self.shares[split].tolist(), strict=True):
            assert isinstance(row.target, OneOf)
            rows_with_shares.append(replace(row, target=replace(row.target, shares=tuple(shares))))
        return rows_with_shares

    def rows(self, candidate: Candidate, split: str) -> list[Encoded]:
        """A split's rows encoded for a candidate: of each row the part that races score."""
        return self.encoded(candidate.wording, self.text_of(candidate).begins).rows[split]

    def parts(self, candidate: Candidate, split: str) -> list[Encoded]:
        """A split's rows encoded for a candidate, in all their parts."""
        return self.encoded(candidate.wording, self.text_of(candidate).begins).parts[split]

    @torch.no_grad()
    def injection(self, candidate: Candidate) -> Injection | None:
        """A candidate's prompt; see `injection_of`."""
        return injection_of(self.backbone, self.text_of(candidate))

    # -- its scores

    def losses(self, candidates: Sequence[Candidate], split: str, numbers: Sequence[int]) -> Tensor:
        """Each row's negative log-likelihood of the right answer, per token where one is written, [J, B].

        The loss of a row without a known answer is 0 under every candidate.

        Args:
            candidates: none of them may be refused.
            split: of the rows.
            numbers: of the rows.
        """
        return self._replies(candidates, split, numbers, self._losses)

    def scores(self, candidates: Sequence[Candidate], split: str, numbers: Sequence[int]) -> Tensor:
        """Log-probabilities of each row's labels, [J, B, C]; calibrated as the task is, scaled as the candidate is."""
        return self._replies(candidates, split, numbers, self._scores)

    def _losses(self, task: Task, prompts: Sequence[Injection | None], rows: Sequence[Encoded]) -> Tensor:
        if not rows[0].blanks and not task.is_scaled:
            known_rows = [number for number, row in enumerate(rows) if row.target.is_known]
            weights_B = torch.tensor([rows[number].target.weight for number in known_rows])
            losses_JB = torch.zeros(len(prompts), len(rows))
            if known_rows:
                losses = self.judge.losses(prompts, [rows[number] for number in known_rows])
                losses_JB = losses_JB.to(losses.dtype)
                losses_JB[:, known_rows] = losses.cpu() / weights_B
            return losses_JB
        scores_JBC = self._scores(task, prompts, rows)
        return -(shares_of(rows, scores_JBC.shape[-1]) * scores_JBC).sum(-1)

    def _scores(self, task: Task, prompts: Sequence[Injection | None], rows: Sequence[Encoded]) -> Tensor:
        scores_JBC = self.judge.scores(prompts, rows)
        if not rows[0].blanks and not task.is_scaled:
            return scores_JBC
        blanks = self.judge.scores(prompts, rows[0].blanks)[:, None] if rows[0].blanks else None
        return corrected(task, scores_JBC, blanks)

    def _replies(
        self,
        candidates: Sequence[Candidate],
        split: str,
        numbers: Sequence[int],
        ask: Callable[[Task, Sequence[Injection | None], Sequence[Encoded]], Tensor],
    ) -> Tensor:
        groups: dict[tuple[str, bool], list[int]] = {}
        for index, candidate in enumerate(candidates):
            wording = json.dumps(candidate.wording.dump(), sort_keys=True)
            groups.setdefault((wording, self.text_of(candidate).begins), []).append(index)
        replies: dict[int, Tensor] = {}
        for indices in groups.values():
            split_rows = self.rows(candidates[indices[0]], split)
            rows = [split_rows[number] for number in numbers]
            prompts = [self.injection(candidates[index]) for index in indices]
            if not self.text_of(candidates[indices[0]]).begins:
                for block in self._blocks_of(split_rows, split, numbers):
                    self.answerer.warm(block, [None] * len(block))
            self.tokens += sum(self.live_tokens(candidates[index], rows) for index in indices)
            task = self.task_of(candidates[indices[0]].wording)
            replies |= zip(indices, ask(task, prompts, rows), strict=True)
        return torch.stack([replies[index] for index in range(len(candidates))])

    def live_tokens(self, candidate: Candidate, rows: Sequence[Encoded]) -> float:
        """Live tokens of scoring a candidate on rows; texts that it does not change are cached and do not count."""
        text = self.text_of(candidate)
        reads_anchor_only = self.backbone.family.is_causal and not text.before_ids
        num_tokens = sum(row.num_tokens - (row.num_input if reads_anchor_only else 0) for row in rows)
        return num_tokens + len(text.after_ids) * len(rows) + len(text.before_ids)

    def order(self, split: str, numbers: Sequence[int]) -> None:
        """Set the order in which rows will be used: their texts are read in blocks of that order.

        A text is then always computed beside the same texts, so a resumed search gives the same bits.
        """
        self._blocks[split] = [list(numbers[start : start + _BLOCK]) for start in range(0, len(numbers), _BLOCK)]

    def count_reading(self, candidates: Sequence[Candidate], split: str, numbers: Sequence[int]) -> None:
        """Count the texts that scoring these candidates would read, so that a resumed search counts the same tokens."""
        for candidate in candidates:
            if not self.text_of(candidate).begins:
                self._blocks_of(self.rows(candidate, split), split, numbers)

    def _blocks_of(self, rows: Sequence[Encoded], split: str, numbers: Sequence[int]) -> list[list[Encoded]]:
        """The blocks that hold some rows, whose texts are counted the first time."""
        requested, blocks = set(numbers), []
        for block in self._blocks.get(split, ()):
            if not requested.isdisjoint(block):
                block_rows = [rows[number] for number in block]
                unread_inputs = {row.input for row in block_rows} - self._read_inputs
                self.tokens += sum(len(segment) for segments in unread_inputs for segment in segments)
                self._read_inputs |= unread_inputs
                blocks.append(block_rows)
        return blocks

    def warm(self, wording: Wording, split: str, progress: Progress = lambda num_blocks, total: None) -> None:
        """Read a split's texts into the cache, in an order that depends on the texts only."""
        rows = self.encoded(wording, False).rows[split]
        self.tokens += sum(row.num_input for row in rows)
        self._read_inputs |= {row.input for row in rows}
        blocks = self._blocks.get(split) or [list(range(len(rows)))]
        for num_blocks, block in enumerate(blocks, 1):
            self.answerer.warm([rows[number] for number in block], [None] * len(block))
            progress(num_blocks, len(blocks))

    @property
    def has_labels(self) -> bool:
        """Whether each row has one label, of a set that all rows share."""
        rows = self.encoded(Wording(), False).rows["train"]
        return all(
            isinstance(row.target, OneOf) and row.label is not None and not row.target.candidates.is_own for row in rows
        )

    @property
    def can_scale(self) -> bool:
        """Whether label scores can have a temperature and biases that the task file does not set."""
        return self.has_labels and "temperature" in self.task.spec.options.model_fields and not self.task.is_scaled


def shares_of(rows: Sequence[Encoded], num_labels: int) -> Tensor:
    """The rows' target shares of the labels, [B, C]; 1 for the right label of a row without shares."""
    shares_BC = torch.zeros(len(rows), num_labels)
    for shares_C, row in zip(shares_BC, rows, strict=True):
        if isinstance(row.target, OneOf) and row.target.shares is not None:
            shares_C[:] = torch.tensor(row.target.shares)
        else:
            shares_C[row.label or 0] = 1
    return shares_BC


def injection_of(backbone: Backbone, text: TextPrompt) -> Injection | None:
    """A prompt of a text's token embeddings, those before the input compiled to memory; None without tokens."""
    if not text.ids:
        return None
    split = None
    values = backbone.embed(text.ids)
    if text.place == "around":
        split = values.new_zeros(len(text.ids) + 1)
        split[len(text.before_ids)] = 1
    return compiled_prompt(backbone, Injection(Vectors(values, text.place, split=split)))


def _grams(text: str) -> list[tuple[str, ...]]:
    words = text.casefold().split()
    return [tuple(words[start : start + _COPIED_WORDS]) for start in range(len(words) - _COPIED_WORDS + 1)]
