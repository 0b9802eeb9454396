"""Records of prompts of words: candidates, what became of them, and the result of their search."""

import json
from typing import Literal

from pydantic import Field

from overture.core.records.base import Record, optional
from overture.core.records.prompt import TextPrompt
from overture.core.records.scores import Interval, Paired, SplitScores

Stage = Literal["structure", "examples", "wording", "pruning"]


class Scaling(Record):
    """How label scores are read: divided by a temperature, then a bias is added to each (Alexandari et al. 2020)."""

    temperature: float = Field(description="what scores are divided by", gt=0)
    label_bias: dict[str, float] = Field(description="label -> what is added to its score")


class Wording(Record):
    """How rows and labels are shown: the keys of the task file that a candidate changes; none as the file has it."""

    template: str | list[dict[str, str]] | None = optional("the template")
    labels: dict[str, str | list[str]] | None = optional("label -> its word or words")
    scaling: Scaling | None = optional("temperature and biases of the label scores")


class Candidate(Record):
    """A prompt of words."""

    wording: Wording = Field(Wording(), description="how rows and labels are shown")
    text: str = Field("", description="the instruction; empty without one")
    place: Literal["before", "after"] = Field("after", description="where the instruction stands")
    shots: list[int] = Field([], description="numbers of the training rows that stand in front, in order")
    origin: str = Field("task file", description="what proposed it")

    @property
    def key(self) -> str:
        """Equal for candidates that are the same prompt."""
        facts = self.dump()
        return json.dumps({name: facts[name] for name in facts if name != "origin"}, sort_keys=True)

    @property
    def title(self) -> str:
        """The candidate for people, on one line."""
        parts = [f"{self.text!r} {self.place}"] if self.text else []
        parts += [f"{len(self.shots)} examples"] if self.shots else []
        changed = [name for name in ("template", "labels") if getattr(self.wording, name) is not None]
        parts += [f"other {' and '.join(changed)}"] if changed else []
        parts += ["scaled scores"] if self.wording.scaling else []
        return ", ".join(parts) or "the task file's template alone"


class Standing(Record):
    """A candidate after a race."""

    candidate: Candidate = Field(description="the candidate")
    log_likelihood: float = Field(
        description="mean over its rows of the right answer's log-likelihood; under temperature and biases fitted to "
        "these rows where label scores are scaled"
    )
    rows: int = Field(description="validation rows that it was scored on")


class StageResult(Record):
    """One stage of a search."""

    stage: Stage = Field(description="what it varied")
    proposed: int = Field(description="candidates that raced")
    refused: dict[str, int] = Field({}, description="why proposals were refused -> how many")
    row_scores: int = Field(description="pairs of a candidate and a row that were scored")
    best: list[Standing] = Field(description="the best, the first of them the leader")


class Claim(Record):
    """The winner against one control, on test rows."""

    control: str = Field(description="what it is compared with")
    control_score: Interval = Field(description="the control's score")
    compared: Paired = Field(description="the paired test")
    p_corrected: float = Field(description="p-value corrected for all controls (Holm)")
    is_better: bool = Field(description="whether the winner is better, the corrected test being below the level")


class Luck(Record):
    """The gain that the best of many equal candidates shows by luck alone."""

    candidates: int = Field(description="candidates that raced")
    finalists: int = Field(0, description="candidates that were compared by the metric on all validation rows")
    rows: int = Field(description="validation rows that the last of them were chosen by")
    disagreement: float = Field(description="mean share of rows on which two finalists differ in being right")
    points: float = Field(description="how much the best of equal finalists looks better, as a share of rows")
    most: float | None = optional(
        "validation score minus test score that four of five searches among equal finalists stay below; none without "
        "test rows"
    )


class HardPlan(Record):
    """The budget of a search, reported before it begins."""

    tokens: int = Field(description="live tokens of the scorer")
    minutes: float = Field(description="minutes that they take at the measured speed")
    tokens_per_second: float = Field(description="the measured speed")


class HardResult(Record):
    """``result.json`` of a search for a prompt of words."""

    status: Literal["finished", "interrupted"] = "finished"
    run: str = Field(description="the run's name")
    prompt: str | None = Field(description="the stored prompt, as name@version; none where nothing beat the task file")
    folder: str | None = Field(None, description="the stored prompt's folder")
    task: str = Field(description="name of the task")
    metric: str = Field(description="metric that the task is judged by")
    rows: dict[str, int] = Field(description="split -> number of rows")
    winner: Candidate = Field(description="the prompt of words")
    text: TextPrompt | None = Field(None, description="its text and tokens")
    metrics: dict[str, SplitScores] = Field(description="split -> the winner's scores")
    claims: list[Claim] = Field([], description="the winner against each control, on test rows")
    luck: Luck | None = Field(None, description="what luck alone gives")
    stages: list[StageResult] = Field(description="what was tried")
    plan: HardPlan = Field(description="what was allowed")
    tokens: float = Field(description="live tokens that were run")
    seconds: float = Field(description="seconds over all sittings")
    has_shuffled_labels: bool = Field(False, description="whether labels were shuffled, as a control")
    notices: list[str] = Field([], description="what the user should know")


Form = Literal["none", "hard", "soft"]


class FormRuns(Record):
    """``forms.json``: the searches that a search of all forms has begun."""

    runs: dict[Form, str] = Field({}, description="form -> name of its run")


class FormScore(Record):
    """The best prompt of one form, or the model without a prompt, on the same rows as the others."""

    form: Form = Field(description="soft: trained vectors; hard: words; none: the task file alone")
    prompt: str | None = Field(description="the stored prompt, as name@version; none without one")
    what: str = Field(description="the prompt in a few words")
    serving: int = Field(description="live prompt tokens of a request")
    validation: Interval = Field(description="score on the rows that chose among the forms")
    test: Interval | None = optional("score on test rows; none where there are none")
    is_winner: bool = Field(description="whether it won")


class FormsResult(Record):
    """``result.json`` of a search of all forms."""

    status: Literal["finished"] = "finished"
    run: str = Field(description="the run's name")
    runs: dict[Form, str] = Field(description="form -> the run of its search")
    prompt: str | None = Field(description="the prompt that won, as name@version; none where the plain model won")
    folder: str | None = Field(None, description="its folder")
    task: str = Field(description="name of the task")
    metric: str = Field(description="metric that the task is judged by")
    split: str = Field(description="the rows of the claims")
    rows: dict[str, int] = Field(description="split -> number of rows")
    forms: list[FormScore] = Field(description="the best of each form, the winner first")
    claims: list[Claim] = Field(description="the winner against each other form, by a paired test")
    metrics: dict[str, SplitScores] = Field(description="split -> the winner's scores")
    notices: list[str] = Field([], description="what the user should know")


class BookEntry(Record):
    """Scores of candidates on rows of one rung, as a search keeps them."""

    keys: list[str] = Field(description="the candidates")
    numbers: list[int] = Field(description="numbers of the validation rows")
    scores: list[list[list[float]]] = Field(
        description="for each candidate and row the labels' log-probabilities; of written answers the right one's alone"
    )
    tokens: float = Field(description="live tokens that they took")


class Proposals(Record):
    """Candidates that a proposer gave, and why others were refused."""

    candidates: list[Candidate] = Field([], description="those that may race")
    refused: dict[str, int] = Field({}, description="reason -> how many")
    refused_keys: list[str] = Field([], description="those that were refused")
    tokens: float = Field(0.0, description="live tokens of the search, these proposals included")


class Fidelity(Record):
    """How well a text repeats a soft prompt, on rows that did not choose it."""

    what: str = Field(description="the text, or a control")
    text: str = Field(description="its words")
    tokens: int = Field(description="its length in tokens")
    kl: float = Field(description="mean divergence of its label distribution from the soft prompt's, in nats")
    explained: Interval = Field(description="1 - KL(soft, text) / KL(soft, none)")
    agreement: Interval = Field(description="share of rows with the soft prompt's answer")
    agreement_where_changed: Interval | None = optional("the same on rows where the soft prompt changes the answer")
    accuracy: Interval = Field(description="its accuracy")
    accuracy_kept: float | None = optional("share of the soft prompt's gain; none where that gain is not shown")
    perplexity: float | None = optional("of its tokens behind rows, under the model itself")


class Transfer(Record):
    """The same text on another model."""

    backbone: str = Field(description="the other model")
    accuracy: Interval = Field(description="with the text")
    without: Interval = Field(description="without it")


class TranslateResult(Record):
    """Result of `overture translate`."""

    prompt: str = Field(description="the prompt of words, as name@version")
    folder: str = Field(description="its folder")
    translated_from: str = Field(description="the soft prompt")
    metric: str = Field("accuracy", description="what scores are")
    split: str = Field(description="the rows that fidelity is measured on")
    rows: dict[str, int] = Field(description="rows that chose the text, and those that it is measured on")
    soft: Interval = Field(description="accuracy of the soft prompt")
    none: Interval = Field(description="accuracy of the model without a prompt")
    is_gain_shown: bool = Field(description="whether the soft prompt is better than none by a paired test")
    winner: Candidate = Field(description="the prompt of words")
    fidelity: list[Fidelity] = Field(description="the winner first, then the controls")
    curve: list[Fidelity] = Field([], description="the best of at most 0, 1, 2, 4, ... tokens, where more helped")
    transfer: Transfer | None = optional("the text on another model")
    stages: list[StageResult] = Field(description="what was tried")
    tokens: float = Field(description="live tokens that were run")
    seconds: float = Field(description="seconds of the whole command")
    notices: list[str] = Field([], description="what the user should know")
