from data_fixtures import tokenizer
from store_fixtures import make_backbone, make_manifest, packed, rewrite, saved, tensors

__all__ = ["make_backbone", "make_manifest", "packed", "rewrite", "saved", "tensors", "tokenizer"]
