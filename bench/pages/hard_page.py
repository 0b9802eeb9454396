"""Write the tables and pictures of docs/hard-prompts.md from bench/results; what was not measured is left out.

python bench/pages/hard_page.py [--check]
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from overture.core.files import write_atomic
from overture.core.records.hard import Candidate
from overture.evaluate.intervals import across_seeds, wilson
from overture.report.charts import WIDE, interval_chart, png_of
from page_parts import table, with_section

ROOT = Path(__file__).parents[2]
RESULTS, PAGE, IMAGES = ROOT / "bench" / "results", ROOT / "docs" / "hard-prompts.md", ROOT / "docs" / "images"
TASKS = {"trec": "question types", "movie": "film reviews", "bbc": "news"}
BOUNDS = (0.0, 1.0)


def kept(name: str, folder: str = "hard") -> dict[str, Any] | None:
    path = RESULTS / folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def number(value: float) -> str:
    return f"{value:.3f}"


def mean_of(values: list[float], num_rows: int) -> tuple[float, float, float]:
    """Mean over seeds with its interval; of one seed with the interval over its rows."""
    spread = across_seeds(values, BOUNDS)
    ends = wilson(round(spread.mean * num_rows), num_rows) if spread.low is None else (spread.low, spread.high)
    return (spread.mean, *ends)


def prefix_scores(task: str) -> list[float]:
    """Test accuracy of a tuned prefix from as many training rows, by seed."""
    files = sorted((RESULTS / "quality").glob(f"prefix-after-{task}-seed*.json"))
    return [json.loads(path.read_text(encoding="utf-8"))["test"]["accuracy"] for path in files]


def accuracies(result: dict[str, Any]) -> dict[str, list[float]]:
    """Name -> test accuracy in each seed: the words and their controls, the tuned prefix last."""
    scores: dict[str, list[float]] = {"prompt of words": [seed["test"]["value"] for seed in result["seeds"]]}
    for seed in result["seeds"]:
        for claim in seed["claims"]:
            name = "8 examples" if claim["control"].endswith("examples") else claim["control"]
            scores.setdefault(name, []).append(claim["score"])
    if prefix := prefix_scores(result["task"]):
        scores["tuned prefix"] = prefix
    return scores


def searches() -> str:
    """Scores over seeds, and what could be claimed."""
    parts = []
    for task, title in TASKS.items():
        if (result := kept(f"search-{task}")) is None:
            continue
        seeds = result["seeds"]
        means = {name: mean_of(values, seeds[0]["rows"]["test"]) for name, values in accuracies(result).items()}
        counts = {name: str(len(values)) for name, values in accuracies(result).items()}
        rows = [
            [name, f"{mean:.3f} ({low:.3f} to {high:.3f})", counts[name]] for name, (mean, low, high) in means.items()
        ]
        claims = [(seed, claim) for seed in seeds for claim in seed["claims"]]
        controls = dict.fromkeys(claim["control"] for _, claim in claims)
        cpu_seconds = [seed["cpu_seconds"] for seed in seeds if "cpu_seconds" in seed]
        lines = []
        for control in controls:
            control_claims = [claim for _, claim in claims if claim["control"] == control]
            gains = ", ".join(f"{100 * claim['difference']:+.1f}" for claim in control_claims)
            num_better = sum(claim["is_better"] for claim in control_claims)
            mean = across_seeds([100 * claim["difference"] for claim in control_claims])
            interval = "" if mean.low is None else f"{mean.mean:+.1f} ({mean.low:+.1f} to {mean.high:+.1f})"
            lines.append([control, gains, interval, f"{num_better} of {len(control_claims)}"])
        sizes, luck = seeds[0]["rows"], seeds[0]["luck"]
        num_equal = luck.get("finalists") or luck["candidates"]
        precisions = {
            dtype: [str(s["seed"]) for s in seeds if s["dtype"] == dtype] for dtype in ("bfloat16", "float32")
        }
        precision = "; ".join(f"seeds {', '.join(some)} in {dtype}" for dtype, some in precisions.items() if some)
        winners = "; ".join(Candidate.model_validate(seed["winner"]).title for seed in seeds)
        parts.append(
            f"### {title.capitalize()}\n\n{sizes['train']} training rows, {sizes['validation']} validation rows, "
            f"{sizes['test']} test rows; each seed draws others."
            + (" The prefix is scored on the same 1,000 test rows in each seed." if "tuned prefix" in means else "")
            + "\n\n"
            + table(
                ["prompt", "test accuracy: mean (95% interval over seeds; over rows if there is one seed)", "seeds"],
                rows,
            )
            + "\n\n"
            + table(
                ["the prompt of words against", "points, seed by seed", "mean (95% over seeds)", "significant gains"],
                lines,
            )
            + f"\n\n![Test accuracy on {title}](images/hard-{task}.png)\n\nBy luck alone the best of "
            f"{num_equal} equal candidates looks {100 * luck['points']:.1f} points better on the validation "
            f"rows of the first seed. The winner: {winners}. Precision: {precision}. "
            f"A search ran {fmean(seed['tokens'] for seed in seeds):,.0f} live tokens"
            + (f" in {min(cpu_seconds):.0f} to {max(cpu_seconds):.0f} CPU seconds." if cpu_seconds else ".")
            + f"\n\n```sh\n{result['command']}\n```"
        )
    return "\n\n".join(parts) or "No searches are kept."


def draw_searches() -> None:
    """A picture a task: mean scores with intervals, single seeds as ticks."""
    for task, title in TASKS.items():
        if (result := kept(f"search-{task}")) is None:
            continue
        rows, ticks = [], []
        for name, values in accuracies(result).items():
            mean, low, high = mean_of(values, result["seeds"][0]["rows"]["test"])
            rows.append({"way": name, "value": mean, "low": low, "high": high})
            ticks += [{"way": name, "value": value} for value in values]
        chart = interval_chart(rows, "test accuracy", WIDE, ticks)
        write_atomic(
            IMAGES / f"hard-{task}.png", png_of(chart.properties(title=f"{title.capitalize()}: 256 training rows"))
        )


def races() -> str:
    """The time of a race, and its winner beside that of scoring everything."""
    rows, commands = [], []
    for task, title in TASKS.items():
        if (result := kept(f"race-{task}")) is None:
            continue
        all_of, commands = result["exhaustive"], [*commands, result["command"]]
        rows.append(
            [
                title,
                f"{result['wordings']}",
                f"{result['cpu_seconds'] / 60:.1f}",
                f"{len(all_of['texts'])} wordings, {all_of['test_rows']} test rows",
                f"{all_of['of_all_row_scores']:.0%}",
                f"{all_of['within_a_point']} of {all_of['races']} ({all_of['within_a_point_unbalanced']})",
                f"{all_of['none_test_accuracy']:.3f}, {all_of['exhaustive_test_accuracy']:.3f}, "
                f"{sum(all_of['raced_test_accuracies']) / all_of['races']:.3f}",
            ]
        )
    if not rows:
        return "No races are kept."
    head = [
        "task", "wordings timed", "CPU minutes", "scored in full", "row-scores of a race",
        "winners within a point (random order)",
        "test accuracy: no prompt, best of all scores, race",
    ]  # fmt: skip
    return table(head, rows) + "\n\n```sh\n" + "\n".join(commands) + "\n```"


def texts() -> str:
    """The gain of kept texts over full passes."""
    results = [(title, result) for task, title in TASKS.items() if (result := kept(f"kept-{task}"))]
    rows = [[title, f"{result['input_tokens']:.0f}", f"{result['gain']:.1f}"] for title, result in results]
    commands = "\n".join(result["command"] for _, result in results)
    return table(["task", "tokens of a text", "times as fast as full passes"], rows) + f"\n\n```sh\n{commands}\n```"


def peers() -> str:
    """Other optimisers with the same proposals and scores."""
    if (result := kept("peers")) is None:
        return "Not measured."
    parts = []
    for task, compared in result["tasks"].items():
        rows = [
            [name, number(optimiser["mean_test_accuracy"]), f"{optimiser['row_scores']:,.0f}",
             "" if name == "our race" else f"{100 * optimiser['our_gain']:+.1f} "
             f"({100 * optimiser['our_gain_low']:+.1f} to {100 * optimiser['our_gain_high']:+.1f})"]
            for name, optimiser in compared["optimisers"].items()
        ]  # fmt: skip
        parts.append(
            f"{TASKS[task].capitalize()}, {compared['seeds']} orders of proposals and rows; the wording best on "
            f"the test rows has {compared['best_possible']:.3f}:\n\n"
            + table(["optimiser", "mean test accuracy", "row-scores", "our race is ahead by, points (95%)"], rows)
        )
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in ("gepa", "promptolution"))
    return "\n\n".join(parts) + f"\n\n{versions}\n\n```sh\n{result['command']}\n```"


def control() -> str:
    """Searches on shuffled labels."""
    if (result := kept("shuffled")) is None:
        return "Not measured."
    points = {name: 100 * result[name] for name in ("mean_optimism", "mean_luck", "mean_most")}
    return (
        f"{result['searches_with_a_claim']} of {len(result['searches'])} searches on shuffled labels made a claim. The "
        f"winner's validation score was {points['mean_optimism']:.1f} points above its test score on average; "
        f"the stated luck was {points['mean_luck']:.1f} points on average. The bound that a search states for four of "
        f"five, {points['mean_most']:.1f} points on average, held in {result['optimism_within_most']:.1%}."
        f"\n\n```sh\n{result['command']}\n```"
    )


def planted() -> str:
    """Runs with a rule planted in the data."""
    if (result := kept("planted")) is None:
        return "Not measured."
    runs = result["runs"]
    return (
        f"The planted word is the first that the slices name in {result['named_first']} of {len(runs)} runs, the word "
        f"by chance is named in {result['chance_word_named']}. Left out of a row that holds it, the planted word "
        f"matters most in {result['rows_where_first']} of {result['rows_occluded']} rows. Accuracy with the prompt "
        f"{fmean(run['accuracy'] for run in runs):.2f}, without {fmean(run['accuracy_without'] for run in runs):.2f}; "
        f"{fmean(run['cpu_seconds'] for run in runs):.0f} CPU seconds a run.\n\n```sh\n{result['command']}\n```"
    )


def spread(interval: dict[str, float]) -> str:
    """A value with its interval."""
    return f"{interval['value']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"


def translations() -> str:
    """Soft prompts as words: how much of their answers the words repeat."""
    rows, notes, commands = [], [], []
    for task, title in TASKS.items():
        if (result := kept(task, "translate")) is None:
            continue
        for item in result["fidelity"]:
            gain = item.get("accuracy_kept")
            rows.append(
                [title, item["what"], str(item["tokens"]), spread(item["explained"]),
                 number(item["agreement"]["value"]), number(item["accuracy"]["value"]),
                 "" if gain is None else f"{gain:.0%}"]
            )  # fmt: skip
        for name, explained, accuracy in (("the soft prompt", "1", "soft"), ("no prompt", "0", "none")):
            rows.append([title, name, "", explained, "", number(result[accuracy]["value"]), ""])
        winner = Candidate.model_validate(result["winner"])
        lengths = ", ".join(
            f"{item['tokens']} tokens {item['explained']['value']:.2f}" for item in result.get("curve", [])
        )
        notes.append(
            f"- {title.capitalize()}: the words are {winner.title}; chosen on {result['rows']['search']} rows, "
            f"measured on {result['rows']['measured']} others; KL explained by length: {lengths}. "
            f"{result['cpu_seconds']:,.0f} CPU seconds, {result['tokens']:,.0f} live tokens."
        )
        commands.append(result["command"])
    if not rows:
        return "Not measured."
    head = ["task", "what answers", "tokens", "KL explained (95%)", "agreement", "accuracy", "gain kept"]
    return table(head, rows) + "\n\n" + "\n".join(notes) + "\n\n```sh\n" + "\n".join(commands) + "\n```"


def explanations() -> str:
    """Checks of explanations, and what they cost."""
    rows, commands = [], []
    for task, title in TASKS.items():
        if (result := kept(task, "explain")) is None:
            continue
        checks = {check["name"]: check for check in result["checks"]}

        def checked(name: str, form: str, checks: dict[str, Any] = checks) -> str:
            check = checks.get(name)
            if check is None or check.get("value") is None:
                return "-"
            return format(check["value"], form) + ("" if check["passed"] else " (failed)")

        rows.append(
            [title, str(result["rows"]), checked("deletion", ".2f"), checked("words", ".2f"),
             checked("completeness", ".2%"), checked("agreement", ".2f"), checked("randomisation", ".2f"),
             f"{result['cpu_seconds']:.0f}", f"{result['page_bytes'] / 1000:.0f} kB"]
        )  # fmt: skip
        commands.append(result["command"])
    if not rows:
        return "Not measured."
    head = [
        "task", "rows", "deletion", "words", "IG's completeness error", "correlation, ablation and IG",
        "correlation with a random prompt", "CPU s", "page",
    ]  # fmt: skip
    return table(head, rows) + "\n\n```sh\n" + "\n".join(commands) + "\n```"


SECTIONS = {
    "searches": searches,
    "kept texts": texts,
    "races": races,
    "peers": peers,
    "shuffled labels": control,
    "translations": translations,
    "explanations": explanations,
    "planted rule": planted,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare the page with the results")
    args = parser.parse_args()
    before = page = PAGE.read_text(encoding="utf-8")
    for name, section in SECTIONS.items():
        page = with_section(page, name, section())
    if args.check:
        if page != before:
            sys.exit(f"{PAGE} does not say what the results say\n  fix: python bench/pages/hard_page.py")
        return
    write_atomic(PAGE, page)
    draw_searches()


if __name__ == "__main__":
    main()
