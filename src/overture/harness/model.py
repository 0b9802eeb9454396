"""The model `overture`: a stored prompt on its frozen model, scored by lm-evaluation-harness 0.4.13 or later.

    python -m overture.harness run --model overture --model_args prompt=questions@1 --tasks my_task --include_path .

Tokens are those of the harness's own model for transformers (`lm_eval.models.huggingface.HFLM`), so that scores
without a prompt are the same. With a prompt, a context that ends with the anchor of the prompt's own template is
tokenised as the prompt's rows were, and the prompt stands where it stood in training. Any other context is all input
and its last token the anchor: a prompt at `before` or `memory` stands in front of it, one at `after` in front of its
last token.

Where peft's prompts shift the logits by their virtual tokens and left-padding shifts positions, here each prediction is
read at its own token; nothing depends on the batch.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from overture.core.contracts import Continuations, Likelihoods
from overture.core.errors import BackboneError, ConfigError, DataError
from overture.core.files import store_dir
from overture.core.packages import install
from overture.core.rows import Answer, Candidates, Encoded, OneOf
from overture.engine.backbone import Backbone
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.host import Handle, Host
from overture.store.artifact import read_manifest
from overture.store.store import Store

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError as _error:
    raise ConfigError("the harness is not installed", got=str(_error), fix=install("harness")) from None

Ids = tuple[int, ...]
Pair = tuple[Any, Sequence[int], Sequence[int]]
_MAX_GENERATED = 256
_log = logging.getLogger(__name__)


@register_model("overture")
class OvertureLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """A stored prompt, or none, on its frozen model.

    Args:
        prompt: ``name``, ``name@2`` or a prompt's folder; the model as it is when None.
        backbone: the model; the prompt's own when None, and ``smollm2`` when there is no prompt either.
        store: where prompts are kept; ``OVERTURE_HOME`` or ``.overture`` when None.
        device: ``auto`` takes a GPU where there is one.
        dtype: ``auto`` is that in which the prompt was made; without a prompt float32 on the CPU, bfloat16 on a GPU.
        max_tokens: padded tokens of one forward pass.
        max_length: upper limit on a row's tokens, the prompt's included; the model's context when None.
        allow_drift: accept another tokenizer, chat template or revision around the same weights.
        batch_size: at most so many contexts in a pass; ``auto`` leaves it to `max_tokens`.
        max_batch_size: likewise.

    Raises:
        StoreError: no such prompt.
        ArtifactError: it is damaged, or made for another model.
        BackboneError: the model cannot be loaded, or is an encoder.
        ConfigError: the prompt cannot stand in a text that the harness wrote, or an argument makes no sense.
    """

    def __init__(
        self,
        prompt: str | None = None,
        backbone: str | Backbone | None = None,
        store: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_tokens: int = 4096,
        max_length: int | None = None,
        allow_drift: bool = False,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            known_names = "prompt, backbone, store, device, dtype, max_tokens, max_length, allow_drift"
            raise ConfigError(
                "unknown model argument", where="--model_args", got=", ".join(unknown), wanted=known_names
            )
        self.max_tokens, self.max_rows = int(max_tokens), _max_rows(batch_size, max_batch_size)
        self.handle: Handle | None = None
        folder = Store(Path(store) if store else store_dir()).get(prompt) if prompt else None
        if not isinstance(backbone, Backbone):
            ref = read_manifest(folder).backbone if folder and backbone is None else None
            name, revision = (ref.id, ref.revision) if ref else (backbone or "smollm2", None)
            dtype = ref.precision if ref and dtype == "auto" else dtype
            backbone = load_backbone(name, revision=revision, device=_available(device), dtype=dtype, notify=_say)
        self.backbone = backbone
        self._anchor: tuple[str, Ids] = ("", ())
        if folder:
            self.handle = Host(backbone, allow_drift=allow_drift).open(folder)
            _check_prompt(self.handle)
            self._anchor = self.handle.encoder.anchor
        self.model = self.handle.model() if self.handle else PromptedModel(backbone)
        kind = backbone.family.kind
        if kind != "decoder":
            raise BackboneError("the harness needs a decoder", where=backbone.info.id, got=f"an {kind}")
        self.tokenizer = backbone.text.tokenizer.inner
        length = self.handle.manifest.length if self.handle else 0
        self.max_length = min(max_length or backbone.info.max_length, backbone.info.max_length) - length
        self._device = backbone.device

    # -- the harness's contract for any model

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token in front of a text without a context."""
        bos = self.tokenizer.bos_token_id
        return int(self.tokenizer.eos_token_id if bos is None else bos)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness's cache of requests."""
        return self.backbone.info.id.replace("/", "__")

    @property
    def batch_size(self) -> int | str:
        """Contexts in a pass."""
        return self.max_rows or "auto"

    def get_model_info(self) -> dict[str, Any]:
        """Facts about the model that the harness writes beside the scores."""
        info = self.backbone.info
        facts: dict[str, Any] = {
            "model_num_parameters": info.num_parameters,
            "model_dtype": info.dtype,
            "model_revision": info.revision or "",
            "model_sha": info.weights_sha256,
            "backbone": info.id,
            "prompt": None,
        }
        if self.handle:
            manifest = self.handle.manifest
            facts |= {"prompt": manifest.ref, "prompt_method": manifest.method, "prompt_place": manifest.place}
            facts |= {"prompt_length": manifest.length, "prompt_sha": manifest.tensors_sha256}
        return facts

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The model's own chat template over messages.

        Raises:
            ConfigError: it has none.
        """
        if not self.tokenizer.chat_template:
            raise ConfigError("the backbone has no chat template", where=self.backbone.info.id)
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    # -- tokens

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokens as HFLM makes them: with the special tokens of the tokenizer, but a first one only once."""
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **options))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        context_ids = self._as_trained(context)
        if context_ids is not None:
            return context_ids, self.tok_encode(continuation, add_special_tokens=False)
        first, second = super()._encode_pair(context, continuation)
        return list(first), list(second)

    def _as_trained(self, context: str) -> list[int] | None:
        """A context that ends with the prompt's anchor, cut there as its rows were; None for any other."""
        text, ids = self._anchor
        if not text or not context.endswith(text) or len(context) == len(text):
            return None
        return [*self.tok_encode(context.removesuffix(text)), *ids]

    def _row(self, number: int, context: Sequence[int], candidates: Candidates | None = None) -> Encoded:
        """A context as a row: its anchor is the prompt's own, or the last token."""
        ids, anchor = tuple(context), self._anchor[1]
        ends_with_anchor = bool(anchor) and len(ids) > len(anchor) and ids[-len(anchor) :] == anchor
        end = len(ids) - (len(anchor) if ends_with_anchor else 1)
        return Encoded.of_ids(number, ids[:end], ids[end:], OneOf(candidates) if candidates else Answer())

    # -- likelihoods

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding writes it.

        Continuations of one context share its pass.
        """
        by_context: dict[Ids, dict[Ids, list[int]]] = {}
        for index, (_text, context, continuation) in enumerate(requests):
            context_ids = self._shortened(context, len(continuation) - 1)
            by_context.setdefault(context_ids, {}).setdefault(tuple(continuation), []).append(index)
        results: dict[int, tuple[float, bool]] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc="overture: likelihoods") as bar:
            for rows in self._batches(list(self._rows_of(by_context))):
                for row, likelihoods in zip(rows, self.model.ask(rows, Likelihoods()), strict=True):
                    assert isinstance(row.target, OneOf)
                    indices = by_context[(*row.input_ids, *row.anchor_ids)]
                    for word, likelihood in zip(row.target.candidates.words, likelihoods, strict=True):
                        results |= dict.fromkeys(indices[word], (likelihood.value, likelihood.is_greedy))
                        bar.update(len(indices[word]))
        for index, request in enumerate(requests):
            if request[0] is not None:
                self.cache_hook.add_partial("loglikelihood", request[0], results[index])
        return [results[index] for index in range(len(requests))]

    def _shortened(self, context: Sequence[int], num_more: int) -> Ids:
        """A context without its beginning where it does not fit with what follows, as HFLM does.

        Raises:
            DataError: what follows does not fit by itself.
        """
        room = self.max_length - num_more
        if room < 1:
            raise DataError("a continuation is longer than the model's context", got=f"{num_more + 1} tokens")
        if len(context) > room:
            _say(f"a context was cut by {len(context) - room} tokens at its beginning to fit {self.max_length}")
        return tuple(context[-room:])

    def _rows_of(self, by_context: dict[Ids, dict[Ids, list[int]]]) -> Iterator[Encoded]:
        """A row for each context, or several where its continuations are too many for one pass."""
        for context, continuations in by_context.items():
            room = max(0, self.max_tokens - len(context))
            words: list[Ids] = []
            for word in continuations:
                if words and sum(map(len, words)) + len(word) > room:
                    yield self._row(0, context, _candidates(words))
                    words = []
                words.append(word)
            yield self._row(0, context, _candidates(words))

    def _batches(self, rows: Sequence[Encoded], num_written: int = 0) -> Iterator[list[Encoded]]:
        """Rows of like length, longest first, so that what does not fit the memory fails at once.

        Args:
            rows: contexts.
            num_written: tokens that may be written behind each, which are kept as the context is.
        """
        for batch in reversed(_by_length(rows, self.max_tokens, num_written)):
            step = self.max_rows or len(batch)
            for start in range(0, len(batch), step):
                yield batch[start : start + step]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts in windows, each token once, as HFLM cuts them.

        A prompt stands at the beginning of each window; at `after` in front of its last context token.
        """
        windows: list[Pair] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            token_windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, token_windows):
                windows.append((None, context, continuation))
                owners.append(number)
        sums = [0.0] * len(requests)
        for number, (value, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            sums[number] += value
        for request, value in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return sums

    # -- texts

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy texts up to the first stop text or the limit.

        Raises:
            ConfigError: sampling or beams are asked for.
            DataError: there is no room for the tokens to be written.
        """
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(_limits(request.args[1], self.tokenizer.eos_token), []).append(index)
        texts: dict[int, str] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc="overture: texts") as bar:
            for (max_new_tokens, stop), members in groups.items():
                rows = []
                for index in members:
                    context = requests[index].args[0]
                    ids = self._as_trained(context) or self.tok_encode(context) or [self.prefix_token_id]
                    rows.append(self._row(index, self._shortened(ids, max_new_tokens)))
                for batch in self._batches(rows, max_new_tokens):
                    id_lists = self.model.ask(batch, Continuations(max_new_tokens, self._ends(stop)))
                    texts |= {row.row: _until(self._text(ids), stop) for row, ids in zip(batch, id_lists, strict=True)}
                    bar.update(len(batch))
        for index, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args, texts[index])
        return [texts[index] for index in range(len(requests))]

    def _ends(self, stop: Sequence[str]) -> Callable[[Sequence[int]], bool]:
        def is_done(ids: Sequence[int]) -> bool:
            text = self._text(ids)
            return any(end in text for end in stop)

        return is_done

    def _text(self, ids: Sequence[int]) -> str:
        return self.backbone.text.tokenizer.decode(ids)


def _by_length(rows: Sequence[Encoded], max_tokens: int, num_written: int = 0) -> list[list[Encoded]]:
    """Rows grouped by all their live tokens, words and what may be written included, within the budget."""
    groups: list[list[Encoded]] = []
    for row in sorted(rows, key=_num_live):
        # Sorted, so this row is the group's longest.
        if groups and (len(groups[-1]) + 1) * (_num_live(row) + num_written) <= max_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _num_live(row: Encoded) -> int:
    words = row.target.candidates.words if isinstance(row.target, OneOf) else ()
    return row.num_tokens + sum(len(word) - 1 for word in words)


def _candidates(words: Sequence[Ids]) -> Candidates:
    numbers = range(len(words))
    return Candidates(tuple(map(str, numbers)), tuple(words), tuple(numbers))


def _limits(options: dict[str, Any], eos: str | None) -> tuple[int, tuple[str, ...]]:
    """How many tokens to write, and where to stop.

    Raises:
        ConfigError: something else than greedy decoding is asked for.
    """
    limits: dict[str, Any] = dict(normalize_gen_kwargs(options, _MAX_GENERATED))
    is_sampling = limits.get("do_sample") and float(limits.get("temperature", 1.0) or 0.0) > 0
    if is_sampling or int(limits.get("num_beams", 1)) > 1:
        raise ConfigError(
            "only greedy decoding is supported",
            where="generation_kwargs",
            got=", ".join(f"{key}={limits[key]}" for key in ("do_sample", "temperature", "num_beams") if key in limits),
            fix="--gen_kwargs do_sample=False,temperature=0",
        )
    stop = tuple(end for end in handle_stop_sequences(limits.get("until"), eos) if end)
    return int(limits["max_gen_toks"]), stop


def _until(text: str, stop: Sequence[str]) -> str:
    for end in stop:
        text = text.partition(end)[0]
    return text


def _max_rows(batch_size: int | str | None, max_batch_size: int | None) -> int | None:
    """Contexts in a pass; None where the tokens decide.

    Raises:
        ConfigError: neither a number nor auto.
    """
    if batch_size is None or str(batch_size).startswith("auto"):
        return max_batch_size
    try:
        rows = int(batch_size)
    except ValueError:
        rows = 0
    if rows < 1:
        raise ConfigError("not a batch size", where="--batch_size", got=str(batch_size), wanted="a number or auto")
    return rows


def _available(device: str) -> str:
    """The device, or the CPU if there is no GPU: the harness's command line names one by default."""
    is_missing = device.startswith("cuda") and not torch.cuda.is_available()
    if is_missing:
        _say(f"there is no {device}: on the CPU")
    return "cpu" if is_missing else device


def _check_prompt(handle: Handle) -> None:
    """Refuse prompts that cannot stand in a text of the harness.

    Raises:
        ConfigError: it cannot.
    """
    manifest, end = handle.manifest, (handle.backbone.text.tokenizer.eos_id or 0,)
    if manifest.place == "slots":
        raise ConfigError(
            "this prompt stands in slots of its own template, which the harness does not use",
            where=manifest.ref,
            fix="choose a prompt at before, memory or after",
        )
    # A prompt may depend on the row; what it is made of does not.
    (injection,) = handle.model().injections([Encoded.of_ids(0, end, end)])
    if injection is not None and injection.labels is not None:
        raise ConfigError(
            "this prompt has a vector for each label of its own task, so it cannot score other choices",
            where=manifest.ref,
            got=manifest.method,
            fix="overture eval, or a prompt trained with label words (prompt.labels: words; not warp)",
        )


def _say(message: str) -> None:
    _log.warning(message)
