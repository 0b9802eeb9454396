"""Frozen models: live tokens and memory in, hidden states, losses and answers out."""

from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.cohort import Cohort
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel

__all__ = ["Backbone", "Cohort", "InputCache", "PromptedModel", "load_backbone"]
