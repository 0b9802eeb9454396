"""CoNLL in its variants, with comments, hashes and odd lines."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reading import noticed, problems_of, table_of_file

from overture.data.formats.options import FileOptions
from overture.data.read import read_table, scan


def read(tmp_path, text, name="a.conll", **options):
    return table_of_file(tmp_path, name, text, **options)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("I PRP x\nlove VBP x\n#python NN x\n. . x\n", ["I", "love", "#python", "."]),
        ("the DT x\n# NN x\n5 CD x\n", ["the", "#", "5"]),
        ("#ok\tNN\nthe\tDT\n", ["#ok", "the"]),
        ("#\tO\n#yes\tO\nParis\tB-LOC\n", ["#", "#yes", "Paris"]),
        ("# id 7\na X\n#b X\n", ["a", "#b"]),
        ("# id 7 x=1\na _ _ O\n# _ _ O\n", ["a", "#"]),
    ],
)
def test_tokens_with_a_hash(tmp_path, text, tokens):
    (row,) = read(tmp_path, text).rows
    assert row["tokens"] == tokens


def test_comments_are_counted(tmp_path):
    table = read(tmp_path, "# one more\na X\n\n# two words\nb X\n")
    assert noticed(table) == {"comment lines": 2}
    assert table.notices[0].first.endswith("a.conll:1")
    assert problems_of(tmp_path, "b.conll", "a X\n#alone\nb X\n") == [("b.conll:2", "no tag after the word")]


def test_blank_lines_of_tabs_and_missing_cells(tmp_path):
    assert [row["tokens"] for row in read(tmp_path, "a\tO\n \t \nb\tO\n").rows] == [["a"], ["b"]]
    assert problems_of(tmp_path, "b.conll", "a\tO\n\tO\nc\t\n") == [
        ("b.conll:2", "a tag without a token"),
        ("b.conll:3", "a token without a tag"),
    ]


def test_a_sentence_that_lacks_a_word_is_no_row(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("a X\nb\nc X\n\nd X\n")
    problems = []
    table = scan(path, problems, FileOptions())
    assert [row["tokens"] for row in table.rows] == [["d"]]
    assert [problem.where.rpartition(":")[2] for problem in problems] == ["2"]


GERMEVAL = "#\thttp://x [2010]\n1\tAnna\tB-PER\tO\n2\tReid\tI-PER\tB-LOC\n\n#\thttp://y\n1\tCork\tB-LOC\tO\n"


@pytest.mark.parametrize("name", ["a.conll", "a.tsv", "a.txt"])
def test_germeval(tmp_path, name):
    table = read(tmp_path, GERMEVAL, name)
    assert table.rows[0] == {"tokens": ["Anna", "Reid"], "tags": ["B-PER", "I-PER"]}
    assert "read as CoNLL with numbered tokens" in noticed(table)
    assert read(tmp_path, GERMEVAL, tag_column=4).rows[0]["tags"] == ["O", "B-LOC"]


CONLL_U = """# sent_id = 1
# text = He goes to the one
1\tHe\the\tPRON\tPRP\t_\t2\tnsubj\t_\t_
2-3\tgoesto\t_\t_\t_\t_\t_\t_\t_\t_
2\tgoes\tgo\tVERB\tVBZ\t_\t0\troot\t_\t_
3\tto\tto\tADP\tIN\t_\t2\tcase\t_\t_
3.1\telided\t_\tVERB\t_\t_\t_\t_\t_\t_
"""


def test_conll_u(tmp_path):
    table = read(tmp_path, CONLL_U, "a.conllu")
    assert table.rows == [{"tokens": ["He", "goes", "to"], "tags": ["PRON", "VERB", "ADP"]}]
    assert noticed(table) == {"read as CoNLL-U": 0, "comment lines": 2, "ranges of words": 2}
    assert read(tmp_path, CONLL_U, "a.conllu", tag_column=5).rows[0]["tags"] == ["PRP", "VBZ", "IN"]


CONLL_2012 = """#begin document (bc/x); part 000
bc/x 0 0 Ann NNP (S(NP* - - - s (PERSON* (1
bc/x 0 1 Reid NNP *) - - - s *) 1)
bc/x 0 2 saw VBD (VP* see 01 1 s * -
bc/x 0 3 Cork NNP *)) - - - s (GPE) -

bc/x 0 0 Yes UH (S* - - - s * (V*) -
bc/x 0 1 . . *) - - - s * * -

#end document
"""


def test_conll_2012(tmp_path):
    table = read(tmp_path, CONLL_2012)
    assert table.rows[0] == {
        "tokens": ["Ann", "Reid", "saw", "Cork"],
        "tags": ["B-PERSON", "I-PERSON", "O", "B-GPE"],
    }
    assert table.rows[1]["tags"] == ["O", "O"]
    assert read(tmp_path, CONLL_2012, tag_column=5).rows[1]["tags"] == ["UH", "."]


def test_a_column_that_is_not_there(tmp_path):
    assert problems_of(tmp_path, "a.conll", "a O\nb O\n", tag_column=3) == [
        ("a.conll:1", "2 columns"),
        ("a.conll:2", "2 columns"),
    ]


WORDS = st.text(st.characters(categories=["L", "N", "P"]) | st.just("#"), min_size=1, max_size=4).filter(
    lambda word: word != "-DOCSTART-"
)


@given(
    sentences=st.lists(
        st.lists(st.tuples(WORDS, st.sampled_from(["NN", "VB", "#"])), min_size=1, max_size=5), min_size=1
    ),
    separator=st.sampled_from(["\t", " "]),
)
@example(sentences=[[("#", "NN")]], separator="\t")
@example(sentences=[[("#", "NN")]], separator=" ")
def test_no_token_is_lost(tmp_path_factory, sentences, separator):
    """Two columns, whatever the words are: a comment needs other columns than a token has."""
    path = tmp_path_factory.getbasetemp() / "any.conll"
    path.write_text("\n\n".join("\n".join(separator.join(pair) for pair in pairs) for pairs in sentences) + "\n")
    rows = read_table(path, FileOptions(format="conll", token_column=1, tag_column=2)).rows
    assert [list(zip(row["tokens"], row["tags"], strict=True)) for row in rows] == sentences
