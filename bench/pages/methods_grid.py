"""What works where: every method at each of its places on each kind of model, asked of the engine's own rule.

A prompt is built on zeros of a few numbers and shown to `core.capabilities`, which decides by its parts alone.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from overture.core.capabilities import refused_prompt, refused_text_in_memory
from overture.core.contracts import RowMethod
from overture.core.injection import Injection, LayerMemory, ModelKind, Place, Vectors
from overture.core.rows import Candidates, Encoded, OneOf
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.prompt.source import PromptSource
from page_parts import table

KINDS: tuple[ModelKind, ...] = ("decoder", "encoder", "encoder-decoder")
# What a method cannot do without.
NEEDED: dict[str, dict[str, Any]] = {
    "late": {"layer": 1},
    "attempt": {"sources": ["one", "two"]},
    "pruned": {"tokens": [0, 1], "masks": ["1", "1"]},
}
N, H, P, K = 2, 1, 8, 4


def grid_text() -> str:
    """The places at which each method works, by kind of model, and why it does not elsewhere."""
    refusals: dict[str, list[str]] = {}
    rows = []
    for name, method in METHODS.items():
        if method.in_captions:
            rows.append([name, "-", f"{', '.join(method.places)} (CLIP, SigLIP)", "-"])
            continue
        cells = []
        for kind in KINDS:
            works = []
            for place, refused in _asked(name, kind):
                if refused is None:
                    works.append(place)
                    continue
                what, fix = refused
                refusals.setdefault(f"{what}. Instead: {fix}", []).append(f"`{name}` at `{place}` ({kind})")
            cells.append(", ".join(works) or "-")
        rows.append([name, *cells])
    for kind in KINDS:
        if refusal := refused_text_in_memory(kind):
            what, fix = refusal
            tuned = "; `cartridge` is only tuned on rows there, by `overture tune`"
            refusals.setdefault(f"{what}. Instead: {fix}{tuned}", []).append(f"`overture cartridge` ({kind})")
    why = "\n".join(f"- {', '.join(where)}: {what}." for what, where in refusals.items())
    return f"{table(['method', *KINDS], rows, are_numbers=False)}\n\nRefused before anything runs:\n\n{why}"


def cached(name: str, place: Place) -> str:
    """Whether a decoder's inputs run once and are kept under such a prompt: yes, partly (below its layer) or no."""
    injection = _injection(name, place)
    if injection.layer:
        return "partly"
    return "yes" if injection.leaves_input else "no"


def _asked(name: str, kind: ModelKind) -> Iterator[tuple[Place, tuple[str, str] | None]]:
    for place in METHODS[name].places:
        yield place, refused_prompt(kind, _injection(name, place))


def _injection(name: str, place: Place) -> Injection:
    config = PromptConfig(method=name, place=place, length=P, options=NEEDED.get(name, {}))
    prompt = build_prompt(config, _source(), seed=0)
    return prompt.injections(torch.zeros(1, K))[0] if isinstance(prompt, RowMethod) else prompt.injection()


def _source() -> PromptSource:
    memory = LayerMemory(torch.zeros(N, H, P, K), torch.zeros(N, H, P, K))
    candidates = Candidates(("no", "yes"), ((1,), (2,)), (0, 1))

    def embed(ids: Sequence[int]) -> torch.Tensor:
        return torch.zeros(len(ids), K)

    return PromptSource(
        hidden_size=K,
        embedding_norm=1.0,
        embed=embed,
        memory_of=lambda vectors: memory,
        encode=lambda text: [3],
        sample=lambda num, random: torch.zeros(num, K),
        num_layers=N,
        num_heads=H,
        head_dim=K,
        memory_of_layers=lambda vectors: memory,
        head_rows=embed,
        candidates=candidates,
        examples=[Encoded.of_ids(0, (4,), (5,), OneOf(candidates, 0))],
        prompt=lambda ref: Injection(Vectors(torch.zeros(P, K), "before")),
    )
