"""Options that several commands share."""

from overture.cli.options import local


def test_a_linked_model_keeps_the_name_that_its_user_gave(tmp_path, monkeypatch):
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "MiniLM").symlink_to(tmp_path / "snapshot")
    monkeypatch.chdir(tmp_path)
    assert local("./MiniLM") == local("MiniLM") == str(tmp_path / "MiniLM")


def test_a_name_without_a_folder_is_one_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local("org/model") == "org/model"
    assert local("./gone") == str(tmp_path / "gone")
