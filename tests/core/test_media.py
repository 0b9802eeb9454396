"""Equal content has one digest; a sound has a rate and an image has none."""

import numpy as np
import pytest

from overture.core.media import Media


def test_the_digest_is_of_the_content():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    images = [Media.of_array(pixels, "a.npz:0"), Media.of_array(pixels.copy(), "b.npz:7")]
    assert images[0] == images[1]
    assert np.array_equal(images[0].open(), pixels)
    others = [pixels + 1, pixels.reshape(4, 2, 3)]
    assert len({image.digest for image in (images[0], *(Media.of_array(o, "") for o in others))}) == 3
    sounds = [Media.of_array(np.zeros(4, np.float32), "", rate) for rate in (8000, 16000)]
    assert sounds[0] != sounds[1]


@pytest.mark.parametrize(("modality", "rate"), [("image", 16000), ("audio", None)])
def test_only_sounds_have_a_rate(modality, rate):
    with pytest.raises(ValueError, match="rate"):
        Media(modality, "0" * 64, "", lambda: np.zeros(1), rate)
