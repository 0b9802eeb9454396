"""The ways that speed.py times: ours and peft's, made to train on the same rows.

Shape letters: B rows, L length.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import peft
import torch
import transformers
from torch import Tensor

from overture.core.rows import Encoded
from overture.core.seeds import named_random
from overture.data.batches import epoch_batches
from overture.data.encode import Encoder
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.evaluate.source import prompt_source
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.registry import own_rate

NUM_ROWS = {"movie": 64, "bbc": 32}
# Every way by its method and place, in our words.
PEFT = {"peft prompt tuning": ("vectors", "before"), "peft prefix tuning": ("prefix", "memory")}
SAME_BATCHES = ", our batches"
OURS = {
    "vectors/before": ("vectors", "before"),
    "prefix/memory": ("prefix", "memory"),
    "vectors/after": ("vectors", "after"),
    "prefix/after": ("prefix", "after"),
}
RIVALS = {"vectors": "peft prompt tuning", "prefix": "peft prefix tuning"}

Batches = list[list[Encoded]]


@dataclass(frozen=True)
class Config:
    """Everything that decides a run's numbers, apart from the machine."""

    task: str
    num_rows: int
    num_repeats: int
    threads: int
    same_batches: bool = False
    ten_epochs: bool = False
    seed: int = 0
    length: int = 10
    batch_size: int = 16
    dtype: str = "float32"
    others: tuple[str, ...] = ()
    clock: str = "seconds"
    has_peaks: bool = True

    @property
    def command(self) -> str:
        flags = " --same-batches" * self.same_batches + " --ten-epochs" * self.ten_epochs
        dtypes = (self.others[0], self.dtype) if self.others else (self.dtype,)
        flags += "".join(f" --dtype {dtype}" for dtype in dtypes if dtypes != ("float32",))
        flags += f" --clock {self.clock}" * (self.clock != "seconds") + " --no-peaks" * (not self.has_peaks)
        return (
            f"python bench/speed/speed.py --data DIR --task {self.task} --rows {self.num_rows} "
            f"--repeats {self.num_repeats} --threads {self.threads}{flags}"
        )

    @property
    def peft_ways(self) -> list[str]:
        return [*PEFT, *(name + SAME_BATCHES for name in PEFT)] if self.same_batches else [*PEFT]

    @property
    def ways(self) -> list[str]:
        return [*self.peft_ways, *OURS]


@dataclass(frozen=True)
class Way:
    """One way to train a prompt, ready for its next epoch.

    Args:
        mean_loss: of a batch, to be differentiated.
        batches: those of an epoch, by its number.
        values: what is trained.
        optimizer: over the values.
        model: where a fresh input cache goes; None for peft.
    """

    mean_loss: Callable[[list[Encoded]], Tensor]
    batches: Callable[[int], Batches]
    values: list[Tensor]
    optimizer: torch.optim.Optimizer
    model: PromptedModel | None = None

    def epoch(self, number: int) -> float:
        """Train one epoch; its mean loss."""
        total, num_rows = 0.0, 0
        for batch in self.batches(number):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.mean_loss(batch)
            loss.backward()
            self.optimizer.step()
            total, num_rows = total + loss.item() * len(batch), num_rows + len(batch)
        return total / num_rows


def peft_way(folder: str, name: str, rows: Sequence[Encoded], config: Config) -> Way:
    """peft's prompt or prefix tuning in its guides' loop.

    Args:
        folder: the model, in Hugging Face layout.
        name: one of `Config.peft_ways`.
        rows: training rows.
        config: the run.
    """
    transformers.utils.logging.disable_progress_bar()
    # peft asks transformers for a name that it has left behind; nothing that a reader of the output can mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    torch.manual_seed(config.seed)
    backbone = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, config.dtype))
    model = peft.get_peft_model(backbone, _peft_config(shape_of(name)[0], config)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def mean_loss(batch: list[Encoded]) -> Tensor:
        return model(**padded_batch(batch, tokenizer.pad_token_id), use_cache=False).loss

    def batches(epoch: int) -> Batches:
        order = epoch_batches if name.endswith(SAME_BATCHES) else random_batches
        return order(rows, config.batch_size, config.seed, epoch)

    values = [value for value in model.parameters() if value.requires_grad]
    return Way(mean_loss, batches, values, torch.optim.AdamW(values, lr=1e-2))


def _peft_config(method: str, config: Config) -> peft.PeftConfig:
    if method == "prefix":
        return peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=config.length)
    # The start that ours has as well; peft's own default is noise.
    return peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=config.length, prompt_tuning_init="SAMPLE_VOCAB"
    )


def random_batches(rows: Sequence[Encoded], batch_size: int, seed: int, epoch: int) -> Batches:
    """Batches in random order whatever their rows' lengths, as a shuffling data loader deals them."""
    order = named_random(seed, "order", epoch).sample(list(rows), len(rows))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def padded_batch(batch: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    """A batch [B, L] of text and label word, padded on the right; only the label word has a label."""
    texts = [[*row.input_ids, *row.anchor_ids, label_word(row)] for row in batch]
    lengths = torch.tensor([len(text) for text in texts])
    longest = int(lengths.max())
    ids_BL = torch.tensor([text + [pad_id] * (longest - len(text)) for text in texts])
    at_L = torch.arange(longest)
    labels_BL = ids_BL.where(at_L == lengths[:, None] - 1, -100)
    return {"input_ids": ids_BL, "attention_mask": (at_L < lengths[:, None]).long(), "labels": labels_BL}


def label_word(row: Encoded) -> int:
    candidates = row.target.candidates
    word = candidates.words[candidates.label_of.index(row.label)]
    assert len(word) == 1, "label words of this benchmark are one token each"
    return word[0]


def our_way(backbone: Backbone, encoder: Encoder, name: str, rows: Sequence[Encoded], config: Config) -> Way:
    """One of our methods at one place; its input cache is set by the caller.

    Args:
        backbone: the frozen model.
        encoder: the task's, for the label words.
        name: one of `OURS`.
        rows: training rows.
        config: the run.
    """
    method, place = OURS[name]
    prompt = PromptConfig(method=method, place=place, length=config.length)
    model = PromptedModel(backbone, build_prompt(prompt, prompt_source(backbone, encoder), config.seed))
    values = list(model.trainable().values())
    optimizer = torch.optim.AdamW(values, lr=own_rate(prompt), weight_decay=0.0)

    def mean_loss(batch: list[Encoded]) -> Tensor:
        return model.loss(batch) / model.weight(batch)

    def batches(epoch: int) -> Batches:
        return epoch_batches(rows, config.batch_size, config.seed, epoch)

    return Way(mean_loss, batches, values, optimizer, model)


def built_cache(backbone: Backbone, rows: Sequence[Encoded]) -> InputCache:
    """Every input run once."""
    cache = InputCache()
    PromptedModel(backbone, None, cache).warm(rows)
    return cache


def is_cached(name: str) -> bool:
    return name in OURS and OURS[name][1] == "after"


def shape_of(name: str) -> tuple[str, str]:
    """The way's method and place."""
    return OURS.get(name) or PEFT[name.removesuffix(SAME_BATCHES)]


def rival_of(name: str) -> str:
    """The peft way with the same method."""
    return RIVALS[shape_of(name)[0]]


def num_live_tokens(name: str, rows: Sequence[Encoded], length: int, batch_size: int = 1) -> int:
    """Tokens that an epoch of this way must compute, padding not counted.

    The label word is not among them: it is predicted, not read.

    Args:
        name: the way.
        rows: of the epoch.
        length: of the prompt.
        batch_size: of our ways on a CPU, whose vectors before the texts run once a batch.
    """
    method, place = shape_of(name)
    per_row = length if method == "vectors" else 0
    if name in OURS and per_row and place == "before":
        return length * math.ceil(len(rows) / batch_size) + num_live_tokens("prefix/memory", rows, length)
    return sum(per_row + len(row.anchor_ids) + (0 if place == "after" else len(row.input_ids)) for row in rows)
