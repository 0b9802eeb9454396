"""The prompts that a worker has open; where memory is short, those that nobody asked for longest are closed."""

from collections import OrderedDict
from typing import TYPE_CHECKING

from overture.core.errors import UnknownPrompt
from overture.core.injection import Injection
from overture.core.records.serving import Request
from overture.evaluate.host import Handle, Host
from overture.prompt.pack import prompt_tensors
from overture.server.job import BareQuestion, task_alone
from overture.store.names import is_path

if TYPE_CHECKING:
    from overture.server.remote import Remote


class OpenPrompts:
    """Open prompts by name, and the model alone by what it is asked.

    Args:
        host: opens them.
        most_bytes: memory that they may take; the one that is asked for is open, however large it is.
        remote: a vLLM server that gets each of them too.

    Attributes:
        num_bytes: memory that they take.
    """

    def __init__(self, host: Host, most_bytes: int, remote: "Remote | None" = None) -> None:
        self.host, self.most_bytes, self.remote = host, most_bytes, remote
        self._handles: OrderedDict[tuple[str, bool], Handle] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._handles)

    def handle_of(self, prompt: str, request: Request | None = None) -> Handle:
        """The open prompt for a request; with an empty name the model without a prompt.

        Raises:
            UserError: there is no such prompt, or the model cannot answer under it.
        """
        question: BareQuestion = "text"
        if request is not None and not prompt:
            question = "messages" if "messages" in request.row else "labels" if request.labels else "text"
        name = prompt or " ".join((question, *(request.labels if request else ())))
        key = (name, request is not None and request.is_calibrated)
        if key not in self._handles:
            handle = self._of_store(prompt) if prompt else self._alone(question, request)
            self.put(name, handle.calibrated() if key[1] else handle, key[1])
        self._handles.move_to_end(key)
        return self._handles[key]

    def put(self, name: str, handle: Handle, is_calibrated: bool = False) -> None:
        """Keep a prompt open under a name; the least recently used ones are closed beyond ``most_bytes``."""
        self._handles[name, is_calibrated] = handle
        self.num_bytes += _size_of(handle)
        while self.num_bytes > self.most_bytes and len(self._handles) > 1:
            self._close(next(iter(self._handles)))

    def close(self, prompt: str) -> None:
        """Close a prompt; an unknown one is ignored."""
        for key in [key for key in self._handles if key[0] == prompt]:
            self._close(key)

    def _of_store(self, prompt: str) -> Handle:
        store = self.host.store
        # A name may come from a stranger: where there is a store, nothing else than a prompt of it is opened.
        if store and is_path(prompt):
            raise UnknownPrompt("no such prompt", got=prompt)
        handle = self.host.open(store.get(prompt, named_only=True) if store else prompt)
        if self.remote is not None:
            self.remote.open(handle)
        return handle

    def _alone(self, question: BareQuestion, request: Request | None) -> Handle:
        has_chat = bool(self.host.backbone.text.tokenizer.inner.chat_template)
        return self.host.bare(task_alone(question, request or Request(id="-", prompts=("",), row={}), has_chat))

    def _close(self, key: tuple[str, bool]) -> None:
        handle = self._handles.pop(key)
        self.num_bytes -= _size_of(handle)
        self.host.close(handle)


def _size_of(handle: Handle) -> int:
    """Memory of an open prompt: its values, its adapter's, and its manifest, which holds a prompt's words."""
    prompt = handle.prompt
    values = {} if prompt is None else prompt.tensors() if isinstance(prompt, Injection) else prompt_tensors(prompt)
    of_tensors = sum(tensor.nbytes for tensor in (*values.values(), *handle.adapted.inner.values()))
    return of_tensors + len(handle.manifest.model_dump_json())
