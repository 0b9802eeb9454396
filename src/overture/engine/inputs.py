"""Runs texts by themselves, once each: keys and values, or hidden states at a layer, that no prompt can change.

Shape letters: B rows, S live tokens, L length, D width, N layers, H key/value heads, K head width.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor

from overture.core.rows import Element, Patch, Signal
from overture.engine.backbone import Backbone
from overture.engine.beginnings import head_of_kept
from overture.engine.cache import InputCache, padded
from overture.engine.kept import KeptGroups
from overture.engine.layout import Layout, images_of, positions_of, tokens_and_patches
from overture.engine.step import Columns, Step
from overture.engine.texts import Texts
from overture.engine.transfer import moved, sent

Progress = Callable[[int, int], None]
Text = tuple[Element, ...]
"""The elements of an input, one for each position; the key of its kept values."""
T = TypeVar("T")
Compute = Callable[[Sequence[Text]], list[Tensor]]


class Inputs:
    """Values that the frozen model computes from inputs alone, from the cache where there is one.

    For an encoder-decoder these are the keys and values that the decoder's cross-attentions read.

    Args:
        backbone: the model; its `reader` runs the texts.
        cache: keeps the values; None computes them each time, as does a model with trainable values.
        max_tokens: of one forward pass while a cache is filled.
    """

    def __init__(self, backbone: Backbone, cache: Texts | None, max_tokens: int) -> None:
        self.backbone, self.reader, self.max_tokens = backbone, backbone.reader, max_tokens
        self.cache = cache if self.reader.is_frozen else None
        if self.cache is not None:
            self.cache.belong_to(self.reader.state)

    # A frozen model records no gradient here; one with trainable values passes gradients through its texts.

    # -- what enters the first layer

    def vectors(self, texts: Sequence[Text]) -> Tensor:
        """Vectors of texts, padded on the right, [B, L, D]."""
        tokens, patches = tokens_and_patches(texts)
        longest = max(1, *map(len, texts))
        ids = sent([[*text, *[0] * (longest - len(text))] for text in tokens], self.backbone.device)
        return self._with_signals(self.backbone.embed(ids), patches)

    def entered(self, layout: Layout) -> Tensor:
        """Vectors of a batch's live tokens, [B, S, D]."""
        return self._with_signals(self.backbone.embed(layout.ids), layout.patches)

    def _with_signals(self, vectors: Tensor, patches: Sequence[tuple[int, int, Patch]]) -> Tensor:
        if not patches:
            return vectors
        runs = [list(run) for _, run in groupby(patches, key=lambda patch: (patch[0], id(patch[2].signal)))]
        values = torch.cat([self._signal(run[0][2].signal)[[part.index for _, _, part in run]] for run in runs])
        rows, places = [sent([patch[axis] for patch in patches], vectors.device) for axis in (0, 1)]
        return vectors.index_put((rows, places), values.to(vectors))

    @torch.no_grad()
    def _signal(self, signal: Signal) -> Tensor:
        """A signal's embeddings, [length, D]; cached like the values of texts."""
        key = (Patch(signal, -1),)
        entry = None if self.cache is None else self.cache.get(key)
        if entry is None:
            entry = self.backbone.frontend_of(signal.modality).enter([signal])
            if self.cache is not None:
                self.cache.put(key, entry)
        return moved(entry, self.backbone.device)

    # -- keys and values of whole inputs

    def columns(self, texts: Sequence[Text]) -> Columns:
        """Keys and values of a batch's texts; positions end below zero where they are relative.

        Texts that come again and again in the same order, as those of a cohort on the same rows, are there once.
        """
        period = _period(texts)
        entries = self._entries(texts[:period], self._keys_and_values)
        values, valid = padded(entries, self.backbone.device, self.backbone.dtype)
        valid = valid.repeat(len(texts) // period, 1)
        positions = torch.arange(valid.shape[1], device=valid.device)[None].expand_as(valid)
        if self.backbone.family.is_rotary:
            positions = positions - valid.sum(1, keepdim=True)
        return Columns(dict(enumerate(values[:, 0])), dict(enumerate(values[:, 1])), positions, valid)

    def warm_columns(self, texts: Sequence[Text], progress: Progress | None) -> None:
        """Fill the cache with texts, in an order that depends on the texts alone."""
        texts, num_done = sorted(set(texts), key=_order), 0
        for group in groups(texts, len, self.max_tokens):
            self._warm(group, "columns", self._keys_and_values)
            num_done += len(group)
            if progress:
                progress(num_done, len(texts))

    def num_unread(self, texts: Sequence[Text]) -> int:
        """Number of tokens that `warm_columns` would run, since neither this process nor the disk has their values."""
        kept_groups, cache = self._kept_groups, self.cache
        num_tokens = 0
        for group in groups(sorted(set(texts), key=_order), len, self.max_tokens):
            is_here = cache is not None and all(cache.get(key) is not None for key in group)
            if not is_here and not (kept_groups and kept_groups.has(self._name(kept_groups, "columns", group))):
                num_tokens += sum(map(len, group))
        return num_tokens

    def _keys_and_values(self, texts: Sequence[Text]) -> list[Tensor]:
        """Entries [N, 2, H, L, K] of texts."""
        device, is_rotary = self.backbone.device, self.backbone.family.is_rotary
        head = head_of_kept(self.reader, texts)
        later_parts = [text[len(head) :] for text in texts]
        lengths, rest_lengths = [sent([len(text) for text in part], device)[:, None] for part in (texts, later_parts)]
        positions = torch.arange(max(1, *map(len, later_parts)), device=device)[None].expand(len(texts), -1)
        valid = positions < rest_lengths
        positions = positions + len(head) - (lengths if is_rotary else 0)
        _, patches = tokens_and_patches(later_parts)
        for number in {row for row, _, patch in patches if patch.signal.grid}:
            (*_, end) = positions_of((*texts[number], 0), 0)
            own_positions = sent(positions_of(texts[number], -end), device)[len(head) :]
            positions[number, : len(own_positions)] = own_positions
        images = images_of(patches, (len(later_parts), positions.shape[1]), device)
        vectors, in_front = self.vectors(later_parts), []
        if self.reader.encoder:
            hidden = self.reader.encoder.run(vectors, Step(positions, valid))
            columns = self.reader.cross_columns_of(hidden, valid)
        else:
            in_front = [self._heads(head, positions[:, 0] - len(head))] if head else []
            columns = self.reader.remember(vectors, positions, valid, memory=in_front, images=images)
        layers = range(self.backbone.info.num_layers)
        keys, values = [torch.stack([part[n] for n in layers]) for part in (columns.keys, columns.values)]
        for heads in in_front:
            keys, values = [
                torch.cat([torch.stack([part[n] for n in layers]), live_part], dim=3)
                for part, live_part in ((heads.keys, keys), (heads.values, values))
            ]
        keys_values = torch.stack([keys, values], dim=1)
        return [keys_values[:, :, index, :, : len(text)].clone() for index, text in enumerate(texts)]

    def _heads(self, head: Sequence[int], starts: Tensor) -> Columns:
        """The common beginning of texts, run once for each position [B] at which it starts: columns for each text."""
        distinct, text_index = torch.unique(starts, return_inverse=True)
        positions = distinct[:, None] + torch.arange(len(head), device=starts.device)
        live = self.backbone.embed(list(head)).expand(len(distinct), -1, -1)
        columns = self.reader.remember(live, positions, torch.ones_like(positions, dtype=torch.bool))
        keys, values = [{n: part[text_index] for n, part in side.items()} for side in (columns.keys, columns.values)]
        return Columns(keys, values, positions[text_index], columns.valid[text_index])

    # -- hidden states below a late prompt

    def hidden(self, layer: int, layout: Layout) -> Tensor:
        """Hidden states that enter a layer, [B, S, D]; zero at padding."""
        entries = self._entries(_lines(layer, layout), partial(self._hidden, layer, layout))
        shape = (*layout.ids.shape, entries[0].shape[-1])
        hidden = torch.zeros(shape, dtype=self.backbone.dtype, device=layout.ids.device)
        for row, entry in enumerate(entries):
            hidden[row, : len(entry)] = moved(entry, hidden.device)
        return hidden

    def warm_hidden(self, layer: int, layouts: Sequence[Layout], progress: Progress | None) -> None:
        """Fill the cache with layouts of like length, in the order given."""
        stack = "decoder" if self.backbone.family.is_causal else "encoder"
        for num_done, layout in enumerate(layouts, 1):
            lines = list(dict.fromkeys(_lines(layer, layout)))
            self._warm(lines, f"hidden states of the {stack}", partial(self._hidden, layer, layout))
            if progress:
                progress(num_done, len(layouts))

    def _hidden(self, layer: int, layout: Layout, keys: Sequence[Text]) -> list[Tensor]:
        lines = _lines(layer, layout)
        rows = [lines.index(key) for key in keys]
        indices = sent(rows, layout.ids.device)
        branch = None if layout.branch is None else layout.branch[indices]
        valid = layout.valid[indices]
        text_index = layout.trunk_index[indices]
        images = None if layout.images is None else layout.images.of(indices)
        step = Step(layout.positions[indices], valid, branch, is_packed=True, text_index=text_index, images=images)
        hidden = self.backbone.run(self.entered(layout)[indices], step, end_layer=layer)
        return [row_hidden[: len(layout.lines[row].ids)].clone() for row_hidden, row in zip(hidden, rows, strict=True)]

    # -- the cache

    def _entries(self, keys: Sequence[Text], compute: Compute) -> list[Tensor]:
        entry_of: dict[Text, Any] = {key: None if self.cache is None else self.cache.get(key) for key in keys}
        missing = [key for key, entry in entry_of.items() if entry is None]
        for key, entry in zip(missing, self._computed(missing, compute) if missing else [], strict=True):
            entry_of[key] = entry
            if self.cache is not None:
                self.cache.put(key, entry)
        return [entry_of[key] for key in keys]

    def _computed(self, keys: Sequence[Text], compute: Compute) -> list[Tensor]:
        """Entries in the cache's precision, so that cached and computed values are equal."""
        dtype = None if self.cache is None else self.cache.dtype
        return [entry if dtype is None else entry.to(dtype) for entry in compute(keys)]

    @torch.no_grad()
    def _warm(self, group: Sequence[Text], kind: str, compute: Compute) -> None:
        """Fill the cache with a group: from the disk, or computed together and kept there."""
        assert isinstance(self.cache, InputCache), "texts are read ahead for one user alone"
        # Whole groups, cached texts included: a text's last bits depend on the texts beside it.
        missing = [key for key in group if self.cache.get(key) is None]
        if not missing:
            return
        kept_groups = self._kept_groups
        name = self._name(kept_groups, kind, group) if kept_groups else ""
        mapped_entries = kept_groups.read(name) if kept_groups else None
        entries = self._computed(group, compute) if mapped_entries is None else mapped_entries
        if kept_groups and mapped_entries is None and kept_groups.write(name, entries):
            num_bytes = sum(entry.numel() * entry.element_size() for entry in entries)
            # A mapped group need not be spilled to disk again.
            mapped_entries = None if self.cache.has_room(num_bytes) else kept_groups.read(name)
            entries = mapped_entries or entries
        for key, entry in zip(group, entries, strict=True):
            if key in missing:
                self.cache.put(key, moved(entry, self.backbone.device), is_mapped=mapped_entries is not None)

    def _name(self, kept_groups: KeptGroups, kind: str, group: Sequence[Text]) -> str:
        assert self.cache is not None
        return kept_groups.key(kind, group, self.cache.dtype or self.backbone.dtype)

    @property
    def _kept_groups(self) -> KeptGroups | None:
        """Groups of earlier runs; None where the fingerprint does not cover all that decides the values.

        That is the case for a model with own values, and where this process has some of the heads only.
        """
        has_other_bits = self.reader.inner or self.reader.ranks
        if not isinstance(self.cache, InputCache) or self.cache.files is None or has_other_bits:
            return None
        return KeptGroups(self.cache.files, self.reader, self.cache.notify)


def _order(text: Text) -> tuple[int, list[tuple[int, int, str]]]:
    """Short texts first, then by their tokens."""
    elements = [(0, e, "") if isinstance(e, int) else (1, e.index, e.signal.key) for e in text]
    return len(text), elements


def _period(texts: Sequence[Text]) -> int:
    """The period with which texts repeat; their number when they do not."""
    num = len(texts)
    periods = (period for period in range(1, num // 2 + 1) if num % period == 0 and texts[period] == texts[0])
    return next((period for period in periods if list(texts[:period]) * (num // period) == list(texts)), num)


def _lines(layer: int, layout: Layout) -> list[Text]:
    """Cache key of a row's hidden states; no text begins with a number below zero."""
    if layout.branch is None:
        return [(-layer, *line.ids) for line in layout.lines]
    return [(-layer, *line.ids, -1, *line.branch) for line in layout.lines]


def groups(items: Sequence[T], length_of: Callable[[T], int], max_tokens: int) -> Iterator[list[T]]:
    """Items in order, shortest first, cut so that their number times the longest stays within the budget."""
    group: list[T] = []
    for item in items:
        if group and (len(group) + 1) * max(1, length_of(item)) > max_tokens:
            yield group
            group = []
        group.append(item)
    if group:
        yield group
