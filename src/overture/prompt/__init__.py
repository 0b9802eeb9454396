"""Prompt methods: how a prompt's values are parameterised, where they enter, how they start."""

from overture.prompt.registry import METHODS, PromptConfig, build_prompt, injection_from, injection_tensors, method_of
from overture.prompt.source import PromptSource

__all__ = [
    "METHODS",
    "PromptConfig",
    "PromptSource",
    "build_prompt",
    "injection_from",
    "injection_tensors",
    "method_of",
]
