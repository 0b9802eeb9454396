"""Models of the Hub where it does not answer: told at once, or loaded from local copies."""

import httpx2 as httpx
import huggingface_hub
import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.errors import RepositoryNotFoundError

from overture.core.errors import BackboneError
from overture.engine.hub import has_only_copies
from overture.engine.load import load_backbone
from overture.engine.options import is_encoder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that does not answer; lists the attempts."""
    attempts = []

    def refuse(url, **options):
        attempts.append(url)
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    monkeypatch.setattr(file_download, "get_hf_file_metadata", refuse)
    return attempts


def keep(root, name, **config):
    """A local copy of a model's config, as the library keeps it."""
    repository = root / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text(str(config).replace("'", '"'))


def test_an_unknown_model_is_refused_after_one_attempt(hub):
    with pytest.raises(BackboneError) as caught:
        load_backbone("nobody/nothing", device="cpu", notify=lambda text: None)
    assert (caught.value.where, len(hub)) == ("nobody/nothing", 1)
    assert "Name or service" in caught.value.got
    assert not is_encoder("nobody/nothing")
    assert len(hub) == 2


def test_local_copies_are_used_without_asking_again(hub, tmp_path):
    keep(tmp_path, "some/reader", model_type="bert")
    assert has_only_copies("some/reader", None)
    assert is_encoder("some/reader")
    assert len(hub) == 2
    # What is missing is told by the library, which does not ask either.
    with pytest.raises(BackboneError):
        load_backbone("some/reader", device="cpu", notify=lambda text: None)
    assert len(hub) == 3


def test_an_answer_is_an_answer(hub, monkeypatch):
    def unknown(url, **options):
        request = httpx.Request("HEAD", url)
        raise RepositoryNotFoundError("404", response=httpx.Response(404, request=request))

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unknown)
    assert not has_only_copies("nobody/nothing", None)
