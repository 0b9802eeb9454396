"""What prompts take on disk: `ulpt` beside `vectors`, made and saved as an artifact's file; nothing is trained."""

import torch

from overture.prompt.pack import prompt_tensors
from overture.prompt.ulpt import ProjectedVectors
from overture.prompt.vectors import PromptVectors
from overture.store.artifact import tensor_bytes
from pages import table

WIDTH = 576
LENGTHS, RANKS = (10, 100), (2, 16)


def storage_text() -> str:
    """Bytes of `prompt.safetensors` at SmolLM2's width, header included."""
    rows = []
    for length in LENGTHS:
        start = torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(0))
        whole = _size(PromptVectors(start, "before"))
        few = [_size(ProjectedVectors(start, "before", rank, seed=0)) for rank in RANKS]
        rows.append([f"P = {length}", f"{whole:,}", *(f"{size:,} ({whole / size:.1f}x less)" for size in few)])
    head = ["bytes on disk", "`vectors`", *(f"`ulpt`, r = {rank}" for rank in RANKS)]
    note = (
        f"`prompt.safetensors` at SmolLM2's width, D = {WIDTH}, float32 (`python bench/methods_page.py`). Of `ulpt` "
        "P r + 2 D numbers are kept, the seed of the projection and its SHA-256; whoever loads the prompt gets its P "
        "vectors, or an error if the seed gives another projection there. Where P vectors are fewer numbers, they are "
        "kept instead. In a running model such a prompt is as large as one of `vectors`."
    )
    return f"{table(head, rows)}\n\n{note}"


def _size(prompt: PromptVectors | ProjectedVectors) -> int:
    return len(tensor_bytes(prompt_tensors(prompt), "bench"))
