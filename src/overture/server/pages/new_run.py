"""The page that starts a run or a comparison, in a process of its own, and what is shown until there is one."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from fastapi import APIRouter
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from overture.core.records.base import Record
from overture.server.errors import Refused
from overture.server.pages.compare import folders_of, summary_of
from overture.server.pages.forms import VERBS, checked, form_of_values, settings_for, words_of
from overture.server.pages.runs import check_admin, open_run
from overture.server.pages.site import Site, pairs_of, query_of, read_pairs, see

_MAX_TASKS, _MAX_TASK_BYTES = 200, 200_000


class StartQuery(Record):
    """The query with which the form is opened."""

    task: str = Field("", max_length=500, description="the task file that is chosen")
    do: Literal["tune", "search", "compare"] = Field("tune", description="the command")


def task_files(root: Path) -> list[str]:
    """Task files of the working folder and of the folders in it, and beside the store, by their path."""
    working_folder = Path.cwd()
    folders = [
        working_folder,
        *(path for path in sorted(working_folder.glob("*/")) if not path.name.startswith(".")),
        root.parent,
    ]
    files: dict[Path, str] = {}
    for folder in folders:
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            if len(files) < _MAX_TASKS and _is_task(path):
                shortest_path = path.relative_to(working_folder) if path.is_relative_to(working_folder) else path
                files.setdefault(path.resolve(), str(shortest_path))
    return list(files.values())


def _is_task(path: Path) -> bool:
    try:
        if path.stat().st_size > _MAX_TASK_BYTES:
            return False
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(values, dict) and "data" in values and bool({"template", "kind", "name"} & set(values))


def _filled_in(pairs: Sequence[tuple[str, str]]) -> tuple[StartQuery, str, dict[str, str]]:
    """The command and its task, the button, and the settings of a posted form.

    Raises:
        Refused: a field is not one of the form's.
    """
    values = dict(pairs)
    action, query_values = values.pop("action", "check"), {key: values.pop(key, "") for key in ("task", "do")}
    query = read_pairs([pair for pair in query_values.items() if pair[1]], StartQuery)
    settings = settings_for(query.do)
    for name in values:
        if name not in settings:
            raise Refused.invalid("the form has no such field", where=name, got=name)
    return query, action, {name: text.strip() for name, text in values.items() if text.strip()}


def routes(site: Site) -> APIRouter:
    """The routes of the page; they stand in front of those of a run, whose name may be anything."""
    router, store = APIRouter(), site.service.registry.store
    launcher = site.launcher

    @router.get("/runs/new")
    def new_run(request: Request) -> Response:
        """The empty form."""
        check_admin(request.state.visit)
        query = query_of(request, StartQuery)
        form = form_of_values(query.do, task_files(store.root), query.task, {})
        return site.page(request, "new_run.html", "command", form=form)

    @router.post("/runs/new")
    async def begin(request: Request) -> Response:
        """Check what was filled in, and start it if that was asked for."""
        check_admin(request.state.visit)
        query, action, values = _filled_in(await pairs_of(request))
        tasks = task_files(store.root)
        if query.task not in tasks:
            raise Refused.invalid("there is no such task file here", where="task", got=query.task)
        if action == "show":
            form = form_of_values(query.do, tasks, query.task, values)
            return site.page(request, "new_run.html", "command", form=form)
        error = await run_in_threadpool(checked, query.do, store, query.task, values)
        if error is not None or action != "start":
            form = form_of_values(query.do, tasks, query.task, values, error=error, is_checked=error is None)
            return site.page(request, "new_run.html", "", 200 if error is None else 400, form=form)
        # Comparisons are called after their task.
        task = yaml.safe_load(Path(query.task).read_text(encoding="utf-8"))
        makes = VERBS[query.do].makes.format(name=task.get("name") or Path(query.task).stem)
        return see(f"/runs/started/{launcher.start(words_of(query.do, query.task, values), makes)}")

    @router.get("/runs/started/{start}")
    def started(request: Request, start: str) -> Response:
        """A command that was started and has no run yet, or makes a comparison."""
        check_admin(request.state.visit)
        launch, is_alive = launcher.launch(start), launcher.is_alive(start)
        if launch.makes:
            folder = folders_of(store.root).get(launch.makes)
            path = f"/compare/{launch.makes}" if not is_alive and folder and summary_of(folder) else ""
        else:
            name = launcher.run_of(start)
            path = f"/runs/{name}" if name else ""
        if path and request.headers.get("hx-request") == "true":
            # The part is of another page: let htmx load it whole.
            return Response(status_code=200, headers={"hx-redirect": path})
        if path:
            return see(path)
        command, output = shlex.join(["overture", *launch.words]), launcher.output(start)
        return site.page(
            request,
            "started.html",
            "live",
            start=start,
            command=command,
            output=output,
            is_alive=is_alive,
            makes=launch.makes,
            do=launch.words[0],
        )

    @router.post("/runs/{name}/stop")
    def stop(request: Request, name: str) -> Response:
        """Ask a run to stop where it can go on."""
        check_admin(request.state.visit)
        launcher.stop(open_run(site, request, name))
        return see(f"/runs/{name}")

    @router.post("/runs/{name}/resume")
    def resume(request: Request, name: str) -> Response:
        """Go on with a run, in a process of its own."""
        check_admin(request.state.visit)
        launcher.resume(open_run(site, request, name))
        return see(f"/runs/{name}")

    return router
