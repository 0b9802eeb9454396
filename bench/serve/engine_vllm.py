"""vLLM's part of `with_vllm.py`, in vLLM's own Python; called as

    PYTHON engine_vllm.py WORK.json

- equal: greedy answers of 16 tokens under prompts, mixed in batches, beside the local worker's.
- mixed: rows under as many prompts as there are rows, beside the same rows under none, in turn.
- broken: requests with names that are none, torn files and NaN; then a row whose answer is known.
- writes: processor seconds of 16 rows, 36 tokens in and 24 out, without prompts.
"""

import argparse
import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

_OPTIONS = {"temperature": 0.0, "ignore_eos": True, "detokenize": False}


def _connector() -> Any:
    """The connector of this process's engine."""
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    return get_kv_transfer_group()


class Engine:
    """One vLLM engine in this process, with the connector."""

    def __init__(self, work: dict[str, Any]) -> None:
        # Here, so that --help answers where vLLM is not installed.
        from vllm import LLM

        self.work = work
        self.llm = LLM(
            model=work["model"],
            dtype=work["dtype"],
            max_model_len=512,
            block_size=32,
            max_num_seqs=64,
            enable_prefix_caching=True,
            enforce_eager=True,
            kv_transfer_config={
                "kv_connector": "OvertureConnector",
                "kv_connector_module_path": "overture.exchange.vllm_connector",
                "kv_role": "kv_both",
                "kv_connector_extra_config": {"prompts": work["prompts"]},
            },
        )

    @property
    def num_loads(self) -> int:
        """How often columns were written into vLLM's cache."""
        return int(_connector().num_loads)

    def ask(self, rows: list[tuple[list[int], Any, str]], most: int, logprobs: int | None = 0) -> list[Any]:
        """Answers to rows: their tokens, what names the prompt, the salt."""
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": ids, "cache_salt": salt} for ids, _, salt in rows]
        options = [
            SamplingParams(
                **_OPTIONS,
                max_tokens=most,
                logprobs=logprobs,
                extra_args={"kv_transfer_params": named} if named is not None else None,
            )
            for _, named, _ in rows
        ]
        return list(self.llm.generate(prompts, options, use_tqdm=False))

    def row(self, ref: str, ids: list[int]) -> tuple[list[int], Any, str]:
        """A row under a prompt."""
        return [0] * self.work["lengths"][ref] + ids, {"overture": ref}, f"t-{ref}"


def equal(engine: Engine) -> dict[str, Any]:
    rows, before = engine.work["rows"], engine.num_loads
    outputs = engine.ask([engine.row(row["prompt"], row["ids"]) for row in rows], 16)
    num_equal, differences, first_differences = 0, [], []
    for row, output in zip(rows, outputs, strict=True):
        written = output.outputs[0]
        shares = [next(iter(place.values())).logprob for place in written.logprobs]
        ids = [token for token, _ in row["answer"]]
        is_equal = list(written.token_ids) == ids
        num_equal += is_equal
        if is_equal:
            differences += [abs(a - b) for a, (_, b) in zip(shares, row["answer"], strict=True)]
        else:
            place = next(n for n, pair in enumerate(zip(written.token_ids, ids, strict=True)) if pair[0] != pair[1])
            first_differences.append({"prompt": row["prompt"], "place": place})
    whole = {row["prompt"] for row in rows if row["length"] % 32 == 0}
    return {
        "num_rows": len(rows),
        "num_equal": num_equal,
        "most_difference": max(differences, default=None),
        "differ": first_differences,
        "num_prompts": len({row["prompt"] for row in rows}),
        "num_prompts_of_whole_blocks": len(whole),
        "num_loads": engine.num_loads - before,
        "num_reads": _connector().prompts.num_reads,
    }


def mixed(engine: Engine) -> dict[str, Any]:
    refs, rounds = [ref for ref, length in engine.work["lengths"].items() if length % 32 == 0], []
    pieces = [row["ids"] for row in engine.work["rows"]]
    numbers = iter(range(1, 1 << 30))

    def rows(is_prompted: bool) -> list[tuple[list[int], Any, str]]:
        made = []
        for number, ref in enumerate(refs):
            # Never a text that was there before: only the prompt's own blocks may be kept.
            ids = [next(numbers) % 4000 + 100, *pieces[number % len(pieces)]][:32]
            made.append(engine.row(ref, ids) if is_prompted else (ids, None, "none"))
        return made

    def seconds(is_prompted: bool) -> tuple[float, float]:
        asked = rows(is_prompted)
        clock, cpu = time.perf_counter(), time.process_time()
        outputs = engine.ask(asked, 24)
        assert sum(len(output.outputs[0].token_ids) for output in outputs) == 24 * len(asked)
        return time.process_time() - cpu, time.perf_counter() - clock

    before = engine.num_loads
    seconds(True), seconds(False)
    num_loads = engine.num_loads - before
    for _ in range(engine.work["num_repeats"]):
        rounds.append({"none": seconds(False), "mixed": seconds(True)})
        print({name: round(pair[0], 2) for name, pair in rounds[-1].items()}, flush=True)
    ratios = sorted(record["none"][0] / record["mixed"][0] for record in rounds)
    loads = {"first round": num_loads, "all rounds": engine.num_loads - before}
    return {
        "num_prompts": len(refs),
        "throughput_of_none": {"median": ratios[len(ratios) // 2], "lowest": ratios[0], "highest": ratios[-1]},
        "rounds": rounds,
        "loads": loads,
    }


def broken(engine: Engine) -> dict[str, Any]:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    random.seed(0)
    folder, good = Path(engine.work["prompts"]), "p0@1"
    for ref in ("torn@1", "nan@1", "empty@1", "strange@1"):
        shutil.copytree(folder / good, folder / ref)
    tensors = folder / "torn@1" / "prompt.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    values = load_file(folder / "nan@1" / "prompt.safetensors")
    values["keys"][0, 0, 0, 0] = np.nan
    save_file(values, folder / "nan@1" / "prompt.safetensors")
    (folder / "empty@1" / "prompt.json").write_text("")
    manifest = json.loads((folder / "strange@1" / "prompt.json").read_text())
    (folder / "strange@1" / "prompt.json").write_text(json.dumps(manifest | {"num_kv_heads": 7}))
    length, (known, *_) = engine.work["lengths"][good], engine.work["rows"]
    alphabet = ["..", "/", "\\", "p0", "@", "1", "\0", "é", "~", "%2e", " ", "v", "A", "torn@1", "nan@1"]
    odd: list[Any] = [
        "torn@1",
        "nan@1",
        "empty@1",
        "strange@1",
        None,
        7,
        True,
        [],
        {},
        "",
        "p0",
        "p0@0",
        "P0@1",
        "a" * 5000,
    ]
    while len(odd) < engine.work["num_broken"]:
        odd.append("".join(random.choices(alphabet, k=random.randint(1, 8))))
    num_failed = num_answered = 0
    clock = time.perf_counter()
    for start in range(0, len(odd), 100):
        rows = [([0] * length + known["ids"], {"overture": name}, f"bad-{name!r}") for name in odd[start : start + 100]]
        # A good row among them.
        rows.insert(random.randrange(len(rows)), engine.row(known["prompt"], known["ids"]))
        try:
            outputs = engine.ask(rows, 16)
        except Exception as error:
            print("the engine raised", type(error).__name__, str(error)[:300], flush=True)
            raise
        for (_, named, _), output in zip(rows, outputs, strict=True):
            if named == {"overture": known["prompt"]}:
                num_answered += list(output.outputs[0].token_ids) == [token for token, _ in known["answer"]]
            else:
                num_failed += output.outputs[0].finish_reason == "error" or not output.outputs[0].token_ids
    (after,) = engine.ask([engine.row(known["prompt"], known["ids"])], 16)
    return {
        "num_broken": len(odd),
        "num_failed": num_failed,
        "good_rows_among_them": (len(odd) + 99) // 100,
        "good_rows_right": num_answered,
        "right_afterwards": list(after.outputs[0].token_ids) == [token for token, _ in known["answer"]],
        "seconds": time.perf_counter() - clock,
    }


def writes(engine: Engine) -> dict[str, Any]:
    numbers, cpu_seconds = iter(range(1, 1 << 30)), []
    for _ in range(engine.work["num_repeats"] + 1):
        rows = [([next(numbers) * 7 % 40000 + 100 for _ in range(36)], None, "writes") for _ in range(16)]
        started = time.process_time()
        outputs = engine.ask(rows, 24)
        cpu_seconds.append(time.process_time() - started)
        assert sum(len(output.outputs[0].token_ids) for output in outputs) == 16 * 24
    print("writes", [round(seconds, 2) for seconds in cpu_seconds], flush=True)
    return {"cpu_seconds": cpu_seconds[1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="what is to be done, as with_vllm.py writes it")
    work = json.loads(parser.parse_args().work.read_text())
    import vllm

    engine, parts = Engine(work), {"equal": equal, "mixed": mixed, "broken": broken, "writes": writes}
    result: dict[str, Any] = {"vllm": vllm.__version__}
    for name in work["only"]:
        result[name] = parts[name](engine)
        print(name, json.dumps(result[name])[:600], flush=True)
        Path(work["out"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
