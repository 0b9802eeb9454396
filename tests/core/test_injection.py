import pytest
import torch

from overture.core.injection import STORED, Injection, LabelHead, LayerMemory, Memory, Vectors, VectorTarget
from overture.jobs.tune.adapted import _fixed


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, requires_grad=True)


class Constant:
    """A method whose injection is given."""

    def __init__(self, kept: Injection) -> None:
        self.kept = kept

    def injection(self) -> Injection:
        return self.kept

    def trainable(self) -> dict[str, torch.Tensor]:
        return {}

    def rates(self) -> dict[str, float]:
        return {}


WHOLE = {
    "around": Injection(
        Vectors(random(3, 4), "around", targets=(VectorTarget(0, 1, 1.0),), split=random(4)),
        labels=random(2, 4),
        head=LabelHead(random(4, 4), random(4), random(2)),
    ),
    "memory": Injection(
        memory=Memory(LayerMemory(random(2, 1, 3, 4), random(2, 1, 3, 4), random(2, 3)), "memory"),
        offset=random(5, 4),
        labels=random(2, 4),
        # A classifier with a map has no scale, so it is in the other.
        head=LabelHead(random(2), scale=random()),
    ),
}
"""Between them injections with every part and every tensor that a part may have."""


def test_the_samples_have_every_tensor():
    assert set().union(*(injection.tensors() for injection in WHOLE.values())) == STORED


@pytest.mark.parametrize("place", WHOLE)
def test_tensors_give_the_injection_again(place):
    tensors = WHOLE[place].tensors()
    again = Injection.from_tensors(tensors, place).tensors()
    assert {name: id(value) for name, value in again.items()} == {name: id(value) for name, value in tensors.items()}


@pytest.mark.parametrize("place", WHOLE)
def test_map_changes_every_tensor_and_nothing_else(place):
    whole = WHOLE[place]
    doubled = whole.map(lambda tensor: 2 * tensor)
    assert [name for name, _ in doubled.parts()] == [name for name, _ in whole.parts()]
    for name, value in whole.tensors().items():
        assert torch.equal(doubled.tensors()[name], 2 * value)
    assert whole.map(lambda tensor: tensor) is whole


@pytest.mark.parametrize(
    "names", [{"split"}, {"keys"}, {"head_weight", "labels"}, {"head_weight", "head_bias", "label_bias"}, {"x"}, set()]
)
def test_incomplete_and_unknown_tensors_are_refused(names):
    with pytest.raises(ValueError, match=r".+"):
        Injection.from_tensors({name: torch.zeros(2, 2) for name in names}, "before")


@pytest.mark.parametrize("place", WHOLE)
def test_a_finished_prompt_keeps_every_part_without_gradient(place):
    fixed = _fixed(Constant(WHOLE[place]))
    assert isinstance(fixed, Injection)
    wanted = WHOLE[place].tensors()
    assert set(fixed.tensors()) == set(wanted)
    assert not any(value.requires_grad for value in fixed.tensors().values())
    assert fixed.vectors is None or not fixed.vectors.targets
