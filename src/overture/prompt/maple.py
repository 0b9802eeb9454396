"""Prompts in both towers: vectors in the lower layers of the texts, and maps of them in all layers of the images.

    texts:  [begin; T_n; words_c; suffix; end] enters layer n,  n < J;   from layer J on what layer J - 1 gave runs on
    images: [G_n(T_min(n, J-1)); patches] enters layer n,       G_n(t) = A_n t + a_n,  A_n [D, d]

The prompts' outputs are dropped between layers, so those of the images are a memory (see `deep`). A finished prompt is
the texts w [C, E] and this memory. Trainable values: J P d + N (d + 1) D.

Source: Khattak et al. 2023, "MaPLe: Multi-modal Prompt Learning", section 3.2.
Deviations: the images' layers above J read a map of the last vectors instead of the states of those below, so that the
prompt is a memory; layer 0's vectors have a place before the label's words alone.
"""

import torch
from torch import Tensor

from overture.core.injection import Injection
from overture.prompt.caption_options import MapleOptions
from overture.prompt.captions import LabelCaptions, in_both_towers, start_of_layers
from overture.prompt.module import PromptModule, Request
from overture.prompt.source import PromptSource


class CoupledPrompts(PromptModule):
    """Trainable vectors of the texts [P, d] and [J - 1, P, d], and maps to the images' [N, D, d] and [N, D]."""

    def __init__(
        self, first: Tensor, deep: Tensor, maps: Tensor, captions: LabelCaptions, source: PromptSource
    ) -> None:
        super().__init__()
        self._captions, self._source = captions, source
        self.values, self.deep = torch.nn.Parameter(first), torch.nn.Parameter(deep)
        self.maps, self.shifts = torch.nn.Parameter(maps), torch.nn.Parameter(maps.new_zeros(maps.shape[:2]))

    def injection(self) -> Injection:
        """The labels' texts, and the memory of the images' prompts."""
        layers = torch.cat([self.values[None], self.deep])
        of_images = [layers[min(number, len(layers) - 1)] for number in range(len(self.maps))]
        prompts = torch.einsum("npe,nde->npd", torch.stack(of_images), self.maps) + self.shifts[:, None]
        return in_both_towers(self._captions.texts(self.values, self.deep), prompts, self._source)


def build(request: Request) -> CoupledPrompts:
    """Words in the first layer, noise above them, and maps at random.

    Raises:
        ConfigError: the tower of texts has fewer layers than read vectors of their own.
    """
    options: MapleOptions = request.options
    source, generator = request.source, request.generator("maple")
    first_layer, deep = start_of_layers(request, options.depth, generator)
    width = first_layer.shape[1]
    maps = torch.randn(source.num_layers, source.hidden_size, width, generator=generator) * width**-0.5
    return CoupledPrompts(first_layer, deep, maps, LabelCaptions(source, options.suffix, "before"), source)
