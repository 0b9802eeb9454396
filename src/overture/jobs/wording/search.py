"""The search for a prompt of words: structure, examples, wording, pruning; a final race; one test.

Each stage races the candidates that its proposers give against what the stage before left, on validation rows and by
likelihood alone. Most of what wordings differ in is how much they lean towards a label, so each is judged under the
temperature and the biases of label scores that fit it (`overture.hard.scaling`). Finalists get theirs from training
rows, and validation rows choose among all of them with and without. The winner is tested once, on rows that nobody
chose by, against the model under the task file, the same with its scores scaled, the user's own text, examples and
label words, with Holm's correction over these; what luck alone gives stands beside it.

Shape letters: J candidates, B rows, C labels, F fitted values: inverse temperature, then biases.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean

import torch

from overture.core.errors import ConfigError, DataError, Stopped
from overture.core.records.events import DataEvent, EndEvent, Listener, NoticeEvent, ProgressEvent, as_notices, ignore
from overture.core.records.hard import (
    Candidate,
    Claim,
    HardPlan,
    HardResult,
    Luck,
    Proposals,
    Stage,
    StageResult,
    Standing,
    Wording,
)
from overture.core.records.prompt import Lineage, PromptScores
from overture.core.records.scores import SplitScores
from overture.core.seeds import named_random
from overture.data.splits import Splits
from overture.engine.backbone import Backbone
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import Scored, check_answerable
from overture.hard.proposer import Ask, Proposer
from overture.hard.proposers.registry import STAGES, check_source, proposer_of
from overture.hard.race import raced, row_scores
from overture.hard.scaling import fitted, rescaled
from overture.hard.scorer import Refused, TextScorer
from overture.jobs.run.early import splits_of
from overture.jobs.run.keep import new_manifest
from overture.jobs.run.resumed import resumed
from overture.jobs.run.same import hold_model, hold_rows
from overture.jobs.run.tracked import tracked
from overture.jobs.run.work import input_cache
from overture.jobs.wording.book import Book, proposed
from overture.jobs.wording.controls import drawn_examples
from overture.jobs.wording.final import SURE, Final, claims_of, with_scaling
from overture.jobs.wording.options import HardRequest, check_request
from overture.jobs.wording.plan import BEAM, FINALISTS, plan_of, race_order, shuffled
from overture.jobs.wording.wrong import wrong_rows
from overture.store.names import ref_of
from overture.store.runs import Run
from overture.store.store import Store

_SHOTS = 8
_WRONG_ROWS = 64
_READS_WRONG = ("model", "url")


def search_words(
    config: HardRequest,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
) -> HardResult:
    """Find a prompt of words and store it.

    Args:
        config: the request; ``hard`` says what is proposed and spent.
        store: where the prompt and the run's folder go.
        listener: called with each event.
        is_stop_asked: looked at between passes; the best so far is kept, and the run can be resumed.
        backbone: a loaded model; loaded by the task's name when None.

    Raises:
        UserError: task, data, model or options are wrong.
        DiskFull: the run can be resumed when there is room.
    """
    check_request(config)
    store.check_can_add(config.task.name)
    run = Run.create(store.runs, f"{config.task.name}-hard", config.model_dump(mode="json"), listener, "hard")
    return _execute(run, config, store, is_stop_asked, backbone)


def resume_words(
    ref: str,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
    settings: Sequence[str] = (),
) -> HardResult:
    """Go on with a stopped search; what was scored is not scored again, and the end is the same bit for bit.

    Arguments and errors are those of `overture.jobs.tune.tune.resume`.
    """
    return resumed(
        ref, store, listener, settings, HardRequest, HardResult,
        lambda run, config: _execute(run, config, store, is_stop_asked, backbone),
    )  # fmt: skip


def _execute(
    run: Run, config: HardRequest, store: Store, is_stop_asked: Callable[[], bool], backbone: Backbone | None
) -> HardResult:
    def searched() -> HardResult:
        search = _Search.prepared(run, config, store, is_stop_asked, backbone)
        try:
            return search.run_stages()
        except (Stopped, KeyboardInterrupt):
            return search.interrupted()

    return tracked(run, config, lambda: run.carried_out(searched))


@dataclass(slots=True)
class _Search:
    """One search.

    Attributes:
        standings: candidates that came to the last rung of a race, by key.
        words: the label words that are a control of the test.
        drawn: the task file with examples drawn by seed, a control of the test; None where rows cannot be shown so.
        scaled: the task file under its temperature and biases, a control of the test.
    """

    run: Run
    config: HardRequest
    store: Store
    splits: Splits
    scorer: TextScorer
    book: Book
    final: Final
    plan: HardPlan
    started: float = field(default_factory=time.monotonic)
    standings: dict[str, Standing] = field(default_factory=dict)
    stages: list[StageResult] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    words: Candidate | None = None
    drawn: Candidate | None = None
    scaled: Candidate | None = None

    @classmethod
    def prepared(
        cls, run: Run, config: HardRequest, store: Store, is_stop_asked: Callable[[], bool], backbone: Backbone | None
    ) -> "_Search":
        """Rows read, the model loaded, the texts of validation rows kept, and the budget said.

        Raises:
            DataError: rows are wrong, or none are there to choose by.
            BackboneError: the model cannot be loaded.
        """
        task, options = config.task, config.hard
        splits = splits_of(task)
        if not splits.validation:
            raise DataError("a search needs validation rows", where="data", fix="set data.validation_share: 0.2")
        hold_rows(run, splits, task.data)
        run.keep_config(config.model_dump(mode="json"))
        if options.shuffle_labels:
            splits = shuffled(splits, task, config.seed)
        notify = as_notices(run.event)
        backbone = backbone or load_backbone(
            task.backbone, revision=config.revision, device=config.device, dtype=config.dtype, notify=notify
        )
        hold_model(run, backbone)
        rows = {name: getattr(splits, name) for name in ("train", "validation", "test")}
        scorer = TextScorer(task, backbone, rows, options.room, input_cache(config, notify))
        run.event(DataEvent(rows={name: len(split_rows) for name, split_rows in rows.items()}, repeats=splits.repeats))
        try:
            shown_rows = scorer.encoded(Wording(), False)
        except Refused as refusal:
            raise DataError("the task's rows cannot be shown", where="template", got=str(refusal)) from None
        check_answerable(PromptedModel(backbone), shown_rows.rows["train"], task)
        scorer.order("validation", race_order(task, splits.validation, config.seed))
        began, tokens = time.monotonic(), scorer.tokens
        scorer.warm(Wording(), "validation", lambda done, total: run.event(
            ProgressEvent(what="reading validation inputs once", done=done, total=total)))  # fmt: skip
        speed = max(1.0, (scorer.tokens - tokens) / max(1e-3, time.monotonic() - began))
        plan = run.read("plan.json", HardPlan) or plan_of(options, scorer, len(splits.validation), speed)
        run.write("plan.json", plan)
        book = Book(run, scorer, is_stop_asked, options.scaled and scorer.can_scale)
        search = cls(run, config, store, splits, scorer, book, Final(run, scorer, splits, config.seed), plan)
        try:
            for candidate in search.racing_controls:
                scorer.rows(candidate, "validation")
        except Refused as refusal:
            raise ConfigError(
                "the text cannot be raced", where="hard.text", got=f"{options.text!r:.80}: {refusal}"
            ) from None
        search.notice(
            f"allowed: {plan.tokens:,.0f} live tokens, about {plan.minutes:.1f} minutes at "
            f"{plan.tokens_per_second:,.0f} tokens a second"
        )
        for text in (*splits.notices, *scorer.encoded(Wording(), False).encoder.notices):
            search.notice(text)
        return search

    def notice(self, text: str) -> None:
        """Tell the user something, once."""
        if text not in self.notices:
            self.notices.append(text)
            self.run.event(NoticeEvent(text=text))

    # -- the stages

    @property
    def racing_controls(self) -> list[Candidate]:
        """The controls that race with the others: the task file, the user's own text, examples once they race."""
        text = self.config.hard.text
        # Without white space between them, the text would join the row's last word.
        lead = "" if text[:1].isspace() else "\n"
        texts = [Candidate(text=lead + text, origin="own text")] if text else []
        return [Candidate(), *texts, *([self.drawn] if self.drawn else [])]

    @property
    def best(self) -> list[Standing]:
        """Candidates that came to a last rung, the most likely first."""
        return sorted(self.standings.values(), key=lambda standing: -standing.log_likelihood)

    def run_stages(self) -> HardResult:
        """All stages, the final race and the test.

        Raises:
            Stopped: a stop was asked for.
        """
        options = self.config.hard
        sources: dict[Stage, dict[str, Proposer]] = {}
        for source in options.chosen:
            name = check_source(source)
            proposer = proposer_of(source, options.model, options.timeout_s)
            sources.setdefault(STAGES[name], {})[name] = proposer
        self._race("structure", [], {}, 0)
        rounds = options.rounds
        # Label words are chosen under the best structures, so they come in a round of their own.
        self._stage("structure", sources, 2, options.structures)
        if "examples" in sources and options.example_sets:
            self.drawn = drawn_examples(self.scorer, _SHOTS, self.config.seed, self.notice)
            self._stage("examples", sources, rounds, options.example_sets)
        self._stage("wording", sources, rounds, options.wordings)
        # Other words may be likelier behind the examples and the instruction that were found.
        self._stage("structure", sources, 1, options.structures // 2, first=2)
        self._prune(sources)
        winner, luck = self._final()
        validation = self.final.scored(winner, "validation")
        split = "test" if self.splits.test else "validation"
        if split == "validation":
            self.notice("there are no test rows: the claims are on rows that chose the winner, so they are too good")
        scored = self.final.scored(winner, "test") if self.splits.test else validation
        metrics = {
            name: scores.split_scores(self.config.task)
            for name, scores in (("validation", validation), (split, scored))
        }
        result = self._result(winner, metrics, validation, self._claims(winner, scored, split), luck)
        self.run.write("result.json", result)
        self.run.event(EndEvent(prompt=result.prompt))
        return result

    def _stage(
        self, stage: Stage, sources: dict[Stage, dict[str, Proposer]], rounds: int, count: int, first: int = 0
    ) -> None:
        proposers = sources.get(stage, {})
        for number in range(first, first + rounds if proposers and count else first):
            if self.scorer.tokens >= self.plan.tokens:
                self.notice(f"the budget ends in stage {stage}: some proposals were not scored")
                return
            proposals = self.book.proposals(
                f"{stage}-{number}",
                lambda: self._proposed(stage, number, proposers, -(-count // rounds)),  # noqa: B023
            )
            affordable = self._affordable(proposals.candidates)
            if len(affordable) < len(proposals.candidates):
                self.notice(f"the budget ends in stage {stage}: some proposals were not scored")
            self._race(stage, affordable, proposals.refused, number + 1)

    def _proposed(self, stage: Stage, number: int, proposers: dict[str, Proposer], count: int) -> Proposals:
        rows = self.splits.train[:_WRONG_ROWS] if any(name in _READS_WRONG for name in proposers) else []
        errors = wrong_rows(self.scorer, rows, self.best[0].candidate, self.book.is_scaled) if rows else []

        def ask_of(name: str, num: int) -> Ask:
            return Ask(self.scorer, self.best[:BEAM], errors, num, named_random(self.config.seed, stage, number, name))

        return proposed(self.book, proposers, ask_of, count, self.notice)

    def _affordable(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """As many candidates, in order, as the budget has room for."""
        tokens_left = self.plan.tokens - self.scorer.tokens
        limit, affordable = len(self._race_numbers), list[Candidate]()
        for candidate in candidates:
            pairs = row_scores(len(affordable) + 1, limit, self.config.hard.first_rows)
            sample = self.scorer.rows(candidate, "validation")[:32]
            if pairs * self.scorer.live_tokens(candidate, sample) / len(sample) > tokens_left:
                break
            affordable.append(candidate)
        return affordable

    @property
    def _race_numbers(self) -> list[int]:
        order = race_order(self.config.task, self.splits.validation, self.config.seed)
        return order[: self.config.hard.race_rows]

    def _race(self, stage: Stage, candidates: Sequence[Candidate], refusals: dict[str, int], number: int) -> None:
        """Race new candidates with the best so far; the result is a stage's, added up over its rounds."""
        scored = self.book.row_scores
        leaders = [standing.candidate for standing in self.best[:BEAM]]
        entrants = list({c.key: c for c in [*self.racing_controls, *leaders, *candidates]}.values())
        always = {candidate.key for candidate in self.racing_controls}
        numbers = self._race_numbers
        self.run.event(ProgressEvent(what=f"{stage}, round {number}: {len(entrants)} candidates", done=0, total=1))
        standings = raced(entrants, self.book.losses, numbers, self.config.hard.first_rows, BEAM, always)
        for standing in standings:
            if standing.rows == len(numbers):
                self.standings[standing.candidate.key] = standing
        self.run.event(ProgressEvent(what=f"{stage}, round {number}: {len(entrants)} candidates", done=1, total=1))
        earlier = next((result for result in self.stages if result.stage == stage), None)
        result = StageResult(
            stage=stage,
            proposed=len(candidates) + (earlier.proposed if earlier else 0),
            refused=dict(Counter(refusals) + Counter(earlier.refused if earlier else {})),
            row_scores=self.book.row_scores - scored + (earlier.row_scores if earlier else 0),
            best=self.best[:BEAM],
        )
        self.stages = [*(other for other in self.stages if other.stage != stage), result]
        if stage == "structure" and self.words is None:
            with_words = [c for c in candidates if c.origin == "words" and c.wording.template is None]
            self.words = with_words[-1] if with_words else None

    def _prune(self, sources: dict[Stage, dict[str, Proposer]]) -> None:
        """Leave out one part of the leader after another while no loss of likelihood can be shown."""
        proposers = sources.get("pruning", {})
        number = 0
        while proposers and self.scorer.tokens < self.plan.tokens:
            if not (self.best[0].candidate.text or self.best[0].candidate.shots):
                return
            leader = self.best[0]
            proposals = self.book.proposals(
                f"pruning-{number}",
                lambda: self._proposed("pruning", number, proposers, 64),  # noqa: B023
            )
            number += 1
            shorter = self._affordable(proposals.candidates)
            if not shorter:
                return
            self._race("pruning", shorter, proposals.refused, number)
            keys = {candidate.key for candidate in shorter}
            rivals = [standing for standing in self.best if standing.candidate.key in keys]
            if not rivals or self._is_worse(rivals[0].candidate, leader.candidate):
                return
            # The longer text must not lead again where the shorter one is as good.
            self.standings = {
                key: s for key, s in self.standings.items() if s.log_likelihood <= rivals[0].log_likelihood
            }

    def _is_worse(self, shorter: Candidate, longer: Candidate) -> bool:
        """Whether a loss of likelihood can be shown, by a paired t test on the race's rows, one-sided."""
        from scipy.stats import ttest_rel

        losses, longer_losses = self.book.losses([shorter, longer], self._race_numbers)
        if fmean(losses) <= fmean(longer_losses):
            return False
        return bool(ttest_rel(losses, longer_losses, alternative="greater").pvalue < 2 * SURE)

    # -- the end

    def _final(self) -> tuple[Candidate, Luck | None]:
        """The best of the finalists and controls, scaled and not, on all validation rows, and what luck gives."""
        best = [standing.candidate for standing in self.best[:FINALISTS]]
        finalists = list({candidate.key: candidate for candidate in [*best, *self.racing_controls]}.values())
        numbers = range(len(self.splits.validation))
        scores_JBC, shares_BC = self.book.scores(finalists, numbers), self.book.shares(numbers)
        if self.book.is_scaled:
            scaled_candidates, values_JF = self.final.scaled(finalists)
            self.scaled = scaled_candidates[[candidate.key for candidate in finalists].index(Candidate().key)]
            finalists, scores_JBC = (
                finalists + scaled_candidates,
                torch.cat([scores_JBC, rescaled(scores_JBC, values_JF)]),
            )
        num_candidates = len(self.racing_controls) + sum(stage.proposed for stage in self.stages)
        return self.final.winner(finalists, scores_JBC, shares_BC, num_candidates)

    def _claims(self, winner: Candidate, scored: Scored, split: str) -> list[Claim]:
        """The winner against each control, but not against itself where a control won."""
        task = self.config.task
        controls = {"the task file alone": Candidate()}
        if self.scaled:
            controls["the task file, scores scaled"] = self.scaled
        if self.config.hard.text:
            controls["the text of your own"] = self.racing_controls[1]
        if examples := self.drawn or drawn_examples(self.scorer, _SHOTS, self.config.seed, self.notice):
            controls[f"{len(examples.shots)} examples"] = examples
        if self.words:
            controls["chosen label words"] = self.words
        scores: dict[str, Scored] = {}
        for name, candidate in controls.items():
            try:
                if candidate.key != winner.key:
                    scores[name] = self.final.scored(candidate, split)
            except Refused as refusal:
                self.notice(f"not compared with {name}: {refusal}")
        return claims_of(scored, scores, task)

    def interrupted(self) -> HardResult:
        """The best so far, kept with its validation score; the test rows are not looked at.

        Its temperature and biases are fitted to the rows that it raced on, which are scored already; a search that
        comes to its end fits them to training rows.
        """
        winner, validation = Candidate(), None
        if self.standings:
            winner, numbers = self.best[0].candidate, self._race_numbers
            rows = self.scorer.rows(winner, "validation")
            seconds = self.scorer.live_tokens(winner, rows) / self.plan.tokens_per_second
            # Once a stop is asked for, a listener may raise at any event.
            with suppress(KeyboardInterrupt):
                self.run.event(NoticeEvent(text=f"scoring the best so far on {len(rows)} validation rows, about "
                    f"{max(1, round(seconds))} s; what was scored is kept for overture resume"))  # fmt: skip
            self.run.listener = ignore
            if self.book.is_scaled:
                (values_F,) = fitted(self.book.scores([winner], numbers), self.book.shares(numbers))
                winner = with_scaling(winner, values_F, self.config.task)
            validation = self.final.scored(winner, "validation")
        self.run.listener = ignore
        metrics = {"validation": validation.split_scores(self.config.task)} if validation else {}
        return self._result(winner, metrics, validation, [], None).model_copy(update={"status": "interrupted"})

    def _result(
        self,
        winner: Candidate,
        metrics: dict[str, SplitScores],
        validation: Scored | None,
        claims: list[Claim],
        luck: Luck | None,
    ) -> HardResult:
        task, text = self.scorer.task_of(winner.wording), self.scorer.text_of(winner)
        prompt, folder = None, None
        # A changed template or other label words are a prompt too, of no tokens of its own.
        if winner.key != Candidate().key and not self.config.hard.shuffle_labels:
            manifest = new_manifest(
                self.config.task.name,
                self.scorer.backbone,
                task,
                method="text",
                place=text.place,
                length=len(text.ids),
                lineage=Lineage(
                    run=self.run.name,
                    seed=self.config.seed,
                    train_rows=len(self.splits.train),
                    search=f"{winner.origin}; {sum(stage.proposed for stage in self.stages)} candidates",
                ),
                trainable=0,
                metrics=PromptScores(validation=metrics.get("validation"), test=metrics.get("test")),
                seconds=time.monotonic() - self.started,
                shares=validation.kept_shares(task, "validation") if validation else None,
            )
            kept = self.run.keep(self.store, manifest.model_copy(update={"text": text}), {})
            prompt, folder = str(ref_of(kept)), str(kept)
        return HardResult(
            run=self.run.name,
            prompt=prompt,
            folder=folder,
            task=self.config.task.name,
            metric=self.config.task.metric,
            rows={name: len(getattr(self.splits, name)) for name in ("train", "validation", "test")},
            winner=winner,
            text=text,
            metrics=metrics,
            claims=claims,
            luck=luck,
            stages=self.stages,
            plan=self.plan,
            tokens=self.scorer.tokens,
            seconds=time.monotonic() - self.started,
            has_shuffled_labels=self.config.hard.shuffle_labels,
            notices=self.notices,
        )
