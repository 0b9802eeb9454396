from data_fixtures import jsonl, make_task, tokenizer

__all__ = ["jsonl", "make_task", "tokenizer"]
