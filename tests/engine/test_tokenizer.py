"""The tokenizer as the rest of the code sees it."""

import pytest

from fakes import CONTEXT, make_inner_tokenizer
from overture.engine.tokenizer import Tokenizer


@pytest.mark.parametrize("method", ["encode_plain", "encode_template", "offsets"])
def test_a_long_text_is_not_announced(method, caplog):
    """How long a row may be is checked later, once, for all rows; the library's own warning would come first."""
    inner = make_inner_tokenizer()
    inner.model_max_length = 4
    found = getattr(Tokenizer(inner, CONTEXT), method)("a text of more than four tokens")
    assert len(found) > inner.model_max_length
    assert not caplog.records
