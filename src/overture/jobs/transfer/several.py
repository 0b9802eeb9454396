"""Several tasks in one run: one model, one kind of prompt, one way of training."""

from collections.abc import Callable, Sequence

from overture.engine.backbone import Backbone
from overture.engine.cache import default_budget_bytes
from overture.jobs.run.request import TuneConfig
from overture.jobs.run.work import Work, prepared
from overture.store.runs import Run
from overture.store.store import Store


def all_prepared(
    run: Run,
    requests: Sequence[TuneConfig],
    store: Store,
    is_stop_asked: Callable[[], bool],
    backbone: Backbone | None,
) -> list[Work]:
    """Read and encode every task's rows; the model is loaded once, and the memory for kept inputs is shared.

    Raises:
        DataError: rows are wrong, or none are there to choose by.
        BackboneError: the model cannot be loaded.
    """
    works: list[Work] = []
    room_gb = requests[0].cache_gb
    share = (default_budget_bytes() / 1e9 if room_gb is None else room_gb) / len(requests)
    for request in [request.model_copy(update={"cache_gb": share}) for request in requests]:
        works.append(prepared(run, request, store, is_stop_asked, backbone))
        backbone = works[0].backbone
    return works
