"""Concepts: vectors that stand in captions of a model that draws."""
