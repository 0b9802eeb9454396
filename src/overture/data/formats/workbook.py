"""Excel's .xlsx and .xlsm, read with `openpyxl` where it is installed: the first sheet that holds rows, as texts."""

import io
import warnings
import zipfile
from typing import Any

from overture.data.formats.form import Container, Item, Source
from overture.data.formats.tables import items_of_cells

_MAX_BYTES = 2 << 30


def _read(source: Source) -> list[Item]:
    try:
        import openpyxl
    except ImportError:
        fix = "pip install openpyxl; or save the sheet as CSV (UTF-8): File, Save As"
        source.problem(0, "workbooks are read with openpyxl, which is not installed", fix)
        return []
    try:
        with zipfile.ZipFile(io.BytesIO(source.raw)) as archive:
            num_bytes = sum(part.file_size for part in archive.infolist())
        if num_bytes > _MAX_BYTES:
            source.problem(0, f"more than {_MAX_BYTES >> 30} GiB when unpacked", "take a part of it")
            return []
        with warnings.catch_warnings():
            # It warns of styles and extensions that it does not keep.
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(io.BytesIO(source.raw), read_only=True, data_only=True)
            sheets = {sheet.title: _cells(sheet) for sheet in book.worksheets}
    except Exception as error:  # the package raises errors of zipfile, of XML parsers and its own
        source.problem(0, f"not a workbook: {error!s:.120}", "save it again, or as CSV (UTF-8)")
        return []
    filled_sheets = {title: cells for title, cells in sheets.items() if cells}
    if not filled_sheets:
        return []
    title, cells = next(iter(filled_sheets.items()))
    if other_sheets := [name for name in filled_sheets if name != title]:
        done = f"the sheet {title!r} is read; move the one with the rows to the front"
        source.notices.add("other sheets are not read", ", ".join(other_sheets), done=done)
    return items_of_cells(cells, source)


def _cells(sheet: Any) -> list[tuple[int, list[str]]]:
    """The rows that hold anything, with their numbers."""
    rows = [(line, [_text(value) for value in row]) for line, row in enumerate(sheet.iter_rows(values_only=True), 1)]
    return rows if any(cell.strip() for _, cells in rows for cell in cells) else []


def _text(value: Any) -> str:
    """A cell as CSV would hold it; Excel keeps whole numbers as fractions too."""
    if value is None:
        return ""
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


WORKBOOK = Container("xlsx", (".xlsx", ".xlsm"), _read)
