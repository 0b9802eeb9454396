"""Tiles of images and stretches of sounds, left out one by one."""

import numpy as np

from overture.core.media import Media
from overture.explain.media import STRETCHES, TILES, media_pieces


def test_a_tile_takes_the_mean_colour_and_the_others_stay():
    pixels = np.random.default_rng(0).integers(0, 256, (25, 31, 3), dtype=np.uint8)
    pieces = media_pieces(Media.of_array(pixels, "a"))
    assert (len(pieces.names), pieces.columns) == (TILES * TILES, TILES)
    assert pieces.names[TILES] == "row 2, column 1"
    mean = pixels.reshape(-1, 3).mean(0).round()
    changed = [(pieces.without([number]).open() != pixels).any(-1) for number in range(TILES * TILES)]
    # Every pixel is in one tile, and all tiles together are the whole.
    assert (np.sum(changed, axis=0) == (pixels != mean).any(-1)).all()
    assert (pieces.without(range(len(pieces.names))).open() == mean).all()
    assert pieces.without([]).open() is pixels


def test_a_stretch_of_a_sound_is_silenced():
    samples = np.random.default_rng(0).normal(0, 0.2, 4001).astype(np.float32)
    pieces = media_pieces(Media.of_array(samples, "a", 16000))
    assert (len(pieces.names), pieces.columns) == (STRETCHES, STRETCHES)
    assert pieces.names[0] == "0.00 to 0.02 s"
    silent = [pieces.without([number]).open() == 0 for number in range(STRETCHES)]
    assert (np.sum(silent, axis=0) == 1).all()
    assert pieces.without([0]).rate == 16000


def test_few_pixels_are_few_tiles():
    assert media_pieces(Media.of_array(np.zeros((2, 9, 3), np.uint8), "a")).columns == 2
