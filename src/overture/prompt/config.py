"""Options of the prompt that is tuned."""

from typing import Annotated, Any, Literal

from pydantic import Field

from overture.core.config import Config
from overture.core.errors import ConfigError
from overture.core.injection import Place, Pooled, ReadAt

Init = Literal["random", "vocabulary", "patches", "text", "labels", "null", "zero", "prompt"]
Labels = Literal["auto", "words", "vectors"]
LabelRate = Annotated[float, Field(gt=0, description="Factor on the learning rate of the label vectors.")]


class PromptConfig(Config):
    """The prompt that is tuned: method, place, length and start."""

    method: str = Field("prefix", description="How the prompt's values are parameterised; see docs/methods.md.")
    place: Place = Field(
        "after",
        description="Where the prompt enters: before the text, memory (before it, costs no tokens), after the input, "
        "slots ({prompt:5} in the template), or around the input (how much on each side is learned). If not given, "
        "memory for encoders and for texts that answer a text (kind generation), else after.",
    )
    length: int = Field(10, ge=1, le=20000, description="Prompt length in virtual tokens.")
    init: Init = Field(
        "vocabulary",
        description="Starting point: random (of the vocabulary's length), vocabulary, patches (of training rows, as "
        "each layer has them; a model without words takes them for vocabulary), text, labels, null (a token that says "
        "nothing), zero, or prompt (a stored one).",
    )
    init_text: str = Field("", description="The text to start from when init is text.")
    init_prompt: str = Field("", description="The stored prompt to start from when init is prompt: name or name@2.")
    labels: Labels = Field(
        "auto",
        description="What labels are compared with: their words, or a trained vector for each beside the prompt; "
        "vectors where the model predicts no words, such as an encoder without a head or a template without {mask}.",
    )
    label_rate: LabelRate | None = Field(
        None,
        description="Factor on the learning rate of the label vectors; if not given, 1 for tags and ends of answers, "
        "else at most 1 and such that they learn at 0.01 where the method learns at its own rate.",
    )
    read_layer: Annotated[int, Field(ge=1)] | Literal["last", "search"] = Field(
        "last",
        description="After how many layers label vectors read the rows of an encoder: a number, last (and the norm "
        "behind it), or search: where a linear probe is best on validation rows.",
    )
    read_features: Pooled | Literal["auto"] = Field(
        "auto",
        description="What label vectors read there: the state that the label is read from, the mean of all, or both "
        "side by side; auto is what the model and the task say, or the best where the layer is searched.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the method itself.")

    @property
    def read_at(self) -> ReadAt | None:
        """Where label vectors read; None for the last states, as the task says.

        Raises:
            ConfigError: it is still to be searched for.
        """
        if self.read_layer == "search":
            raise ConfigError(
                "only tune and compare search for the layer that labels are read at",
                where="prompt.read_layer",
                got="search",
                fix="give the number of a layer",
            )
        if self.read_layer == "last" and self.read_features == "auto":
            return None
        layer = None if self.read_layer == "last" else self.read_layer
        return ReadAt(layer, None if self.read_features == "auto" else self.read_features)
