"""Context optimisation: P vectors beside the labels' words in the texts that images are compared with.

    w_c = text([begin; V; words_c; suffix; end]),   p(c | x) = softmax_c(exp(t) cos(image(x), w_c)),   V [P, d]

at `before`; at `around` half of V stands behind the words, at `after` all of it. With `per_label` each label has a V of
its own. A finished prompt is the texts w [C, E]: the tower of texts is not run when it is used. What is trained changes
no image, so each image runs once. Trainable values: P d, or C P d.

Source: Zhou et al. 2022, "Learning to Prompt for Vision-Language Models", section 3.2.
Deviations: captions end where they end instead of being padded to 77 tokens, which changes nothing; the start is words
or tokens of the vocabulary instead of noise of 0.02, unless `init: random`; images are not cropped at random.
"""

import torch
from torch import Tensor

from overture.core.injection import Injection
from overture.prompt.caption_options import CoopOptions
from overture.prompt.captions import LabelCaptions, compared, start_of_labels
from overture.prompt.module import PromptModule, Request
from overture.prompt.source import PromptSource


class CaptionContext(PromptModule):
    """Trainable vectors [P, d] or [C, P, d] of the tower of texts."""

    def __init__(self, start: Tensor, captions: LabelCaptions, source: PromptSource) -> None:
        super().__init__()
        self._captions, self._source = captions, source
        self.values = torch.nn.Parameter(start)

    def texts(self) -> Tensor:
        """The labels' texts now, [C, E]."""
        return self._captions.texts(self.values)

    def injection(self) -> Injection:
        """The labels' texts under the vectors."""
        return compared(self.texts(), self._source)


def build(request: Request) -> CaptionContext:
    """Vectors at their start."""
    options: CoopOptions = request.options
    captions = LabelCaptions(request.source, options.suffix, request.place)
    start = start_of_labels(request.start, len(request.source.label_texts), options.per_label)
    return CaptionContext(start, captions, request.source)
