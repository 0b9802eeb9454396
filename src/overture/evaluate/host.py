"""One frozen model that answers rows under any number of stored prompts, whatever their tasks and methods.

A row is encoded once for all prompts that show it alike, a text that prompts stand behind runs once for all of them,
and what can share a forward pass shares it. A server, the command line and the harness are callers of a `Host`.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import torch

from overture.core.config import validated
from overture.core.contracts import Question, RowMethod
from overture.core.errors import ArtifactError, DataError
from overture.core.injection import Injection
from overture.core.notebook import ShortForm, Shown
from overture.core.records.shares import Doubt
from overture.core.room import Room
from overture.core.rows import Encoded, Prediction, Segment
from overture.data.encode import Encoder
from overture.data.read import rows_to_predict
from overture.data.row import Row
from overture.data.task import Task
from overture.engine.answerer import LocalAnswerer
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache, default_budget_bytes
from overture.engine.compiled import compiled_prompt
from overture.engine.load import load_backbone
from overture.engine.lora import with_lora
from overture.engine.prompted import PromptedModel
from overture.engine.texts import TenantTexts
from overture.engine.unread import is_unread
from overture.evaluate.doubt import Certainty, certainty_of
from overture.evaluate.encoding import encoded_asks
from overture.evaluate.facts import adapter_of, backbone_ref, check_backbone, config_of, parted, values_of
from overture.evaluate.inquiry import EncodedAsk, Inquiry, Item, Reply, cut_into_batches
from overture.evaluate.source import prompt_source
from overture.prompt.pack import prompt_from
from overture.store.artifact import load_artifact, read_manifest
from overture.store.manifest import Manifest
from overture.store.store import Store

Fields = Mapping[str, Any] | str
Progress = Callable[[int, int], None]
_MAX_CACHE_BYTES = 1 << 30
_NOT_ENCODED = {"name", "backbone", "data", "metric", "decoding"}
"""Keys of a task file that do not change how a row is encoded."""


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Handle(Shown):
    """A stored prompt that is open on a host's model.

    Args:
        host: opened it, and answers for it.
        folder: of the prompt.
        manifest: describes the prompt.
        task: of the prompt; its predictions are calibrated or not.
        encoder: encodes rows of the task, with room for the prompt.
        encoding: equal for prompts that show rows alike.
        adapted: the frozen model, with the prompt's adapter where it has one.
        prompt: compiled where it is the same for all rows; None for the model alone.
    """

    host: "Host"
    folder: Path
    manifest: Manifest
    task: Task
    encoder: Encoder
    encoding: str
    adapted: Backbone
    prompt: Injection | RowMethod | None

    @property
    def backbone(self) -> Backbone:
        """The frozen model alone."""
        return self.host.backbone

    @property
    def has_adapter(self) -> bool:
        """Whether the prompt goes with an adapter, so that kept texts are not those of the model alone."""
        return self.adapted is not self.backbone

    def model(self, cache: InputCache | None = None) -> PromptedModel:
        """The model under this prompt, and under its adapter where it has one."""
        return PromptedModel(self.adapted, self.prompt, cache)

    def encoded_alone(self, rows: Sequence[Row], encoded: Sequence[Encoded]) -> Sequence[Encoded]:
        """Rows as the model without the prompt reads them: from the start of a sequence.

        Args:
            rows: the rows.
            encoded: the same as they are read under the prompt.
        """
        if not self.encoder.follows:
            return encoded
        encoder, _ = self.host.encoder_of(self.task, self.encoder.reserve)
        return encoder.encode(rows)

    def calibrated(self, is_calibrated: bool = True) -> "Handle":
        """The same prompt with label scores calibrated in predictions, or not.

        A label's probability is divided by the one that the model gives it, under this prompt, for rows without
        content.

        Raises:
            ConfigError: the task's kind has no labels that can be calibrated.

        Source: Zhao et al. 2021, section 4; see `overture.data.kinds.classification`.
        """
        task = self.task.calibrated(is_calibrated)
        encoder, encoding = self.host.encoder_of(task, self.manifest.length, self.encoder.follows)
        return replace(self, task=task, encoder=encoder, encoding=encoding)

    def certainty(self, coverage: float | None = None, abstain: float | None = None) -> Certainty | None:
        """How answers say that they are not sure; None where nothing is asked.

        Args:
            coverage: share of sets of labels that are to hold the right one.
            abstain: share of right ones among the answers that are given.

        Raises:
            ConfigError: the prompt cannot tell, or the shares are not between 0 and 1.
        """
        doubt = validated(Doubt, {"coverage": coverage, "abstain": abstain}, self.manifest.ref)
        return certainty_of(self.manifest, self.task, doubt)

    @overload
    def predict(
        self,
        rows: Fields | Iterable[Fields],
        progress: Progress = ...,
        *,
        on_error: Literal["fail", "skip"] = ...,
        coverage: float | None = ...,
        abstain: float | None = ...,
    ) -> list[Prediction]: ...

    @overload
    def predict(
        self,
        rows: Fields | Iterable[Fields],
        progress: Progress = ...,
        *,
        on_error: Literal["null"],
        coverage: float | None = ...,
        abstain: float | None = ...,
    ) -> list[Prediction | None]: ...

    def predict(
        self,
        rows: Fields | Iterable[Fields],
        progress: Progress = lambda done, total: None,
        *,
        on_error: Literal["fail", "skip", "null"] = "fail",
        coverage: float | None = None,
        abstain: float | None = None,
    ) -> list[Prediction] | list[Prediction | None]:
        """Predictions for rows, in their order; a text or a mapping is one row.

        Args:
            rows: the template's fields, a plain text where the template has one field; or a DataFrame.
            progress: called with (done, all).
            on_error: rows that lack a field, are no text or are too long raise an error (fail), are left out (skip),
                or have None in their place (null).
            coverage: give each prediction the set of labels that holds the right one in this share of rows.
            abstain: withhold answers, so that this share of those given is right.

        Raises:
            DataError: every row that cannot be predicted, if they are to fail; rows that are no texts or mappings.
        """
        certainty = self.certainty(coverage, abstain)
        root = str(Path.cwd())
        asks = [Ask(self, row, number, root=root) for number, row in enumerate(rows_to_predict(rows), 1)]
        encoded = self.host.encoded(asks)
        if on_error == "fail":
            raise_problems(encoded)
        # What is wrong with the model or the prompt is wrong with every row.
        replies = self.host.answer_encoded(encoded, progress)
        if certainty:
            replies = [
                replace(reply, prediction=certainty.applied(reply.prediction)) if reply.prediction else reply
                for reply in replies
            ]
        usable = [reply for reply in replies if not isinstance(reply.problem, DataError)]
        predictions = [reply.result() for reply in usable]
        return [reply.prediction for reply in replies] if on_error == "null" else predictions

    def short_form(self) -> ShortForm:
        """The prompt's name, kind, model and scores."""
        manifest, task = self.manifest, self.task
        scores = manifest.metrics.test or manifest.metrics.validation
        score = [(task.metric, scores[task.metric].text)] if scores and task.metric in scores.scores else []
        description = f"{manifest.method} {manifest.place}, {manifest.length} tokens"
        rows = [("prompt", description), ("model", manifest.backbone.id), ("fields", ", ".join(task.columns))]
        return ShortForm(manifest.ref, [*rows, ("answers", ", ".join([task.kind, *task.words])), *score])


@dataclass(frozen=True, slots=True)
class Ask:
    """A row that a prompt is asked about.

    Args:
        handle: the prompt.
        fields: the template's fields; a plain text where the template has one field.
        number: of the row, or its line, for errors, from 1.
        source: the row's file, for errors.
        root: the folder in which images and sounds that the fields name lie; empty where no file may be read, as for
            requests that come over a network.
    """

    handle: Handle
    fields: Fields
    number: int = 1
    source: str = "input"
    root: str = ""


def raise_problems(encoded: Sequence[EncodedAsk]) -> None:
    """Raise one error for all rows that cannot be encoded.

    Raises:
        DataError: names each of them.
    """
    errors = [ask.problem for ask in encoded if ask.problem]
    if any(not isinstance(error, DataError) for error in errors):
        raise next(error for error in errors if not isinstance(error, DataError))
    if errors:
        problems = list(dict.fromkeys(problem for error in errors for problem in error.problems))
        raise DataError(errors[0].what, problems=problems) if problems else errors[0]


class Host:
    """Opens stored prompts on one frozen model, and answers requests about rows.

    Args:
        backbone: the model, or its name; the one of the first prompt that is opened, in its precision, when None.
        store: where prompts are found by name; without it prompts are opened by their folders.
        allow_drift: accept another tokenizer, chat template or revision around the same weights.
        notify: called with a line before work that takes long.
        max_tokens: padded tokens of one forward pass.
        cache_bytes: how much memory kept texts may take; 1 GiB, but at most a quarter of the free memory, when None.
    """

    def __init__(
        self,
        backbone: Backbone | str | None = None,
        store: Store | None = None,
        *,
        allow_drift: bool = False,
        notify: Callable[[str], None] = lambda message: None,
        max_tokens: int = 4096,
        cache_bytes: int | None = None,
    ) -> None:
        self.store, self.allow_drift, self.notify, self.max_tokens = store, allow_drift, notify, max_tokens
        self._backbone = load_backbone(backbone, notify=notify) if isinstance(backbone, str) else backbone
        budget = min(_MAX_CACHE_BYTES, default_budget_bytes()) if cache_bytes is None else cache_bytes
        self._cache = InputCache(budget, keeps_recent=True)
        self._handles: dict[tuple[Path, str], Handle] = {}
        self._encoders: dict[tuple[str, int], Encoder] = {}

    @property
    def backbone(self) -> Backbone:
        """The frozen model, without any adapter."""
        assert self._backbone is not None, "a host without a model has opened no prompt"
        return self._backbone

    @property
    def text_bytes(self) -> int:
        """Memory that kept texts take."""
        return self._cache.used_bytes

    # -- prompts

    def open(self, ref: str | Path) -> Handle:
        """Open a stored prompt; the same handle for a prompt that is open already.

        Args:
            ref: ``name`` for the latest version, ``name@2``, or a prompt's folder.

        Raises:
            StoreError: no such prompt.
            ArtifactError: it is damaged, or made for another model.
            BackboneError: the model cannot be loaded.
            DataError: its task does not fit the model.
        """
        folder = self.store.get(ref) if self.store else Path(ref)
        key = (folder.resolve(), read_manifest(folder).tensors_sha256)
        if key not in self._handles:
            self._handles[key] = self._opened(folder)
        return self._handles[key]

    def bare(self, task: Task) -> Handle:
        """The model without a prompt, for rows of a task.

        Raises:
            DataError: the task does not fit the model.
        """
        encoder, encoding = self.encoder_of(task, 0)
        nothing = {"method": "none", "place": "none", "length": 0, "trainable": 0}
        manifest = Manifest(name=task.name, backbone=backbone_ref(self.backbone), task=task.dump(), **nothing)
        return Handle(self, Path(), manifest, task, encoder, encoding, self.backbone, None)

    def close(self, handle: Handle) -> None:
        """Forget a prompt; requests that hold the handle are still answered."""
        self._handles = {key: other for key, other in self._handles.items() if other.folder != handle.folder}
        used_keys = {(other.encoding, other.encoder.reserve) for other in self._handles.values()}
        self._encoders = {key: encoder for key, encoder in self._encoders.items() if key in used_keys}

    def encoder_of(self, task: Task, reserve: int, follows: bool = False) -> tuple[Encoder, str]:
        """The encoder of a task's rows, shared by all prompts that show rows alike, and a key of how it shows them.

        Args:
            task: template, labels, kind and limits.
            reserve: tokens to keep free for the prompt.
            follows: whether rows stand behind a text that begins the sequence.
        """
        encoding = task.model_dump_json(exclude=_NOT_ENCODED) + (" behind a text" if follows else "")
        encoder = self._encoders.get((encoding, reserve)) or Encoder(
            task, self.backbone.text.tokenizer, reserve, follows=follows
        )
        self._encoders[encoding, reserve] = encoder
        return encoder, encoding

    def _opened(self, folder: Path) -> Handle:
        manifest, tensors = load_artifact(folder)
        ref = manifest.backbone
        if self._backbone is None:
            self._backbone = load_backbone(ref.id, revision=ref.revision, dtype=ref.precision, notify=self.notify)
        if manifest.text is None:
            for text in check_backbone(ref, self.backbone, self.allow_drift):
                self.notify(f"{manifest.ref}: {text}")
        elif ref.weights_sha256 != self.backbone.info.weights_sha256:
            self.notify(
                f"the words of {manifest.ref} were found with {ref.id}; its scores do not hold for this model, "
                f"{self.backbone.info.id}"
            )
        task = validated(Task, manifest.task, str(folder / "prompt.json"))
        encoder, encoding = self.encoder_of(task, manifest.length, manifest.text is not None and manifest.text.begins)
        tensors = values_of(manifest, tensors, self.backbone)
        values, inner = parted({name: value.to(self.backbone.device) for name, value in tensors.items()})
        adapter = adapter_of(manifest)
        # A copy that shares the weights: the model itself stays as it is.
        adapted_backbone = with_lora(self.backbone, adapter, values=inner) if adapter else self.backbone
        prompt = prompt_from(values, config_of(manifest), prompt_source(adapted_backbone, encoder))
        # Compiling needs the weights. Where they are not read yet, the prompt answers the same uncompiled.
        ready_prompt: Injection | RowMethod = prompt
        if isinstance(prompt, Injection) and not is_unread(adapted_backbone.model):
            ready_prompt = compiled_prompt(adapted_backbone, prompt)
        return Handle(self, folder, manifest, task, encoder, encoding, adapted_backbone, ready_prompt)

    # -- requests

    def answer(self, requests: Sequence[Ask], progress: Progress = lambda done, total: None) -> list[Reply]:
        """A reply for each request, in order; prompts, tasks, kinds and methods may be mixed.

        Args:
            requests: rows, each with the prompt that answers it.
            progress: called with (done, all) of the rows' parts.
        """
        return self.answer_encoded(self.encoded(requests), progress)

    def encoded(self, requests: Sequence[Ask]) -> list[EncodedAsk]:
        """The requests' rows as tokens, in order; a row is encoded once for all prompts that show it alike.

        Raises:
            ArtifactError: a prompt was opened by another host.
        """
        strange = sorted({request.handle.manifest.ref for request in requests if request.handle.host is not self})
        if strange:
            raise ArtifactError("prompts are asked on the host that opened them", got=", ".join(strange))
        return encoded_asks(requests)

    def answer_encoded(
        self, encoded: Sequence[EncodedAsk], progress: Progress = lambda done, total: None
    ) -> list[Reply]:
        """As `answer`, of requests that are encoded already."""
        inquiry = Inquiry(encoded)
        return inquiry.replies(self.answer_items(inquiry.items, progress))

    @torch.no_grad()
    def answer_items(self, items: Sequence[Item], progress: Progress = lambda done, total: None) -> dict[int, Any]:
        """The model's answer to each item, by the item's index; texts that several items share run once.

        Args:
            items: of one inquiry or of several.
            progress: called with (done, all).
        """
        texts: dict[tuple[Backbone, str, tuple[Segment, ...]], list[int]] = {}
        for number, item in enumerate(items):
            texts.setdefault((item.handle.adapted, item.tenant, item.row.input), []).append(number)
        # Texts about which the same is asked share batches, so that a text's passes follow each other closely.
        by_questions: dict[Hashable, list[list[int]]] = {}
        for (backbone, tenant, _), numbers in texts.items():
            questions = frozenset(items[number].question for number in numbers)
            by_questions.setdefault((backbone, questions, tenant), []).append(numbers)
        answers: dict[int, Any] = {}
        room = Room(self.max_tokens, self.notify)

        def ask(batches: Sequence[Sequence[int]]) -> None:
            for batch in batches:
                answers.update(self._batch_answers([items[number] for number in batch], batch))

        for groups in by_questions.values():
            groups.sort(key=lambda numbers: max(items[number].row.num_tokens for number in numbers))
            for batch in cut_into_batches(items, groups, room.max_tokens):
                by_text: dict[tuple[Segment, ...], list[int]] = {}
                for number in batch:
                    by_text.setdefault(items[number].row.input, []).append(number)
                cut = partial(cut_into_batches, items, list(by_text.values()))
                room.run(cut, ask, lambda part: len(part) * max(items[number].row.num_tokens for number in part))
                progress(len(answers), len(items))
        return answers

    def answerer_of(self, item: Item) -> LocalAnswerer:
        """The model of an item's prompt, with the kept texts of the item's tenant.

        Texts are kept for the model alone: under an adapter that changes them they are of use to one prompt only.
        """
        backbone = item.handle.adapted
        cache = TenantTexts(self._cache, item.tenant) if item.tenant else self._cache
        return LocalAnswerer(backbone, cache if backbone.reader is self.backbone else None)

    def _batch_answers(self, items: Sequence[Item], numbers: Sequence[int]) -> dict[int, Any]:
        """The answers to items of one backbone, by number."""
        answerer = self.answerer_of(items[0])
        injections: dict[int, Injection | None] = {}
        by_handle: dict[int, list[int]] = {}
        for index, item in enumerate(items):
            by_handle.setdefault(id(item.handle), []).append(index)
        by_question: dict[Question[Any], list[int]] = {}
        for indices in by_handle.values():
            rows = [items[index].row for index in indices]
            injections |= zip(indices, items[indices[0]].handle.model().injections(rows), strict=True)
            for index in indices:
                if head := items[index].head:
                    injections[index] = head.injection(injections[index])
            # Prompt by prompt, in the order of the texts: prompts that read the same texts then share what is kept.
            for index in indices:
                by_question.setdefault(items[index].question, []).append(index)
        answers: dict[int, Any] = {}
        for question, indices in by_question.items():
            replies = answerer.ask([(items[index].live_row, injections[index]) for index in indices], question)
            answers |= zip((numbers[index] for index in indices), replies, strict=True)
        return answers
