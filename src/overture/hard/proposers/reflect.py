"""Proposals of a model that gepa asks, with gepa's reflection prompt and pool of texts and the search's own scores.

`reflect:url:ADDRESS` and `reflect:model:NAME` need the extra ``overture[reflect]``. gepa shows its writer what a text
gets wrong on a few training rows, and keeps those texts that are best on some row. Its gate looks at three rows, so
it decides only from which text it goes on: every text that it has tried goes to our race.

Source: Agrawal et al. 2025, "GEPA: reflective prompt evolution can outperform reinforcement learning", by its authors'
package. Deviation: a row's score is the probability of its right answer.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Protocol

from overture.core.errors import OvertureError
from overture.core.records.hard import Candidate
from overture.data.rows import gold_of, texts_of
from overture.hard.proposer import Ask
from overture.hard.scorer import Refused

_ROWS = 24
_VALIDATION_ROWS = 8
_LONGEST_TEXT = 300


class Writer(Protocol):
    """A model that answers a request with text."""

    def write(self, request: str, random: Random) -> str:
        """The answer.

        Raises:
            OvertureError: it gives none.
        """
        ...


class Reflect:
    """Asks a model through gepa.

    Args:
        writer: the model.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def propose(self, ask: Ask) -> list[Candidate]:
        """Every text that gepa has tried from the best one on, the likeliest on its validation rows first.

        Raises:
            OvertureError: the model gives no answer.
        """
        import gepa

        numbers = ask.random.sample(range(len(ask.scorer.splits["train"])), min(_ROWS, len(ask.scorer.splits["train"])))
        adapter = _Adapter(ask)
        num_requests = 0
        failures: list[OvertureError] = []

        def write(request: str | list[dict[str, Any]]) -> str:
            nonlocal num_requests
            num_requests += 1
            text = request if isinstance(request, str) else str(request[-1]["content"])
            limits = f"The new instruction has at most {ask.scorer.room} tokens, and holds no rows."
            try:
                return self.writer.write(f"{text}\n{limits}", ask.random)
            except OvertureError as error:
                # gepa swallows the error and continues, so it is kept for the end.
                failures.append(error)
                raise

        gepa.optimize(
            seed_candidate={"instruction": ask.leader.text.strip() or "Answer."},
            trainset=numbers[_VALIDATION_ROWS:] or numbers,
            valset=numbers[:_VALIDATION_ROWS],
            adapter=adapter,
            reflection_lm=write,
            stop_callbacks=lambda state: (
                bool(failures) or len(adapter.tried) > ask.count or num_requests >= 2 * ask.count
            ),
            # Its state would be read with pickle.
            run_dir=None,
            logger=_Silent(),
            seed=ask.random.randrange(2**31),
            raise_on_exception=False,
        )
        if failures and len(adapter.tried) <= 1:
            raise failures[0]
        return sorted(adapter.tried.values(), key=lambda candidate: -adapter.scores.get(candidate.key, 0.0))


class _Silent:
    def log(self, message: str) -> None:
        """Nothing is printed by a library."""


class _Adapter:
    """Scores texts on training rows for gepa.

    Attributes:
        tried: text -> its candidate, in the order in which they came.
        scores: key of a candidate -> its mean probability of right answers on the rows of the last call.
    """

    propose_new_texts = None

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.tried: dict[str, Candidate] = {}
        self.scores: dict[str, float] = {}

    def evaluate(self, batch: list[int], candidate: Mapping[str, str], capture_traces: bool = False) -> Any:
        """A score for each row; 0 for a text that cannot be scored, with the reason as feedback."""
        import gepa

        text = " ".join(candidate["instruction"].split())
        leader = self.ask.leader.model_copy(update={"place": "after"})
        own_candidate = self.tried.setdefault(text, self.ask.worded(f"\n{text}", "reflect", leader))
        reason = ""
        try:
            losses = self.ask.scorer.losses([own_candidate], "train", batch)[0]
            scores = [float(score) for score in losses.neg().exp()]
        except Refused as refusal:
            scores, reason = [0.0] * len(batch), str(refusal)
        self.scores[own_candidate.key] = sum(scores) / len(scores)
        traces = [(number, score, reason) for number, score in zip(batch, scores, strict=True)]
        return gepa.EvaluationBatch(outputs=scores, scores=scores, trajectories=traces if capture_traces else None)

    def make_reflective_dataset(
        self, candidate: Mapping[str, str], eval_batch: Any, components_to_update: Sequence[str]
    ) -> dict[str, list[dict[str, str]]]:
        """Examples for the writing model: rows, their right answers, and how likely the model finds them."""
        task, rows = self.ask.scorer.task, self.ask.scorer.splits["train"]
        examples = []
        for number, score, reason in eval_batch.trajectories:
            gold = gold_of(task, [rows[number]])[0]
            feedback = reason and f"The instruction cannot be used: {reason}."
            examples.append(
                {
                    "Input": " ".join(texts_of(task, rows[number]).values())[:_LONGEST_TEXT],
                    "Right answer": str(gold),
                    "Feedback": feedback or f"The model gives the right answer a probability of {score:.2f}.",
                }
            )
        return dict.fromkeys(components_to_update, examples)
