from store_fixtures import make_backbone, make_manifest, packed, rewrite, saved, tensors

__all__ = ["make_backbone", "make_manifest", "packed", "rewrite", "saved", "tensors"]
