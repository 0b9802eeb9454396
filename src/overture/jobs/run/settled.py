"""Settings that a request leaves open, fixed when its run begins, so that a resumed run is the same run."""

from typing import TYPE_CHECKING, TypeVar

from overture.core.launch import launched
from overture.data.kinds.registry import KINDS
from overture.engine.options import is_encoder
from overture.jobs.run.request import TuneConfig, with_slots
from overture.prompt.methods import METHODS
from overture.prompt.registry import with_refs
from overture.store.store import Store

if TYPE_CHECKING:
    from overture.engine.backbone import Backbone

R = TypeVar("R", bound=TuneConfig)


def fitting_place(config: R, backbone: "Backbone | None") -> R:
    """`with_place` for a loaded model, or for the one that the request names."""
    if backbone is None:
        return with_place(config, is_encoder(config.task.backbone, config.revision))
    return with_place(config, not backbone.family.is_causal)


def with_place(config: R, is_encoder: bool) -> R:
    """The request with place `memory` instead of the default where that fits better, unless a place is given.

    An encoder's input depends on the text behind it, so its keys and values cannot be kept and followed by a prompt's;
    a prompt's keys and values stand before the text there, where every token sees them. Some kinds of tasks want that
    of every model that reads texts. Methods among the labels' words take their own first place.
    """
    prompt, method = config.prompt, METHODS.get(config.prompt.method)
    if "place" in prompt.model_fields_set or method is None:
        return config
    place = prompt.place
    if is_encoder and method.in_captions:
        place = method.places[0]
    elif is_encoder or (
        KINDS[config.task.kind].reads_with_prompt
        and config.task.input == "text"
        and not (config.adapter and config.adapter.place == "after")
    ):
        place = "memory" if {"memory", place} <= {*method.places} else place
    if place == prompt.place:
        return config
    return config.model_copy(update={"prompt": prompt.model_copy(update={"place": place})})


def pinned(config: R, store: Store) -> R:
    """The request with the version of every stored prompt that it names, so that a resumed run starts from the same.

    Raises:
        StoreError: there is no such prompt.
    """
    return config.model_copy(update={"prompt": with_refs(config.prompt, store.pinned)})


def settled(config: R, store: Store, backbone: "Backbone | None") -> R:
    """The request of a run that is about to begin, with everything fixed that must be the same when it is resumed.

    That is place and length where the model or the template decide them, versions of stored prompts, the fastest
    precision, and the memory for kept inputs.

    Raises:
        UserError: the model or a stored prompt is not there.
        StoreError: the store cannot keep a prompt of that name.
    """
    store.check_can_add(config.task.name)
    config = pinned(with_slots(fitting_place(config, backbone)), store)
    if config.dtype == "fastest":
        from overture.engine.precision import fastest_dtype

        config = config.model_copy(update={"dtype": fastest_dtype(config.device)})
    if config.cache_gb is None:
        from overture.engine.cache import default_budget_bytes

        # The processes of one machine share its memory.
        config = config.model_copy(update={"cache_gb": default_budget_bytes() / 1e9 / launched().local_size})
    return config
