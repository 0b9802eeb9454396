"""``overture serve``: the stored prompts of one model over HTTP."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from overture.cli.options import DriftOption, JsonOption, StoreOption, store_flag, store_root
from overture.cli.out import emit, remark, say
from overture.core.errors import BackboneError, ConfigError, OvertureError
from overture.engine.options import DType

if TYPE_CHECKING:
    from overture.core.records.serving import VllmOptions, WorkerOptions
    from overture.server.front import Front
    from overture.server.registry import Registry
    from overture.store.store import Store

_MAX_REFUSED, _MAX_LOOKED_AT = 10, 200
_VLLM_URL, _VLLM_SLOTS = "http://127.0.0.1:8001", 256
DTypeOption = Annotated[
    DType,
    typer.Option(
        "--dtype",
        help="The model's precision: auto is float32 on the CPU and bfloat16 on a GPU; fastest is bfloat16 where this "
        "processor is measured to be faster in it.",
    ),
]


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
    dtype: DTypeOption = "auto",
    engine: Annotated[
        Literal["local", "vllm"],
        typer.Option(help="What answers: this machine's model alone, or with it a vLLM server, for all that it can."),
    ] = "local",
    vllm_url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="The vLLM server; its key is read from VLLM_API_KEY."),
    ] = None,
    vllm_prompts: Annotated[
        Path | None,
        typer.Option(
            "--vllm-prompts", metavar="DIR", help="The folder from which vLLM reads prompts; vllm-prompts in the store."
        ),
    ] = None,
    store: StoreOption = None,
    allow_drift: DriftOption = False,
    is_json: JsonOption = False,
) -> None:
    """Serve stored prompts over HTTP: typed answers, the API of OpenAI with each prompt as a model, and pages.

    Ctrl-C answers what is running, and stops. See docs/serving.md.
    """
    if new_key is not None:
        from overture.server.security import add_key

        if key_file is None:
            raise ConfigError(
                "a new key needs a key file", where="--key-file", fix="name one, such as --key-file keys.json"
            )
        secret = add_key(key_file, new_key, key_scope)
        emit({"name": new_key, "scope": key_scope, "key": secret}) if is_json else print(secret)
        say(f"the key of {new_key} is shown this once; {key_file} holds its digest")
        return
    run_server(
        ServerOptions(
            host=host,
            port=port,
            backbone=backbone,
            serves_base=serves_base,
            key_file=key_file,
            known_hosts=tuple(known_hosts or ()),
            max_wait_s=max_wait_s,
            audit=audit,
            dtype=dtype,
            engine=engine,
            vllm_url=vllm_url,
            vllm_prompts=vllm_prompts,
            store=store,
            allow_drift=allow_drift,
        ),
        is_json,
    )


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of a server; the flags of `overture serve` describe them."""

    host: str = "127.0.0.1"
    port: int = 8000
    backbone: str | None = None
    serves_base: bool = False
    key_file: Path | None = None
    known_hosts: tuple[str, ...] = ()
    max_wait_s: float = 30.0
    audit: Path | None = None
    dtype: DType = "auto"
    engine: Literal["local", "vllm"] = "local"
    vllm_url: str | None = None
    vllm_prompts: Path | None = None
    store: Path | None = None
    allow_drift: bool = False


def run_server(options: ServerOptions, is_json: bool, show: Callable[[str], None] = lambda page: None) -> None:
    """Serve until Ctrl-C.

    Args:
        options: of the server.
        is_json: print one JSON object when the server is ready, and nothing else.
        show: called with the address of the first page, once it can be opened.

    Raises:
        ConfigError: the address, the keys or the model cannot be used.
        BackboneError: the model cannot be loaded.
    """
    from overture.server.security import LOCAL, LOOPBACK, Access, check_bind, read_keys

    keys = read_keys(options.key_file) if options.key_file else ()
    check_bind(options.host, keys)

    from overture.engine.options import check_source, local_source
    from overture.server.link import WorkerEngine
    from overture.store.store import Store

    root = store_root(options.store)
    prompts = Store(root, say)
    model, revision = (local_source(options.backbone), None) if options.backbone else _model_of(prompts)
    check_source(model)
    worker = _worker_options(options, root, model, revision)

    from overture.server.listen import bound_socket, uvicorn_server

    bound = bound_socket(options.host, options.port)
    port = bound.getsockname()[1]
    engine = WorkerEngine(worker, options.max_wait_s)
    # The model loads while the rest is imported; where no process can be started now, it is tried again later.
    with contextlib.suppress(OSError):
        engine.spawn()

    from overture.server.front import Application, Front
    from overture.server.security import Guard
    from overture.server.sessions import Sessions
    from overture.server.watch import Watch

    hosts = dict.fromkeys((*LOOPBACK, options.host.lower(), *map(str.lower, options.known_hosts)))
    access = Access(hosts=tuple(hosts), port=port, keys=keys)
    sessions, watch = Sessions(port), Watch(engine, options.audit)
    url = f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{port}"
    address = Address(url, f"{url}/enter?token={sessions.link(LOCAL)}" if keys else f"{url}/", has_keys=bool(keys))
    greetings: list[asyncio.Task[None]] = []

    def make() -> Application:
        from overture.server.app import application
        from overture.server.registry import Registry
        from overture.server.service import Service

        registry = Registry(
            prompts, engine, Path(model).name, serves_base=options.serves_base, allow_drift=options.allow_drift
        )
        return application(Service(engine, registry), access, watch, sessions)

    def greet() -> None:
        show(address.page)
        greetings.append(asyncio.create_task(_greet(front, address, is_json, store_flag(options.store), worker.vllm)))
        greetings[0].add_done_callback(lambda task: stop_if_failed(task.cancelled() or task.exception() is not None))

    def stop_if_failed(is_failed: bool) -> None:
        server.should_exit = server.should_exit or is_failed

    front = Front(engine, make, greet, watch.close)
    server = uvicorn_server(Guard(front, access, watch.finished, sessions, front.refuse))
    try:
        server.run(sockets=[bound])
    except KeyboardInterrupt:
        remark("stopped")
    for greeting in greetings:
        if not greeting.cancelled() and (failure := greeting.exception()):
            raise failure


def _worker_options(options: ServerOptions, root: Path, model: str, revision: str | None) -> "WorkerOptions":
    """The options of the worker process.

    Raises:
        ConfigError: the address of vLLM is none, or nothing is asked of it.
    """
    from overture.core.records.serving import WorkerOptions

    worker = WorkerOptions(
        store=str(root), backbone=model, revision=revision, dtype=options.dtype, allow_drift=options.allow_drift
    )
    if options.engine == "vllm":
        # Answers that vLLM writes take no memory here; how many are written at once is for vLLM to decide.
        return worker.model_copy(update={"vllm": _vllm_options(options, root), "slots": _VLLM_SLOTS})
    if options.vllm_url or options.vllm_prompts:
        flag = "--url" if options.vllm_url else "--vllm-prompts"
        raise ConfigError("this option needs a vLLM server", where=flag, fix="add --engine vllm")
    return worker


def _vllm_options(options: ServerOptions, root: Path) -> "VllmOptions":
    """The vLLM server that is asked; the folder of its prompts is made where it is not there.

    Raises:
        ConfigError: the address is none, or the folder cannot be made.
    """
    from urllib.parse import urlsplit

    from overture.core.records.serving import VllmOptions

    url, folder = (options.vllm_url or _VLLM_URL).rstrip("/"), options.vllm_prompts or root / "vllm-prompts"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query or parts.username:
        raise ConfigError(
            "this is not the address of a vLLM server",
            where="--url",
            got=url,
            wanted=f"such as {_VLLM_URL}, without a path",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "the folder of prompts cannot be made", where="--vllm-prompts", got=f"{folder}: {error.strerror}"
        ) from None
    return VllmOptions(url=url, prompts=str(folder.resolve()))


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is reached.

    Args:
        url: of the API.
        page: the first page; on a server with keys a link that works once.
        has_keys: whether clients must send a key.
    """

    url: str
    page: str
    has_keys: bool


def _model_of(store: "Store") -> tuple[str, str | None]:
    """The model of most of the first prompts, and its revision; the embedded one of an empty store."""
    from overture.engine.options import EMBEDDED
    from overture.store.artifact import read_manifest
    from overture.store.manifest import check_answers

    models: Counter[tuple[str, str | None]] = Counter()
    for name in store.names()[:_MAX_LOOKED_AT]:
        with contextlib.suppress(OvertureError):
            manifest = read_manifest(store.get(name))
            check_answers(manifest)
            models[manifest.backbone.id, manifest.backbone.revision] += 1
    return models.most_common(1)[0][0] if models else (next(iter(EMBEDDED)), None)


async def _greet(front: "Front", address: Address, is_json: bool, flag: str, vllm: "VllmOptions | None" = None) -> None:
    """Say when the model answers, what is served and what is not.

    Raises:
        BackboneError: the model cannot be loaded.
    """
    started, url = time.monotonic(), address.url
    registry = (await front.application()).service.registry
    remark(f"{url} listens; {registry.base} is loading ...")
    while not (stats := registry.engine.stats()).is_ready:
        if stats.failure:
            raise BackboneError("the model cannot be loaded", where=registry.base, got=stats.failure)
        await asyncio.sleep(0.05)
    seconds = time.monotonic() - started
    remark(f"{registry.base} is ready after {seconds:.1f} s")
    refusals = await asyncio.to_thread(registry.refused)
    versions = {name: numbers for name in registry.names() if (numbers := registry.store.versions(name))}
    num_served = sum(map(len, versions.values())) - len(refusals)
    if is_json:
        emit(
            {
                "url": url,
                "page": address.page,
                "model": registry.base,
                "prompts": num_served,
                "refused": refusals,
                "seconds": round(seconds, 2),
            }
        )
        return
    say(f"{url} serves {'one prompt' if num_served == 1 else f'{num_served} prompts'} on {registry.base}")
    if vllm is not None:
        local_prompts = await asyncio.to_thread(_local_prompts, registry, set(refusals))
        say(f"vLLM at {vllm.url} answers under the prompts that it can have; they are in {vllm.prompts}")
        _say_reasons("on the local engine", local_prompts, f" of {num_served}")
    _say_reasons("not served", refusals)
    newest = (f"{name}@{numbers[-1]}" for name, numbers in versions.items())
    example = next((ref for ref in newest if ref not in refusals), None)
    say(f"the pages{', once by this link' if address.has_keys else ''}: {address.page}")
    say(f"try: {_example(registry, address, example)}" if example else f"make a prompt: overture demo{flag}")


def _local_prompts(registry: "Registry", refused: set[str]) -> dict[str, str]:
    """Prompts under which vLLM cannot answer, with the reason; of each name the newest version."""
    from overture.exchange.vllm_files import gap_of
    from overture.store.artifact import read_manifest, tensor_names

    reasons: dict[str, str] = {}
    for name in registry.names():
        versions = registry.store.versions(name)
        ref = f"{name}@{versions[-1]}" if versions else ""
        if not ref or ref in refused:
            continue
        with contextlib.suppress(OvertureError):
            folder = registry.store.get(ref, named_only=True)
            manifest = read_manifest(folder)
            if why := gap_of(manifest, tensor_names(folder, manifest), "decoder"):
                reasons[ref] = why
    return reasons


def _say_reasons(title: str, reasons: dict[str, str], total: str = "") -> None:
    """Say the first prompts of a list, each with its reason, and how many more there are."""
    for ref, reason in list(reasons.items())[:_MAX_REFUSED]:
        say(f"  {title}: {ref}: {reason}")
    if len(reasons) > _MAX_REFUSED:
        say(f"  ... and {len(reasons) - _MAX_REFUSED} more{total}")


def _example(registry: "Registry", address: Address, ref: str) -> str:
    """A request that the prompt answers."""
    from overture.server.security import LOCAL
    from overture.store.usage import PLAIN, curl_command, sample_input

    manifest = registry.served(ref, LOCAL).manifest
    sample = sample_input(manifest.task) if manifest else PLAIN
    row = json.dumps(sample) if sample == PLAIN else sample
    body = f'{{"prompt": "{ref.partition("@")[0]}", "inputs": [{row}]}}'
    key = ' -H "Authorization: Bearer $KEY"' if address.has_keys else ""
    return curl_command(f"curl {address.url}/v1/predict -H content-type:application/json{key}", body)
