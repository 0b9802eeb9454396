"""What prompts are compared with: the model as it is, examples, a linear head, BitFit, LoRA, full fine-tuning."""

from overture.baseline.base import Baseline, Built, Request
from overture.baseline.registry import BASELINES, baseline_of, build_baseline

__all__ = ["BASELINES", "Baseline", "Built", "Request", "baseline_of", "build_baseline"]
