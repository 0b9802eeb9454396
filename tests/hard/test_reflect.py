"""gepa behind a model that writes; without the extra an error says how to install it."""

from importlib.util import find_spec
from itertools import cycle

import pytest

from overture.core.errors import ConfigError, OvertureError
from overture.core.records.hard import Candidate, Standing
from overture.core.seeds import named_random
from overture.hard.proposer import Ask
from overture.hard.proposers import registry
from overture.hard.proposers.reflect import Reflect
from overture.hard.scorer import Refused
from text_prompts import TEXTS, scorer_of

LEADER = Candidate(text="\nMood?", shots=[0])


class FakeWriter:
    """Gives fixed answers in turn, or fails."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.requests = cycle(answers), []

    def write(self, request, random):
        self.requests.append(request)
        if (answer := next(self.answers)) == "fail":
            raise OvertureError("the proposer gave no answer", where="fake")
        return answer


def proposals_of(writer: FakeWriter, count: int = 4) -> list[Candidate]:
    ask = Ask(
        scorer_of("llama"), [Standing(candidate=LEADER, log_likelihood=-1.0, rows=4)], [], count, named_random(0, "x")
    )
    return Reflect(writer).propose(ask)


@pytest.mark.skipif(find_spec("gepa") is None, reason="the extra reflect is not installed")
def test_every_text_that_gepa_tries_is_proposed_and_it_ends():
    writer = FakeWriter("```\nSay good or bad.\n```", "```\nIs it fine?\n```", f"```\n{TEXTS[2]} and so on\n```", "")
    proposals = proposals_of(writer)
    texts = {proposal.text for proposal in proposals}
    assert {"\nSay good or bad.", "\nIs it fine?"} <= texts
    assert all((proposal.origin, proposal.shots) == ("reflect", [0]) for proposal in proposals)
    assert 1 <= len(writer.requests) <= 9
    assert any(text in writer.requests[0] for text in TEXTS)
    # A copied row is refused by the scorer, as every proposal may be.
    with pytest.raises(Refused):
        scorer_of("llama").text_of(LEADER.model_copy(update={"text": f"\n{TEXTS[2]} and so on"}))


@pytest.mark.skipif(find_spec("gepa") is None, reason="the extra reflect is not installed")
def test_a_writer_that_fails_ends_with_its_error():
    with pytest.raises(OvertureError) as error:
        proposals_of(FakeWriter("fail"))
    assert error.value.where == "fake"


def test_without_gepa_an_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        registry.check_source("reflect:url:http://localhost/v1")
    assert "overture[reflect]" in error.value.fix


@pytest.mark.parametrize("source", ["reflect", "reflect:", "reflect:edits", "reflect:reflect:model:x", "reflect:url"])
def test_reflection_needs_a_model_that_writes(source):
    with pytest.raises(ConfigError) as error:
        registry.check_source(source)
    assert error.value.where == "--from"
