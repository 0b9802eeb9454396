"""``overture explain``: what a stored prompt does, on rows of its run or of a file."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from overture.core.errors import BackboneError, ConfigError
from overture.core.injection import Injection
from overture.core.meter import Meter
from overture.core.records.explain import Check, Explanation, HeatWord, Part, PartKind, TextHeat
from overture.core.records.hard import Candidate
from overture.core.records.prompt import TextPrompt
from overture.core.rows import Encoded
from overture.core.seeds import derived_seed, named_random
from overture.data.row import Row
from overture.data.rows import gold_of, texts_of
from overture.engine.answerer import LocalAnswerer
from overture.engine.cache import InputCache
from overture.engine.judge import LocalJudge
from overture.engine.prompted import PromptedModel
from overture.evaluate.host import Handle
from overture.evaluate.intervals import paired_test
from overture.evaluate.scoring import check_answerable, predict
from overture.explain.checks import agreement, completeness, deletion, randomisation
from overture.explain.flips import flip_counts, slices
from overture.explain.gradients import integrated
from overture.explain.parts import losses_without, mean_of
from overture.explain.shift import label_shifts, shifted_words, vocabulary_shift
from overture.hard.scorer import Refused, TextScorer
from overture.jobs.wording.options import ExplainConfig

Progress = Callable[[str, int, int], None]
_GRADIENT_ROWS = 24
_RANDOM_ROWS = 48
_MOST_COLUMNS = 64
_MOST_WORDS = 40


def explain(
    handle: Handle,
    rows: Sequence[Row],
    split: str,
    config: ExplainConfig | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Explanation:
    """Explain a prompt on rows with labels.

    Args:
        handle: the prompt on its model.
        rows: the rows; a sample of them is taken where there are more than wanted.
        split: what the rows are called.
        config: how many rows and texts are looked at.
        progress: called with (what, done, all).

    Raises:
        ConfigError: the task's rows have no label each.
        BackboneError: the model cannot answer without the prompt, so nothing can be compared.
    """
    return _Explainer(handle, rows, split, config or ExplainConfig(), progress).run()


@dataclass(slots=True)
class _Explainer:
    handle: Handle
    all_rows: Sequence[Row]
    split: str
    config: ExplainConfig
    progress: Progress

    def run(self) -> Explanation:
        """All parts of the explanation."""
        handle, task, meter = self.handle, self.handle.task, Meter(self.handle.backbone.device.type)
        if task.kind != "classification":
            raise ConfigError(
                "an explanation compares the likelihood of labels", where="kind", got=task.kind, wanted="classification"
            )
        notices = []
        rows = list(self.all_rows)
        if len(rows) > self.config.rows:
            random = named_random(self.config.seed, "explained rows")
            rows = [rows[number] for number in sorted(random.sample(range(len(rows)), self.config.rows))]
            notices.append(f"a sample of {len(rows)} of {len(self.all_rows)} rows was looked at")
        encoded = handle.encoder.encode(rows)
        cache = None if handle.has_adapter else InputCache()
        prompted, plain = handle.model(cache), PromptedModel(handle.backbone, None, cache)
        alone = handle.encoded_alone(rows, encoded)
        try:
            check_answerable(plain, alone[:1], task)
        except BackboneError as error:
            raise BackboneError(
                "the model cannot answer without this prompt, so nothing can be compared", where=handle.manifest.ref,
                got=error.what,
            ) from None  # fmt: skip
        answers = [
            predict(model, some, task, progress=lambda done, total: self.progress(what, done, total))  # noqa: B023
            for model, some, what in (
                (prompted, encoded, "scoring with the prompt"),
                (plain, alone, "scoring without it"),
            )
        ]
        gold = [str(label) for label in gold_of(task, rows)]
        said = [[prediction.text for prediction in some] for some in answers]
        scores = [torch.tensor([[*(p.probabilities or {}).values()] for p in some]).log() for some in answers]
        names = list(task.words)
        change_BV = self._change(prompted, plain, encoded, alone)
        gold_B = torch.tensor([names.index(label) for label in gold])
        texts = [" ".join(texts_of(task, row).values()) for row in rows]
        parts, checks = self._parts(prompted, encoded, rows)
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
            compared=paired_test(gold, said[0], said[1], "accuracy"),
            raised=[] if change_BV is None else shifted_words(change_BV.mean(0), plain),
            lowered=[] if change_BV is None else shifted_words(change_BV.mean(0), plain, is_lowered=True),
            labels=label_shifts(names, gold_B, scores[0], scores[1], change_BV, plain),
            parts=parts,
            flips=flip_counts(gold, said[1], said[0]),
            slices=slices(texts, gold, said[1], said[0]),
            texts=self._heats(prompted, plain, rows, gold, said),
            checks=checks,
            seconds=meter.seconds,
            notices=notices,
        )

    def _change(
        self,
        prompted: PromptedModel,
        plain: PromptedModel,
        rows: Sequence[Encoded],
        alone: Sequence[Encoded],
    ) -> Tensor | None:
        """The vocabulary's shift; None where labels are not read from words."""
        injection = prompted.injections(rows[:1])[0]
        predicts_words = plain.backbone.has_head and (plain.backbone.family.is_causal or self.handle.task.has_mask)
        if not predicts_words or (injection is not None and injection.labels is not None):
            return None
        self.progress("reading the vocabulary's shift", 0, 1)
        return vocabulary_shift(prompted, plain, rows, alone)

    # -- parts

    def _parts(
        self, prompted: PromptedModel, encoded: Sequence[Encoded], rows: Sequence[Row]
    ) -> tuple[list[Part], list[Check]]:
        text = self.handle.manifest.text
        if text is not None:
            return self._text_parts(text, rows), [
                Check(name=name, passed=None, text="for prompts of columns; the parts here are words")
                for name in ("completeness", "deletion", "randomisation", "agreement")
            ]
        injections = [injection for injection in prompted.injections(encoded) if injection is not None]
        length = injections[0].length if injections else 0
        if not length or length > _MOST_COLUMNS:
            reason = f"a prompt of {length} columns; ablation is for 1 to {_MOST_COLUMNS}"
            return [], [Check(name="ablation", passed=None, text=reason)]
        is_one = all(injection is injections[0] for injection in injections)
        answerer = prompted.answerer
        half = max(1, len(encoded) // 2)
        first = injections[:1] if is_one else injections[:half]
        self.progress("leaving out columns", 0, 1)
        left_out = [[], *([number] for number in range(length))]
        losses = losses_without(answerer, first, encoded[:half], left_out)
        drops_PB = losses[1:] - losses[:1]
        parts = [
            Part(kind="column", name=str(number + 1), drop=mean_of(drops.tolist()))
            for number, drops in enumerate(drops_PB)
        ]
        self.progress("leaving out columns", 1, 1)
        return parts, self._checks(answerer, injections, is_one, encoded, half, drops_PB.mean(1).tolist())

    def _checks(
        self,
        answerer: LocalAnswerer,
        injections: Sequence[Injection],
        is_one: bool,
        encoded: Sequence[Encoded],
        half: int,
        drops: list[float],
    ) -> list[Check]:
        seed = derived_seed(self.config.seed, "checks") % 2**31
        second = injections[:1] if is_one else injections[half:]
        checks = [deletion(answerer, second, encoded[half:], drops, seed)]
        if not is_one:
            reason = "the prompt depends on the row"
            return [*checks, *(Check(name=n, passed=None, text=reason) for n in ("completeness", "randomisation"))]
        self.progress("checking the explanation", 0, 1)
        gradients = integrated(answerer, injections[0], encoded[:_GRADIENT_ROWS], self.config.nodes)
        checks.append(completeness(gradients))
        checks.append(agreement(drops, gradients))
        checks.append(randomisation(answerer, injections[0], encoded[:_RANDOM_ROWS], drops, seed))
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
            kept = [n for n in whole.shots if n != number]
            name = f"{' '.join(shot.fields.values())} ->{shot.answer}"
            left_out.append(("example", name, whole.model_copy(update={"shots": kept})))
        patterns: dict[PartKind, str] = {"section": r"[^\n.!?]+[\n.!?]*", "word": r"\S+"}
        for kind, pattern in patterns.items():
            spans = list(re.finditer(pattern, words))
            for span in spans if len(spans) > 1 else ():
                rest = words[: span.start()] + words[span.end() :].lstrip(" ")
                changed = whole.model_copy(update={"text": rest if rest.strip() else ""})
                left_out.append((kind, span.group().strip(), changed))
        parts = []
        numbers = list(range(len(rows)))
        losses = scorer.losses([whole], "rows", numbers)[0]
        for done, (kind, name, candidate) in enumerate(left_out, 1):
            try:
                drops = scorer.losses([candidate], "rows", numbers)[0] - losses
            except Refused:
                continue
            parts.append(Part(kind=kind, name=name, drop=mean_of(drops.tolist())))
            self.progress("leaving out words and examples", done, len(left_out))
        return parts

    # -- texts

    def _heats(
        self,
        prompted: PromptedModel,
        plain: PromptedModel,
        rows: Sequence[Row],
        gold: Sequence[str],
        said: Sequence[Sequence[str]],
    ) -> list[TextHeat]:
        """Word by word, rows that the prompt fixes, breaks and leaves."""
        order = [
            [n for n, g in enumerate(gold) if said[1][n] != g and said[0][n] == g],
            [n for n, g in enumerate(gold) if said[1][n] == g and said[0][n] != g],
            [n for n, g in enumerate(gold) if said[1][n] == g and said[0][n] == g],
            [n for n, g in enumerate(gold) if said[1][n] != g and said[0][n] != g],
        ]
        turns = [group[turn] for turn in range(len(rows)) for group in order if turn < len(group)]
        heats = []
        for done, number in enumerate(turns[: self.config.texts], 1):
            heats.append(self._heat(prompted, plain, rows[number], gold[number], (said[1][number], said[0][number])))
            self.progress("leaving out the texts' words", done, self.config.texts)
        return heats

    def _heat(
        self, prompted: PromptedModel, plain: PromptedModel, row: Row, gold: str, said: tuple[str, str]
    ) -> TextHeat:
        task = self.handle.task
        field = max(task.columns, key=lambda name: len(str(row.fields.get(name, ""))))
        words = str(row.fields[field]).split()
        shown = words[:_MOST_WORDS]
        changed = [row] + [
            replace(row, fields={**row.fields, field: " ".join([*words[:place], *words[place + 1 :]]) or " "})
            for place in range(len(shown) if len(words) > 1 else 0)
        ]
        encoded = self.handle.encoder.encode(changed)
        pairs = ((plain, self.handle.encoded_alone(changed, encoded)), (prompted, encoded))
        with torch.no_grad():
            losses = [
                LocalJudge(LocalAnswerer(model.backbone)).losses([model.injections(some[:1])[0]], some)[0]
                for model, some in pairs
            ]
        drops = [(some[1:] - some[:1]).tolist() for some in losses]
        return TextHeat(
            gold=gold,
            said_without=said[0],
            said_with=said[1],
            words=[
                HeatWord(word=word, without=without, with_prompt=under)
                for word, without, under in zip(shown, *drops, strict=False)
            ],
            is_cut=len(words) > len(shown),
        )
