"""The report of a comparison: one HTML page that needs nothing else, a PNG and a spec for each chart, and the JSON.

Charts stand in the page as SVG, so it opens offline and runs no script. Whatever comes from users is escaped.
"""

import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from overture.core.files import write_atomic
from overture.core.records.compare import MAX_VALIDATION, OF_SEEDS, cost_of
from overture.report import html
from overture.report.charts import png_of, spec_of
from overture.report.compare_charts import charts
from overture.report.units import bytes_text, count_text, energy_text, failed_text, p_text, seconds_text, share_text

Result = Mapping[str, Any]
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: 0.2rem; } h2 { font-size: 1.25rem; margin: 2.2rem 0 0.4rem; }
.advice { border-left: 5px solid #0072b2; background: #eef5fa; padding: 0.8rem 1rem; font-size: 1.08rem; }
.advice.none { border-color: #999; background: #f3f3f3; }
table { border-collapse: collapse; margin: 0.8rem 0; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
th { border-bottom: 2px solid #999; } th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; } figure { margin: 0.8rem 0; } figcaption, .note { color: #555; font-size: 0.88rem; }
svg { max-width: 100%; height: auto; } pre { background: #f3f3f3; padding: 0.7rem; white-space: pre-wrap;
  overflow-wrap: anywhere; } details { margin: 0.6rem 0; } summary { cursor: pointer; }
"""


def write_report(result: Result, folder: Path, command: str = "") -> list[Path]:
    """Write ``report.html``, ``result.json`` and ``charts/NAME.png`` with ``charts/NAME.vl.json``.

    Args:
        result: of `study.compare.compare`.
        folder: where to; files of the same names are replaced, each as a whole.
        command: what made it, for the reader.

    Returns:
        The files, the page first.
    """
    import vl_convert

    specs = {name: spec_of(chart) for name, chart in charts(result).items()}
    drawn = {name: vl_convert.vegalite_to_svg(spec) for name, spec in specs.items()}
    written = {folder / "report.html": page(result, drawn, command)}
    written[folder / "result.json"] = json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    for path, text in written.items():
        write_atomic(path, text)
    paths = list(written)
    for name, spec in specs.items():
        files: dict[Path, str | bytes] = {
            folder / "charts" / f"{name}.vl.json": spec + "\n",
            folder / "charts" / f"{name}.png": png_of(spec),
        }
        for file, data in files.items():
            write_atomic(file, data)
            paths.append(file)
    return paths


def page(result: Result, drawn: Mapping[str, str], command: str = "") -> str:
    """The page's HTML.

    Args:
        result: the summary.
        drawn: charts by name, as SVG.
        command: what made it.
    """
    title = f"Ways to adapt a model, on {result['task']}"
    body = "\n".join(part for part in _parts(result, drawn, command) if part)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _parts(result: Result, drawn: Mapping[str, str], command: str) -> Iterator[str]:
    advice = result["advice"]
    yield html.p(_subtitle(result), "note")
    yield f'<p class="advice{"" if advice["way"] else " none"}">{escape(advice["text"])}</p>'
    if result["failed"]:
        yield html.p(f"Could not be run, and is missing below: {'; '.join(map(failed_text, result['failed']))}.")
    if result["left_out"]:
        yield html.p(f"Left out for want of time: {'; '.join(result['left_out'])}.", "note")
    yield "<h2>How good</h2>"
    yield html.figure(drawn, "quality", _quality_caption(result))
    yield _quality_table(result)
    if result["against"]:
        yield f"<h2>Beside {escape(result['reference'])}</h2>"
        yield _against_table(result)
        yield html.p(_against_note(result), "note")
    if "curve" in drawn:
        yield "<h2>How many rows it needs</h2>"
        yield html.figure(drawn, "curve", _curve_caption(result))
        yield _worth_table(result)
    yield html.p(_enough_told(result))
    yield "<h2>What it costs</h2>"
    yield html.figure(drawn, "costs", "Scores as above over costs of one training, both at the largest size, cost on a "
                  "logarithmic scale. Dashed, with its interval as a band: what costs no training.")  # fmt: skip
    yield from _ledger(result)
    yield "<h2>What it costs to serve</h2>"
    yield html.figure(drawn, "serving", _serving_caption())
    yield _serving_table(result)
    yield "<h2>What the model forgets</h2>"
    yield html.figure(drawn, "forgetting", _forgetting_caption(result))
    yield _base_table(result)
    yield html.details("Every pair at every size", _pairs_table(result))
    yield html.details("Every score", _scores_table(result))
    yield html.details("Every metric", _metrics_table(result))
    yield html.details("Learning rates", _rates_table(result))
    yield html.details("How it was measured", "".join(html.p(text) for text in _method(result)))
    yield html.details("Versions and options", html.pre(_environment(result, command)), is_open=bool(command))


# -- parts


def _subtitle(result: Result) -> str:
    backbone = result["backbone"]
    sizes = ", ".join(map(str, result["sizes"]))
    seeds = len(result["seeds"])
    return (
        f"{backbone['id']}, {backbone['parameters'] / 1e6:,.0f} million parameters, {backbone['dtype']} on "
        f"{result['device']}{_threads(result)}; {sizes} training rows; {seeds} {'seed' if seeds == 1 else 'seeds'}; "
        f"{result['scores'][0]['n'] if result['scores'] else 0} test rows; metric: {result['metric']}."
    )


def _threads(result: Result) -> str:
    counts = result["threads"]
    if result["device"] != "cpu" or not counts:
        return ""
    return f" ({' or '.join(map(str, counts))} {'thread' if counts == [1] else 'threads'})"


def _quality_caption(result: Result) -> str:
    n = result["scores"][0]["n"] if result["scores"] else 0
    return (
        f"Test {result['metric']} at {result['largest']} training rows: mean over {len(result['seeds'])} seeds with "
        f"95% interval over seeds and n = {n} test rows together; ticks are single seeds."
    )


def _at_largest(result: Result) -> list[dict[str, Any]]:
    scores = [dict(score) for score in result["scores"] if score["size"] in (0, result["largest"])]
    return sorted(scores, key=lambda score: -score["value"])


def _quality_table(result: Result) -> str:
    head = ["way", result["metric"], "95% interval", "seeds", "trained values", "bytes kept", "training", "memory"]
    rows = []
    for score in _at_largest(result):
        cost = cost_of(result["ledger"], score["way"], score["size"])
        rows.append(
            [
                score["way"],
                f"{score['value']:.3f}",
                f"{score['low']:.3f} to {score['high']:.3f}",
                str(score["n_seeds"]) if score["size"] else "-",
                f"{cost['trainable']:,}",
                f"{cost['stored_bytes']:,}",
                seconds_text(cost["seconds"]) if cost["size"] else "-",
                bytes_text(cost["peak_bytes"]),
            ]
        )
    return html.table(head, rows)


def _against_table(result: Result) -> str:
    name = result["reference"]
    head = ["way", f"difference from {name}, points", "95% interval", "corrected p", "verdict", "time", "CPU time",
            "operations", "values", "bytes"]  # fmt: skip
    rows = []
    for one in result["against"]:
        gap, shares = one["difference"], one["shares"]
        rows.append(
            [
                one["way"],
                f"{100 * gap['value']:+.1f}",
                f"{100 * gap['low']:+.1f} to {100 * gap['high']:+.1f}",
                p_text(one["p_corrected"]),
                one["verdict"],
                *(share_text(shares[kind]) for kind in _SHARES),
            ]
        )
    return html.table(head, rows)


_SHARES = ("seconds", "cpu_seconds", "flops", "trainable", "stored_bytes")


def _against_note(result: Result) -> str:
    return (
        f"At {result['largest']} training rows. Better or worse: p below 0.05 after Holm's correction for all pairs of "
        f"this size. Level: the difference lies within {100 * result['margin']:g} points on both sides by an interval "
        "that holds for all pairs at once. Undecided: neither. Costs are shares of those of "
        f"{result['reference']}.{_of_one_seed(result)}"
    )


def _of_one_seed(result: Result) -> str:
    if len(result["seeds"]) > 1:
        return ""
    return " One seed: verdicts are on these trained models, and another seed may turn them."


def _curve_caption(result: Result) -> str:
    return (
        f"Mean over {len(result['seeds'])} seeds with 95% intervals over seeds and test rows, slightly apart for the "
        "eye. All ways get the same rows. Dashed, with its interval as a band: what uses no rows."
    )


def _worth_table(result: Result) -> str:
    if not result["worth"]:
        return ""
    reference = result["reference"]
    rows = [[one["way"], worth_text(one), times_text(one), _scores_text(one)] for one in result["worth"]]
    note = (
        f"How many more training rows {reference} needs for the same score, averaged over the scores that both curves "
        "reach (Le Scao and Rush 2021); negative where it needs fewer. Intervals draw seeds and test rows again, 95%; "
        "with few seeds they are too narrow."
    )
    head = ["way", f"worth against {reference}, rows", f"times the rows of {reference}", "scores compared"]
    return html.table(head, rows) + html.p(note, "note")


def _enough_told(result: Result) -> str:
    """From how many rows on training surely beats what needs none."""
    others: dict[str, list[str]] = {}
    for one in result["enough"]:
        told = f"{one['way']} from {one['size']} rows on" if one["size"] else f"{one['way']} at no size here"
        others.setdefault(one["than"], []).append(told)
    return " ".join(f"Surely better than {than}: {', '.join(told)}." for than, told in others.items())


def worth_text(one: Mapping[str, Any]) -> str:
    """Rows with their interval."""
    if one["rows"] is None:
        return "cannot be read off: the curves share no scores"
    if one["low"] is None:
        return f"{one['rows']:+.0f} (no interval: the curves hardly share scores)"
    return f"{one['rows']:+.0f} ({one['low']:+.0f} to {one['high']:+.0f})"


def times_text(one: Mapping[str, Any]) -> str:
    """The ratio with its interval."""
    if one["times"] is None:
        return "-"
    tail = "" if one["times_low"] is None else f" ({one['times_low']:.2g} to {one['times_high']:.2g})"
    return f"{one['times']:.2g}{tail}"


def _scores_text(one: Mapping[str, Any]) -> str:
    return "-" if one["scores"] is None else f"{one['scores'][0]:.3f} to {one['scores'][1]:.3f}"


def _ledger(result: Result) -> Iterator[str]:
    sizes = [size for size in result["sizes"] if any(cost["size"] == size for cost in result["ledger"])]
    for size in reversed(sizes):
        table = _ledger_table(result, size)
        yield table if size == sizes[-1] else html.details(f"The same at {size} training rows", table)
    yield html.p(_ledger_note(result), "note")


def _ledger_table(result: Result, size: int) -> str:
    has_price = result["price"] is not None
    head = ["way", "trained values", "bytes kept", "training, s", "of it reading inputs, s", "validating, s", "CPU, s",
            "steps", "to the best epoch", "choosing the rate, s", "tokens", "operations", "peak memory", "of it grown",
            "energy, Wh"]  # fmt: skip
    rows = []
    for cost in result["ledger"]:
        if cost["size"] != size:
            continue
        row = [
            cost["way"],
            f"{cost['trainable']:,}",
            f"{cost['stored_bytes']:,}",
            f"{cost['seconds']:.1f}",
            f"{cost['reading_seconds']:.1f}",
            f"{cost['validation_seconds']:.1f}",
            f"{cost['cpu_seconds']:.1f}",
            f"{cost['steps']:.0f}" if cost["steps"] else "-",
            f"{cost['best_steps']:.0f}" if cost["steps"] else "-",
            f"{cost['choosing_seconds']:.1f}",
            count_text(cost["positions"]),
            count_text(cost["flops"]),
            bytes_text(cost["peak_bytes"]),
            bytes_text(cost["grown_bytes"]),
            energy_text(cost, "kwh"),
        ]
        rows.append([*row, f"{cost['money']:.3g}"] if has_price else row)
    return html.table([*head, "money"] if has_price else head, rows)


def _ledger_note(result: Result) -> str:
    energy = sorted({cost["energy"] for cost in result["ledger"]})
    price = "" if result["price"] is None else f" Money: seconds at {result['price']:g} an hour."
    return (
        "Means over the seeds; one training, building, reading of inputs and validation included. Steps: optimiser "
        "steps taken, and those up to the epoch whose values were kept. Choosing the rate: "
        "what all trial runs of learning rates took together, once a way. Tokens: positions that ran through the whole "
        "model, padding included. Energy: " + "; ".join(energy) + "." + price
    )


def _serving_caption() -> str:
    return (
        "Test rows in batches of up to 4,096 padded tokens, nothing kept between requests, prompts compiled where that "
        "is exact; timed while the test rows were scored, mean over the seeds, at the largest size."
    )


def _serving_table(result: Result) -> str:
    has_price = result["price"] is not None
    head = ["way", "seconds for 1,000", "CPU seconds", "tokens each", "operations each", "energy, Wh"]
    rows = []
    for cost in result["ledger"]:
        if cost["size"] not in (0, result["largest"]):
            continue
        row = [
            cost["way"],
            f"{cost['serving_seconds_per_1000']:.1f}",
            f"{cost['serving_cpu_seconds_per_1000']:.1f}",
            f"{cost['serving_positions_per_row']:.1f}",
            count_text(cost["serving_flops_per_row"]),
            energy_text(cost, "serving_kwh_per_1000"),
        ]
        rows.append([*row, f"{cost['serving_money_per_1000']:.3g}"] if has_price else row)
    return html.table([*head, "money for 1,000"] if has_price else head, rows)


def _forgetting_caption(result: Result) -> str:
    return (
        f"{result['passages']} texts that have nothing to do with the task: perplexity of three quarters of each after "
        f"its "
        "first quarter, the way in place as in use, mean over the seeds at the largest size. 1 is the untouched model."
    )


def _base_table(result: Result) -> str:
    head = ["way", "perplexity before", "perplexity with it", "model's weights intact", "shares the model",
            "weights of its own"]  # fmt: skip
    rows = []
    for cost in result["ledger"]:
        if cost["size"] not in (0, result["largest"]):
            continue
        before, after = cost["perplexity_before"], cost["perplexity_after"]
        rows.append(
            [
                cost["way"],
                "-" if before is None else f"{before:.2f}",
                "-" if after is None else f"{after:.2f}",
                "yes" if cost["is_intact"] else "NO",
                "yes" if cost["is_shared"] else "no",
                bytes_text(cost["own_bytes"]),
            ]
        )
    note = (
        "Intact: the loaded model's weights have the same SHA-256 before and after. A prompt can be taken away, and "
        "with it whatever it made the model forget. Shares the model: several tasks can be served from one copy in "
        "memory."
    )
    told = (
        "" if any(cost["perplexity_after"] for cost in result["ledger"]) else html.p("No perplexity: " + _NOT_WRITING)
    )
    return told + html.table(head, rows) + html.p(note, "note")


_NOT_WRITING = "this model writes no text by which forgetting could be measured."


def _pairs_table(result: Result) -> str:
    head = ["rows", "pair", "difference, points", "95% interval", "p", "corrected p", "verdict", "test"]
    rows = [
        [
            str(pair["size"] or "-"),
            f"{pair['a']} - {pair['b']}",
            f"{100 * pair['difference']['value']:+.1f}",
            f"{100 * pair['difference']['low']:+.1f} to {100 * pair['difference']['high']:+.1f}",
            p_text(pair["p_value"]),
            p_text(pair["p_corrected"]),
            pair["verdict"],
            f"{pair['test']}, {pair['n_seeds']} seeds" if pair["n_seeds"] > 1 else pair["test"],
        ]
        for pair in result["pairs"]
    ]
    return html.table(head, rows)


def _scores_table(result: Result) -> str:
    rows = [
        [
            score["way"],
            str(score["size"] or "-"),
            f"{score['value']:.3f}",
            f"{score['low']:.3f} to {score['high']:.3f}",
            ", ".join(f"{value:.3f}" for value in score["each"]),
            score["method"],
        ]
        for score in result["scores"]
    ]
    return html.table(["way", "rows", result["metric"], "95% interval", "each seed", "interval by"], rows)


def _metrics_table(result: Result) -> str:
    names = list(dict.fromkeys(name for one in result["metrics"] for name in one["values"]))
    rows = [
        [one["way"], str(one["size"] or "-"), *(_metric_text(one["values"].get(name)) for name in names)]
        for one in result["metrics"]
    ]
    values = [(name, value) for one in result["metrics"] for name, value in one["values"].items()]
    alone = dict.fromkeys(name for name, value in values if value["method"] == OF_SEEDS)
    note = "Means over the seeds with 95% intervals over seeds and test rows"
    note += f", of {', '.join(alone)} over the seeds alone." if alone else "."
    return html.table(["way", "rows", *names], rows) + html.p(note, "note")


def _metric_text(found: Mapping[str, Any] | None) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})" if found else "-"


def _rates_table(result: Result) -> str:
    rows = []
    for way, found in result["rates"].items():
        tried = [f"{one['lr']:g}: {'diverged' if one['score'] is None else format(one['score'], '.3f')}"
                 for one in found["tried"]]  # fmt: skip
        where = f"{found['size']} rows, seed {found['seed']}" if tried else "-"
        untried = "set by hand" if _is_set(result, way) else "its default, not tuned"
        rows.append([way, f"{found['lr']:g}", "; ".join(tried) or untried, where])
    return html.table(["way", "learning rate", "validation score of each tried", "chosen at"], rows) if rows else ""


def _method(result: Result) -> Iterator[str]:
    request = result["request"]
    yield (
        "Rows. A seed draws an order of the training and validation rows whose every beginning is a sample: one row of "
        "each label first, then labels by their shares; rows without a label are shuffled. So sizes are nested, and "
        f"all ways see the same rows. {_validation_told(result)} They choose the epoch. Test rows are the same for all "
        "and are scored once a cell."
    )
    yield (
        f"Training. Every way is given {request['min_steps']} optimiser steps at least, however few the rows, and ends "
        f"before where validation rows no longer get better. {_rates_told(result)}"
    )
    yield (
        "Intervals and tests. The variance of a mean over seeds and that of the drawn test rows (bootstrap, shared by "
        "all seeds and ways) are added; degrees of freedom by Satterthwaite. Differences are taken seed by seed and "
        "row by row. Of several pairs at a size, each is tested with the variance of its own seeds and with the mean "
        "over all pairs, and the less sure result counts. With one seed: exact McNemar, or a permutation test. "
        "p-values are corrected by Holm over all pairs of a size."
    )
    yield (
        "Operations. Counted at the layers while they run, P parameters in matrices, t positions, k keys, A query "
        "width: forward 2Pt + 4Atk; backward through frozen weights 2Pt + 8Atk more; 2P't more for trained weights P'."
    )
    yield (
        "Memory. The highest of the process while the cell ran, the model included; grown is what lies above where the "
        "cell began. Memory that earlier cells left counts in the first figure: re-run a cell alone for a clean one."
    )
    if result["notices"]:
        yield "Notes. " + "; ".join(result["notices"]) + "."


def _validation_told(result: Result) -> str:
    """How many validation rows the cells had, and how many they were to have."""
    counts = {cost["size"]: cost["validation_rows"] for cost in result["ledger"] if cost["size"]}
    told = ", ".join(f"{counts[size]} at {size} training rows" for size in sorted(counts)) or "none"
    most = MAX_VALIDATION
    return f"Validation rows: {told}; as many as training rows if there are, {most} at most (Perez et al. 2021)."


def _rates_told(result: Result) -> str:
    found: dict[str, list[str]] = {}
    for way, rate in result["rates"].items():
        if rate["tried"]:
            how = f"chosen among its few on validation rows, at {rate['size']} rows with seed {rate['seed']}"
        else:
            how = "set by hand" if _is_set(result, way) else "ran at their default, none was chosen on this task"
        found.setdefault(how, []).append(way)
    if not found:
        return "No way here has a learning rate."
    told = "; ".join(f"{', '.join(ways)}: {how}" for how, ways in found.items())
    return f"Learning rates: {told}."


def _is_set(result: Result, way: str) -> bool:
    """Whether a way's learning rate was given with the request."""
    return any(text.partition("=")[0].strip() == "train.lr" for text in result["request"]["settings"].get(way, ()))


def _environment(result: Result, command: str) -> str:
    lines = [command] if command else []
    lines += [f"{name} {value}" for name, value in result["versions"].items() if value]
    lines.append(f"rows {result['data']}")
    return "\n".join([*lines, "", json.dumps(result["request"], indent=1, ensure_ascii=False)])
