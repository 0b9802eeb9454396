"""The catalogue of prompt methods: facts and options, everything that checking a request needs.

It imports no torch. A new method is one file of this package, named like the method, and one record in `METHODS`. The
file holds the maths and its docstring; it is imported when a prompt is built (`Method.maths`). Methods from elsewhere
join the catalogue by `plugins`.
"""

from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from overture.core.config import Config
from overture.core.injection import Place
from overture.prompt.caption_options import CoopOptions, KgCoopOptions, MapleOptions, PromptSrcOptions
from overture.prompt.config import LabelRate
from overture.prompt.method import Method, Sharing
from overture.prompt.plugins import add_installed

_AMONG_TOKENS: tuple[Place, ...] = ("before", "after", "slots")
_AS_MEMORY: tuple[Place, ...] = ("memory", "after")


class NoOptions(Config):
    """The method has no options of its own."""


class PrefixOptions(Config):
    """Options of prefix memory."""

    reparameterise: Literal["none", "mlp"] = Field(
        "none", description="Train the memory itself or an MLP that makes it."
    )
    mlp_width: int = Field(256, ge=1, description="Width of the MLP's input and hidden layer.")


class PTuningOptions(Config):
    """Options of P-tuning."""

    encoder: Literal["mlp", "lstm"] = Field("mlp", description="What makes the vectors: mlp, or lstm and mlp.")
    width: int = Field(256, ge=2, multiple_of=2, description="Width of the codes and of the encoder; an even number.")


class ResidualOptions(Config):
    """Options of residual prompt tuning."""

    bottleneck: int = Field(128, ge=1, description="Hidden width of the perceptron, m.")


class LowRankOptions(Config):
    """Options of decomposed prompt tuning."""

    rank: int = Field(4, ge=1, description="Rank of the prompt, r; at most its length.")


class UlptOptions(Config):
    """Options of ultra-low-dimensional prompt tuning."""

    rank: int = Field(16, ge=1, description="Trained numbers of each vector, r.")


class GatedOptions(Config):
    """Options of gated prefix memory."""

    layers: bool = Field(True, description="A gate for every layer.")
    columns: bool = Field(True, description="A gate for every column of the prompt.")

    @model_validator(mode="after")
    def _some_gate(self) -> Self:
        if not (self.layers or self.columns):
            raise ValueError("without any gate this is the method prefix")
        return self


class WarpOptions(Config):
    """Options of soft label words."""

    label_rate: LabelRate = 1.0


class CptOptions(Config):
    """Options of a context-aware prompt."""

    num_examples: int = Field(8, ge=1, description="At most so many examples; fewer when the length ends before.")
    epsilon: float = Field(0.2, gt=0, description="How far the rows' own texts may move, in mean vector lengths.")
    format_epsilon: float = Field(0.1, gt=0, description="The same for the template's and the labels' vectors.")
    context_loss: float = Field(1.0, ge=0, description="Weight of the examples' own labels in the loss, w.")
    decay: float = Field(0.95, gt=0, le=1, description="What an example weighs, of the next one, g.")


class DeptOptions(Config):
    """Options of a decomposed prompt."""

    rank: int = Field(8, ge=1, description="Rank of the offset, r.")
    max_tokens: int = Field(256, ge=1, description="How many of a row's first tokens have an offset, S.")
    offset_rate: float = Field(0.01, gt=0, description="Factor on the learning rate of the offset.")


class LateOptions(Config):
    """Options of a late prompt."""

    layer: int = Field(ge=1, description="The first layer that sees the prompt, counted from 0; half-way is a start.")


class IdpgOptions(Config):
    """Options of an instance-dependent prompt."""

    width: int = Field(16, ge=1, description="Width of the generator's bottleneck, m.")


class LopaOptions(Config):
    """Options of low-rank prompt adaptation."""

    rank: int = Field(2, ge=1, description="Rank of the gate's argument, r.")
    width: int = Field(32, ge=1, description="Width of the layer that reads the row, m.")


class AttemptOptions(Config):
    """Options of a mixture of stored prompts."""

    sources: tuple[str, ...] = Field(
        min_length=1, description="Stored prompts to mix: name or name@2; cut or repeated to the prompt's length."
    )
    width: int = Field(32, ge=1, description="Width of the attention's network, m.")
    temperature: float = Field(1.0, gt=0, description="Above 1 the mixture is more even, below 1 more decided, t.")


class MptOptions(Config):
    """Options of a multi-task prompt."""

    rank: int = Field(1, ge=1, description="Rank of the task factors, r.")
    source: str = Field("", description="Stored prompt that the shared one starts from: name or name@2.")


class PrunedOptions(Config):
    """The tokens and pieces of a pruned prompt that are kept."""

    tokens: tuple[int, ...] = Field(
        min_length=1, description="The vectors that are kept, by their index in the whole prompt, from 0."
    )
    masks: tuple[str, ...] = Field(
        (), description="For each kept vector, which of its equal pieces are kept: 1011 zeroes the second of four."
    )

    @field_validator("tokens")
    @classmethod
    def _in_order(cls, tokens: tuple[int, ...]) -> tuple[int, ...]:
        if list(tokens) != sorted(set(tokens)) or tokens[:1] < (0,):
            raise ValueError("the tokens must be given in order, each once, from 0")
        return tokens

    @model_validator(mode="after")
    def _alike(self) -> Self:
        if not self.masks:
            return self
        if len(self.masks) != len(self.tokens) or len({len(mask) for mask in self.masks}) != 1:
            raise ValueError("masks must be as many as tokens, and equally long")
        if any(not mask or set(mask) - {"0", "1"} or "1" not in mask for mask in self.masks):
            raise ValueError("a mask is a text of 0 and 1 with at least one 1")
        return self

    @property
    def kept(self) -> list[list[bool]]:
        """Whether each piece of each kept vector is kept."""
        return [[piece == "1" for piece in mask] for mask in self.masks or ("1",) * len(self.tokens)]

    @property
    def kept_pieces(self) -> int:
        """Pieces that are kept, n."""
        return sum(map(sum, self.kept))

    @property
    def pieces_each(self) -> int:
        """Pieces that a vector is cut into, k."""
        return len(self.kept[0])


class SplitOptions(Config):
    """Options of a learned position."""

    temperature: float = Field(1.0, gt=0, description="Above 1 all splits share the gradient, below 1 few do, t.")


class CartridgeOptions(Config):
    """Options of a cartridge."""

    frozen: int = Field(1, ge=0, description="First columns that are not trained, f.")


_COOP = Method(
    "coop",
    title="vectors beside the labels' words, which images are compared with",
    source="Zhou et al. 2022 (CoOp)",
    options=CoopOptions,
    places=("before", "around", "after"),
    learning_rate={"before": 2e-3, "around": 2e-3, "after": 2e-3},
    formula="P d",
    variants={"per_label=true": "C P d"},
    needs_labels=True,
    in_captions=True,
)
_MAPLE = Method(
    "maple",
    title="vectors in the lower layers of the texts, and maps of them in all layers of the images",
    source="Khattak et al. 2023 (MaPLe)",
    options=MapleOptions,
    places=("memory",),
    learning_rate={"memory": 2e-3},
    formula="J P d + N (d + 1) D",
    letters={"J": "depth"},
    needs_labels=True,
    in_captions=True,
)
_RECORDS = (
    Method(
        "vectors",
        title="vectors among the live tokens",
        source="Lester et al. 2021",
        options=NoOptions,
        places=_AMONG_TOKENS,
        learning_rate={"before": 3e-2, "after": 1e-1, "slots": 3e-2},
        formula="P D",
        pruned="pruned",
        is_cache=True,
    ),
    Method(
        "prefix",
        title="keys and values in every layer",
        source="Li and Liang 2021; Liu et al. 2022 (P-tuning v2)",
        options=PrefixOptions,
        places=_AS_MEMORY,
        learning_rate={"memory": 1e-1, "after": 1e-1},
        formula="2 N P H K",
        variants={"reparameterise=mlp": "P W + W W + W + (W + 1) 2 N H K"},
        letters={"W": "mlp_width"},
        takes_memory=True,
        rated_length=30,
        is_cache=True,
    ),
    Method(
        "deep",
        title="vectors in every layer",
        source="Liu et al. 2022 (P-tuning v2)",
        options=NoOptions,
        places=_AS_MEMORY,
        learning_rate={"memory": 3e-3, "after": 3e-3},
        formula="N P D",
        is_cache=True,
    ),
    Method(
        "p_tuning",
        title="an encoder that makes the vectors",
        source="Liu et al. 2021 (P-tuning)",
        options=PTuningOptions,
        places=_AMONG_TOKENS,
        learning_rate={"before": 3e-4, "after": 1e-3, "slots": 3e-4},
        formula="P W + W W + W + (W + 1) D",
        variants={"encoder=lstm": "P W + W W + W + (W + 1) D + 12 W W + 16 W"},
        letters={"W": "width"},
        peft="P_TUNING",
        is_cache=True,
    ),
    Method(
        "residual",
        title="vectors and a perceptron around them",
        source="Razdaibiedina et al. 2023",
        options=ResidualOptions,
        places=_AMONG_TOKENS,
        learning_rate={"before": 3e-2, "after": 3e-2, "slots": 3e-2},
        formula="P D + 2 D m + m + 3 D",
        letters={"m": "bottleneck"},
        is_cache=True,
    ),
    Method(
        "low_rank",
        title="vectors of low rank",
        source="Xiao et al. 2023 (DPT)",
        options=LowRankOptions,
        places=_AMONG_TOKENS,
        learning_rate={"before": 1e-2, "after": 3e-2, "slots": 1e-2},
        formula="r (P + D)",
        letters={"r": "rank"},
        is_cache=True,
    ),
    Method(
        "ulpt",
        title="a few numbers for each vector, randomly projected",
        source="Wu et al. 2025 (ULPT)",
        options=UlptOptions,
        places=_AMONG_TOKENS,
        learning_rate={"before": 3e-2, "after": 1e-1, "slots": 3e-2},
        formula="P r + 2 D",
        letters={"r": "rank"},
        is_cache=True,
    ),
    Method(
        "gated",
        title="keys and values in every layer, with gates",
        source="Zhu and Tan 2023 (SPT); Yang et al. 2023 (Dynamic Prompting)",
        options=GatedOptions,
        places=_AS_MEMORY,
        learning_rate={"memory": 1e-1, "after": 1e-1},
        formula="2 N P H K + N + P",
        variants={"layers=false": "2 N P H K + P", "columns=false": "2 N P H K + N"},
        takes_memory=True,
        takes_weights=True,
        has_gates=True,
        rated_length=30,
    ),
    Method(
        "warp",
        title="vectors among the live tokens, and one for each label",
        source="Hambardzumyan et al. 2021 (WARP)",
        options=WarpOptions,
        places=_AMONG_TOKENS,
        learning_rate={"before": 3e-2, "after": 3e-2, "slots": 3e-2},
        formula="P D + C D",
        needs_labels=True,
    ),
    Method(
        "cpt",
        title="labelled examples as vectors that move a little",
        source="Blau et al. 2024 (CPT)",
        options=CptOptions,
        places=("before",),
        learning_rate={"before": 1e-2},
        formula="P D",
        is_cache=True,
    ),
    Method(
        "dept",
        title="vectors among the live tokens, and a low-rank offset on the text's",
        source="Shi and Lipani 2024 (DePT)",
        options=DeptOptions,
        places=("before", "after"),
        learning_rate={"before": 3e-2, "after": 3e-2},
        formula="P D + r (S + D)",
        letters={"r": "rank", "S": "max_tokens"},
    ),
    Method(
        "late",
        title="vectors among the hidden states of one layer",
        source="Liu et al. 2022 (late prompt tuning)",
        options=LateOptions,
        places=_AMONG_TOKENS,
        learning_rate={"before": 3e-2, "after": 3e-2, "slots": 3e-2},
        formula="P D",
    ),
    Method(
        "idpg",
        title="vectors that a small network makes for each row",
        source="Wu et al. 2022 (IDPG)",
        options=IdpgOptions,
        places=_AMONG_TOKENS,
        learning_rate={"before": 1e-2, "after": 1e-2, "slots": 1e-2},
        formula="P D + m (D + 1 + P D)",
        letters={"m": "width"},
    ),
    Method(
        "lopa",
        title="shared vectors with a low-rank gate for each row",
        source="Jain et al. 2024 (LoPA)",
        options=LopaOptions,
        places=_AMONG_TOKENS,
        learning_rate={"before": 1e-2, "after": 1e-2, "slots": 1e-2},
        formula="P D + m (D + 1) + r (P + D) (m + 1)",
        letters={"r": "rank", "m": "width"},
    ),
    Method(
        "attempt",
        title="vectors mixed from stored prompts for each row",
        source="Asai et al. 2022 (ATTEMPT)",
        options=AttemptOptions,
        places=_AMONG_TOKENS,
        learning_rate={"before": 1e-2, "after": 1e-2, "slots": 1e-2},
        formula="P D + 2 m D + 2 D",
        letters={"m": "width"},
        sharing=Sharing(("down_weight", "up_weight", "norm_weight", "norm_bias")),
        refs=("sources",),
    ),
    Method(
        "mpt",
        title="shared vectors, scaled by the task's low-rank factors",
        source="Wang et al. 2023 (MPT)",
        options=MptOptions,
        places=_AMONG_TOKENS,
        learning_rate={"before": 3e-2, "after": 3e-2, "slots": 3e-2},
        formula="P D + r (P + D)",
        letters={"r": "rank"},
        sharing=Sharing(("shared",), distil=0.9, has_start=True),
        refs=("source",),
        peft="MULTITASK_PROMPT_TUNING",
        is_cache=True,
    ),
    Method(
        "pruned",
        title="what is left of vectors after pruning",
        source="Ma et al. 2022 (XPrompt)",
        options=PrunedOptions,
        places=("before", "after"),
        learning_rate={"before": 3e-2, "after": 1e-1},
        formula="n D / k",
        letters={"n": "kept_pieces", "k": "pieces_each"},
        is_cache=True,
    ),
    Method(
        "split",
        title="vectors on both sides of the input, and how many on each",
        source="Yang et al. 2023 (Dynamic Prompting)",
        options=SplitOptions,
        places=("around",),
        learning_rate={"around": 5e-2},
        formula="P D + P + 1",
        estimated=("logits",),
    ),
    Method(
        "cartridge",
        title="keys and values that stand for a text; the first stay",
        source="Eyuboglu et al. 2025 (Cartridges)",
        options=CartridgeOptions,
        places=("memory",),
        learning_rate={"memory": 1e-2},
        formula="2 N (P - f) H K",
        letters={"f": "frozen"},
        takes_memory=True,
        peft="CARTRIDGE",
        is_cache=True,
    ),
    _COOP,
    replace(
        _COOP,
        name="kgcoop",
        title="the same, held near a caption written by hand",
        source="Yao et al. 2023 (KgCoOp)",
        options=KgCoopOptions,
    ),
    _MAPLE,
    replace(
        _MAPLE,
        name="promptsrc",
        title="vectors in both towers, held near the frozen model, and their mean over epochs",
        source="Khattak et al. 2023 (PromptSRC)",
        options=PromptSrcOptions,
        formula="J P d + N P D",
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _RECORDS}
"""The methods by name: Overture's own, those of installed packages, and those of plug-in files that were loaded."""

add_installed(METHODS)
