"""Asks a vLLM server the worker's questions: sends tokens, receives tokens and log-probabilities.

The worker makes questions of requests and reads the answers, as it does with its own model, so only the forward passes
are elsewhere. A thread speaks HTTP; what it brings is taken by the worker's loop, which a socket wakes.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import math
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from overture.core.contracts import Answers, LabelScores
from overture.core.errors import BackboneError, NotReady, OvertureError
from overture.core.records.serving import Request, VllmOptions
from overture.core.rows import Answer, Candidates, OneOf
from overture.engine.model_files import model_files
from overture.evaluate.host import Handle, Host
from overture.evaluate.inquiry import Item
from overture.exchange.vllm_files import PARAMETER, PLACEHOLDER
from overture.jobs.transfer.vllm import vllm_gap, written_for_vllm
from overture.server.job import most_written

if TYPE_CHECKING:
    import httpx2 as httpx

KEY = "VLLM_API_KEY"
"""The environment's variable with the key of the vLLM server, as vLLM itself reads it."""
_MOST_IDS = 20
"""Log-probabilities that vLLM tells of one place, unless it is started with more."""
_CONNECT_S, _READ_S = 5.0, 600.0
_TOKEN = "token_id:"


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was written, its log-probability, and the likeliest ones at its place with theirs."""

    id: int
    share: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """News of a question.

    Args:
        request_id: of the request.
        index: of the question in it.
        tokens: written since the last piece.
        scores: log-probabilities of labels, [C]; None for answers that are written.
        error: why there will be no answer.
        is_end: nothing more comes.
    """

    request_id: str
    index: int
    tokens: tuple[Token, ...] = ()
    scores: "torch.Tensor | None" = None
    error: OvertureError | None = None
    is_end: bool = False


class Remote:
    """A vLLM server that has the host's model.

    Args:
        options: where it is, and the folder from which it reads prompts.
        host: renders rows, and has the model's facts.
        transport: speaks HTTP in tests.

    Raises:
        BackboneError: no vLLM server answers there, or the folder of prompts cannot be written.
    """

    def __init__(self, options: VllmOptions, host: Host, transport: "httpx.AsyncBaseTransport | None" = None) -> None:
        self.options, self.host = options, host
        self._transport = transport
        self._secret = secrets.token_bytes(32)
        self._weight_files_sha256: str | None = None
        self._pieces: deque[Piece] = deque()
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._loop = asyncio.new_event_loop()
        self._client: httpx.AsyncClient = self._new_client()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        try:
            self.model, self.max_length = self._call(self._model_facts())
        except BaseException:
            self.close()
            raise

    def _new_client(self) -> "httpx.AsyncClient":
        import httpx2 as httpx

        key = os.environ.get(KEY, "")
        return httpx.AsyncClient(
            base_url=self.options.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(_READ_S, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            transport=self._transport,
            # A proxy of the environment is not meant for a machine of one's own.
            trust_env=False,
            follow_redirects=False,
        )

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _model_facts(self) -> tuple[str, int]:
        """The server's name of the model, and its context in tokens."""
        import httpx2 as httpx

        try:
            reply = await self._client.get("/v1/models")
            reply.raise_for_status()
            model = next(model for model in reply.json()["data"] if not model.get("parent"))
            return str(model["id"]), int(model["max_model_len"])
        except (httpx.HTTPError, ValueError, KeyError, StopIteration, TypeError) as error:
            raise BackboneError(
                "no vLLM server answers there",
                where=self.options.url,
                got=f"{type(error).__name__}: {error!s:.200}",
                fix=f"start vLLM, or name its address by --url; its key is read from {KEY}",
            ) from None

    def tokens_per_second(self) -> float:
        """How fast vLLM reads one text, by the better of two times 64 tokens.

        Raises:
            BackboneError: it does not answer.
        """

        async def seconds() -> float:
            request = {"model": self.model, "prompt": [PLACEHOLDER] * 64, "cache_salt": secrets.token_hex(8)}
            started = time.monotonic()
            reply = await self._client.post("/v1/completions", json=request | {"max_tokens": 1, "temperature": 0.0})
            if reply.status_code != 200:
                raise _refusal(reply.status_code, reply.text)
            return time.monotonic() - started

        shortest: float = min(self._call(seconds()) for _ in range(2))
        return 64 / max(shortest, 1e-6)

    def close(self) -> None:
        """End the thread; nothing is taken any more."""

        async def end() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._client.aclose()

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for side in (self._ours, self._theirs):
            side.close()

    # -- prompts

    def open(self, handle: Handle) -> str:
        """Write a prompt for vLLM, if it can answer under it.

        Returns:
            Why the local engine answers under it, in a few words; empty where vLLM does.

        Raises:
            ArtifactError: another prompt of its name is in the folder.
            StoreError: the folder cannot be written.
        """
        why = vllm_gap(handle)
        if not why and handle.manifest.text is None and handle.prompt is not None:
            if not handle.manifest.version:
                return "it is no version of a store"
            if self._weight_files_sha256 is None:
                info = self.host.backbone.info
                self._weight_files_sha256 = model_files(info.id, info.revision)[1]
            written_for_vllm(handle, Path(self.options.prompts), self._weight_files_sha256)
        return why

    # -- questions

    def takes(self, item: Item) -> bool:
        """Whether a question is of a kind that vLLM answers as the worker does, under a prompt that it can have."""
        row, question, handle = item.row, item.question, item.handle
        manifest, target = handle.manifest, row.target
        if manifest.text is not None:
            can_have = manifest.backbone.tokenizer_sha256 == self.host.backbone.info.tokenizer_sha256
        else:
            can_have = handle.prompt is None or manifest.version > 0
        has_tokens_alone = all(isinstance(token, int) for token in (*row.input_elements, *row.anchor_elements))
        if vllm_gap(handle) or not can_have or not has_tokens_alone:
            return False
        if isinstance(question, LabelScores):
            if not isinstance(target, OneOf) or target.read is not None:
                return False
            num_more = 1 + max(len(word) for word in target.candidates.words)
        elif isinstance(question, Answers):
            is_free = target is None or (isinstance(target, Answer) and target.allowed is None)
            if not is_free or question.decoding.beams != 1:
                return False
            num_more = most_written(item)
        else:
            return False
        has_room: bool = manifest.length + row.num_text + num_more <= self.max_length
        return has_room

    def ask(self, request: Request, index: int, item: Item) -> None:
        """Send a question; pieces of its answer are taken as they come."""
        body = self._body(request, item)
        question = item.question
        work: Callable[[], Awaitable[None]]
        if isinstance(question, LabelScores):
            assert isinstance(item.row.target, OneOf)
            work = partial(self._label_scores, body, item.row.target.candidates, request.id, index)
        else:
            work = partial(self._answer, body | self._writing_options(request, item), request.id, index)
        key = (request.id, index)

        def begin() -> None:
            self._running[key] = self._loop.create_task(self._guarded(work, *key))

        self._loop.call_soon_threadsafe(begin)

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Forget a request, or a question of it; vLLM stops to work on it."""

        def stop() -> None:
            for key, task in list(self._running.items()):
                if key[0] == request_id and index in (None, key[1]):
                    task.cancel()

        self._loop.call_soon_threadsafe(stop)

    def fileno(self) -> int:
        """The socket that becomes readable when there are pieces."""
        return self._ours.fileno()

    def take_pieces(self) -> list[Piece]:
        """The pieces that have come."""
        with contextlib.suppress(BlockingIOError):
            while self._ours.recv(4096):
                pass
        pieces = []
        while self._pieces:
            pieces.append(self._pieces.popleft())
        return pieces

    def _put(self, piece: Piece) -> None:
        self._pieces.append(piece)
        with contextlib.suppress(OSError):
            self._theirs.send(b".", socket.MSG_DONTWAIT)

    async def _guarded(self, work: Callable[[], Awaitable[None]], request_id: str, index: int) -> None:
        """Run a question; any failure becomes an error of this request alone."""
        import httpx2 as httpx

        error: OvertureError | None = None
        try:
            await work()
        except asyncio.CancelledError:
            return
        except OvertureError as refused:
            error = refused
        except httpx.HTTPError as failed:
            error = NotReady("vLLM cannot be reached", got=f"{type(failed).__name__}: {failed!s:.200}")
        except Exception as odd:
            # Whatever it was: a request without an end would wait for ever.
            error = BackboneError("vLLM sent no answer that can be read", got=f"{type(odd).__name__}: {odd!s:.200}")
        finally:
            self._running.pop((request_id, index), None)
        if error is not None:
            self._put(Piece(request_id, index, error=error, is_end=True))

    # -- what is sent

    def salt_of(self, request: Request, handle: Handle) -> str:
        """The cache salt of a request: vLLM shares cached blocks only within one tenant and one prompt."""
        scope = json.dumps([request.tenant, handle.manifest.ref, handle.manifest.tensors_sha256])
        return hmac.new(self._secret, scope.encode(), hashlib.sha256).hexdigest()

    def _body(self, request: Request, item: Item) -> dict[str, Any]:
        handle, row = item.handle, item.row
        front: Sequence[Any] = ()
        back: Sequence[Any] = ()
        transfer_params: dict[str, Any] = {}
        if (text := handle.manifest.text) is not None:
            front, back = text.before_ids, text.after_ids
        elif handle.prompt is not None:
            front = [PLACEHOLDER] * handle.manifest.length
            digest = handle.manifest.tensors_sha256
            transfer_params = {"kv_transfer_params": {PARAMETER: handle.manifest.ref, "sha256": digest}}
        return {
            "model": self.model,
            "prompt": [*front, *row.input_elements, *back, *row.anchor_elements],
            "cache_salt": self.salt_of(request, handle),
            **transfer_params,
            "max_tokens": 1,
            # All that a model's own generation_config.json could set.
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "ignore_eos": True,
            "add_special_tokens": False,
            "skip_special_tokens": False,
            "return_tokens_as_token_ids": True,
            "logprobs": 0,
        }

    def _writing_options(self, request: Request, item: Item) -> dict[str, Any]:
        """Fields of a request for a written answer, beside its prompt."""
        question, eos_id = item.question, item.handle.adapted.info.eos_id
        assert isinstance(question, Answers)
        fields: dict[str, Any] = {
            "max_tokens": most_written(item),
            "stop_token_ids": [] if eos_id is None else [eos_id],
            "logprobs": request.top_logprobs or 0,
            "return_token_ids": True,
            "stream": True,
        }
        if question.decoding.temperature is not None:
            decoding = question.decoding
            fields |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "seed": decoding.seed}
        return fields

    # -- what comes back

    async def _answer(self, body: dict[str, Any], request_id: str, index: int) -> None:
        num_top = body["logprobs"]
        async for chunk in self._chunks(body):
            choice = chunk["choices"][0] if chunk.get("choices") else {}
            shares = choice.get("logprobs")
            if shares and shares["token_logprobs"]:
                ids, values = choice["token_ids"], shares["token_logprobs"]
                tops = [_top(top, num_top) for top in shares["top_logprobs"] or ()] or [()] * len(ids)
                tokens = tuple(map(Token, ids, values, tops))
                self._put(Piece(request_id, index, tokens))
        self._put(Piece(request_id, index, is_end=True))

    async def _chunks(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        async with self._client.stream("POST", "/v1/completions", json=body) as reply:
            if reply.status_code != 200:
                await reply.aread()
                raise _refusal(reply.status_code, reply.text)
            async for line in reply.aiter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or data == "[DONE]":
                    continue
                chunk = json.loads(data)
                if "error" in chunk:
                    raise _refusal(int(chunk["error"].get("code") or 500), json.dumps(chunk["error"]))
                yield chunk

    async def _label_scores(self, body: dict[str, Any], candidates: Candidates, request_id: str, index: int) -> None:
        """Log-probabilities of all labels: one request for all words that begin alike, or for 20 of them."""
        following: dict[tuple[int, ...], set[int]] = {}
        for word in candidates.words:
            for place, token in enumerate(word):
                following.setdefault(word[:place], set()).add(token)
        requests = [
            (begin, sorted(ids)[start : start + _MOST_IDS])
            for begin, ids in following.items()
            for start in range(0, len(ids), _MOST_IDS)
        ]
        replies = await asyncio.gather(*(self._shares(body, begin, ids) for begin, ids in requests))
        shares: dict[tuple[int, ...], float] = {}
        for (begin, ids), token_shares in zip(requests, replies, strict=True):
            shares |= {(*begin, token): token_shares[token] for token in ids}
        words = [sum(shares[word[: place + 1]] for place in range(len(word))) for word in candidates.words]
        self._put(Piece(request_id, index, scores=scores_of(words, candidates), is_end=True))

    async def _shares(self, body: dict[str, Any], begin: tuple[int, ...], ids: Sequence[int]) -> dict[int, float]:
        """Log-probabilities of tokens behind a row and the beginning of a word."""
        changes = {"prompt": [*body["prompt"], *begin], "logprob_token_ids": list(ids), "logprobs": 1}
        reply = await self._client.post("/v1/completions", json=body | changes)
        if reply.status_code != 200:
            raise _refusal(reply.status_code, reply.text)
        return dict(_top(reply.json()["choices"][0]["logprobs"]["top_logprobs"][0]))


def scores_of(words: Sequence[float], candidates: Candidates) -> "torch.Tensor":
    """Log-probabilities of the labels, [C], from log-likelihoods of their words: those of a label add up.

    Args:
        words: log-likelihood of each word.
        candidates: the words of each label.
    """
    if candidates.is_mean:
        words = [share / len(word) for share, word in zip(words, candidates.words, strict=True)]
    by_label: list[list[float]] = [[] for _ in candidates.labels]
    for share, label in zip(words, candidates.label_of, strict=True):
        by_label[label].append(share)
    return torch.tensor([_log_sum(shares) for shares in by_label]).log_softmax(0)


def _log_sum(values: Sequence[float]) -> float:
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values))


def _top(shares: dict[str, float], num: int | None = None) -> tuple[tuple[int, float], ...]:
    """Tokens and their log-probabilities, as vLLM spells them; the likeliest ones, or all."""
    pairs = [(int(name.removeprefix(_TOKEN)), share) for name, share in shares.items()]
    return tuple(pairs if num is None else sorted(pairs, key=lambda pair: -pair[1])[:num])


def _refusal(status: int, text: str) -> OvertureError:
    """vLLM's refusal as an error of ours; what it says stays in the message."""
    got = f"HTTP {status}: {text:.300}"
    if status in (400, 401, 403, 404, 413, 422):
        return BackboneError("vLLM refuses the request", got=got, fix="see the log of vLLM")
    return NotReady("vLLM failed to answer", got=got, fix="see the log of vLLM: it names prompts that cannot be loaded")
