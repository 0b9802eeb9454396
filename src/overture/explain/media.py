"""Occlusion of images and sounds: the log-likelihood that an answer loses without each part.

A tile of an image takes the image's mean colour; a stretch of a sound becomes silent. The results are ordinary images
and sounds, so this works for every model family.

Source: Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy

from overture.core.media import Media

TILES = 6
"""Tiles of an image in each direction."""
STRETCHES = 16
"""Stretches of a sound."""
PIECES: Mapping[str, str] = {"image": "tiles", "audio": "stretches of sound"}
"""Words for the pieces, by modality."""


@dataclass(frozen=True, slots=True)
class MediaPieces:
    """An image or a sound in pieces.

    Args:
        media: the whole.
        names: readable places of the pieces.
        columns: pieces side by side in one line of an image; of a sound all of them.
    """

    media: Media
    names: list[str]
    columns: int

    def without(self, left_out: Sequence[int]) -> Media:
        """The same without some of its pieces."""
        if not left_out:
            return self.media
        values = self.media.open().copy()
        if self.media.rate is None:
            mean = values.reshape(-1, 3).mean(0).round().astype(numpy.uint8)
            rows, columns = [_edges(size, self.columns) for size in values.shape[:2]]
            for number in left_out:
                row, column = divmod(number, self.columns)
                values[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = mean
        else:
            edges = _edges(len(values), self.columns)
            for number in left_out:
                values[edges[number] : edges[number + 1]] = 0.0
        return Media.of_array(values, self.media.where, self.media.rate)


def media_pieces(media: Media) -> MediaPieces:
    """An image in tiles, from the top; a sound in stretches of time."""
    values = media.open()
    if media.rate is None:
        num = min(TILES, *values.shape[:2])
        names = [f"row {row + 1}, column {column + 1}" for row in range(num) for column in range(num)]
        return MediaPieces(media, names, num)
    num = min(STRETCHES, len(values))
    edges = [edge / media.rate for edge in _edges(len(values), num)]
    return MediaPieces(media, [f"{start:.2f} to {end:.2f} s" for start, end in pairwise(edges)], num)


def _edges(size: int, num: int) -> list[int]:
    return [round(size * number / num) for number in range(num + 1)]
