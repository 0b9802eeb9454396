"""Prompt methods: how a prompt's values are parameterised, where they enter, how they start."""

from overture.prompt.config import PromptConfig
from overture.prompt.method import Method, PromptModule, Request, Sharing
from overture.prompt.registry import METHODS, build_prompt, method_of, own_rate, prompt_from, prompt_tensors
from overture.prompt.source import PromptSource

__all__ = [
    "METHODS",
    "Method",
    "PromptConfig",
    "PromptModule",
    "PromptSource",
    "Request",
    "Sharing",
    "build_prompt",
    "method_of",
    "own_rate",
    "prompt_from",
    "prompt_tensors",
]
