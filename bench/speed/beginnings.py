"""What rows begin with alike, run once a pass or once a row: processor seconds of a step, of scoring, of keeping texts.

Question types in the model's chat template, behind a system message that is the same in every row. Both ways take
turns in one process, so that other work on the machine meets both.

    python bench/speed/beginnings.py --data DIR --repeats 5 --threads 1
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from overture.core.contracts import LabelScores
from overture.core.files import write_json
from overture.data.encode import Encoder
from overture.engine import beginnings
from overture.engine.cache import InputCache
from overture.engine.inputs import Inputs
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.source import prompt_source
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, machine_facts, script_parser, spread, start_facts, timed
from tasks import WORDINGS, decoder_task, rows_of

SYSTEM = "You are shown a question. Say with one word what it asks for: {}."
NEVER = 10**9


def main() -> None:
    parser = script_parser(__doc__, "beginnings", 1)
    add_data(parser)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=16, help="of the batch")
    parser.add_argument("--texts", type=int, default=256, help="that are kept")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    facts = start_facts()
    system = SYSTEM.format(",".join(WORDINGS["trec"].words.values()))
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "{text}"}]
    plain = decoder_task("trec")
    task = type(plain).model_validate(plain.model_dump() | {"template": messages})
    backbone = load_backbone(device="cpu")
    encoder = Encoder(task, backbone.text.tokenizer, reserve=10)
    many = encoder.encode(rows_of("trec", given.data, "train")[: given.texts])
    rows = many[: given.rows]
    texts = [row.input_elements for row in many]
    source = prompt_source(backbone, encoder, rows)

    def model_of(method: str, place: str) -> PromptedModel:
        return PromptedModel(backbone, build_prompt(PromptConfig(method=method, place=place, length=10), source, 0))

    def step(model: PromptedModel) -> None:
        (model.loss(rows) / len(rows)).backward()

    def scored(model: PromptedModel) -> None:
        model.ask(rows, LabelScores())

    trained, bare = (
        {way: model_of(*way) for way in (("vectors", "before"), ("prefix", "memory"))},
        PromptedModel(backbone),
    )
    work: dict[str, Callable[[], None]] = {
        f"{'/'.join(way)}, a step": lambda m=m: step(m) for way, m in trained.items()
    }
    work["no prompt, scores"] = lambda: scored(bare)
    work[f"{len(texts)} texts kept"] = lambda: Inputs(backbone, InputCache(), 2048).warm_columns(texts, None)
    worth = beginnings._WORTH_HEAD
    seconds: dict[str, dict[str, list[float]]] = {name: {"once a pass": [], "once a row": []} for name in work}
    for repeat in range(given.repeats + 1):
        for name, run in work.items():
            for way, least in (("once a pass", worth), ("once a row", NEVER)):
                beginnings._WORTH_HEAD = least
                _, taken = timed(run)
                if repeat:
                    seconds[name][way].append(taken["cpu_seconds"])
    heads = beginnings._common_head([row.input_elements for row in rows])
    results = {}
    for name, ways in seconds.items():
        ratios = [row / once for once, row in zip(ways["once a pass"], ways["once a row"], strict=True)]
        results[name] = {way: spread(values) for way, values in ways.items()} | {"times as fast": spread(ratios)}
        print(name, {way: round(values["median"], 3) for way, values in results[name].items()}, flush=True)
    options = f"--rows {given.rows} --texts {given.texts} --repeats {given.repeats} --threads {given.threads}"
    write_json(
        given.out / "trec-chat.json",
        {
            "command": f"python bench/speed/beginnings.py --data DIR {options}",
            "rows": len(rows),
            "mean_tokens": sum(row.num_text for row in rows) / len(rows),
            "tokens_in_common": len(heads),
            "cpu_seconds": results,
            **facts,
            **machine_facts(),
        },
    )


if __name__ == "__main__":
    main()
