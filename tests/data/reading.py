"""Reading of files that a test writes."""

import json

import pytest

from overture.core.errors import DataError
from overture.data.formats.options import FileOptions
from overture.data.init_task import starting_task
from overture.data.read import read_table
from overture.data.task import Task


def written(tmp_path, name, content):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_bytes(content.encode())
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        path.write_text(json.dumps(content))
    return path


def table_of_file(tmp_path, name, content, **options):
    return read_table(written(tmp_path, name, content), FileOptions(**options))


def problems_of(tmp_path, name, content, **options):
    with pytest.raises(DataError) as caught:
        table_of_file(tmp_path, name, content, **options)
    return [(problem.where.removeprefix(str(tmp_path) + "/"), problem.what) for problem in caught.value.problems]


def noticed(table):
    """What was noticed: its kind, and how often."""
    return {notice.kind: notice.count for notice in table.notices}


def loaded(path, folder, **how):
    """The first task of a file, written and read again, and what was made of the file."""
    started = starting_task(path, folder, **how)
    file = folder / "task.yaml"
    file.write_text(started.text)
    return Task.load(file), started


def labelled(count=20, **more):
    names = ("Very_Good", "no", "3")
    return [{"text": f"some longer text number {i}", "label": names[i % 3], **more} for i in range(count)]
