"""The process that learns while somebody labels: ``python -m overture.jobs.label.process STORE NAME``.

It ends when the process that started it closes its standard input, or when nobody has labelled for 15 minutes.
"""

import select
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from overture.core.errors import OvertureError
from overture.core.files import exclusive
from overture.core.kept_files import kept_inputs
from overture.core.records.label import LearntRound
from overture.core.records.prompt import Lineage, PromptScores
from overture.core.records.scores import SplitScores
from overture.core.records.shares import kept_shares
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.evaluate.facts import config_of
from overture.evaluate.host import Host
from overture.evaluate.intervals import bootstrap
from overture.jobs.label.learner import Learner, teaching
from overture.jobs.label.session import KEEP, Session
from overture.jobs.run.keep import made_with, new_manifest
from overture.prompt.config import PromptConfig
from overture.prompt.pack import prompt_tensors
from overture.store.names import ref_of
from overture.store.store import Store

_FEWEST_LABELS = 4
_NUM_QUEUED = 24
_IDLE_S = 900.0
_POLL_S = 0.3


class SessionLearner:
    """Learns a session's labels, and writes what it learnt into the session's folder.

    Args:
        session: the session.
        host: opens its prompt.
    """

    def __init__(self, session: Session, host: Host) -> None:
        self.session, self.learnt = session, session.learnt().model_copy(update={"state": "loading", "problem": ""})
        self._tell()
        self.stored = host.open(session.facts.prompt)
        manifest, start = self.stored.manifest, {"init": "prompt", "init_prompt": self.stored.manifest.ref}
        # The prompt to train starts from the stored one, unless that one is of words.
        self.config = PromptConfig() if manifest.text else config_of(manifest).model_copy(update=start)
        cache = InputCache(files=kept_inputs())
        self.learner = Learner(host.backbone, session.task, session.rows, self.config, session.store, cache)
        self.model: PromptedModel | None = None
        self.labels: dict[int, str] = {}

    def _tell(self, **changes: object) -> None:
        self.learnt = self.learnt.model_copy(update=changes)
        self.session.write_learnt(self.learnt)

    def begin(self) -> None:
        """Read all texts, and ask the stored prompt."""
        self._tell(state="reading", done=0, total=len(self.session.rows))
        last_event = time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal last_event
            if time.monotonic() - last_event > 0.5:
                last_event = time.monotonic()
                self._tell(done=done, total=total)

        self.learner.warm(progress)
        # A prompt of words may begin a row otherwise than trained prompts do.
        self._after_round(self.learner.model(None) if self.stored.manifest.text else self.stored.model(), 0)

    def step(self) -> bool:
        """Learn from new labels, and store the prompt where the page asks for it; returns whether it did anything."""
        labels = self.session.teaching()
        is_new = labels != self.labels and len(labels) >= _FEWEST_LABELS and len(set(labels.values())) > 1
        if is_new:
            self.labels = labels
            self._tell(state="learning", done=0, total=0)
            self.model = self.learner.learnt(labels, self.session.facts.seed)
            self._after_round(self.model, len(labels))
        wish = self.session.folder / KEEP
        if wish.exists() and self.model is not None:
            self._tell(kept_as=self._store_prompt(len(self.labels)))
            wish.unlink()
            return True
        return is_new

    def _after_round(self, model: PromptedModel, num_labels: int) -> None:
        """Answers to the rows kept apart, and the rows that teach most now."""
        session, learner = self.session, self.learner
        apart = sorted(session.apart)
        predictions = learner.predictions(model, apart) if apart else []
        labels = session.labels()
        free = [index for index in range(len(session.rows)) if index not in labels and index not in session.apart]
        choice = teaching(
            model,
            [learner.encoded[index] for index in free],
            session.task,
            _NUM_QUEUED,
            num_labels + session.facts.seed,
        )
        rounds = [earlier for earlier in self.learnt.rounds if earlier.num_labels != num_labels]
        answers = {index: prediction.text for index, prediction in zip(apart, predictions, strict=True)}
        rounds.append(LearntRound(num_labels=num_labels, said=answers))
        self._tell(
            state="waiting",
            rounds=sorted(rounds, key=lambda earlier: earlier.num_labels),
            queue=[free[number] for number, _ in choice],
            guesses={free[number]: prediction.text for number, prediction in choice},
        )

    def _store_prompt(self, num_labels: int) -> str:
        assert self.model is not None
        tensors, task = prompt_tensors(self.model.prompt), self.session.task
        testing = self.session.testing()
        predictions = self.learner.predictions(self.model, list(testing)) if testing else []
        # Rows that were drawn at random and not trained on: they measure the prompt's score and certainty.
        pairs = [
            (list(task.words).index(gold), prediction.shares or ())
            for gold, prediction in zip(testing.values(), predictions, strict=True)
        ]
        answers = [prediction.said for prediction in predictions]
        scores = {task.metric: bootstrap(task.metric, list(testing.values()), answers)} if testing else {}
        manifest = new_manifest(
            self.stored.manifest.name,
            self.learner.backbone,
            task,
            method=self.config.method,
            place=self.config.place,
            length=self.config.length,
            options=made_with(self.config),
            lineage=Lineage(train_rows=num_labels, seed=self.session.facts.seed, text=f"labelling {self.session.name}"),
            trainable=sum(tensor.numel() for tensor in tensors.values()),
            metrics=PromptScores(test=SplitScores(scores=scores) if scores else None),
            shares=kept_shares(pairs, "file", task.is_calibrated),
        )
        return str(ref_of(self.session.store.add(manifest, tensors)))


def run(store: Store, name: str, is_over: Callable[[], bool]) -> None:
    """Learn until it is over."""
    session = Session(store, name)
    # A learner that another server has left behind ends after its training.
    with exclusive(session.folder / "learner.lock", f"the learner of {name}", wait_s=120.0):
        try:
            learner = SessionLearner(session, Host(store=store))
            learner.begin()
            busy = time.monotonic()
            while not is_over() and time.monotonic() - busy < _IDLE_S:
                if learner.step():
                    busy = time.monotonic()
                else:
                    time.sleep(_POLL_S)
        except OvertureError as error:
            session.write_learnt(session.learnt().model_copy(update={"state": "failed", "problem": str(error)}))
            raise


def main(args: Sequence[str]) -> None:
    """Learn for a session until standard input is closed."""

    def is_over() -> bool:
        ready, _, _ = select.select([sys.stdin], [], [], 0)
        return bool(ready) and not sys.stdin.read(1)

    run(Store(Path(args[0])), args[1], is_over)


if __name__ == "__main__":
    main(sys.argv[1:])
