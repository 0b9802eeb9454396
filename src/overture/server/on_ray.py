"""The server on Ray Serve: replicas of the gateway in front of replicas of the engine, on the machines of a cluster.

A consistent hash sends all requests under a prompt to the same engine, which then has it open and knows its texts; an
engine that comes or goes moves the prompts of its own share alone. Gateways know each other as little as processes of
`overture serve` on one store do.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import Field

from overture.core.errors import NotReady, OvertureError
from overture.core.records.base import Record
from overture.core.records.serving import EVENTS, EngineStats, ErrorEvent, Event, Request, WorkerOptions
from overture.server.link import WorkerEngine, raised

APP, ENGINE, GATEWAY = "overture", "engine", "gateway"
_LOOK_S = 1.0
_RETRY_S = 2.0
_LOADING_S = 0.05
_HEALTH_S = 2.0
_NOT_THERE = EngineStats(is_alive=False, is_ready=False)
_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


class Cluster(Record):
    """Options of a cluster: the model and store that it serves, and its numbers of processes."""

    worker: WorkerOptions = Field(description="what each engine serves; its store is where all machines see it")
    gateways: int = Field(1, ge=1, description="replicas of the gateway")
    least_engines: int = Field(1, ge=1, description="replicas of the engine while little is asked")
    most_engines: int = Field(1, ge=1, description="replicas of the engine at most")
    target: float = Field(16.0, gt=0, description="requests under way for each engine: with more, another one starts")
    most_at_once: int = Field(
        64, ge=1, description="requests that an engine takes before the next one on the ring does"
    )
    upscale_delay_s: float = Field(
        30.0, gt=0, description="how long there must be more requests than that before another engine starts"
    )
    downscale_delay_s: float = Field(
        600.0, gt=0, description="how long there must be fewer before an engine that is not needed ends"
    )
    drain_s: float = Field(60.0, ge=0, description="what an engine that ends has for the requests that it has begun")
    cpus: float = Field(1.0, ge=0, description="cores that an engine asks the cluster for")
    gpus: float = Field(0.0, ge=0, description="GPUs that an engine asks the cluster for")
    max_wait_s: float = Field(
        30.0,
        gt=0,
        description="a request that would wait longer in its engine gets a 429, and a 503 if no engine takes it",
    )
    host: str = Field("127.0.0.1", description="where each machine's proxy listens; beyond this machine only with keys")
    port: int = Field(8000, ge=1, le=65535, description="port of the proxies")
    is_on_head: bool = Field(False, description="only the head has a proxy, such as where nodes share a machine")
    hosts: tuple[str, ...] = Field((), description="further names under which clients reach the cluster")
    key_file: str | None = Field(None, description="keys that clients must send; `overture serve --new-key` adds one")
    serves_base: bool = Field(False, description="answer without a prompt too")


def session_of(request: Request) -> str:
    """The key by which the hash ring chooses an engine: the prompts, or without a prompt the tenant."""
    return " ".join(filter(None, request.prompts)) or request.tenant or "-"


class EngineReplica:
    """A worker process with the model; runs in a replica of Ray Serve.

    Args:
        cluster: a `Cluster` as JSON.

    Raises:
        NotReady: the model cannot be loaded.
    """

    # Ray awaits it. The ring has no place for an engine whose model is still loading, or its prompts would wait for it.
    async def __init__(self, cluster: str) -> None:  # type: ignore[misc]
        options = Cluster.model_validate_json(cluster)
        self._engine = WorkerEngine(options.worker, options.max_wait_s)
        await self._engine.start()
        while not self._engine.stats().is_ready:
            await self.check_health()
            await asyncio.sleep(_LOADING_S)

    async def check_health(self) -> None:
        """Raise where the model cannot be loaded; Ray then makes another replica."""
        if failure := self._engine.stats().failure:
            raise NotReady("the engine cannot answer", got=failure)

    async def events(self, request: str) -> AsyncIterator[str]:
        """A request's events, both as JSON, after an empty text: the engine has the request."""
        yield ""
        async with contextlib.aclosing(self._engine.submit(Request.model_validate_json(request))) as events:  # type: ignore[type-var]
            async for event in events:
                yield event.model_dump_json()

    async def load(self, prompt: str, request_id: str) -> str:
        """Open a prompt; an `ErrorEvent` as JSON where it cannot be served."""
        return await self._error_or_nothing(self._engine.load(prompt, request_id), request_id)

    async def unload(self, prompt: str) -> str:
        """Close a prompt."""
        return await self._error_or_nothing(self._engine.unload(prompt), "unload")

    async def tokenize(self, text: str) -> list[int]:
        """The model's tokens of a text."""
        return list(await self._engine.tokenize(text))

    async def stats(self) -> str:
        """`EngineStats` as JSON."""
        return self._engine.stats().model_dump_json()

    async def place(self) -> tuple[str, str, int]:
        """The replica, the machine that it is on, and its process."""
        ray, serve = import_module("ray"), import_module("ray.serve")
        return serve.get_replica_context().replica_tag, ray.get_runtime_context().get_node_id(), os.getpid()

    async def _error_or_nothing(self, work: Any, request_id: str) -> str:
        try:
            await work
        except OvertureError as error:
            status = error.http_status
            return ErrorEvent(
                id=request_id, error=type(error).__name__, message=str(error), status=status
            ).model_dump_json()
        return ""


class ClusterEngine:
    """Meets `server.engine.Engine` with the engines of a cluster.

    Args:
        handle: Ray Serve's of their deployment.
        max_wait_s: a request that no engine takes in this time gets a 503.
    """

    def __init__(self, handle: Any, max_wait_s: float = 30.0) -> None:
        self._handle, self._stats, self._max_wait_s = handle, _NOT_THERE, max_wait_s
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Meets `Engine.start`."""
        self._looking = asyncio.create_task(self._look())

    async def stop(self, grace_s: float = 10.0) -> None:
        """Meets `Engine.stop`; Ray lets requests end."""
        del grace_s
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        while True:
            try:
                self._stats = EngineStats.model_validate_json(await self._reply(self._handle.stats.remote()))
            except Exception:
                # Whatever it was, another engine may answer the next time.
                self._stats = self._stats.model_copy(update={"is_alive": False, "is_ready": False})
            await asyncio.sleep(_LOOK_S)

    async def submit(self, request: Request) -> AsyncIterator[Event]:
        """Meets `Engine.submit`."""
        handle = self._handle.options(stream=True, session_id=session_of(request))
        events = handle.events.remote(request.model_dump_json())
        is_ended = False
        try:
            # Without engines, or with none that takes more, Ray would wait without end.
            await asyncio.wait_for(anext(events), self._max_wait_s)
            async for text in events:
                event = EVENTS.validate_json(text)
                is_ended = event.kind in ("done", "error")
                yield event
        except (GeneratorExit, asyncio.CancelledError):
            raise
        except TimeoutError:
            yield _unavailable(request.id, f"no engine took the request in {self._max_wait_s:g} s")
        except Exception as error:
            # Ray's errors have many classes: a lost replica, a lost machine, too many that wait. What an engine had
            # begun is not asked again: a request that ends an engine would end them all.
            is_ended = True
            yield _unavailable(request.id, _loss_text(error))
        finally:
            if not is_ended:
                events.cancel()

    async def cancel(self, request_id: str) -> None:
        """Meets `Engine.cancel`; leaving the events of `submit` cancels them."""

    async def load(self, prompt: str, request_id: str = "command") -> None:
        """Meets `Engine.load`, in the engine that answers under the prompt."""
        text = await self._reply(self._handle.options(session_id=prompt).load.remote(prompt, request_id))
        if text:
            raise raised(ErrorEvent.model_validate_json(text))

    async def unload(self, prompt: str) -> None:
        """Meets `Engine.unload`."""
        await self._reply(self._handle.options(session_id=prompt).unload.remote(prompt))

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Meets `Engine.tokenize`."""
        return tuple(await self._reply(self._handle.tokenize.remote(text)))

    async def _reply(self, response: Any) -> Any:
        try:
            return await asyncio.wait_for(response, self._max_wait_s)
        except TimeoutError:
            raise NotReady(f"no engine replied in {self._max_wait_s:g} s") from None
        except OvertureError:
            raise
        except Exception as error:
            raise NotReady(_loss_text(error)) from error

    def stats(self) -> EngineStats:
        """Meets `Engine.stats`: of one of the engines, as it was a moment ago."""
        return self._stats


def _unavailable(request_id: str, message: str) -> ErrorEvent:
    return ErrorEvent(id=request_id, error="Unavailable", message=message, status=503, retry_after_s=_RETRY_S)


def _loss_text(error: Exception) -> str:
    # Ray's messages go on for pages.
    return f"the engine was lost: {''.join(str(error).strip().splitlines()[:1]):.200}"


def gateway(cluster: Cluster) -> Any:
    """The application of a replica of the gateway."""
    from functools import partial

    from overture.server.app import application as routes
    from overture.server.front import Front
    from overture.server.registry import Registry
    from overture.server.security import LOOPBACK, Access, Guard, check_bind, read_keys
    from overture.server.service import Service
    from overture.server.sessions import Sessions
    from overture.server.watch import Watch
    from overture.store.store import Store

    keys = read_keys(Path(cluster.key_file)) if cluster.key_file else ()
    check_bind(cluster.host, keys)
    serve, worker = import_module("ray.serve"), cluster.worker
    engine = ClusterEngine(serve.get_deployment_handle(ENGINE, app_name=APP), cluster.max_wait_s)
    registry = Registry(
        Store(Path(worker.store)),
        engine,
        Path(worker.backbone).name,
        serves_base=cluster.serves_base,
        allow_drift=worker.allow_drift,
    )
    names = (*LOOPBACK, cluster.host.lower(), *map(str.lower, cluster.hosts))
    access = Access(hosts=tuple(dict.fromkeys(names)), port=cluster.port, keys=keys)
    watch, sessions = Watch(engine), Sessions(cluster.port)
    make = partial(routes, Service(engine, registry), access, watch, sessions)
    front = Front(engine, make, on_stop=watch.close)
    return Guard(front, access, watch.finished, sessions, front.refuse)


def application(cluster: Cluster) -> Any:
    """The application for `ray.serve.run`, to be run under the name `APP`; Ray must be connected."""
    serve = import_module("ray.serve")
    config = import_module("ray.serve.config")
    engines = serve.deployment(
        name=ENGINE,
        ray_actor_options={"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        max_ongoing_requests=cluster.most_at_once,
        autoscaling_config={
            "min_replicas": cluster.least_engines,
            "max_replicas": max(cluster.least_engines, cluster.most_engines),
            "target_ongoing_requests": cluster.target,
            "upscale_delay_s": cluster.upscale_delay_s,
            "downscale_delay_s": cluster.downscale_delay_s,
        },
        graceful_shutdown_timeout_s=cluster.drain_s,
        health_check_period_s=_HEALTH_S,
        request_router_config=config.RequestRouterConfig(request_router_class=_ROUTER),
    )(EngineReplica).bind(cluster.model_dump_json())

    def built() -> Any:
        return gateway(cluster)

    gateways = serve.deployment(
        name=GATEWAY,
        num_replicas=cluster.gateways,
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0.1},
    )(serve.ingress(built)())
    return gateways.bind(engines)


@contextlib.contextmanager
def serving(cluster: Cluster) -> Iterator[None]:
    """Serve on the cluster that Ray is connected to, until the block is left.

    Raises:
        ConfigError: a host beyond this machine without keys.
    """
    from overture.server.security import check_bind, read_keys

    check_bind(cluster.host, read_keys(Path(cluster.key_file)) if cluster.key_file else ())
    serve = import_module("ray.serve")
    location = "HeadOnly" if cluster.is_on_head else "EveryNode"
    # Ray waits a minute for its proxies, and goes on starting them after that: a busy machine needs longer.
    with contextlib.suppress(TimeoutError):
        serve.start(proxy_location=location, http_options={"host": cluster.host, "port": cluster.port})
    try:
        serve.run(application(cluster), name=APP, route_prefix="/")
        yield
    finally:
        serve.shutdown()
