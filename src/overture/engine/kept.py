"""Results of groups of texts, kept from run to run.

A file holds a whole group, and its name is a digest of all that decides its bits: the model, the precision, the
machine's kernels, and the group's texts in their order, since a text's last bits depend on the texts that run beside
it. So a run gives the same bits whether it reads a group or computes it.

Shape letters: N layers, H key/value heads, L length, K head width, D width.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import version

import torch
from torch import Tensor

from overture.core.errors import ArtifactError, DiskFull, StoreReadOnly
from overture.core.kept_files import KeptFiles
from overture.core.rows import Element
from overture.core.sealed import read_sealed, write_sealed
from overture.engine.backbone import Backbone

_FORMAT = 2
"""Version of the files: raised for changes that the key does not cover, such as how positions are numbered."""


class KeptGroups:
    """Groups of entries on disk, each an [N, 2, H, L, K] or [L, D] of a text.

    Args:
        files: where they are.
        backbone: computes them; values of its own that were trained have no part in the keys.
        notify: called once when nothing more can be written.
    """

    def __init__(self, files: KeptFiles, backbone: Backbone, notify: Callable[[str], None]) -> None:
        assert not backbone.inner, "values inside the model are not in its fingerprint"
        self.files, self._backbone, self._notify = files, backbone, notify

    @cached_property
    def _model(self) -> str:
        """All that decides an entry beside the texts."""
        info = self._backbone.info
        packages = [version(name) for name in ("overture", "torch", "transformers")]
        kernels = [torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), platform.machine()]
        model = [info.weights_sha256, info.config, info.num_layers, info.dtype, self._backbone.stack.is_compiled]
        return json.dumps([_FORMAT, *packages, *kernels, str(self._backbone.device.type), *model], sort_keys=True)

    def key(self, kind: str, texts: Sequence[Sequence[Element]], dtype: torch.dtype) -> str:
        """The name of a group's file.

        Args:
            kind: of the entries, such as columns.
            texts: the group, in order.
            dtype: of the entries.
        """
        lines = [[element if isinstance(element, int) else str(element) for element in text] for text in texts]
        facts = json.dumps([self._model, kind, str(dtype), lines])
        return hashlib.sha256(facts.encode()).hexdigest()[:40]

    def has(self, key: str) -> bool:
        """Whether there is a file of a group; `read` tells whether it is whole."""
        return self.files.path_of(key).is_file()

    def read(self, key: str) -> list[Tensor] | None:
        """The entries of a group, mapped from its file; None where there is no intact file."""
        path = self.files.use(key)
        if path is None:
            return None
        try:
            tensors, _ = read_sealed(path, "")
        except ArtifactError:
            path.unlink(missing_ok=True)
            return None
        return [tensors[str(number)] for number in range(len(tensors))]

    def write(self, key: str, entries: Sequence[Tensor]) -> bool:
        """Write a group where there is room, and return whether it was written."""
        size = sum(entry.numel() * entry.element_size() for entry in entries)
        try:
            if not self.files.make_room(size):
                return False
            tensors = {str(number): entry for number, entry in enumerate(entries)}
            write_sealed(self.files.path_of(key), tensors, is_private=True)
        except (DiskFull, StoreReadOnly, OSError) as error:
            self.files.is_full = True
            self._notify(f"inputs are not kept for later runs ({error})")
            return False
        return True
