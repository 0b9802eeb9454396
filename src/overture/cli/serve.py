"""``overture serve``: the stored prompts of one model over HTTP."""

import asyncio
import contextlib
import json
import shlex
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from overture.cli.options import DriftOption, JsonOption, StoreOption, store_flag, store_root
from overture.cli.out import emit, remark, say
from overture.core.errors import BackboneError, ConfigError, OvertureError

if TYPE_CHECKING:
    from overture.server.registry import Registry
    from overture.store.store import Store

_MAX_REFUSED, _MAX_LOOKED_AT = 10, 200


def command(
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; beyond this machine only with a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 for any that is free.")] = 8000,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", metavar="MODEL", help="The frozen model; that of most stored prompts if not given."),
    ] = None,
    serves_base: Annotated[
        bool, typer.Option("--serve-base", help="Answer without a prompt too, under the model's name.")
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", metavar="FILE", help="Keys that clients must send; the file holds their digests."),
    ] = None,
    new_key: Annotated[
        str | None,
        typer.Option(
            "--new-key", metavar="NAME", help="Add a key to the key file, print it once, and do nothing else."
        ),
    ] = None,
    key_scope: Annotated[
        Literal["predict", "admin"],
        typer.Option("--key-scope", help="What a new key may do: admin also uploads, removes and renames prompts."),
    ] = "predict",
    known_hosts: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", metavar="NAME", help="A name under which clients reach the server. Repeatable."),
    ] = None,
    max_wait_s: Annotated[
        float, typer.Option("--max-wait", min=0.1, metavar="SECONDS", help="Refuse requests that would wait longer.")
    ] = 30.0,
    audit: Annotated[
        Path | None,
        typer.Option("--audit", metavar="FILE", help="Append a JSON line for each request; without texts and keys."),
    ] = None,
    store: StoreOption = None,
    allow_drift: DriftOption = False,
    is_json: JsonOption = False,
) -> None:
    """Serve stored prompts over HTTP: typed answers, and the API of OpenAI with each prompt as a model.

    Ctrl-C answers what is running, and stops. See docs/serving.md.
    """
    from overture.server.security import Access, add_key, check_bind, read_keys

    if new_key is not None:
        if key_file is None:
            raise ConfigError(
                "a new key needs a file", where="--key-file", fix="name one, such as --key-file keys.json"
            )
        secret = add_key(key_file, new_key, key_scope)
        emit({"name": new_key, "scope": key_scope, "key": secret}) if is_json else print(secret)
        say(f"the key of {new_key} is shown this once; {key_file} holds its digest")
        return
    keys = read_keys(key_file) if key_file else ()
    check_bind(host, keys)

    from overture.core.records.serving import WorkerOptions
    from overture.engine.options import check_source, local_source
    from overture.server.app import create_app
    from overture.server.link import WorkerEngine
    from overture.server.listen import bound_socket, uvicorn_server
    from overture.server.registry import Registry
    from overture.server.security import LOOPBACK
    from overture.server.service import Service
    from overture.server.watch import Watch
    from overture.store.store import Store

    root = store_root(store)
    prompts = Store(root, say)
    model, revision = (local_source(backbone), None) if backbone else _model_of(prompts)
    check_source(model)
    bound = bound_socket(host, port)
    port = bound.getsockname()[1]
    options = WorkerOptions(store=str(root), backbone=model, revision=revision, allow_drift=allow_drift)
    engine = WorkerEngine(options, max_wait_s)
    registry = Registry(prompts, engine, Path(model).name, serves_base=serves_base, allow_drift=allow_drift)
    names = tuple(dict.fromkeys([*LOOPBACK, host.lower(), *(name.lower() for name in known_hosts or ())]))
    access = Access(hosts=names, port=port, keys=keys)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    greetings: list[asyncio.Task[None]] = []

    def greet() -> None:
        greetings.append(asyncio.create_task(_greet(registry, url, is_json, store_flag(store), bool(keys))))
        greetings[0].add_done_callback(lambda task: stop_if_failed(task.cancelled() or task.exception() is not None))

    def stop_if_failed(is_failed: bool) -> None:
        server.should_exit = server.should_exit or is_failed

    server = uvicorn_server(create_app(Service(engine, registry), access, Watch(engine, audit), greet))
    try:
        server.run(sockets=[bound])
    except KeyboardInterrupt:
        remark("stopped")
    for greeting in greetings:
        if not greeting.cancelled() and (failure := greeting.exception()):
            raise failure


def _model_of(store: "Store") -> tuple[str, str | None]:
    """The model of most of the first prompts, and its revision; the embedded one of an empty store."""
    from overture.engine.options import EMBEDDED
    from overture.store.artifact import read_manifest

    models: Counter[tuple[str, str | None]] = Counter()
    for name in store.names()[:_MAX_LOOKED_AT]:
        with contextlib.suppress(OvertureError):
            backbone = read_manifest(store.get(name)).backbone
            models[backbone.id, backbone.revision] += 1
    return models.most_common(1)[0][0] if models else (next(iter(EMBEDDED)), None)


async def _greet(registry: "Registry", url: str, is_json: bool, flag: str, has_keys: bool) -> None:
    """Say when the model answers, what is served and what is not.

    Raises:
        BackboneError: the model cannot be loaded.
    """
    started = time.monotonic()
    remark(f"{url} listens; {registry.base} is loading ...")
    while not (stats := registry.engine.stats()).is_ready:
        if stats.failure:
            raise BackboneError("the model cannot be loaded", where=registry.base, got=stats.failure)
        await asyncio.sleep(0.05)
    seconds = time.monotonic() - started
    remark(f"{registry.base} is ready after {seconds:.1f} s")
    refused = await asyncio.to_thread(registry.refused)
    versions = {name: numbers for name in registry.names() if (numbers := registry.store.versions(name))}
    num_served = sum(map(len, versions.values())) - len(refused)
    if is_json:
        emit(
            {
                "url": url,
                "model": registry.base,
                "prompts": num_served,
                "refused": refused,
                "seconds": round(seconds, 2),
            }
        )
        return
    say(f"{url} serves {'one prompt' if num_served == 1 else f'{num_served} prompts'} on {registry.base}")
    for ref, reason in list(refused.items())[:_MAX_REFUSED]:
        say(f"  not served: {ref}: {reason}")
    if len(refused) > _MAX_REFUSED:
        say(f"  ... and {len(refused) - _MAX_REFUSED} more")
    newest = (f"{name}@{numbers[-1]}" for name, numbers in versions.items())
    example = next((ref for ref in newest if ref not in refused), None)
    say(f"try: {_example(registry, url, example, has_keys)}" if example else f"make a prompt: overture demo{flag}")


def _example(registry: "Registry", url: str, ref: str, has_keys: bool) -> str:
    """A request that the prompt answers."""
    from overture.server.security import LOCAL
    from overture.store.usage import PLAIN, sample_input

    manifest = registry.served(ref, LOCAL).manifest
    sample = sample_input(manifest.task) if manifest else PLAIN
    row = json.dumps(sample) if sample == PLAIN else sample
    body = shlex.quote(f'{{"prompt": "{ref.partition("@")[0]}", "inputs": [{row}]}}')
    key = ' -H "Authorization: Bearer $KEY"' if has_keys else ""
    return f"curl {url}/v1/predict -H content-type:application/json{key} -d {body}"
