"""File formats: how records lie in a file (containers), and what a record says (shapes). One file for each."""

from overture.data.formats.registry import CONTAINERS, FORMATS, SHAPES, FormatName, container_of, shape_of

__all__ = ["CONTAINERS", "FORMATS", "SHAPES", "FormatName", "container_of", "shape_of"]
