"""Knowledge-guided context: vectors as in `coop`, whose texts are held near captions written by hand.

    loss = -log p(y | x) + w / C sum_c |u_c - h_c|^2,   u_c = w_c / |w_c|, h_c that of the caption written by hand

Labels that were not trained on keep their places better than under `coop`. Trainable values: P d, or C P d.

Source: Yao, Zhang and Xu 2023, "Visual-Language Prompt Tuning with Knowledge-guided Context Optimization", section 3.3.
Deviations: those of `coop`; one caption for all data sets, `options.caption`.
"""

import torch
from torch import Tensor

from overture.core.injection import Injection
from overture.prompt.caption_options import KgCoopOptions
from overture.prompt.captions import LabelCaptions, compared, start_of_labels, written_texts
from overture.prompt.coop import CaptionContext
from overture.prompt.module import PromptModule, Request


class GuidedContext(PromptModule):
    """A context, and the texts that it must stay near."""

    def __init__(self, context: CaptionContext, texts: Tensor, weight: float, request: Request) -> None:
        super().__init__()
        self.context, self.weight, self._source = context, weight, request.source
        self.register_buffer("written", torch.nn.functional.normalize(texts.float(), dim=-1))
        self.written: Tensor

    def injection(self) -> Injection:
        """The labels' texts, and the penalty of their distance."""
        texts = self.context.texts()
        caption_texts = self.written.to(texts.device)
        distances = (torch.nn.functional.normalize(texts.to(caption_texts.dtype), dim=-1) - caption_texts).square()
        return compared(texts, self._source, self.weight * distances.sum(-1).mean())


def build(request: Request) -> GuidedContext:
    """Vectors at their start, and the captions written by hand."""
    options: KgCoopOptions = request.options
    captions = LabelCaptions(request.source, options.suffix, request.place)
    start = start_of_labels(request.start, len(request.source.label_texts), options.per_label)
    context = CaptionContext(start, captions, request.source)
    return GuidedContext(context, written_texts(request.source, (options.caption,)), options.weight, request)
