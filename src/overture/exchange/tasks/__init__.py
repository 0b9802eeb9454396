"""Task files of other projects, translated into ours; nothing in them ever runs."""

from overture.exchange.tasks.lm_eval import task_of_lm_eval
from overture.exchange.tasks.promptsource import task_of_promptsource

__all__ = ["task_of_lm_eval", "task_of_promptsource"]
