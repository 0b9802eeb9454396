"""The rows and the model of a run: recorded when it begins, compared whenever they are read again."""

from overture.core.config import validated
from overture.core.errors import ArtifactError
from overture.core.records.events import NoticeEvent
from overture.core.records.runs import RunRequest
from overture.data.fingerprint import check_rows, facts_of_splits
from overture.data.splits import Splits
from overture.data.task import DataConfig
from overture.engine.backbone import Backbone
from overture.evaluate.facts import backbone_ref, check_backbone
from overture.store.manifest import BackboneRef
from overture.store.runs import REQUEST, Run

_COMMANDS = {"hard": "search --form hard", "forms": "search --form any"}


def check_rows_of(run_request: RunRequest, splits: Splits, data: DataConfig) -> None:
    """Refuse rows that are not a run's.

    Raises:
        DataError: names each split that differs, and how.
    """
    check_rows(run_request.rows, facts_of_splits(splits), data, _fix(run_request))


def check_model_of(run_request: RunRequest, backbone: Backbone) -> list[str]:
    """Refuse a model that is not a run's.

    Returns:
        Sentences on what could not be compared, and on another precision.

    Raises:
        ArtifactError: names what differs.
    """
    if not run_request.model:
        return []
    try:
        return check_backbone(validated(BackboneRef, run_request.model, "the run's model"), backbone)
    except ArtifactError as error:
        raise ArtifactError(
            "the model has changed since the run began",
            where=backbone.info.id,
            got=error.got,
            wanted=error.wanted,
            fix=_fix(run_request),
            problems=error.problems,
        ) from None


def hold_rows(run: Run, splits: Splits, data: DataConfig) -> None:
    """Record a run's rows, or compare them with those that are recorded.

    Raises:
        DataError: they differ.
    """
    run_request = run.request()
    if run_request.rows:
        check_rows_of(run_request, splits, data)
    else:
        run.write(REQUEST, run_request.model_copy(update={"rows": facts_of_splits(splits)}))


def hold_model(run: Run, backbone: Backbone) -> None:
    """Record a run's model, or compare it with the one that is recorded.

    Raises:
        ArtifactError: they differ.
    """
    run_request = run.request()
    if run_request.model:
        for text in check_model_of(run_request, backbone):
            run.event(NoticeEvent(text=f"the run: {text}"))
    else:
        run.write(REQUEST, run_request.model_copy(update={"model": backbone_ref(backbone).model_dump(mode="json")}))


def _fix(run_request: RunRequest) -> str:
    command = _COMMANDS.get(run_request.kind, run_request.kind)
    return f"put it back as it was, or start a new run: overture {command} {run_request.file}"
