"""``overture explain``: what a stored prompt does, on rows of its run or of a file."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from overture.core.contracts import RowMethod
from overture.core.errors import BackboneError, StoreError
from overture.core.injection import Injection
from overture.core.media import Media
from overture.core.meter import Meter
from overture.core.records.explain import (
    AttentionShare,
    Check,
    Explanation,
    HeatWord,
    Part,
    PartKind,
    TextHeat,
    VectorReading,
)
from overture.core.records.hard import Candidate
from overture.core.records.prompt import TextPrompt
from overture.core.rows import Encoded, Prediction
from overture.core.sealed import read_sealed
from overture.core.seeds import derived_seed, named_random
from overture.data.row import Row
from overture.data.rows import content_of, gold_of, texts_of
from overture.engine.answerer import LocalAnswerer
from overture.engine.cache import InputCache
from overture.engine.judge import LocalJudge
from overture.engine.lens import attention_to_prompt, vectors_through_layers
from overture.engine.prompted import PromptedModel
from overture.evaluate.facts import config_of, values_of
from overture.evaluate.host import Handle
from overture.evaluate.intervals import paired_test
from overture.evaluate.scoring import check_answerable, predict
from overture.evaluate.source import predicts_words, prompt_source
from overture.explain.checks import agreement, completeness, deletion, randomisation, seed_stability
from overture.explain.flips import flip_counts, slices
from overture.explain.gradients import integrated
from overture.explain.media import PIECES, media_pieces
from overture.explain.parts import changes_of, drops_of, mean_of, scores_without
from overture.explain.shift import label_shifts, shift_likeness, shifted_words, vocabulary_shift
from overture.explain.words import Occluded, pieces_of, without, words_check
from overture.hard.scorer import Refused, TextScorer
from overture.jobs.wording.options import ExplainConfig, check_compared
from overture.prompt.pack import prompt_from
from overture.store.artifact import load_artifact
from overture.store.runs import run_of
from overture.store.store import Store

Progress = Callable[[str, int, int], None]
_GRADIENT_ROWS = 24
_RANDOM_ROWS = 48
_MOST_COLUMNS = 64
_ATTENTION_ROWS = 32
_LENS_ROWS = 8
_LENS_TOKENS = 3
_MOST_WORDS, _FEWEST_WORDS = 24, 8
_ROW_TOKENS = 3000
_MOST_WORD_ROWS = 12
_WORD_TOKENS = 12_000


def explain(
    handle: Handle,
    rows: Sequence[Row],
    split: str,
    config: ExplainConfig | None = None,
    progress: Progress = lambda what, done, total: None,
    other_seeds: Sequence[Injection] = (),
) -> Explanation:
    """Explain a prompt on rows with labels.

    Args:
        handle: the prompt on its model.
        rows: the rows; a sample of them is taken where there are more than wanted.
        split: name of the split, for the result.
        config: how many rows and texts are looked at.
        progress: called with (what, done, all).
        other_seeds: prompts that differ by their seed alone, see `other_seeds_of`.

    Raises:
        ConfigError: the task's rows have no label each.
        BackboneError: the model cannot answer without the prompt, so nothing can be compared.
    """
    return _Explainer(handle, rows, split, config or ExplainConfig(), progress, other_seeds).run()


def other_seeds_of(handle: Handle, store: Store) -> list[Injection]:
    """Prompts of the other seeds of a prompt's run, where its folder keeps any that do not depend on the row."""
    manifest = handle.manifest
    try:
        folder = run_of(store, manifest, "").folder
    except StoreError:
        return []
    prompts = []
    for path in sorted(folder.glob("seed-*/prompt.safetensors")):
        tensors, _ = read_sealed(path, "delete it")
        if path.parent.name != f"seed-{manifest.lineage.seed}" and not handle.has_adapter:
            prompts.append(_live_prompt(handle, tensors))
    return [prompt for prompt in prompts if isinstance(prompt, Injection)]


def _live_prompt(handle: Handle, tensors: dict[str, Tensor]) -> Injection | RowMethod:
    """A prompt as it is stored; the host compiles what stands before the text."""
    manifest, backbone = handle.manifest, handle.backbone
    values = values_of(manifest, tensors, backbone)
    return prompt_from(values, config_of(manifest), prompt_source(backbone, handle.encoder))


@dataclass(slots=True)
class _Explainer:
    handle: Handle
    all_rows: Sequence[Row]
    split: str
    config: ExplainConfig
    progress: Progress
    other_seeds: Sequence[Injection]

    def run(self) -> Explanation:
        """All parts of the explanation."""
        handle, task, meter = self.handle, self.handle.task, Meter(self.handle.backbone.device.type)
        check_compared(task.kind)
        rows, notices = self._sample()
        encoded = handle.encoder.encode(rows)
        cache = None if handle.has_adapter else InputCache()
        with_prompt = handle.model(cache)
        plain, plain_notices = self._plain(with_prompt, cache)
        notices += plain_notices
        alone = handle.encoded_alone(rows, encoded)
        predictions = self._predictions(with_prompt, plain, encoded, alone)
        gold = [str(label) for label in gold_of(task, rows)]
        answers = [[prediction.text for prediction in of_model] for of_model in predictions]
        scores = [
            torch.tensor([[*(prediction.probabilities or {}).values()] for prediction in of_model]).log()
            for of_model in predictions
        ]
        names = list(task.words)
        change_BV = self._change(with_prompt, plain, encoded, alone)
        gold_B = torch.tensor([names.index(label) for label in gold])
        # The name of a file is nothing that the model reads.
        texts = [" ".join(text for name, text in texts_of(task, row).items() if name not in task.media) for row in rows]
        parts, checks = self._parts(with_prompt, encoded, rows)
        heats, word_check = self._heats(with_prompt, plain, rows, gold, answers)
        words = handle.manifest.text
        return Explanation(
            prompt=handle.manifest.ref,
            backbone=handle.manifest.backbone.id,
            task=task.name,
            method=handle.manifest.method,
            place=handle.manifest.place,
            length=handle.manifest.length,
            text=[text for text in (words.before, words.after) if text] if words else [],
            split=self.split,
            rows=len(rows),
            compared=paired_test(gold, answers[0], answers[1], "accuracy"),
            raised=[] if change_BV is None else shifted_words(change_BV.mean(0), plain),
            lowered=[] if change_BV is None else shifted_words(change_BV.mean(0), plain, is_lowered=True),
            labels=label_shifts(names, gold_B, scores[0], scores[1], change_BV, plain),
            parts=parts,
            flips=flip_counts(gold, answers[1], answers[0]),
            slices=slices(texts, gold, answers[1], answers[0]),
            texts=heats,
            attention=self._attention(with_prompt, encoded),
            lens=self._lens(encoded),
            checks=[*checks, word_check, *self._stability(change_BV, plain, encoded, alone)],
            seconds=meter.seconds,
            notices=notices,
        )

    def _predictions(
        self, with_prompt: PromptedModel, plain: PromptedModel, encoded: Sequence[Encoded], alone: Sequence[Encoded]
    ) -> list[list[Prediction]]:
        """Predictions for all rows with the prompt, and without it.

        Raises:
            BackboneError: the model cannot answer without the prompt.
        """
        task = self.handle.task
        try:
            check_answerable(plain, alone[:1], task)
        except BackboneError as error:
            raise BackboneError(
                "the model cannot answer without this prompt, so nothing can be compared",
                where=self.handle.manifest.ref,
                got=error.what,
            ) from None
        return [
            predict(model, rows, task, progress=partial(self.progress, stage))
            for model, rows, stage in (
                (with_prompt, encoded, "scoring with the prompt"),
                (plain, alone, "scoring without it"),
            )
        ]

    def _plain(self, with_prompt: PromptedModel, cache: InputCache | None) -> tuple[PromptedModel, list[str]]:
        """The model without the prompt; one without words keeps the prompt's label vectors, or it could not answer."""
        backbone, prompt = self.handle.backbone, with_prompt.prompt
        if backbone.family.has_words or not isinstance(prompt, Injection):
            return PromptedModel(backbone, None, cache), []
        bare = replace(prompt, vectors=None, memory=None, offset=None)
        notice = "without the prompt this model answers by the prompt's label vectors alone"
        return PromptedModel(backbone, bare, cache), [notice]

    def _sample(self) -> tuple[list[Row], list[str]]:
        """The rows that are looked at, and a notice where they are not all."""
        rows = list(self.all_rows)
        if len(rows) <= self.config.rows:
            return rows, []
        random = named_random(self.config.seed, "explained rows")
        sample = [rows[number] for number in sorted(random.sample(range(len(rows)), self.config.rows))]
        return sample, [f"a sample of {len(sample)} of {len(rows)} rows was looked at"]

    def _change(
        self,
        with_prompt: PromptedModel,
        plain: PromptedModel,
        rows: Sequence[Encoded],
        alone: Sequence[Encoded],
    ) -> Tensor | None:
        """The vocabulary's shift; None where labels are not read from words."""
        injection = with_prompt.injections(rows[:1])[0]
        if not predicts_words(plain.backbone, self.handle.task) or (
            injection is not None and injection.labels is not None
        ):
            return None
        self.progress("reading the vocabulary's shift", 0, 1)
        return vocabulary_shift(with_prompt, plain, rows, alone)

    def _attention(self, with_prompt: PromptedModel, encoded: Sequence[Encoded]) -> AttentionShare | None:
        """Attention to the prompt's columns; None where rows have prompts of their own, or two stacks read them."""
        shown_rows = encoded[:_ATTENTION_ROWS]
        injections = with_prompt.injections(shown_rows)
        prompt = injections[0]
        is_one = all(injection is prompt for injection in injections)
        if prompt is None or not prompt.length or not is_one or with_prompt.backbone.encoder is not None:
            return None
        shares_NQP = attention_to_prompt(with_prompt.answerer, prompt, shown_rows)
        return AttentionShare(
            heads=shares_NQP.sum(-1).tolist(), columns=shares_NQP.mean((0, 1)).tolist(), rows=len(shown_rows)
        )

    def _lens(self, encoded: Sequence[Encoded]) -> list[VectorReading]:
        """Tokens that the head predicts from a prompt's vectors in each layer; empty for prompts without vectors."""
        backbone, manifest = self.handle.backbone, self.handle.manifest
        is_read = backbone.has_head and backbone.family.is_causal and backbone.encoder is None
        if manifest.text is not None or not is_read or self.handle.has_adapter:
            return []
        prompt = _live_prompt(self.handle, load_artifact(self.handle.folder)[1])
        if not isinstance(prompt, Injection) or prompt.vectors is None:
            return []
        num_layers = backbone.info.num_layers
        layers = sorted({round(num_layers * share) for share in (0.25, 0.5, 0.75, 1)} | {manifest.layer})
        logs = vectors_through_layers(LocalAnswerer(backbone), prompt, encoded[:_LENS_ROWS], layers)
        decode = backbone.text.tokenizer.decode
        return [
            VectorReading(
                column=column + 1,
                layer=layer,
                tokens=[decode([token]) for token in logs_V.topk(_LENS_TOKENS).indices.tolist()],
            )
            for layer, logs_PV in zip([n for n in layers if n >= (manifest.layer)], logs, strict=True)
            for column, logs_V in enumerate(logs_PV)
        ]

    def _stability(
        self, change_BV: Tensor | None, plain: PromptedModel, encoded: Sequence[Encoded], alone: Sequence[Encoded]
    ) -> list[Check]:
        """Whether the run's other seeds say the same, where they are kept."""
        other_prompts = [] if change_BV is None or self.handle.manifest.text else self.other_seeds
        if change_BV is None or not other_prompts:
            return []
        first_rows = slice(0, _RANDOM_ROWS)
        likenesses = []
        for prompt in other_prompts:
            model = PromptedModel(self.handle.backbone, prompt, plain.cache)
            other_BV = vocabulary_shift(model, plain, encoded[first_rows], alone[first_rows])
            likenesses.append(shift_likeness(change_BV[first_rows].mean(0), other_BV.mean(0)))
        return [seed_stability(likenesses)]

    # -- parts

    def _parts(
        self, with_prompt: PromptedModel, encoded: Sequence[Encoded], rows: Sequence[Row]
    ) -> tuple[list[Part], list[Check]]:
        text = self.handle.manifest.text
        if text is not None:
            return self._text_parts(text, rows), [
                Check(name=name, passed=None, text="for prompts of columns; the parts here are words")
                for name in ("completeness", "deletion", "randomisation", "agreement")
            ]
        injections = [injection for injection in with_prompt.injections(encoded) if injection is not None]
        length = injections[0].length if injections else 0
        if not length or length > _MOST_COLUMNS:
            reason = f"a prompt of {length} columns; ablation is for 1 to {_MOST_COLUMNS}"
            return [], [Check(name="ablation", passed=None, text=reason)]
        is_one = all(injection is injections[0] for injection in injections)
        answerer = with_prompt.answerer
        half = max(1, len(encoded) // 2)
        first = injections[:1] if is_one else injections[:half]
        self.progress("leaving out columns", 0, 1)
        left_out = [[], *([number] for number in range(length))]
        scores_JBC = scores_without(answerer, first, encoded[:half], left_out)
        parts = [
            Part(kind="column", name=str(number), change=mean_of(changes.tolist()), drop=mean_of(drops.tolist()))
            for number, (changes, drops) in enumerate(
                zip(changes_of(scores_JBC), drops_of(scores_JBC, encoded[:half]), strict=True), 1
            )
        ]
        self.progress("leaving out columns", 1, 1)
        return parts, self._checks(answerer, injections, is_one, encoded, half, parts)

    def _checks(
        self,
        answerer: LocalAnswerer,
        injections: Sequence[Injection],
        is_one: bool,
        encoded: Sequence[Encoded],
        half: int,
        parts: Sequence[Part],
    ) -> list[Check]:
        changes = [part.change.value for part in parts]
        seed = derived_seed(self.config.seed, "checks") % 2**31
        second = injections[:1] if is_one else injections[half:]
        checks = [deletion(answerer, second, encoded[half:], changes, seed)]
        if not is_one:
            reason = "the prompt depends on the row"
            return [*checks, *(Check(name=n, passed=None, text=reason) for n in ("completeness", "randomisation"))]
        self.progress("checking the explanation", 0, 1)
        gradients = integrated(answerer, injections[0], encoded[:_GRADIENT_ROWS], self.config.nodes)
        checks.append(completeness(gradients))
        checks.append(agreement([part.drop.value for part in parts], gradients))
        checks.append(randomisation(answerer, injections[0], encoded[:_RANDOM_ROWS], changes, seed))
        self.progress("checking the explanation", 1, 1)
        return checks

    def _text_parts(self, text: TextPrompt, rows: Sequence[Row]) -> list[Part]:
        """Each example, each line and each word of a prompt of words left out, re-tokenised."""
        task = self.handle.task
        label_of = {words[0]: label for label, words in task.words.items()}
        shots = [
            Row({**shot.fields, task.label_field: label_of.get(shot.answer, shot.answer)}, number + 1, "examples")
            for number, shot in enumerate(text.shots)
        ]
        plain = task.calibrated(False) if task.is_calibrated else task
        scorer = TextScorer(plain, self.handle.backbone, {"train": shots, "rows": rows}, room=len(text.ids) + 8)
        words = text.after or text.instruction
        whole = Candidate(text=words, place="after" if text.after else "before", shots=list(range(len(shots))))
        left_out: list[tuple[PartKind, str, Candidate]] = []
        for number, shot in enumerate(text.shots):
            other_shots = [n for n in whole.shots if n != number]
            name = f"{' '.join(shot.fields.values())} ->{shot.answer}"
            left_out.append(("example", name, whole.model_copy(update={"shots": other_shots})))
        patterns: dict[PartKind, str] = {"section": r"[^\n.!?]+[\n.!?]*", "word": r"\S+"}
        for kind, pattern in patterns.items():
            spans = list(re.finditer(pattern, words))
            for span in spans if len(spans) > 1 else ():
                other_words = words[: span.start()] + words[span.end() :].lstrip(" ")
                variant = whole.model_copy(update={"text": other_words if other_words.strip() else ""})
                left_out.append((kind, span.group().strip(), variant))
        parts = []
        numbers = list(range(len(rows)))
        encoded, whole_BC = scorer.rows(whole, "rows"), scorer.scores([whole], "rows", numbers)[0]
        for done, (kind, name, candidate) in enumerate(left_out, 1):
            try:
                scores_JBC = torch.stack([whole_BC, scorer.scores([candidate], "rows", numbers)[0]])
            except Refused:
                continue
            changes, drops = changes_of(scores_JBC)[0], drops_of(scores_JBC, encoded)[0]
            parts.append(Part(kind=kind, name=name, change=mean_of(changes.tolist()), drop=mean_of(drops.tolist())))
            self.progress("leaving out words and examples", done, len(left_out))
        return parts

    # -- texts

    def _heats(
        self,
        with_prompt: PromptedModel,
        plain: PromptedModel,
        rows: Sequence[Row],
        gold: Sequence[str],
        answers: Sequence[Sequence[str]],
    ) -> tuple[list[TextHeat], Check]:
        """Word by word, rows that the prompt fixes, breaks and leaves; and whether the named words matter."""
        order = [
            [n for n, g in enumerate(gold) if answers[1][n] != g and answers[0][n] == g],
            [n for n, g in enumerate(gold) if answers[1][n] == g and answers[0][n] != g],
            [n for n, g in enumerate(gold) if answers[1][n] == g and answers[0][n] == g],
            [n for n, g in enumerate(gold) if answers[1][n] != g and answers[0][n] != g],
        ]
        turns = [group[turn] for turn in range(len(rows)) for group in order if turn < len(group)]
        heats: list[TextHeat] = []
        occlusions: list[Occluded] = []
        room = _WORD_TOKENS
        pieces = next((PIECES[modality] for modality in self.handle.task.media.values()), "words")
        for number in turns:
            if len(heats) >= self.config.texts and (room <= 0 or len(heats) >= _MOST_WORD_ROWS):
                break
            heat, row, num_tokens = self._heat(
                with_prompt, plain, rows[number], gold[number], (answers[1][number], answers[0][number])
            )
            heats.append(heat)
            occlusions.append(row)
            room -= len(heat.words) * num_tokens
            share_done = max(len(heats) / _MOST_WORD_ROWS, 1 - room / _WORD_TOKENS)
            self.progress(f"leaving out the rows' {pieces}", min(99, round(100 * share_done)), 100)
        check = words_check(occlusions, derived_seed(self.config.seed, "words") % 2**31, pieces)
        self.progress(f"leaving out the rows' {pieces}", 100, 100)
        return heats[: self.config.texts], check

    def _heat(
        self, with_prompt: PromptedModel, plain: PromptedModel, row: Row, gold: str, answers: tuple[str, str]
    ) -> tuple[TextHeat, Occluded, int]:
        task = self.handle.task
        num_tokens = self.handle.encoder.encode([row])[0].num_tokens
        names, columns, changed_by = self._pieces(row, num_tokens)

        def rows_of(left_out: Sequence[Sequence[int]]) -> list[Row]:
            return [changed_by(numbers) for numbers in left_out]

        def scores(model: PromptedModel, encoded: Sequence[Encoded], cache: InputCache | None) -> Tensor:
            answerer = LocalAnswerer(model.backbone, cache)
            return LocalJudge(answerer).scores([model.injections(encoded[:1])[0]], encoded)[0]

        variants = rows_of([(), *([n] for n in range(len(names)))])
        encoded = self.handle.encoder.encode(variants)
        alone = self.handle.encoded_alone(variants, encoded)
        # Texts that the prompt leaves alone run once for both.
        cache = None if self.handle.has_adapter else InputCache()
        scores_UC = [scores(plain, alone, cache), scores(with_prompt, encoded, cache)]
        labels = list(task.words)
        drops = [(of_model[0] - of_model[1:])[:, labels.index(gold)].tolist() for of_model in scores_UC]
        answer = labels.index(answers[1])
        heat = TextHeat(
            gold=gold,
            said_without=answers[0],
            said_with=answers[1],
            words=[
                HeatWord(word=name, without=plain_drop, with_prompt=prompt_drop)
                for name, plain_drop, prompt_drop in zip(names, *drops, strict=True)
            ],
            columns=columns,
        )

        def losses_of(left_out: Sequence[Sequence[int]]) -> Tensor:
            return -scores(with_prompt, self.handle.encoder.encode(rows_of(left_out)), None)[:, answer]

        losses_U = -scores_UC[1][:, answer]
        answer_drops = (losses_U[1:] - losses_U[0]).tolist()
        return heat, Occluded(len(names), float(losses_U[0]), answer_drops, losses_of), num_tokens

    def _pieces(self, row: Row, num_tokens: int) -> tuple[list[str], int | None, Callable[[Sequence[int]], Row]]:
        """A row's pieces by name, how many stand side by side, and the row without some of them."""
        task = self.handle.task

        def with_value(field: str, value: object) -> Row:
            return replace(row, fields={**row.fields, field: value})

        if task.media:
            ((field, media),) = content_of(task, row).items()
            assert isinstance(media, Media), "rows that are explained have been read"
            parts = media_pieces(media)
            return parts.names, parts.columns, lambda left_out: with_value(field, parts.without(left_out))
        field = max(task.columns, key=lambda name: len(str(row.fields.get(name, ""))))
        # A long text in fewer pieces, since each of them is left out in a pass of its own.
        pieces = pieces_of(str(row.fields[field]), max(_FEWEST_WORDS, min(_MOST_WORDS, _ROW_TOKENS // num_tokens)))
        names = [piece.strip() for piece in pieces]
        return names, None, lambda left_out: with_value(field, without(pieces, left_out))
