"""Self-regulating prompts: vectors of their own in both towers, held near the frozen model, averaged over epochs.

    texts:  [begin; T_n; words_c; suffix; end] enters layer n,  n < J;   from layer J on what layer J - 1 gave runs on
    images: [V_n; patches] enters layer n of N
    loss = -log p(y | x) + a / (C E) sum |u_c - h_c| + b / E |v - f| + w / C KL(q(. | x), p(. | x))
    kept: sum_e g_e (T, V)_e,   g_e a normal density over the epochs e

with unit vectors u of the prompt's texts, v of the image under the prompt and f of the frozen model's, h of the mean of
the frozen model's texts for several captions, and q the frozen model's probabilities by f and h. A finished prompt is
the texts and a memory (see `maple`). Trainable values: J P d + N P D.

Source: Khattak et al. 2023, "Self-regulating Prompts: Foundational Model Adaptation without Forgetting", section 3.2,
and the authors' code, whose losses are means as above.
Deviations: all layers of the images have vectors of their own, so that the prompt is a memory; published ones have nine
of twelve, whose last outputs run on. Seven captions give h instead of sixty. The mean over epochs is validated, and the
best of them kept. Vectors of the first layers have a place before the label's words alone.
"""

import torch
from torch import Tensor

from overture.core.averaging import Averaging
from overture.core.injection import Injection, Teacher
from overture.prompt.caption_options import PromptSrcOptions
from overture.prompt.captions import NOISE, LabelCaptions, in_both_towers, start_of_layers, written_texts
from overture.prompt.module import PromptModule, Request


class RegulatedPrompts(PromptModule):
    """Trainable vectors of the texts, [P, d] and [J - 1, P, d], and of the images, [N, P, D]."""

    def __init__(self, request: Request, start: tuple[Tensor, Tensor], images: Tensor) -> None:
        super().__init__()
        options: PromptSrcOptions = request.options
        self.options, self._source = options, request.source
        self._captions = LabelCaptions(request.source, options.suffix, "before")
        self.values, self.deep = [torch.nn.Parameter(values) for values in start]
        self.images = torch.nn.Parameter(images)
        texts = written_texts(request.source, options.captions)
        self.register_buffer("written", torch.nn.functional.normalize(texts.float(), dim=-1))
        self.written: Tensor

    def injection(self) -> Injection:
        """The labels' texts and the memory of the images, with the losses that hold them near the frozen model."""
        texts = self._captions.texts(self.values, self.deep)
        caption_texts = self.written.to(texts.device)
        distance = (torch.nn.functional.normalize(texts.to(caption_texts.dtype), dim=-1) - caption_texts).abs().mean()
        teacher = Teacher(caption_texts, self.options.image_weight, self.options.scores_weight)
        return in_both_towers(texts, self.images, self._source, self.options.text_weight * distance, teacher)

    def averaging(self) -> Averaging:
        """As the options say."""
        return Averaging(self.options.peak, self.options.width)


def build(request: Request) -> RegulatedPrompts:
    """Words in the first layer of the texts, noise elsewhere.

    Raises:
        ConfigError: the tower of texts has fewer layers than read vectors of their own.
    """
    source, generator = request.source, request.generator("promptsrc")
    start = start_of_layers(request, request.options.depth, generator)
    images = NOISE * torch.randn(source.num_layers, request.length, source.hidden_size, generator=generator)
    return RegulatedPrompts(request, start, images)
