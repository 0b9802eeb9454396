"""Write docs/benchmarks.md and its picture from the result files; nothing is measured here.

Only what stands between a section's two markers is replaced, so the page may say more around them.

    python bench/pages/report.py
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import altair as alt
import vl_convert

import once
from overture.core.files import write_atomic
from overture.evaluate.intervals import across_seeds
from overture.report.charts import colour, spec_of
from page_parts import marked, ranged, table, threads, with_section
from quality_section import cell_of, quality_text
from shared_passes import sections_of

BENCH = Path(__file__).parents[1]
PAGE = "# Benchmarks\n\n## Speed\n\n{speed}\n\n## Quality\n\n{quality}\n\n## Encoders\n\n{encoder}\n"
MIB = 2**20


# -- speed


def speed_text(results: Sequence[dict[str, Any]], picture: str) -> str:
    """The section on speed, one part per task."""
    head = (
        f"![Training speed beside peft]({picture})\n\n"
        "Every way trains on the same rows with the same model, batch size, prompt length and number of steps, in one "
        "process; the ways take turns, and ratios are taken within a round. Figures are medians of the rounds with "
        '(lowest-highest). "Same method" compares vectors with peft prompt tuning and prefix with peft prefix tuning.'
    )
    return "\n\n".join([head, *map(_speed_part, results)])


def _title(result: dict[str, Any]) -> str:
    """The task; of runs in several precisions also the precision and the clock."""
    config = result["config"]
    is_cpu = config.get("clock") == "cpu_seconds"
    dtype = f", {config['dtype']}" if is_cpu or config["dtype"] != "float32" else ""
    return f"{result['task']}{dtype}{', processor seconds' * is_cpu}"


def _speed_part(result: dict[str, Any]) -> str:
    config, tokens, cache = result["config"], result["tokens"], result["cache_seconds"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    what = (
        f"{config['num_rows']} rows, inputs of {tokens['input_mean']:.0f} tokens on average and {tokens['input_max']} "
        f"at most, anchor of {tokens['anchor']}; batch {config['batch_size']}, P = {config['length']}, "
        f"{config['dtype']}, n = {config['num_repeats']} rounds after one warm-up epoch each, seed {config['seed']}."
    )
    machine = (
        f"{result['machine']['cpu']}, {threads(config)} on {result['machine']['num_cpus']} processors; "
        f"{versions}; {result['started_at']}, load {result['load_at_start']:.1f} when it began."
    )
    limit = (
        f"Running every input once for `after` takes {ranged(cache, 2, ' s')} and keeps "
        f"{result['cache_bytes'] / MIB:.0f} MiB; an epoch does not contain it, the ratio over ten epochs (computed "
        "from these rounds) does. The limit is 4 x body parameters x live tokens at the rate of the best matrix "
        f"product of the run, {result['best_matmul_flop_per_s'] / 1e9:.0f} GFLOP/s; padding and the head do not count "
        "as work. "
    )
    if config.get("has_peaks", True):
        limit += "Peak memory is that of a process of its own that loads the model and trains one epoch."
    if config.get("clock") == "cpu_seconds":
        limit += "Seconds are the processor's, since the machine had other work."
    table_text = _speed_table(result["ways"], config.get("others", []))
    parts = [f"### {_title(result)}", what, table_text, limit, _ten_epochs(result["ways"])]
    return "\n\n".join(filter(None, [*parts, f"Made by `{result['command']}` on {machine}"]))


def _speed_table(ways: dict[str, dict[str, Any]], others: Sequence[str]) -> str:
    """A row for each way; columns beside another precision where it was measured in the same run."""
    head = [
        "way",
        "seconds per epoch",
        "times as fast, same method",
        "same, over 10 epochs",
        "times as fast as peft prompt tuning",
        "live tokens",
        "share of limit",
        "trained values",
        "peak memory, MiB",
        *(f"times as fast as {what} in {dtype}" for dtype in others for what in ("itself", "peft's same method")),
    ]
    rows = []
    for name, way in ways.items():
        same = way["times_as_fast_as"][way["rival"]]
        rows.append(
            [
                name,
                ranged(way["seconds"], 2),
                _ratio(name, way["rival"], same["one_epoch"]),
                _ratio(name, way["rival"], same["ten_epochs"]),
                _ratio(name, "peft prompt tuning", way["times_as_fast_as"]["peft prompt tuning"]["one_epoch"]),
                f"{way['num_live_tokens']:,}",
                f"{way['share_of_limit']:.0%}",
                f"{way['num_trainable_values']:,}",
                f"{way['peak_bytes'] / MIB:,.0f}" if "peak_bytes" in way else "-",
                *(
                    ranged(way["times_as_fast_as"][f"{other}, {dtype}"]["one_epoch"])
                    for dtype in others
                    for other in (name, way["rival"])
                ),
            ]
        )
    return table(head, rows)


def _ratio(name: str, rival: str, ratios: dict[str, float]) -> str:
    return "1" if name == rival else ranged(ratios)


def _ten_epochs(ways: dict[str, dict[str, Any]]) -> str:
    """The check by a real run, where one was made."""
    ran = {name: way["ten_epochs_run"]["seconds"] for name, way in ways.items() if "ten_epochs_run" in way}
    if not ran:
        return ""
    sentences = []
    for name, seconds in ran.items():
        rival = ways[name]["rival"]
        times = f", {ran[rival] / seconds:.1f} times as fast" if name != rival else ""
        sentences.append(f"{name} {seconds:.1f} s{times}")
    return "Ten epochs run end to end, building included (n = 1): " + "; ".join(sentences) + "."


def speed_chart(results: Sequence[dict[str, Any]]) -> alt.FacetChart:
    """Bars of the ratio to peft's same method, with a rule from the lowest to the highest round."""
    values = [
        {"task": _title(result), "way": name, **way["times_as_fast_as"][way["rival"]]["one_epoch"]}
        for result in results
        for name, way in ways_of_ours(result).items()
    ]
    ways = list(dict.fromkeys(str(value["way"]) for value in values))
    colours = alt.Scale(domain=ways, range=[colour(way.replace("/", "-")) for way in ways])
    base = alt.Chart().encode(y=alt.Y("way:N", sort=None, title=None))
    bars = base.mark_bar(height=14).encode(
        x=alt.X("median:Q", title="times as fast as peft's same method, per epoch"),
        color=alt.Color("way:N", scale=colours, legend=None),
    )
    spans = base.mark_rule(color="black", strokeWidth=2).encode(x="min:Q", x2="max:Q")
    labels = base.mark_text(align="left", dx=5).encode(x="max:Q", text=alt.Text("median:Q", format=".1f"))
    even = alt.Chart().mark_rule(strokeDash=[4, 3], color="gray").encode(x=alt.datum(1))
    layers = alt.layer(bars, spans, labels, even, data=alt.Data(values=values)).properties(width=460)
    return layers.facet(row=alt.Row("task:N", sort=None, title=None), title="Training speed beside peft")


def ways_of_ours(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: way for name, way in result["ways"].items() if not name.startswith("peft")}


# -- encoders


def encoder_text(cells: Sequence[dict[str, Any]]) -> str:
    """The section on an encoder without a head: one table per task, of the cells whose test rows were scored."""
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        by_task[cell["config"]["task"]].append(cell)
    head = (
        "MiniLM-L6 reads the text alone; a label is read from the mean of its tokens. Test accuracy: mean over the "
        "seeds, their standard deviation and the 95% t interval. Every way but the linear head trains a vector for "
        "each label; its learning rate is the best of those tried on validation rows of seed 0. CPU seconds hold "
        "training, building and the validation after every epoch."
    )
    return "\n\n".join([head, *(_encoder_part(task, task_cells) for task, task_cells in sorted(by_task.items()))])


def _encoder_part(task: str, cells: Sequence[dict[str, Any]]) -> str:
    tried: dict[str, list[float]] = defaultdict(list)
    ways: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for cell in sorted(cells, key=lambda cell: cell["config"]["way"]):
        config = cell["config"]
        if "test" in cell:
            ways[config["way"]].append(cell)
        else:
            tried[config["way"]].append(config["lr"])
    head = ["way", "test accuracy", "sd", "95% interval", "seeds", "test rows", "CPU seconds", "trained values", "rate"]
    rows = [_encoder_row(way, way_cells, tried[way]) for way, way_cells in ways.items()]
    config = cells[0]["config"]
    setting = f"P = {config['length']}, {config['epochs']} epochs, {config['train_rows']} training rows"
    chosen = " ".join(f"--way {way}" for way in ways)
    command = f"python bench/quality/encoder.py --model DIR --data DIR --task {task} {chosen}"
    return f"### {task}, encoder\n\n{setting}, {threads(cells[0])}.\n\n{table(head, rows)}\n\nMade by `{command}`"


def _encoder_row(way: str, cells: Sequence[dict[str, Any]], tried: Sequence[float]) -> list[str]:
    accuracy = across_seeds([cell["test"]["accuracy"] for cell in cells], bounds=(0.0, 1.0))
    rate = cells[0]["config"]["lr"]
    return [
        way,
        f"{accuracy.mean:.3f}",
        "-" if accuracy.sd is None else f"{accuracy.sd:.3f}",
        "-" if accuracy.low is None or accuracy.high is None else f"{accuracy.low:.3f}-{accuracy.high:.3f}",
        str(accuracy.n_seeds),
        "/".join(sorted({f"{cell['test']['n']:,}" for cell in cells})),
        f"{fmean(cell['cpu_seconds_with_validation'] for cell in cells):.0f}",
        f"{cells[0]['trainable']:,}",
        "-" if rate is None else f"{rate:g} of {', '.join(f'{tried_rate:g}' for tried_rate in sorted(tried))}",
    ]


# -- command line


# -- search


def search_text(results: Sequence[dict[str, Any]]) -> str:
    """The section on search: one row a run."""
    head = [
        "task, rows, seed",
        "winner",
        "test accuracy",
        "task file's setting",
        "difference, 95% interval",
        "p",
        "cost, CPU",
        "cost, wall",
    ]
    text = (
        "`overture search` beside one tune of the documented default (`prefix` at `after`, P = 10, its own rate), same "
        "rows. Cost is in times of that tune: the inputs' one run, training and validation; for the search everything "
        "but the loading of the model, its test score included. The test is exact McNemar on the test rows, one seed."
    )
    commands = sorted({_search_command(result) for result in results})
    made = "Made by:\n\n```sh\n" + "\n".join(commands) + "\n```"
    return "\n\n".join(["## Search", text, table(head, [_search_row(result) for result in results]), made])


def _search_row(result: dict[str, Any]) -> list[str]:
    winner, compared = result["search"]["winner"], result["compared"]
    title = "no prompt"
    if winner["length"]:
        title = f"{winner['method']}-{winner['place']}, P = {winner['length']}, lr {winner['lr']:.2g}"
    difference = compared["difference"]
    return [
        f"{result['task']}, {result['train_rows']}, {result['seed']}",
        title,
        f"{result['test']['winner']['value']:.3f}",
        f"{result['test']['default']['value']:.3f}",
        f"{100 * difference['value']:+.1f} ({100 * difference['low']:.1f} to {100 * difference['high']:.1f}) points",
        f"{compared['p_value']:.3f}",
        f"{result['cost_ratio']['cpu']:.1f}",
        f"{result['cost_ratio']['wall']:.1f}",
    ]


def _search_command(result: dict[str, Any]) -> str:
    return (
        f"python bench/quality/search.py --data DIR --task {result['task']} --train-rows {result['train_rows']} "
        f"--validation-rows {result['validation_rows']} --tunes {result['tunes']:g} --threads {result['threads']}"
    )


# -- GPU


def gpu_text(results: Sequence[dict[str, Any]]) -> str:
    """The section on GPUs, one part per shape."""
    head = (
        "## GPU\n\nRandom weights of the shapes of Llama-3.2-1B and Llama-3.1-8B, random rows of two labels. "
        "Utilisation is 4 x body parameters x live tokens over the seconds, as a share of the best matrix product of "
        "the same run. Peak memory is beyond the weights."
    )
    if not results:
        how = "python bench/speed/gpu.py --shape 1b\npython bench/speed/gpu.py --shape 8b\npython bench/pages/report.py"
        told = (
            "Not measured yet, compiled layers (`--compile-layers`) neither: the code is written and tested on the "
            "CPU, no figure here or elsewhere is of a GPU."
        )
        return f"{head}\n\n{told} To measure:\n\n```\n{how}\n```"
    return "\n\n".join([head, *map(_gpu_part, results)])


def _gpu_part(result: dict[str, Any]) -> str:
    config, machine = result["config"], result["machine"]
    single = table(
        ["way", "seconds per epoch", "times as fast as peft", "text tokens/s", "utilisation", "peak, MiB"],
        [
            [
                name,
                ranged(way["seconds"], 3),
                ranged(way["times_as_fast"]),
                f"{way['text_tokens_per_s']:,.0f}",
                f"{way['utilisation']:.0%}",
                f"{way['peak_bytes'] / MIB:,.0f}",
            ]
            for name, way in result["ways"].items()
        ],
    )
    together = table(
        ["cohort", "together, s", "one after another, s", "times as fast", "peak together, MiB"],
        [_gpu_cohort(cohort) for cohort in result["cohorts"]],
    )
    what = (
        f"{config['num_rows']} rows of up to {config['num_tokens']} tokens, batch {config['batch_size']}, P = "
        f"{config['length']}, {config['dtype']}, n = {config['num_repeats']} rounds; best product "
        f"{max(result['matmul_flop_per_s']) / 1e12:.1f} TFLOP/s."
    )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    made = f"Made by `{result['command']}` on {machine.get('gpu', machine['cpu'])}; {versions}; {result['started_at']}."
    title = f"### {config['shape']}{', compiled layers' if config.get('compile_layers') else ''}"
    return "\n\n".join([title, what, single, together, made])


def _gpu_cohort(cohort: dict[str, Any]) -> list[str]:
    name = f"{cohort['way']} x {cohort['members']}"
    if "error" in cohort:
        return [name, "-", "-", "-", "does not fit"]
    seconds = cohort["seconds"]
    times = [ranged(seconds[side], 2) for side in ("together", "alone")]
    return [name, *times, ranged(cohort["times_as_fast"]), f"{cohort['peak_bytes']['together'] / MIB:,.0f}"]


def write_report(results: Path, docs: Path) -> list[str]:
    """Write the page and the picture.

    Args:
        results: folder with a folder for each section.
        docs: folder of the page.

    Returns:
        The sections that were written; speed and quality without results stay as they are.
    """
    sections = {}
    if speed := [json.loads(file.read_text(encoding="utf-8")) for file in (results / "speed").glob("*.json")]:
        speed.sort(key=lambda result: result["tokens"]["input_mean"])
        picture = docs / "images" / "speed.svg"
        spec = spec_of(speed_chart(speed).properties(background="white"))
        write_atomic(picture, vl_convert.vegalite_to_svg(spec))
        sections["speed"] = speed_text(speed, "images/speed.svg")
    if cells := [cell for file in sorted((results / "quality").glob("*.json")) if (cell := cell_of(file))]:
        sections["quality"] = quality_text(cells)
    if searches := [json.loads(f.read_text(encoding="utf-8")) for f in sorted((results / "search").glob("*.json"))]:
        sections["search"] = search_text(searches)
    if encoder := [
        json.loads(file.read_text(encoding="utf-8")) for file in sorted((results / "encoder").glob("*.json"))
    ]:
        sections["encoder"] = encoder_text(encoder)
    sections |= sections_of(results, docs) | once.sections_of(results)
    sections["gpu"] = gpu_text(
        [json.loads(f.read_text(encoding="utf-8")) for f in sorted((results / "gpu").glob("*.json"))]
    )
    file = docs / "benchmarks.md"
    missing = {name: marked(name, "Not measured yet.") for name in ("speed", "quality", "encoder")}
    page = file.read_text(encoding="utf-8") if file.exists() else PAGE.format(**missing)
    for name, text in sections.items():
        page = with_section(page, name, text)
    write_atomic(file, page)
    return [*sections]


def outdated(results: Path, docs: Path) -> str | None:
    """What is wrong with the page; None when it says what the results say."""
    page = (docs / "benchmarks.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        write_atomic(Path(folder) / "benchmarks.md", page)
        write_report(results, Path(folder))
        if (Path(folder) / "benchmarks.md").read_text(encoding="utf-8") == page:
            return None
    return f"{docs / 'benchmarks.md'} does not say what {results} says\n  fix: python bench/pages/report.py"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write docs/benchmarks.md from the result files.")
    parser.add_argument("--results", type=Path, default=BENCH / "results", help="folder with speed and quality")
    parser.add_argument("--docs", type=Path, default=BENCH.parent / "docs", help="folder of benchmarks.md")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is not up to date")
    arguments = parser.parse_args()
    if not arguments.results.is_dir():
        raise SystemExit(f"there are no results in {arguments.results}\n  fix: bench/speed/speed.py, or --results")
    if arguments.check:
        raise SystemExit(outdated(arguments.results, arguments.docs))
    written = write_report(arguments.results, arguments.docs)
    print(f"{arguments.docs / 'benchmarks.md'}: {' and '.join(written) or 'nothing'} written")


if __name__ == "__main__":
    main()
