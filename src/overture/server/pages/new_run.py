"""The page that starts a run: a form made of the options' own definitions, and the command that it stands for."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fastapi import APIRouter
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from overture.core.errors import OvertureError
from overture.core.records.base import Record
from overture.jobs.run.early import check_early
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.wording.settings import SECTIONS, Setting, settings_of
from overture.prompt.methods import METHODS
from overture.server.errors import Refused
from overture.server.pages.runs import check_admin, open_run
from overture.server.pages.site import Site, pairs_of, query_of, see
from overture.store.store import Store

FLAGS = {
    "prompt.method": "--method",
    "prompt.place": "--place",
    "prompt.length": "--length",
    "train.lr": "--lr",
    "train.epochs": "--epochs",
    "train.batch_size": "--batch-size",
    "seeds": "--seeds",
    "seed": "--seed",
}
"""Settings that have a flag of `overture tune`; all others are given with ``--set``."""
CHIEF = ("prompt.method", "prompt.place", "prompt.length", "train.lr", "train.epochs", "seeds")
"""Settings that the form shows first."""
_MORE_SECTIONS = ("prompt", "train", "run")
# What names files, models and other programs is set in the task file, not from a browser.
_LEFT_OUT = frozenset({"prompt.options", "prompt.init_prompt", "train.class_weights", "revision", "track", "device"})
_MAX_TASKS, _MAX_TASK_BYTES = 200, 200_000


class StartQuery(Record):
    """What the form is opened with."""

    task: str = Field("", max_length=500, description="the task file that is chosen")


@dataclass(frozen=True, slots=True)
class FormField:
    """A field of the form.

    Args:
        setting: the key that it sets.
        title: for people.
        choices: what can be chosen; empty for a text.
        value: what is in it.
    """

    setting: Setting
    title: str
    choices: Sequence[str]
    value: str

    @property
    def input_mode(self) -> str:
        """The keys that a telephone shows."""
        return "decimal" if "number" in self.setting.values else "text"


@dataclass(frozen=True, slots=True)
class RunForm:
    """The form as it is shown.

    Args:
        tasks: task files that can be chosen.
        task: the one that is.
        chief: the fields that come first.
        more: the others, by the title of their section.
        command: the command line that it stands for; empty without a task.
        error: why it cannot be started; None where nothing is known to be wrong.
        is_checked: whether it was checked and can be started.
    """

    tasks: Sequence[str]
    task: str
    chief: Sequence[FormField]
    more: Mapping[str, Sequence[FormField]]
    command: str = ""
    error: OvertureError | None = None
    is_checked: bool = False


def task_files(root: Path) -> list[str]:
    """Task files of the working folder and of the folders in it, and beside the store, by their path."""
    here = Path.cwd()
    folders = [here, *(path for path in sorted(here.glob("*/")) if not path.name.startswith(".")), root.parent]
    files: dict[Path, str] = {}
    for folder in folders:
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            if len(files) < _MAX_TASKS and _is_task(path):
                shown = path.relative_to(here) if path.is_relative_to(here) else path
                files.setdefault(path.resolve(), str(shown))
    return list(files.values())


def _is_task(path: Path) -> bool:
    try:
        if path.stat().st_size > _MAX_TASK_BYTES:
            return False
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(values, dict) and "data" in values and bool({"template", "kind", "name"} & set(values))


def form_settings() -> dict[str, tuple[str, Setting]]:
    """The settings that the form may set, by their key, with their section."""
    by_section = settings_of()
    return {
        setting.key: (section, setting)
        for section in _MORE_SECTIONS
        for setting in by_section[section]
        if setting.key not in _LEFT_OUT
    }


def words_of(task: str, values: Mapping[str, str]) -> list[str]:
    """The command line that a form stands for, without the name of the program.

    Args:
        task: the task file.
        values: what was filled in, by key.
    """
    words = ["tune", task]
    for key, value in values.items():
        words += [FLAGS[key], value] if key in FLAGS else ["--set", f"{key}={value}"]
    return words


def form_of_values(root: Path, task: str, values: Mapping[str, str], **more: Any) -> RunForm:
    """The form with what was filled in."""
    tasks, settings = task_files(root), form_settings()
    task = task or (tasks[0] if tasks else "")

    def fields(keys: Sequence[str]) -> Iterator[FormField]:
        for key in keys:
            setting = settings[key][1]
            choices = list(METHODS) if key == "prompt.method" else setting.choices
            title = key.rpartition(".")[2].replace("_", " ").replace("lr", "learning rate")
            yield FormField(setting, title[:1].upper() + title[1:], choices, values.get(key, ""))

    others = {
        SECTIONS[name].partition(".")[0]: list(
            fields([key for key, (section, _) in settings.items() if section == name and key not in CHIEF])
        )
        for name in _MORE_SECTIONS
    }
    command = shlex.join(["overture", *words_of(task, values)]) if task else ""
    return RunForm(tasks, task, list(fields(CHIEF)), others, command, **more)


def checked(store: Store, task: str, values: Mapping[str, str]) -> OvertureError | None:
    """What is wrong with a request, found as the command itself would; None where nothing is."""
    try:
        config = resolved(TuneConfig, Path(task), {}, [f"{key}={value}" for key, value in values.items()])
        check_early(config, store)
    except OvertureError as error:
        return error
    return None


def _filled_in(pairs: Sequence[tuple[str, str]]) -> tuple[str, str, dict[str, str]]:
    """The task, the button and the settings of a posted form.

    Raises:
        Refused: a field is not one of the form's.
    """
    settings, values, task, action = form_settings(), {}, "", "check"
    for name, text in pairs:
        if name == "task":
            task = text
        elif name == "action":
            action = text
        elif name not in settings:
            raise Refused(400, "invalid_request", "the form has no such field", where=name, got=name)
        elif text.strip():
            values[name] = text.strip()
    return task, action, values


def routes(site: Site) -> APIRouter:
    """The routes of the page; they stand in front of those of a run, whose name may be anything."""
    router, store = APIRouter(), site.service.registry.store
    launcher = site.launcher

    @router.get("/runs/new")
    def new_run(request: Request) -> Response:
        """The empty form."""
        check_admin(request.state.visit)
        form = form_of_values(store.root, query_of(request, StartQuery).task, {})
        return site.page(request, "new_run.html", "command", form=form)

    @router.post("/runs/new")
    async def begin(request: Request) -> Response:
        """Check what was filled in, and start it if that was asked for."""
        check_admin(request.state.visit)
        task, action, values = _filled_in(await pairs_of(request))
        if task not in task_files(store.root):
            raise Refused(400, "invalid_request", "there is no such task file here", where="task", got=task)
        if action == "show":
            form = form_of_values(store.root, task, values)
            return site.page(request, "new_run.html", "command", form=form)
        error = await run_in_threadpool(checked, store, task, values)
        if error is not None or action != "start":
            form = form_of_values(store.root, task, values, error=error, is_checked=error is None)
            return site.page(request, "new_run.html", "", 200 if error is None else 400, form=form)
        return see(f"/runs/started/{launcher.start(words_of(task, values))}")

    @router.get("/runs/started/{start}")
    def started(request: Request, start: str) -> Response:
        """What was started and has no run yet."""
        check_admin(request.state.visit)
        if name := launcher.run_of(start):
            if request.headers.get("hx-request") == "true":
                # The part is of another page: let htmx load it whole.
                return Response(status_code=200, headers={"hx-redirect": f"/runs/{name}"})
            return see(f"/runs/{name}")
        command = shlex.join(["overture", *launcher.launch(start).words])
        output, is_alive = launcher.output(start), launcher.is_alive(start)
        return site.page(
            request, "started.html", "live", start=start, command=command, output=output, is_alive=is_alive
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
