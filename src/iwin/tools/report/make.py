"""From folders of runs to a report: read, gather, draw, write, print."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from iwin.errors import DataError
from iwin.tools.report.cells import is_sweep
from iwin.tools.report.find import find
from iwin.tools.report.folder import check_folder, put_report
from iwin.tools.report.formats import latex, markdown, markdown_section
from iwin.tools.report.page import page
from iwin.tools.report.pictures import pictures
from iwin.tools.report.sections import sections
from iwin.tools.report.spreadsheet import spreadsheet
from iwin.tools.report.table import table
from iwin.train.run_folder import shown

REPORT = "report"  # the default folder


def make_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report on the runs in `folders`, print its tables, and return the folder it is in.

    out: by default `report` in a sweep's folder where that alone is given, else `report` here.

    Raises DataError for folders without runs and for damaged files, ConfigError where `out` holds anything else than
    a former report.
    """
    if out is None:
        out = (folders[0] if len(folders) == 1 and is_sweep(folders[0]) else Path()) / REPORT
    check_folder(out)  # before the work
    sweeps, runs = find(folders)
    found = [section for section in sections(sweeps, runs) if section.rows]
    if not found:
        raise DataError(f"the sweep in {sweeps[0].folder} has no cells: its sweep.json names none")
    tables = [table(section) for section in found]
    drawn = [pictures(section) for section in found]

    files: dict[str, bytes] = {}
    beside: list[list[tuple[str, str]]] = []
    for index, section in enumerate(found, start=1):
        prefix = "" if len(found) == 1 else f"{index}-{_plain(section.title)}-"
        beside.append([])
        for picture in drawn[index - 1]:
            name = f"{prefix}{picture.name}.png" if picture.content else ""
            beside[-1].append((name, picture.caption))
            if name:
                files[name] = picture.content
    files["report.md"] = markdown(tables, beside).encode()
    files["report.csv"] = spreadsheet(found).encode()
    files["report.tex"] = latex(tables).encode()
    files["report.html"] = page(found, tables, drawn).encode()
    put_report(out, files)

    print("\n\n".join(markdown_section(one) for one in tables))
    for _, caption in (one for of_section in beside for one in of_section if not one[0]):
        print(caption)
    where = shown(out.absolute())
    print(f"\nReport    {where}/report.html (one page), report.md, report.csv, report.tex, and the pictures")
    return out


def _plain(title: str) -> str:
    """A title as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40]
