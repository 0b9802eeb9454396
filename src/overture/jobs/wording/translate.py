"""``overture translate``: words that make the model answer as a soft prompt does.

Candidates race on the divergence of their label distribution from the soft prompt's, on rows whose labels are not
looked at: the soft prompt's answers and label shares stand in their place, for every proposer. The rows that choose did
not train the prompt, where there are such rows: on rows that trained it, it is surer than on others. Candidates are
phrases, words that the soft prompt makes likelier, the model's own continuations, edits, swaps along the gradient,
examples, and other label words. A soft prompt makes the model surer, and words hardly do, so each candidate is judged
with the temperature and the biases of label scores that bring it nearest (`overture.hard.scaling`); they are stored
with the words.

What is stored is measured on other rows beside its best part without examples and controls: random fluent text of the
same length, and the tokens nearest to the prompt's vectors, which say little of what it does (Khashabi et al. 2022,
"Prompt waywardness"); on request GCG and PEZ.

Shape letters: B rows, C labels, P prompt length, V vocabulary.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from overture.core.config import validated
from overture.core.errors import ConfigError, DataError
from overture.core.records.events import Listener, NoticeEvent, ProgressEvent, as_notices, ignore
from overture.core.records.hard import (
    Candidate,
    Fidelity,
    Stage,
    StageResult,
    Standing,
    TranslateResult,
    Wording,
)
from overture.core.records.prompt import Lineage
from overture.core.seeds import named_random
from overture.data.row import Row
from overture.data.rows import gold_of
from overture.data.splits import Splits, load_splits
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.evaluate.host import Handle, Host
from overture.explain.fidelity import Measure
from overture.explain.shift import shifted_words, vocabulary_shift
from overture.hard.gcg import gcg
from overture.hard.pez import pez
from overture.hard.proposer import Ask
from overture.hard.proposers.registry import STAGES, check_source, proposer_of
from overture.hard.race import raced
from overture.hard.scaling import fitted, scaling_of
from overture.hard.scorer import Refused, TextScorer
from overture.jobs.run.again import task_with_data_of
from overture.jobs.run.keep import new_manifest
from overture.jobs.run.request import check_texts_alone
from overture.jobs.run.same import check_rows_of
from overture.jobs.wording.book import Book, proposed
from overture.jobs.wording.controls import nearest_tokens, perplexity, random_text, transferred
from overture.jobs.wording.options import TranslateConfig
from overture.store.manifest import Manifest
from overture.store.names import checked_name, ref_of
from overture.store.runs import REQUEST, Run, run_of
from overture.store.store import Store

_BEAM = 6
_SHIFT_ROWS = 32
_SHORT_EXAMPLES = 4
_LENGTHS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_GCG_STEPS, _PEZ_STEPS = 8, 24
_SIZES: dict[Stage, str] = {"wording": "wordings", "examples": "example_sets", "structure": "structures"}
"""Stages in their order, and the option that says how many candidates of each race."""


def translate(
    ref: str,
    store: Store,
    config: TranslateConfig | None = None,
    *,
    task: Path | None = None,
    name: str | None = None,
    listener: Listener = ignore,
    backbone: Backbone | None = None,
) -> TranslateResult:
    """Translate a stored soft prompt of a task with labels into words, and store these.

    Args:
        ref: ``name``, ``name@2``, or a prompt's folder.
        store: where it is, and where the words are kept.
        config: how words are looked for.
        task: a task file that says where rows are; the prompt's run says it when None.
        name: of the new prompt; the old one's with ``-words`` when None.
        listener: called with each event.
        backbone: a loaded model; loaded as the prompt names it when None.

    Raises:
        ConfigError: the prompt is of words already, or its task has no labels.
        StoreError: no such prompt, or its run is gone.
        DataError: there are no rows to measure on.
    """
    config = config or TranslateConfig()
    host = Host(backbone, store, notify=as_notices(listener))
    handle = host.open(ref)
    chosen = checked_name(name or f"{handle.manifest.name}-words")
    check_translatable(handle.manifest, handle.task)
    store.check_can_add(chosen)
    for source in config.chosen:
        check_source(source)
    splits = _rows_of(handle.manifest, store, task)
    with TemporaryDirectory() as folder:
        return _Translator(handle, store, config, splits, Run(Path(folder), listener), chosen).run()


def check_translatable(manifest: Manifest, task: Task) -> None:
    """Refuse prompts that cannot be translated, before anything is loaded.

    Raises:
        ConfigError: it is of words already, or its task has no labels, or rows with images or sounds.
    """
    if manifest.text is not None:
        raise ConfigError("this prompt is of words already", where=manifest.ref, fix="overture show prints them")
    check_texts_alone(task, "a translation into words")
    if task.kind != "classification":
        raise ConfigError(
            "words are chosen by the distribution over labels", where="kind", got=task.kind, wanted="classification"
        )


def _rows_of(manifest: Manifest, store: Store, path: Path | None) -> Splits:
    """The rows that a task file names, which may be others; those of the prompt's run must be the run's."""
    if path:
        return load_splits(task_with_data_of(manifest, path))
    run = run_of(store, manifest, "name the task file after the prompt")
    run_request = run.request()
    task = validated(Task, run_request.config.get("task"), str(run.folder / REQUEST))
    splits = load_splits(task)
    check_rows_of(run_request, splits, task.data)
    return splits


@dataclass(slots=True)
class _Translator:
    handle: Handle
    store: Store
    config: TranslateConfig
    splits: Splits
    run_folder: Run
    name: str
    cache: InputCache = field(default_factory=InputCache)
    started: float = field(default_factory=time.monotonic)
    notices: list[str] = field(default_factory=list)

    def run(self) -> TranslateResult:
        """Search on training rows, measure on others, store."""
        split = "test" if self.splits.test else "validation"
        held_out: list[Row] = getattr(self.splits, split)[: self.config.measured_rows]
        if not held_out:
            raise DataError("there are no rows to measure the words on", where="data", wanted="test or validation rows")
        random, train = named_random(self.config.seed, "translate rows"), self.splits.train
        if split == "test" and self.splits.validation:
            choosing = random.sample(self.splits.validation, min(self.config.rows, len(self.splits.validation)))
            drawn = random.sample(train, min(self.config.rows, len(train)))
        else:
            num_search = min(self.config.rows, max(len(train) // 2, 1))
            drawn = random.sample(train, min(2 * num_search, len(train)))
            choosing, drawn = drawn[:num_search], drawn[num_search:] or drawn
        splits = {"train": drawn, "validation": choosing, "test": held_out}
        soft_BC = {name: self._soft_scores(rows) for name, rows in splits.items()}
        task = self.handle.task.calibrated(False) if self.handle.task.is_calibrated else self.handle.task
        if self.config.scaled and task.is_scaled:
            task = task.scaled(1.0, {})
        # Labels of the rows that choose are not looked at: the soft prompt's answers stand in their place.
        names = list(task.words)
        answers = [names[index] for index in soft_BC["train"].argmax(1).tolist()]
        splits["train"] = [
            replace(row, fields={**row.fields, task.label_field: label})
            for row, label in zip(splits["train"], answers, strict=True)
        ]
        shares = {name: soft_BC[name].exp() for name in ("train", "validation")}
        scorer = TextScorer(task, self.handle.backbone, splits, self.config.room, self.cache, shares)
        scorer.tokens += sum(row.num_tokens for rows in scorer.encoded(Wording(), False).rows.values() for row in rows)
        scorer.order("validation", range(len(choosing)))
        scorer.warm(Wording(), "validation", self._progress("reading search rows once"))
        standings, stages = self._raced(Book(self.run_folder, scorer, lambda: False, self.config.scaled), scorer)
        candidates = [s.candidate for s in standings if s.candidate.key != Candidate().key]
        if not candidates:
            raise DataError(
                "no proposal could be scored", where=self.handle.manifest.ref, fix="allow more with --wordings"
            )
        # Examples and other label words are no translation into a few words: the best text without them stands beside.
        words_alone = next((c for c in candidates if c.text and not c.shots and c.wording == Wording()), None)
        curve = self._shortest(candidates, scorer)
        return self._result(candidates[0], words_alone, curve, scorer, soft_BC["test"], held_out, split, stages)

    def _shortest(self, candidates: Sequence[Candidate], scorer: TextScorer) -> list[Candidate]:
        """The best candidate of at most so many tokens, for each length at which there is a better one."""
        best_first: list[Candidate] = []
        for most in _LENGTHS:
            candidate = next((c for c in candidates if len(scorer.text_of(c).ids) <= most), None)
            if candidate and candidate not in best_first:
                best_first.append(candidate)
        return best_first

    def _progress(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self.run_folder.listener(ProgressEvent(what=what, done=done, total=total))

    def notice(self, text: str) -> None:
        """Tell the user something, once."""
        if text not in self.notices:
            self.notices.append(text)
            self.run_folder.listener(NoticeEvent(text=text))

    def _soft_scores(self, rows: Sequence[Row]) -> Tensor:
        """Log-probabilities of the labels under the soft prompt, [B, C]; texts that it leaves alone are kept."""
        encoded = self.handle.encoder.encode(list(rows))
        model = self.handle.model(InputCache() if self.handle.has_adapter else self.cache)
        model.warm(encoded, self._progress("reading rows under the soft prompt"))
        parts = [model.label_scores(encoded[start : start + 32]) for start in range(0, len(encoded), 32)]
        return torch.cat(parts)

    # -- the search

    def _raced(self, book: Book, scorer: TextScorer) -> tuple[list[Standing], list[StageResult]]:
        """Standings of candidates that came to the last rung, the nearest to the soft prompt first."""
        numbers = list(range(len(scorer.splits["validation"])))
        standings: dict[str, Standing] = {}

        def best() -> list[Standing]:
            return sorted(standings.values(), key=lambda standing: -standing.log_likelihood)

        def race(candidates: Sequence[Candidate]) -> None:
            entrants = {c.key: c for c in [Candidate(), *(s.candidate for s in best()[:_BEAM]), *candidates]}
            always, first = {Candidate().key}, self.config.first_rows
            for standing in raced([*entrants.values()], book.losses, numbers, first, _BEAM, always):
                if standing.rows == len(numbers):
                    standings[standing.candidate.key] = standing

        race(self._shifted_texts(scorer))
        proposers = {check_source(source): proposer_of(source) for source in self.config.chosen}
        by_stage = {stage: {n: p for n, p in proposers.items() if STAGES[n] == stage} for stage in _SIZES}
        rounds = [stage for stage in _SIZES for _ in range(1 if stage == "structure" else self.config.rounds)]
        rounds = [stage for stage in rounds if by_stage[stage] and getattr(self.config, _SIZES[stage])]
        results: dict[Stage, StageResult] = {}
        for number, stage in enumerate(rounds):
            count = -(-getattr(self.config, _SIZES[stage]) // rounds.count(stage))
            self._progress(f"round {number + 1}: {stage}")(number, len(rounds))
            scored, room = book.row_scores, (self.config.max_tokens - scorer.tokens) / (len(rounds) - number)

            def ask_of(name: str, num: int, stage: str = stage, number: int = number) -> Ask:
                leaders = best()
                if stage == "examples" and stage not in results:
                    # The first examples stand alone: an instruction found without any may be in their way.
                    leaders.sort(key=lambda standing: standing.candidate.key != Candidate().key)
                return Ask(scorer, leaders[:_BEAM], [], num, named_random(self.config.seed, stage, number, name))

            proposals = proposed(book, by_stage[stage], ask_of, count, self.notice)
            book.tried |= {*proposals.refused_keys, *(candidate.key for candidate in proposals.candidates)}
            candidates = self._affordable(proposals.candidates, scorer, room)
            race(candidates)
            earlier = results.get(stage, StageResult(stage=stage, proposed=0, row_scores=0, best=[]))
            refusals = Counter(earlier.refused) + Counter(proposals.refused)
            results[stage] = StageResult(
                stage=stage,
                proposed=earlier.proposed + len(candidates),
                refused=dict(+refusals),
                row_scores=earlier.row_scores + book.row_scores - scored,
                best=best()[:_BEAM],
            )
            self._progress(f"round {number + 1}: {stage}")(number + 1, len(rounds))
        return best(), list(results.values())

    def _affordable(self, candidates: Sequence[Candidate], scorer: TextScorer, tokens: float) -> list[Candidate]:
        """The first candidates whose race takes at most so many tokens; those in front of the rows read them anew."""
        num_rows, num_tokens, affordable = len(scorer.splits["validation"]), 0.0, list[Candidate]()
        for candidate in candidates:
            rows = scorer.rows(candidate, "validation")[: self.config.first_rows]
            # Halving rungs that double their rows cost as much each.
            rungs = 1 + math.log2(max(1.0, num_rows / len(rows))) / 2
            num_tokens += scorer.live_tokens(candidate, rows) * rungs
            if num_tokens <= tokens:
                affordable.append(candidate)
        return affordable

    def _shifted_texts(self, scorer: TextScorer) -> list[Candidate]:
        """Texts of the words that the soft prompt makes likelier where the answer stands."""
        backbone = self.handle.backbone
        rows = self.handle.encoder.encode(list(scorer.splits["validation"])[:_SHIFT_ROWS])
        model = self.handle.model(None if self.handle.has_adapter else self.cache)
        injection = model.injections(rows[:1])[0]
        if not backbone.has_head or not backbone.family.is_causal or (injection and injection.labels is not None):
            return []
        change_BV = vocabulary_shift(model, PromptedModel(backbone, None, self.cache), rows, rows)
        scorer.tokens += 2 * sum(row.num_tokens for row in rows)
        words = [word.word.strip() for word in shifted_words(change_BV.mean(0), model, 12)]
        texts = [f"\n{', '.join(words[:count])}" for count in (1, 2, 3, 5)] + [f" ({word})" for word in words]
        candidates = [Candidate(text=text, origin="shift") for text in texts]
        # Words that it raises in the rows of one answer, each in front of that answer's label word: examples in short.
        answers_B = scorer.shares["validation"][: len(rows)].argmax(1)
        label_words = [words[0] for words in scorer.task.words.values()]
        likelier_words: list[list[str]] = []
        for number in range(len(label_words)):
            is_answer = answers_B == number
            if is_answer.any() and not is_answer.all():
                change_V = change_BV[is_answer].mean(0) - change_BV[~is_answer].mean(0)
                likelier = [word.word.strip() for word in shifted_words(change_V, model, 24) if word.word[0] == " "]
                likelier_words.append([f"{word}{label_words[number]}\n" for word in likelier])
        for examples in islice(zip(*likelier_words, strict=False), _SHORT_EXAMPLES):
            candidates += [
                Candidate(text="".join(order), place="before", origin="shift") for order in (examples, examples[::-1])
            ]
        usable = []
        for candidate in candidates:
            try:
                scorer.rows(candidate, "validation")
            except Refused:
                continue
            usable.append(candidate)
        return usable

    # -- the end

    def _result(
        self,
        winner: Candidate,
        words_alone: Candidate | None,
        curve: Sequence[Candidate],
        scorer: TextScorer,
        target_BC: Tensor,
        rows: list[Row],
        split: str,
        stages: list[StageResult],
    ) -> TranslateResult:
        numbers = list(range(len(rows)))
        measure = Measure(
            labels=list(scorer.task.words),
            gold=[str(label) for label in gold_of(self.handle.task, rows)],
            soft_BC=target_BC,
            none_BC=scorer.scores([Candidate()], "test", numbers)[0],
            seed=self.config.seed,
        )
        texts = self._measured_texts(winner, words_alone, scorer)
        if self.config.scaled:
            winner, curve = texts[0][1], [self._scaled(candidate, scorer) for candidate in curve]

        def fidelity_of(title: str, candidate: Candidate) -> Fidelity:
            text = scorer.text_of(candidate)
            scores_BC = scorer.scores([candidate], "test", numbers)[0]
            return measure.of(title, text, scores_BC, perplexity(scorer, text.after_ids))

        fidelity = [fidelity_of(title, candidate) for title, candidate in texts]
        if not measure.is_gain_shown:
            self.notice(
                "these rows do not show a gain of the soft prompt itself, so the share that words keep is left out"
            )
        prompt_folder = self._stored(winner, scorer)
        return TranslateResult(
            prompt=str(ref_of(prompt_folder)),
            folder=str(prompt_folder),
            translated_from=self.handle.manifest.ref,
            split=split,
            rows={"search": len(scorer.splits["validation"]), "measured": len(rows)},
            soft=measure.accuracy(measure.soft),
            none=measure.accuracy(measure.none),
            is_gain_shown=measure.is_gain_shown,
            winner=winner,
            fidelity=fidelity,
            curve=[fidelity_of(candidate.title, candidate) for candidate in curve],
            transfer=transferred(winner, scorer, self.config.second_model, self.config.room, measure.gold, self.notice),
            stages=stages,
            tokens=scorer.tokens,
            seconds=time.monotonic() - self.started,
            notices=self.notices,
        )

    def _measured_texts(
        self, winner: Candidate, words_alone: Candidate | None, scorer: TextScorer
    ) -> list[tuple[str, Candidate]]:
        """The texts whose fidelity is measured, by title: the winner first, then its controls."""
        length = len(scorer.text_of(words_alone or winner).after_ids) or self.config.room
        texts: dict[str, Candidate | None] = {
            "the words": winner,
            "instruction alone": None if words_alone == winner else words_alone,
            "random fluent text": random_text(scorer, length, self.config.seed),
            "nearest tokens": nearest_tokens(self.handle, scorer, self.notice),
        }
        if self.config.baselines:
            random = named_random(self.config.seed, "baselines")
            for name, baseline, steps in (("GCG", gcg, _GCG_STEPS), ("PEZ", pez, _PEZ_STEPS)):
                self._progress(f"baseline {name}")(0, 1)
                texts[name] = baseline(scorer, length, steps, random)
        pairs = [(title, candidate) for title, candidate in texts.items() if candidate is not None]
        if not self.config.scaled:
            return pairs
        pairs = [(title, self._scaled(candidate, scorer)) for title, candidate in pairs]
        without_words = ("no words, scores scaled", self._scaled(Candidate(), scorer))
        return [pairs[0], ("the words, scores not scaled", winner), without_words, *pairs[1:]]

    def _scaled(self, candidate: Candidate, scorer: TextScorer) -> Candidate:
        """A candidate with the temperature and biases that fit the soft prompt's answers on the rows that choose."""
        scores_JBC = scorer.scores([candidate], "validation", range(len(scorer.splits["validation"])))
        (values_F,) = fitted(scores_JBC, scorer.shares["validation"])
        wording = candidate.wording.model_copy(update={"scaling": scaling_of(values_F, list(scorer.task.words))})
        return candidate.model_copy(update={"wording": wording})

    def _stored(self, winner: Candidate, scorer: TextScorer) -> Path:
        text, soft = scorer.text_of(winner), self.handle.manifest
        manifest = new_manifest(
            self.name,
            self.handle.backbone,
            scorer.task_of(winner.wording),
            method="text",
            place=text.place,
            length=len(text.ids),
            lineage=Lineage(translated_from=soft.ref, run=soft.lineage.run, search=winner.origin),
            trainable=0,
            seconds=time.monotonic() - self.started,
        )
        return self.store.add(manifest.model_copy(update={"text": text}), {})
