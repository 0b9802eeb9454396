"""``overture concept``: a new word for a model that draws."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overture.cli.options import FlagValues, JsonOption, StoreOption, TrainSetOption, flag, open_store, with_flags
from overture.cli.out import console, loading, show_notes, show_text
from overture.cli.progress import stoppable
from overture.cli.report import show_next, worth_of
from overture.cli.tune import print_result
from overture.core.config import overridden, validated
from overture.jobs.concept.options import ConceptConfig

if TYPE_CHECKING:
    from overture.core.records.concept import ConceptResult

_FLAGS = ("backbone", "token", "word", "about", "length", "steps", "held_out", "captions", "seed")


@with_flags(
    *(flag(ConceptConfig, name, "--caption" if name == "captions" else "") for name in _FLAGS),
    flag(ConceptConfig, "train.lr"),
    flag(ConceptConfig, "train.batch_size"),
)
def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The images: three to five of one thing or style.")],
    flag_values: FlagValues,
    name: Annotated[
        str | None, typer.Option(help="The name under which the prompt is kept; from the token if not given.")
    ] = None,
    settings: TrainSetOption = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Teach a frozen model that draws a new word from a few images; Ctrl-C keeps the best so far."""
    from overture.data.task_text import slug
    from overture.engine.options import local_source
    from overture.store.names import checked_name

    flags = [f"{key}={value}" for key, value in flag_values.of(ConceptConfig).items() if key.startswith("train.")]
    plain = {key: value for key, value in flag_values.of(ConceptConfig).items() if not key.startswith("train.")}
    values = overridden(
        {"train": ConceptConfig.model_fields["train"].default.model_dump()}, [*flags, *(settings or [])]
    )
    config = validated(ConceptConfig, values | plain, "overture concept")
    config = config.model_copy(update={"backbone": local_source(config.backbone)})
    checked_name(name or slug(config.token))
    loading()

    from overture.jobs.concept.concept import concept, images_of

    images = images_of(folder)
    with stoppable() as (show, stop):
        result = concept(images, open_store(store), config, name=name, listener=show, is_stop_asked=stop)
    print_result(result, store, is_json, _show)


def _show(result: "ConceptResult", store: str) -> None:
    out = console()
    if result.status == "interrupted":
        show_text(out, "stopped" + ("; the best so far is stored" if result.prompt else ""))
    if result.errors:
        show_text(out, worth_of(result.errors))
    show_notes(out, result.notices)
    if result.prompt:
        commands = [f"overture export {result.prompt}{store} --to {to}" for to in ("diffusers", "webui")]
        show_next(f"Stored as {result.prompt}. Next:", commands)
