"""The honest baseline: LoRA by peft on every linear projection, in a lean training loop.

The loop spares the baseline what it does not need: no full head (only the label words' rows, at the last real
position), batches of rows of like length, no evaluation inside the timed part. One JSON file per task and seed; a file
that exists is skipped, so a stopped run goes on where it was. Each cell runs in its own process, so that its peak
memory is its own.

    python bench/quality/peft_baseline.py --task trec --task movie --seeds 5 --model DIR --data DIR --threads 1

Shape letters: B rows, L length, D width, C label words.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from overture.core.files import sha256_file, write_json
from overture.core.meter import Meter
from overture.core.seeds import named_random
from overture.data.row import Row as TextRow

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, in_own_process, machine_facts, script_parser, start_facts
from tasks import NUM_VALIDATION, WORDINGS, Wording, splits_of

# The best on validation rows, seed 0: of 5e-4, 1e-3, 2e-3 and 4e-3 on trec, of 5e-4 and 2e-3 on movie; see docs/log.md.
BEST_RATES = {"movie": 5e-4, "trec": 2e-3}


@dataclass(frozen=True)
class Config:
    """Everything that decides a cell's numbers, apart from the machine."""

    task: str
    seed: int
    lr: float
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    target_modules: str = "all-linear"
    num_epochs: int = 5
    batch_size: int = 16
    num_warmup_steps: int = 10
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    num_train: int = 256
    num_validation: int = NUM_VALIDATION
    eval_batch_size: int = 32
    dtype: str = "float32"

    @property
    def is_main(self) -> bool:
        """Whether this is a cell of the main table, not a check of the learning rate."""
        return self.lr == BEST_RATES[self.task]


@dataclass(frozen=True)
class Row:
    """One encoded row: token ids of input and anchor, and the index of its label word."""

    ids: list[int]
    label: int


@dataclass(frozen=True)
class Score:
    """What an evaluation gives: mean loss, and for each row in order whether it was right."""

    loss: float
    correct: list[bool]

    @property
    def accuracy(self) -> float:
        return sum(self.correct) / len(self.correct)


class LabelWordModel:
    """A causal model with LoRA that yields logits of the label words only, at the last real position."""

    def __init__(self, folder: Path, config: Config, word_ids: list[int], pad_id: int) -> None:
        backbone = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, config.dtype))
        self.word_rows_CD = backbone.get_output_embeddings().weight.detach()[word_ids].clone()
        self.pad_id = pad_id
        self.model = peft.get_peft_model(
            backbone,
            peft.LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                target_modules=config.target_modules,
                task_type="CAUSAL_LM",
            ),
        )
        self.base = self.model.get_base_model().model  # without the head

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def logits(self, rows: list[Row]) -> Tensor:
        lengths = torch.tensor([len(row.ids) for row in rows])
        num_padded = int(lengths.max())
        ids_BL = torch.tensor([row.ids + [self.pad_id] * (num_padded - len(row.ids)) for row in rows])
        mask_BL = (torch.arange(num_padded) < lengths[:, None]).long()
        hidden_BLD = self.base(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
        last_BD = hidden_BLD[torch.arange(len(rows)), lengths - 1]
        return F.linear(last_BD, self.word_rows_CD)


def encode(tokenizer: Any, task: Wording, rows: Sequence[TextRow]) -> list[Row]:
    """Tokenise input and anchor apart and join them, so that the anchor is the same tokens in every row."""
    labels = {label: index for index, label in enumerate(task.words)}
    anchor = tokenizer(task.anchor, add_special_tokens=False).input_ids
    texts = [task.input.format(text=row.fields["text"]) for row in rows]
    inputs = tokenizer(texts, add_special_tokens=False).input_ids
    return [Row(ids + anchor, labels[row.fields["label"]]) for ids, row in zip(inputs, rows, strict=True)]


def label_word_ids(tokenizer: Any, task: Wording) -> list[int]:
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in task.words.values()]
    assert all(len(word) == 1 for word in ids), f"label words must be one token each: {ids}"
    return [word[0] for word in ids]


def bucket_batches(rows: list[Row], batch_size: int, rng: random.Random) -> list[list[Row]]:
    """Batches of like length, in random order; rows of equal length are dealt anew each time."""
    shuffled = rng.sample(rows, len(rows))
    shuffled.sort(key=lambda row: len(row.ids))
    batches = [shuffled[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    rng.shuffle(batches)
    return batches


def lr_factor(step: int, num_warmup: int, num_steps: int) -> float:
    """Linear warm-up, then linear decay to zero."""
    return (step + 1) / num_warmup if step < num_warmup else (num_steps - step) / (num_steps - num_warmup)


@torch.inference_mode()
def evaluate(model: LabelWordModel, rows: list[Row], batch_size: int) -> Score:
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    total_loss, correct = 0.0, [False] * len(rows)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        logits_BC = model.logits([rows[index] for index in indices])
        labels_B = torch.tensor([rows[index].label for index in indices])
        total_loss += F.cross_entropy(logits_BC, labels_B, reduction="sum").item()
        for index, is_right in zip(indices, (logits_BC.argmax(-1) == labels_B).tolist(), strict=True):
            correct[index] = is_right
    return Score(total_loss / len(rows), correct)


def train_epochs(model: LabelWordModel, rows: list[Row], config: Config) -> Iterator[float]:
    """Train, yielding each epoch's mean loss; what the caller does between epochs is not training."""
    values = list(model.trainable().values())
    optimizer = torch.optim.AdamW(values, lr=config.lr, weight_decay=config.weight_decay)
    num_steps = config.num_epochs * -(-len(rows) // config.batch_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, config.num_warmup_steps, num_steps)
    )
    for epoch in range(config.num_epochs):
        total_loss = 0.0
        for batch in bucket_batches(rows, config.batch_size, named_random(config.seed, "order", epoch)):
            loss = F.cross_entropy(model.logits(batch), torch.tensor([row.label for row in batch]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(values, config.max_grad_norm)
            optimizer.step()
            scheduler.step()
            total_loss += loss.item() * len(batch)
        yield total_loss / len(rows)


def fit(
    model: LabelWordModel, train: list[Row], validation: list[Row], config: Config
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Train and validate after each epoch.

    Returns:
        One record per epoch (seconds are cumulative; only ``elapsed_seconds`` contains the validation), and the
        trained values after the best epoch: highest validation accuracy, on ties the lowest validation loss.
    """
    history: list[dict[str, Any]] = []
    best: tuple[float, float] | None = None
    best_values: dict[str, Tensor] = {}
    wall, cpu = 0.0, 0.0
    epochs = train_epochs(model, train, config)
    start = time.perf_counter()
    for epoch in range(1, config.num_epochs + 1):
        wall_before, cpu_before = time.perf_counter(), time.process_time()
        train_loss = next(epochs)
        wall += time.perf_counter() - wall_before
        cpu += time.process_time() - cpu_before
        score = evaluate(model, validation, config.eval_batch_size)
        is_best = best is None or (score.accuracy, -score.loss) > best
        if is_best:
            best = (score.accuracy, -score.loss)
            best_values = {name: p.detach().clone() for name, p in model.trainable().items()}
        history.append(
            {
                "epoch": epoch,
                "train_loss": train_loss,
                "validation_loss": score.loss,
                "validation_accuracy": score.accuracy,
                "is_best_so_far": is_best,
                "train_seconds": wall,
                "train_cpu_seconds": cpu,
                "elapsed_seconds": time.perf_counter() - start,
            }
        )
    return history, best_values


def run_cell(config: Config, model_folder: Path, data_folder: Path, threads: int, score_test: bool) -> dict[str, Any]:
    """Train one cell and, unless told not to, score the whole test set once with the best checkpoint."""
    started, meter = start_facts(), Meter()
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    task = WORDINGS[config.task]
    files = {split: data_folder / config.task / f"{split}.jsonl" for split in ("train", "validation", "test")}

    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    rows = splits_of(config.task, data_folder, config.num_train, config.seed)
    train, validation = (encode(tokenizer, task, rows[split]) for split in ("train", "validation"))
    model = LabelWordModel(model_folder, config, label_word_ids(tokenizer, task), tokenizer.pad_token_id)
    rss_loaded = meter.peak_bytes

    history, best_values = fit(model, train, validation, config)
    best = [record for record in history if record["is_best_so_far"]][-1]
    rss_trained = meter.peak_bytes
    for name, value in model.trainable().items():
        value.data.copy_(best_values[name])

    test = None
    if score_test:
        score = evaluate(model, encode(tokenizer, task, rows["test"]), config.eval_batch_size)
        test = {
            "n": len(score.correct),
            "accuracy": score.accuracy,
            "loss": score.loss,
            "correct": "".join(str(int(is_right)) for is_right in score.correct),
        }
    return {
        "method": "lora",
        "config": asdict(config),
        "text": asdict(task),
        **started,
        "threads": threads,
        **machine_facts(),
        "model_sha256": {file.name: sha256_file(file) for file in sorted(model_folder.glob("*.safetensors"))},
        "data_sha256": {split: sha256_file(file) for split, file in files.items()},
        "n": {"train": len(train), "validation": len(validation), "test": test["n"] if test else 0},
        "num_trainable_values": sum(p.numel() for p in model.trainable().values()),
        "train_seconds": history[-1]["train_seconds"],
        "train_cpu_seconds": history[-1]["train_cpu_seconds"],
        "train_seconds_to_best": best["train_seconds"],
        "best_epoch": best["epoch"],
        "validation_accuracy": best["validation_accuracy"],
        "peak_rss_bytes": rss_trained,
        "peak_rss_after_load_bytes": rss_loaded,
        "epochs": history,
        "test": test,
    }


def short_lr(lr: float) -> str:
    """A learning rate as people write it: 2e-4, not 0.0002 or 2e-04."""
    mantissa, exponent = f"{lr:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def cell_path(folder: Path, config: Config) -> Path:
    middle = "" if config.is_main else f"-lr{short_lr(config.lr)}"
    return folder / f"lora-{config.task}{middle}-seed{config.seed}.json"


def report_line(path: Path, result: dict[str, Any]) -> str:
    test = f"test {result['test']['accuracy']:.3f}" if result["test"] else "test not scored"
    return (
        f"{path.name}: validation {result['validation_accuracy']:.3f} (epoch {result['best_epoch']}), {test}, "
        f"{result['train_seconds']:.0f} s of training, {result['peak_rss_bytes'] / 2**20:.0f} MiB"
    )


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, "quality", threads=1)
    add_data(parser)
    parser.add_argument("--task", action="append", choices=sorted(WORDINGS), required=True, help="repeat for several")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 up")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model, in Hugging Face layout")
    parser.add_argument(
        "--lr",
        type=float,
        help="any other than the task's best is a check: the test set is not scored and the file name holds the rate",
    )
    parser.add_argument("--test", action="store_true", help="score the test set at any rate")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # read by each cell's process when torch loads
    for task in arguments.task:
        for seed in range(arguments.seeds):
            config = Config(task, seed, lr=arguments.lr or BEST_RATES[task])
            path = cell_path(arguments.out, config)
            if path.exists():
                print(f"{path.name}: exists, skipped", flush=True)
                continue
            is_scored = config.is_main or arguments.test
            result = in_own_process(run_cell, config, arguments.model, arguments.data, arguments.threads, is_scored)
            write_json(path, result)
            print(report_line(path, result), flush=True)


if __name__ == "__main__":
    main()
