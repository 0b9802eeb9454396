"""Capabilities of an answerer, and one clear error for each request that it cannot serve, before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from overture.core.contracts import Answers, Continuations, Features, Likelihoods, Question, TokenShares
from overture.core.errors import BackboneError
from overture.core.injection import Injection, ModelKind, Place
from overture.core.rows import Answer, AtMarks, Encoded, OneOf, Signal

_KIND_NAMES: dict[ModelKind, str] = {
    "decoder": "a decoder",
    "encoder": "an encoder",
    "encoder-decoder": "an encoder-decoder",
}
_WRITES_NOTHING = ("an encoder writes no answers", "choose a decoder with --backbone, or a task with labels")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities of an answerer, known before anything runs.

    Args:
        name: of the model, for errors.
        kind: how its stacks attend.
        max_length: tokens of prompt, row and answer together; an encoder-decoder has as many for either stack.
        model_type: its architecture, for errors.
        num_start: start tokens in front of an encoder-decoder's answer.
        has_head: it predicts tokens of its vocabulary; an encoder's body does not.
        places: where prompts may stand.
        has_gradients: losses and readouts can be differentiated.
        has_label_vectors: labels may have vectors instead of words.
        modalities: of the input.
        encodes_words: whether an encoder-decoder's encoder reads words; else a row's words are the decoder's, and the
            encoder has its own number of positions.
        leaves_inputs: an adapter changes only the tokens behind the input, so prompts must not change the input.
        compares_texts: images and texts have vectors in one space.
    """

    name: str
    kind: ModelKind
    max_length: int
    model_type: str = ""
    num_start: int = 0
    has_head: bool = True
    places: frozenset[Place] = field(default=frozenset(get_args(Place)))
    has_gradients: bool = True
    has_label_vectors: bool = True
    modalities: frozenset[str] = frozenset({"text"})
    encodes_words: bool = True
    leaves_inputs: bool = False
    compares_texts: bool = False

    def check(self, pairs: Sequence[tuple[Encoded, Injection | None]], question: Question[Any]) -> None:
        """Check that the model can answer a question about rows under their prompts.

        Raises:
            BackboneError: with the first row's reason.
        """
        if question.has_gradient and not self.has_gradients:
            raise self._refused("this answerer gives no gradients", "train with a model that is loaded here")
        if isinstance(question, TokenShares) and self.kind != "decoder":
            raise self._refused("only a decoder predicts the tokens that it reads", "choose a decoder with --backbone")
        is_written = isinstance(question, Answers | Continuations | Likelihoods)
        if is_written and self.kind == "encoder":
            raise self._refused(*_WRITES_NOTHING)
        checked: set[int] = set()
        for row, injection in pairs:
            self._check_length(row, injection, question)
            segments = [segment for segment in (*row.input, *row.anchor) if len(segment)]
            foreign = {s.modality if isinstance(s, Signal) else "text" for s in segments} - self.modalities
            if foreign:
                own = ", ".join(sorted(self.modalities))
                raise self._refused("the model does not read this input", got=", ".join(sorted(foreign)), wanted=own)
            if injection is not None and id(injection) not in checked:
                self._check_prompt(injection)
                checked.add(id(injection))
            if self.kind == "encoder" and not isinstance(question, Features):
                self._check_labels(row, injection)
            if isinstance(question, Likelihoods):
                self._check_words(row, injection)

    def check_text_in_memory(self) -> None:
        """Check that a memory can stand for a text, so that the model answers from it.

        Raises:
            BackboneError: it cannot, since the stack that answers does not attend to such a memory.
        """
        if refusal := refused_text_in_memory(self.kind):
            raise self._refused(*refusal)

    def _check_length(self, row: Encoded, injection: Injection | None, question: Question[Any]) -> None:
        length = injection.length if injection else 0
        is_written = isinstance(question, Answers | Continuations)
        num_written = (
            question.max_new_tokens if isinstance(question, Answers | Continuations) else row.target.num_tokens
        )
        num_tokens = row.num_text + length + num_written
        if self.kind == "encoder-decoder":
            words = 0 if self.encodes_words else row.num_text - row.num_input
            num_tokens = max(row.num_text if self.encodes_words else 0, words + self.num_start + num_written) + length
        if num_tokens > self.max_length:
            raise self._refused(
                f"row {row.row} does not fit the model's context",
                "shorten the row, the prompt or the answer" + (" (max_new_tokens)" if is_written else ""),
                got=f"{num_tokens} tokens with prompt and answer",
                wanted=f"at most {self.max_length}",
            )

    def _check_prompt(self, injection: Injection) -> None:
        if strange := injection.places - self.places:
            raise self._refused(
                f"a prompt cannot stand at {', '.join(sorted(strange))} here",
                wanted=f"one of {', '.join(sorted(self.places))}",
            )
        if injection.labels is not None and not self.has_label_vectors:
            raise self._refused("labels cannot have vectors here", "a prompt with label words")
        if injection.read_at and self.kind != "encoder":
            raise self._refused(
                "labels are read in another layer than the last of encoders alone", "leave out prompt.read_layer"
            )
        if injection.is_matched and not self.compares_texts:
            raise self._refused(
                "this prompt's labels are texts that images are compared with, and the model compares none",
                "choose a model of two towers, such as CLIP, as --backbone",
            )
        if self.leaves_inputs and not injection.leaves_input:
            raise self._refused(
                "the adapter leaves the input to the frozen model, and this prompt would change the input",
                "--place after, or an adapter with place everywhere",
                got=f"a prompt at {', '.join(sorted(injection.places)) or 'a late layer'}",
            )
        if refusal := refused_prompt(self.kind, injection):
            raise self._refused(*refusal)

    def _check_labels(self, row: Encoded, injection: Injection | None) -> None:
        """Check that an encoder can score a row's labels."""
        target = row.target
        if isinstance(target, Answer):
            raise self._refused(*_WRITES_NOTHING)
        has_labels = injection is not None and injection.labels is not None
        if isinstance(target, AtMarks) and not has_labels:
            raise self._refused(
                "an encoder scores labels at many tokens by a vector for each label",
                "--set prompt.labels=auto, which trains them beside the prompt",
            )
        if isinstance(target, AtMarks) and injection and injection.head and injection.head.weight is not None:
            raise self._refused(
                "this prompt brings a classifier of whole texts, and the task asks for labels of tokens",
                "use it in a task of kind classification",
            )
        if isinstance(target, AtMarks) and injection and injection.read_at:
            raise self._refused(
                "labels of many tokens are read in the last layer", "leave out prompt.read_layer and read_features"
            )
        if isinstance(target, OneOf) and not has_labels:
            self._check_mask(target, has_prompt=injection is not None)

    def _check_mask(self, target: OneOf, has_prompt: bool) -> None:
        if not self.has_head:
            fix = "--set prompt.labels=vectors trains a vector for each label"
            if not has_prompt:
                fix = "without a prompt a linear probe answers for it: --way linear in a comparison"
            if "text" in self.modalities:
                fix += "; or a masked language model as --backbone"
            raise self._refused("this encoder has no head over a vocabulary, so it predicts no label words", fix)
        if not target.is_mask:
            raise self._refused(
                "an encoder predicts label words at a mask",
                "write {mask} where the word stands in the template, or --set prompt.labels=vectors",
            )
        candidates = target.candidates
        pairs = zip(candidates.words, candidates.label_of, strict=True)
        long_words = list(dict.fromkeys(candidates.labels[label] for word, label in pairs if len(word) > 1))
        if long_words:
            raise self._refused(
                "a mask stands for one token, and the words of these labels have several",
                "choose words that are one token each, or --set prompt.labels=vectors",
                got=", ".join(map(repr, long_words[:5])),
            )

    def _check_words(self, row: Encoded, injection: Injection | None) -> None:
        """Check that a row's candidate words have likelihoods over the vocabulary."""
        if not isinstance(row.target, OneOf):
            raise self._refused(f"row {row.row} has no candidate words to compute a likelihood for", "name some")
        if injection is not None and injection.labels is not None:
            raise self._refused("this prompt has vectors for its labels, not words", "a prompt with label words")

    def _refused(self, what: str, fix: str = "", got: str = "", wanted: str = "") -> BackboneError:
        model = f"{_KIND_NAMES[self.kind]} ({self.model_type})" if self.model_type else _KIND_NAMES[self.kind]
        return BackboneError(what, where=self.name, got=got or model, wanted=wanted, fix=fix)


def refused_prompt(kind: ModelKind, injection: Injection) -> tuple[str, str] | None:
    """The reason why a kind of model cannot take a prompt, and what to use instead; None when it can."""
    if kind == "decoder":
        return None
    if injection.vectors and injection.vectors.targets:
        sees = "which an encoder sees" if kind == "encoder" else "and an encoder-decoder's text has none"
        fix = "another method, or a decoder as --backbone"
        return f"this prompt must predict its own next tokens, {sees}", fix
    if kind == "encoder" and injection.memory and injection.memory.place == "after":
        what = "an encoder keeps no memory of its input for a prompt to follow"
        return what, "--place memory, which an encoder sees from everywhere"
    return None


def refused_text_in_memory(kind: ModelKind) -> tuple[str, str] | None:
    """The reason why a memory cannot stand for a text in a kind of model, and what to use instead; None if it can."""
    if kind == "encoder":
        return _WRITES_NOTHING
    if kind == "encoder-decoder":
        what = "an encoder-decoder answers from its encoder's output, in which no memory stands for a text"
        return what, "a decoder as --backbone"
    return None
