"""A cache of the keys and values of texts: in memory, then on disk, then not at all.

An entry is one tensor [N, 2, H, L, K]: layers, (keys, values), heads, tokens, width. Entries of a GPU stay there while
a budget lasts, and lie in the host's memory beyond it.
"""

import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import psutil
import torch
from torch import Tensor

from overture.core.errors import DiskFull
from overture.core.files import cache_dir, no_room_as_disk_full
from overture.core.kept_files import KeptFiles
from overture.engine.options import CacheDType
from overture.engine.transfer import is_far, moved, sent

Notify = Callable[[str], None]


def default_budget_bytes() -> int:
    """A quarter of the memory that is free now."""
    return int(psutil.virtual_memory().available) // 4


def device_budget_bytes(device: torch.device) -> int:
    """A quarter of a device's memory that is free now; the model is there, training is not yet."""
    return int(torch.cuda.mem_get_info(device)[0]) // 4


class InputCache:
    """Keeps entries by their tokens.

    Args:
        budget_bytes: how much memory entries may take; a quarter of the free memory when None.
        spill_dir: where entries beyond it go; the user's cache directory when None.
        notify: called once when the disk is full and further texts are computed each time.
        device_bytes: how much of a device's memory its own entries may take; when None, a quarter of the memory that
            is free at the first of them, but no more than ``budget_bytes``.
        keeps_recent: beyond the budget the least recently used entries are dropped, and nothing goes to the disk.
        dtype: precision of the entries; ``model`` for the model's.
        files: groups of texts are kept there for later runs; only for this one when None.
    """

    def __init__(
        self,
        budget_bytes: int | None = None,
        spill_dir: Path | None = None,
        notify: Notify | None = None,
        device_bytes: int | None = None,
        keeps_recent: bool = False,
        dtype: CacheDType = "model",
        files: KeptFiles | None = None,
    ) -> None:
        self.keeps_recent, self.files = keeps_recent, files if files and files.limit_bytes else None
        self.dtype = None if dtype == "model" else torch.bfloat16
        self.budget_bytes = default_budget_bytes() if budget_bytes is None else budget_bytes
        self._most_on_device = budget_bytes
        self.device_bytes, self.device_used_bytes = device_bytes, 0
        self.used_bytes = 0
        self._spill_dir = spill_dir
        self.notify = notify or (lambda message: None)
        self._memory: dict[tuple[Hashable, ...], Tensor] = {}
        self._disk: _SpillFile | None = None
        self._is_disk_full = False
        self._state: tuple[object, int] | None = None

    def belong_to(self, state: tuple[object, int]) -> None:
        """Check that all entries come from one model in one state: others would be silently wrong.

        Args:
            state: `Backbone.state` of the model that is about to use the cache; the first one owns it.
        """
        self._state = self._state or state
        assert self._state[0] is state[0], "an input cache is for one backbone, and this is another"
        assert self._state[1] == state[1], "values inside the backbone changed since this cache was filled"

    def __len__(self) -> int:
        return len(self._memory) + (len(self._disk.entries) if self._disk else 0)

    @property
    def spilled_bytes(self) -> int:
        """Bytes kept on disk."""
        return self._disk.size if self._disk else 0

    def get(self, ids: tuple[Hashable, ...]) -> Tensor | None:
        """The entry of a text, or None when it has to run; on the device or in the host's memory."""
        entry = self._memory.get(ids)
        if entry is not None and self.keeps_recent:
            self._memory[ids] = self._memory.pop(ids)
        if entry is None and self._disk is not None:
            entry = self._disk.get(ids)
        return entry

    def has_room(self, size: int) -> bool:
        """Whether entries of so many bytes fit into the host's memory."""
        return self.used_bytes + size <= self.budget_bytes

    def put(self, ids: tuple[Hashable, ...], entry: Tensor, is_mapped: bool = False) -> None:
        """Keep an entry where there is room.

        Args:
            ids: its text.
            entry: the values.
            is_mapped: they lie in a file, and take memory only as long as nobody else needs it.
        """
        if is_mapped and not is_far(entry.device):
            self._memory[ids] = entry
            return
        size = entry.numel() * entry.element_size()
        if self.keeps_recent:
            self._memory[ids] = entry.contiguous()
            self.used_bytes += size
            while self.used_bytes > self.budget_bytes:
                oldest = self._memory.pop(next(iter(self._memory)))
                self.used_bytes -= oldest.numel() * oldest.element_size()
            return
        if is_far(entry.device):
            if self.device_bytes is None:
                free = device_budget_bytes(entry.device)
                self.device_bytes = free if self._most_on_device is None else min(free, self._most_on_device)
            if self.device_used_bytes + size <= self.device_bytes:
                self._memory[ids] = entry.contiguous()
                self.device_used_bytes += size
                return
            entry = entry.cpu()
        if self.has_room(size):
            self._memory[ids] = entry.contiguous()
            self.used_bytes += size
        elif not self._is_disk_full:
            try:
                if self._disk is None:
                    self._disk = _SpillFile(self._spill_dir or cache_dir())
                self._disk.put(ids, entry)
            except (DiskFull, OSError) as error:
                self._is_disk_full = True
                self.notify(f"the input cache cannot grow ({error}); further texts are computed anew each time")


class _SpillFile:
    """One memory-mapped file without a name: it vanishes with the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._map: mmap.mmap | None = None
        self.size = 0
        self.entries: dict[tuple[Hashable, ...], tuple[int, torch.Size, torch.dtype]] = {}

    def put(self, ids: tuple[Hashable, ...], entry: Tensor) -> None:
        raw = entry.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        # Written through the file and only read through the map: a full disk is an error here, not a SIGBUS later.
        with no_room_as_disk_full(self._folder):
            num_written = 0
            while num_written < raw.nbytes:
                num_written += os.pwrite(self._file.fileno(), raw[num_written:].data, self.size + num_written)
        self.entries[ids] = (self.size, entry.shape, entry.dtype)
        self.size += raw.nbytes

    def get(self, ids: tuple[Hashable, ...]) -> Tensor | None:
        if ids not in self.entries:
            return None
        offset, shape, dtype = self.entries[ids]
        if self._map is None or len(self._map) < self.size:
            self._map = mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_COPY)
        return torch.frombuffer(self._map, dtype=dtype, count=shape.numel(), offset=offset).view(shape)


def padded(entries: Sequence[Tensor], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Entries of one batch side by side, wherever each of them lies; from the host in one copy where all are there.

    Returns:
        Values [N, 2, B, H, M, K] and validity [B, M], filled from the left; on the device.
    """
    num_layers, _, num_heads, _, width = entries[0].shape
    lengths = [entry.shape[3] for entry in entries]
    shape = (num_layers, 2, len(entries), num_heads, max(lengths), width)
    is_staged = is_far(device) and not any(is_far(entry.device) for entry in entries)
    place = torch.device("cpu") if is_staged else device
    values = torch.zeros(shape, dtype=dtype, device=place)
    for index, (entry, length) in enumerate(zip(entries, lengths, strict=True)):
        values[:, :, index, :, :length] = moved(entry, place)
    valid = torch.arange(max(lengths), device=device)[None] < sent(lengths, device)[:, None]
    return moved(values, device), valid
