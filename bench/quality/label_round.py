"""Seconds of label and learn: reading the rows once, then a round after each eight labels.

    python bench/quality/label_round.py --data DATA [--task movie] [--rows 400] [--dtype float32]

A round is what the page's learner does: train the prompt again on all labels, answer the rows kept apart, choose the
next rows. Labels are the data's own, given in the learner's order; it begins with a prompt of random values.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, machine_facts, script_parser, start_facts, timed
from overture.core.files import write_json
from overture.data.encode import Encoder
from overture.data.rows import gold_of
from overture.engine.load import load_backbone
from overture.evaluate.facts import backbone_ref
from overture.evaluate.host import Host
from overture.evaluate.source import prompt_source
from overture.jobs.label.process import SessionLearner
from overture.jobs.label.session import Session, new_session
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.pack import prompt_tensors
from overture.store.manifest import Manifest
from overture.store.store import Store
from tasks import decoder_task, rows_of


def main() -> None:
    parser = script_parser(__doc__, "labels", threads=1)
    add_data(parser)
    parser.add_argument("--task", default="movie")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--labels", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started, root = start_facts(), Path(tempfile.mkdtemp())
    backbone, store = load_backbone("smollm2", device="cpu", dtype=options.dtype), Store(root)
    task, prompt = decoder_task(options.task), PromptConfig()
    rows = rows_of(options.task, options.data, "train")[: options.rows]
    gold = [str(label) for label in gold_of(task, rows)]
    values = prompt_tensors(build_prompt(prompt, prompt_source(backbone, Encoder(task, backbone.text.tokenizer)), 0))
    shape = {"method": prompt.method, "place": prompt.place, "length": prompt.length, "trainable": 1}
    made_of = {"backbone": backbone_ref(backbone), "task": task.dump(), "options": {"prompt": prompt.model_dump()}}
    store.add(Manifest(name=options.task, **made_of, **shape), values)
    path = root / "rows.jsonl"
    path.write_text("".join(json.dumps({name: row.fields[name] for name in task.columns}) + "\n" for row in rows))
    new_session(store, "bench", options.task, path)
    session = Session(store, "bench")
    learner = SessionLearner(session, Host(backbone, store))
    reading = timed(learner.begin)[1]
    print("reading", {name: round(value, 2) for name, value in reading.items()}, flush=True)
    rounds = []
    while len(session.labels()) < options.labels:
        for _ in range(8):
            index = session.next_row()
            assert index is not None
            session.give(index, gold[index])
        wall, cpu = time.perf_counter(), time.process_time()
        if learner.step():
            took = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
            score = session.curve()[-1].score if session.curve() else None
            facts = {"labels": len(session.labels()), **took, "score": score.dump() if score else None}
            rounds.append(facts)
            print(facts, flush=True)
    command = f"python bench/quality/label_round.py --data DATA --task {options.task} --rows {options.rows} "
    command += f"--labels {options.labels} --dtype {options.dtype} --threads {options.threads}"
    result = {"rows": len(session.rows), "reading": reading, "rounds": rounds}
    write_json(options.out / f"round-{options.task}.json", {"command": command, **started, **result, **machine_facts()})


if __name__ == "__main__":
    main()
