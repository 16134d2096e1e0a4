"""The report as one HTML page that needs nothing beside itself: for a desk, a phone, the dark, and paper."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from iwin.tools.report.pictures import Picture
from iwin.tools.report.rows import Row
from iwin.tools.report.sections import Section
from iwin.tools.report.table import NOTHING, Table, TableCell

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1b1f24; --soft: #5b6570; --line: #d5dae0;
  --band: #f5f7f9; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --text: #e6e9ec; --soft: #9aa4af; --line: #343b43;
  --band: #1d2126; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 92rem; padding: 1.5rem clamp(1rem, 3vw, 3rem) 3rem; background: var(--page);
  color: var(--text); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .6rem; border-top: 3px solid var(--accent); padding-top: .8rem; }
p.lead { color: var(--soft); margin: .2rem 0 0; }
code { display: block; font: .82rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; color: var(--soft);
  overflow-wrap: anywhere; margin-bottom: .8rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .5rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; font-size: .82rem; vertical-align: bottom;
  border-bottom: 2px solid var(--line); }
td { white-space: nowrap; }
th { max-width: 8rem; }
.n { text-align: right; }
td.name { font-weight: 600; white-space: normal; overflow-wrap: break-word; min-width: 9rem; max-width: 22rem; }
td.state { white-space: normal; min-width: 9rem; }
tbody tr:nth-child(even) { background: var(--band); }
sup { color: var(--accent); font-weight: 600; line-height: 0; }
ul.notes { list-style: none; padding: 0; margin: .8rem 0 1.2rem; color: var(--soft); font-size: .88rem;
  max-width: 75rem; overflow-wrap: anywhere; }
ul.notes li { margin: .15rem 0; }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; border: 1px solid var(--line); border-radius: .5rem; overflow: hidden; background: var(--band); }
figure img { display: block; width: 100%; height: auto; background: #ffffff; }
figcaption { padding: .5rem .8rem; font-size: .85rem; color: var(--soft); }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--accent); margin-bottom: .4rem; }
@media (max-width: 45rem) {
  thead { position: absolute; left: -999rem; }
  table, tbody, tr, td { display: block; width: 100%; }
  tr { border: 1px solid var(--line); border-radius: .5rem; padding: .3rem 0; margin-bottom: .7rem; }
  td, td.n { display: flex; justify-content: space-between; gap: 1rem; text-align: right; border: 0;
    padding: .12rem .8rem; white-space: normal; }
  td::before { content: attr(data-of); color: var(--soft); font-weight: 400; text-align: left; flex: none;
    max-width: 45%; }
  td.none { display: none; }
  td.name { text-align: left; font-size: 1rem; max-width: none; }
  td.state { min-width: 0; }
  td.name::before { content: none; }
}
@page { size: A4 landscape; margin: 12mm; }
@media print {
  :root { --page: #ffffff; --text: #000000; --soft: #444444; --line: #bbbbbb; --band: #f5f5f5; --accent: #0072b2; }
  body { padding: 0; max-width: none; font-size: 10pt; }
  .wide { overflow: visible; }
  table { font-size: 7.5pt; }
  th { font-size: 7pt; }
  th, td { padding: .25rem .35rem; }
  td { white-space: normal; }
  td.n { white-space: nowrap; }
  td.name, td.state { min-width: 0; }
  h2, figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .pictures { grid-template-columns: 1fr 1fr 1fr; gap: .5rem; }
  details:not([open]) { display: none; }
}
"""
NAME, STATE = "run", "state"  # headings of columns that hold words, which may break


def page(sections: Sequence[Section], tables: Sequence[Table], pictures: Sequence[Sequence[Picture]]) -> str:
    """The page's text; tables and pictures are those of the sections."""
    runs = sum(len(row.cells) for section in sections for row in section.rows)
    titles = ", ".join(section.title for section in sections)
    body = [f"<h1>Report</h1>\n<p class=lead>{escape(titles)}: {runs} {'run' if runs == 1 else 'runs'}</p>"]
    body += [_section(*parts) for parts in zip(sections, tables, pictures, strict=True)]
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Report: {escape(titles)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    )
    return head + "\n".join(body) + "\n</body>\n</html>\n"


def _section(section: Section, table: Table, pictures: Sequence[Picture]) -> str:
    parts = [f"<h2>{escape(table.title)}</h2>"]
    if table.command:
        parts.append(f"<code>{escape(table.command)}</code>")
    parts.append(_table(table.headings, table.numeric, table.rows))
    notes = [f"<li><sup>{escape(mark.letter)}</sup> {escape(mark.note)}</li>" for mark in table.marked]
    notes += [f"<li>{escape(note)}</li>" for note in table.notes]
    notes += [f"<li>{escape(picture.caption)}</li>" for picture in pictures if not picture.content]
    if notes:
        parts.append(f'<ul class="notes">{"".join(notes)}</ul>')
    if any(len(row.cells) > 1 for row in section.rows):
        parts.append(_single_runs(section.rows))
    shown = [_figure(picture) for picture in pictures if picture.content]
    if shown:
        parts.append(f'<div class="pictures">{"".join(shown)}</div>')
    return "\n".join(parts)


def _table(headings: Sequence[str], numeric: Sequence[bool], rows: Sequence[Sequence[TableCell]]) -> str:
    right = ["n" if one else "" for one in numeric]
    head = "".join(f'<th class="{kind}">{escape(heading)}</th>' for heading, kind in zip(headings, right, strict=True))
    lines = []
    for row in rows:
        cells = "".join(_cell(cell, heading, kind) for cell, heading, kind in zip(row, headings, right, strict=True))
        lines.append(f"<tr>{cells}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "</tbody></table></div>"
    )


def _cell(cell: TableCell, heading: str, kind: str) -> str:
    kind = {NAME: "name", STATE: "state"}.get(heading, kind)
    classes = " ".join(word for word in (kind, "none" if cell.text == NOTHING else "") if word)
    marks = f"<sup>{escape(', '.join(cell.letters))}</sup>" if cell.letters else ""
    return f'<td class="{classes}" data-of="{escape(heading)}"><span>{escape(cell.text)}{marks}</span></td>'


def _single_runs(rows: Sequence[Row]) -> str:
    """Every run by itself, folded away."""
    lines = []
    for row in rows:
        for cell in row.cells:
            result = cell.result
            accuracies = (None, None) if result is None else (result.top1, result.best_top1)
            texts = [row.name, cell.seed or NOTHING, cell.standing, *map(_accuracy, accuracies)]
            texts.append(NOTHING if result is None or result.updates is None else f"{result.updates:,}")
            texts.append(NOTHING if cell.run is None else cell.run.folder.name)
            lines.append([TableCell(text) for text in texts])
    headings = (NAME, "seed", STATE, "top-1, %", "best, %", "updates", "folder")
    single = _table(headings, (False, True, False, True, True, True, False), lines)
    return f"<details><summary>The single runs</summary>{single}</details>"


def _accuracy(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _figure(picture: Picture) -> str:
    source = f"data:image/png;base64,{base64.b64encode(picture.content).decode()}"
    said = escape(picture.caption)
    return f'<figure><img src="{source}" alt="{said}"><figcaption>{said}</figcaption></figure>'
