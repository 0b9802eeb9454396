"""Stored prompts under the names that clients send: pinned versions, aliases, near names, drift."""

import asyncio
import base64
import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any

from pydantic import ValidationError

from overture.core.config import validated
from overture.core.errors import ArtifactError, NotReady, OvertureError, UnknownPrompt, WrongName
from overture.data.task import Task
from overture.server.engine import Engine
from overture.server.errors import Refused, invalid_body
from overture.server.schema import ModelCard, PromptFacts, PromptKept, PromptUpload
from overture.server.security import Key, Visit
from overture.store.artifact import read_manifest
from overture.store.manifest import BackboneRef, Manifest, check_answers, check_fingerprint
from overture.store.names import is_name, is_path
from overture.store.store import Store

_MAX_NAMES = 2000
"""Names among which near ones are looked for: more would let wrong names cost time."""


@dataclass(frozen=True, slots=True)
class Served:
    """A prompt that answers requests, or the model without one, whose name is empty.

    Args:
        ref: name@version.
        task: of the prompt; None of the model alone.
        manifest: of the prompt.
        promises_sets: whether rows were kept with it by which it can tell a set of labels that holds the right one.
    """

    ref: str
    task: Task | None = None
    manifest: Manifest | None = None
    promises_sets: bool = False

    @property
    def writes(self) -> bool:
        """Whether its answers are texts that can be sent while they grow."""
        return self.task is None or self.task.spec.is_shown_as_written

    @property
    def columns(self) -> tuple[str, ...]:
        """The fields that a row must have."""
        return ("text",) if self.task is None else self.task.columns

    @property
    def kind(self) -> str:
        """The kind of its task."""
        return "model" if self.task is None else self.task.kind


class Registry:
    """The prompts of a store, limited to those that a key may use.

    Args:
        store: where they lie.
        engine: loads them, and knows the model.
        base: what the model is called.
        serves_base: whether the model answers without a prompt too.
        allow_drift: accept another tokenizer, chat template or revision around the same weights.
    """

    def __init__(
        self, store: Store, engine: Engine, base: str, *, serves_base: bool = False, allow_drift: bool = False
    ) -> None:
        self.store, self.engine, self.base = store, engine, base
        self.serves_base, self.allow_drift = serves_base, allow_drift
        # Versions are never replaced, so what was read stays true.
        self.read = lru_cache(maxsize=2048)(self._read_folder)
        self._names: tuple[object, tuple[str, ...]] = (None, ())
        self._model: tuple[object, BackboneRef] | None = None

    def served(self, model: str, key: Key, where: str = "model") -> Served:
        """The prompt of a name, pinned.

        Args:
            model: the name, as the client sent it.
            key: whose request it is.
            where: the field that holds the name, for errors.

        Raises:
            Refused: 404 for a name that is unknown or not the key's, with near names; 409 where the model has changed.
        """
        if model == self.base and self.serves_base:
            return Served("")
        prompt = self.read(self.pinned(model, key, where))
        if problem := self.problem(prompt):
            raise Refused.of(problem)
        return prompt

    def pinned(self, model: str, key: Key, where: str = "model") -> str:
        """A prompt's name with its version; the arguments are those of `served`.

        Raises:
            Refused: 404, the same for unknown prompts and for those of others.
        """
        ref = model.removeprefix(f"{self.base}:")
        try:
            if is_path(ref) or not key.may_use(ref.partition("@")[0]):
                raise UnknownPrompt("no such prompt")
            return self.store.pinned(ref)
        except (UnknownPrompt, WrongName):
            names = [*islice(filter(key.may_use, self.names()), _MAX_NAMES)]
            name = ref.partition("@")[0]
            if name in names and self.store.versions(name):
                versions = [*self.store.aliases(name), *map(str, self.store.versions(name))]
                near = [f"{name}@{version}" for version in versions][:3]
            else:
                near = [
                    known_name
                    for known_name in difflib.get_close_matches(name[:64], names, 9)
                    if self.store.versions(known_name)
                ][:3]
            fix = f"did you mean {', '.join(near)}?" if near else "GET /v1/models lists what is there"
            raise Refused(
                404, "model_not_found", "no such prompt", where=where, got=model, wanted="a stored prompt", fix=fix
            ) from None

    def problem(self, prompt: Served) -> ArtifactError | None:
        """Why the loaded model cannot answer under a prompt; None where it can, or is not loaded yet."""
        backbone_facts = self.engine.stats().backbone
        if backbone_facts is None or prompt.manifest is None or (prompt.manifest.text and self.allow_drift):
            # Any model can read words; whoever allows drift is told when the prompt is opened.
            return None
        expected_backbone = prompt.manifest.backbone
        if self._model is None or self._model[0] != backbone_facts:
            self._model = (backbone_facts, BackboneRef.model_validate(backbone_facts))
        actual = self._model[1]
        if expected_backbone.dtype is None:
            # Fingerprints of earlier versions are of loaded tensors, which only the worker has; it compares them.
            actual = actual.model_copy(update={"weights_sha256": expected_backbone.weights_sha256})
        try:
            check_fingerprint(expected_backbone, actual, self.allow_drift)
        except ArtifactError as error:
            if not prompt.manifest.text:
                return error
            return ArtifactError(
                f"{error.what}; --allow-drift serves its words all the same",
                got=error.got,
                wanted=error.wanted,
                fix="measure it with this model before you use it: its scores are of its own",
                problems=error.problems,
            )
        return None

    def names(self) -> tuple[str, ...]:
        """The names of all prompts, in order, some without versions; read again when a name was added."""
        stamp = self.store.prompts.stat().st_mtime_ns if self.store.prompts.is_dir() else None
        if stamp is None or self._names[0] != stamp:
            self._names = (stamp, self.store.names())
        return self._names[1]

    def refused(self) -> dict[str, str]:
        """Prompts that are not served, with the reason."""
        problems: dict[str, str] = {}
        for name in self.names():
            for version in self.store.versions(name):
                try:
                    # Not through the cache: these are all prompts, and few of them will be asked.
                    error: OvertureError | None = self.problem(self._read_folder(f"{name}@{version}"))
                except OvertureError as unreadable:
                    error = unreadable
                if error is not None:
                    problems[f"{name}@{version}"] = error.what
        return problems

    # -- cards

    def cards(self, key: Key, after: str | None = None) -> Iterator[ModelCard]:
        """The model, if it is served, then the newest version of each prompt by name, behind a card's id."""
        if self.serves_base and after is None:
            yield ModelCard(id=self.base, created=0)
        begin = (after or "").partition("@")[0]
        for name in self.names():
            if name > begin and key.may_use(name) and (versions := self.store.versions(name)):
                yield self.card(f"{name}@{versions[-1]}")

    def versions(self, name: str, key: Key) -> list[ModelCard]:
        """A card for each version of a prompt.

        Raises:
            Refused: 404.
        """
        name = self.pinned(name, key, "name").partition("@")[0]
        return [self.card(f"{name}@{version}") for version in self.store.versions(name)]

    def aliases(self, ref: str) -> list[str]:
        """The aliases of a pinned version, in order."""
        name, _, version = ref.partition("@")
        return sorted(alias for alias, number in self.store.aliases(name).items() if str(number) == version)

    def card(self, ref: str) -> ModelCard:
        """A version's card; that of a damaged one says so."""
        aliases = self.aliases(ref)
        try:
            prompt = self.read(ref)
        except OvertureError as error:
            facts = PromptFacts(
                kind="",
                fields=[],
                labels=[],
                method="",
                place="",
                length=0,
                sha256="",
                aliases=aliases,
                problem=error.what,
            )
            return ModelCard(id=ref, created=0, overture=facts)
        assert prompt.manifest is not None
        assert prompt.task is not None
        manifest, task, error_of_model = prompt.manifest, prompt.task, self.problem(prompt)
        scores = manifest.metrics.test or manifest.metrics.validation
        score = scores.scores.get(task.metric) if scores else None
        facts = PromptFacts(
            kind=task.kind,
            fields=list(task.columns),
            labels=list(task.words),
            method=manifest.method,
            place=manifest.place,
            length=manifest.length,
            metric=task.metric if score else None,
            score=score.value if score else None,
            interval=(score.low, score.high) if score and score.low is not None and score.high is not None else None,
            n=score.n if score else None,
            sha256=manifest.tensors_sha256,
            aliases=aliases,
            problem=error_of_model.what if error_of_model else None,
        )
        model, created = manifest.backbone.id, int(datetime.fromisoformat(manifest.created).timestamp())
        return ModelCard(id=ref, created=created, root=model, parent=model, overture=facts)

    # -- changes

    async def keep(self, name: str, body: bytes, known_sha256: str | None, visit: Visit) -> tuple[PromptKept, bool]:
        """Keep an upload as the next version of its name, if the model can answer under it.

        Args:
            name: the prompt's.
            body: a `PromptUpload` as JSON.
            known_sha256: a version with this digest is not kept again, so that an upload can be repeated.
            visit: the request.

        Returns:
            The version, and whether it is new.

        Raises:
            Refused: a wrong name, a damaged or unsafe file, another model's prompt.
        """
        # A body of 64 MiB takes a second to be read and checked, in which others are answered.
        version, is_new = await asyncio.to_thread(self._store_upload, name, body, known_sha256, visit.key)
        if not is_new:
            return version, False
        try:
            await self.engine.load(version.prompt, visit.id)
        except OvertureError:
            # Only the model itself can tell whether shapes and options fit.
            await asyncio.to_thread(self.store.remove, version.prompt)
            raise
        return version, True

    async def remove(self, ref: str, key: Key) -> list[str]:
        """Remove one version, or with a name alone all of them.

        Returns:
            The versions, as name@version.

        Raises:
            Refused: 404; 409 for a version that has an alias.
        """
        pinned = self.pinned(ref, key, "ref")
        if "@" in ref and (aliases := self.aliases(pinned)):
            what = f"{pinned} has the alias {aliases[0]}, so it is not removed"
            raise Refused(409, "prompt_has_alias", what, where="ref", got=ref, fix="move the alias first")
        versions = await asyncio.to_thread(self.store.remove, pinned if "@" in ref else pinned.partition("@")[0])
        # A worker that is down has nothing open.
        with contextlib.suppress(NotReady):
            for version in versions:
                await self.engine.unload(version)
        return list(versions)

    def _read_folder(self, ref: str) -> Served:
        folder = self.store.get(ref, named_only=True)
        # What the worker alone uses is not held for each of thousands of prompts.
        whole = read_manifest(folder)
        check_answers(whole)
        manifest = whole.model_copy(update={"shares": None})
        task = validated(Task, manifest.task, str(folder / "prompt.json"))
        return Served(ref, task, manifest, promises_sets=whole.shares is not None)

    def _store_upload(self, name: str, body: bytes, known_sha256: str | None, key: Key) -> tuple[PromptKept, bool]:
        """An upload on the disk, and whether it was not there before."""
        try:
            upload = PromptUpload.model_validate_json(body)
            tensors = base64.b64decode(upload.tensors, validate=True)
        except ValidationError as error:
            raise invalid_body(error.errors(include_url=False)) from None
        except ValueError as error:
            raise Refused(400, "invalid_request", "tensors is not base64", where="tensors", got=str(error)) from None
        if not is_name(name):
            wanted = "1 to 64 of a-z 0-9 _ . -, a letter or digit first"
            raise Refused(400, "invalid_name", "this is not a valid name", where="name", got=name, wanted=wanted)
        if not key.may_use(name):
            raise Refused(403, "name_not_allowed", "the key may not use this name", where="name", got=name)
        for version in reversed(self.store.versions(name) if known_sha256 else ()):
            manifest_of_version = self.read(f"{name}@{version}").manifest
            if manifest_of_version is not None and manifest_of_version.tensors_sha256 == known_sha256:
                return PromptKept(prompt=f"{name}@{version}", sha256=manifest_of_version.tensors_sha256), False
        values: dict[str, Any] = {**upload.manifest, "name": name}
        manifest = validated(Manifest, values, "manifest")
        task = validated(Task, manifest.task, "manifest.task")
        if problem := self.problem(Served("", task, manifest)):
            raise Refused.of(problem)
        folder = self.store.add(manifest, tensors)
        ref = f"{name}@{folder.name.removeprefix('v')}"
        return PromptKept(prompt=ref, sha256=read_manifest(folder).tensors_sha256), True
