"""Which prompt is tuned."""

from typing import Annotated, Any, Literal

from pydantic import Field

from overture.core.config import Config
from overture.core.injection import Place

Init = Literal["random", "vocabulary", "patches", "text", "labels", "null", "zero", "prompt"]
Labels = Literal["auto", "words", "vectors"]
LabelRate = Annotated[float, Field(gt=0, description="Factor on the learning rate of the label vectors.")]


class PromptConfig(Config):
    """The prompt that is tuned: method, place, length and start."""

    method: str = Field("prefix", description="How the prompt's values are parameterised; see docs/methods.md.")
    place: Place = Field(
        "after",
        description="Where the prompt enters: before the text, memory (before it, costs no tokens), after the input, "
        "slots ({prompt:5} in the template), or around the input (how much on each side is learned).",
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
    label_rate: LabelRate = 1.0
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the method itself.")
