"""Tables as Markdown and as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence

from iwin.tools.report.table import Table, TableCell

# In Markdown these would begin or end something; an underscore inside a word is only itself.
_MARKDOWN = re.compile(r"[\\|<*`]|(?<!\w)_|_(?!\w)")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": r"\textendash{}",
    "…": r"\ldots{}",
}


def markdown_text(text: str) -> str:
    """Text that stands in a line or a table of Markdown as it is."""
    return _MARKDOWN.sub(lambda found: "\\" + found[0], " ".join(text.split()))


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it is."""
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
    return re.sub("-(?=-)", "-{}", escaped)  # two hyphens in a row would become a dash


def markdown_table(table: Table) -> str:
    """The table alone, padded so that it reads well unrendered; notes are `markdown_notes`."""
    lines = [[markdown_text(heading) for heading in table.headings]]
    lines += [[_markdown_cell(cell) for cell in row] for row in table.rows]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(table.headings))]
    rule = [f"{'-' * (width - 1)}{':' if right else '-'}" for width, right in zip(widths, table.numeric, strict=True)]
    padded = [
        [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, table.numeric, strict=True)
        ]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def markdown_notes(table: Table) -> str:
    """The marks' notes and the others, a line of a list each; empty where there are none."""
    said = [f"[{mark.letter}] {markdown_text(mark.note)}" for mark in table.marked]
    return "\n".join(f"- {line}" for line in [*said, *map(markdown_text, table.notes)])


def markdown_section(table: Table) -> str:
    """Title, command, table and notes."""
    command = f"    {table.command}" if table.command else ""  # indented: no character means anything there
    parts = [f"## {markdown_text(table.title)}", command, markdown_table(table), markdown_notes(table)]
    return "\n\n".join(part for part in parts if part)


def markdown(tables: Sequence[Table], pictures: Sequence[Sequence[tuple[str, str]]]) -> str:
    """The whole report. pictures: for each table (file or empty, caption or why there is none)."""
    parts = ["# Report"]
    for table, beside in zip(tables, pictures, strict=True):
        parts.append(markdown_section(table))
        for file, said in beside:
            parts.append(f"![{markdown_text(said)}]({file})" if file else markdown_text(said))
    return "\n\n".join(parts) + "\n"


def latex(tables: Sequence[Table]) -> str:
    """The tables, to be \\input in a document that uses booktabs, graphicx and textcomp."""
    head = "% To be \\input; the preamble needs \\usepackage[T1]{fontenc}, \\usepackage{booktabs,graphicx,textcomp}\n"
    return "\n".join([head, *map(_latex_table, tables)])


def _latex_table(table: Table) -> str:
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_text(table.title)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in table.numeric)}}}",
        r"\toprule",
        " & ".join(map(latex_text, table.headings)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_latex_cell, row)) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    notes = [rf"\textsuperscript{{{mark.letter}}}~{latex_text(mark.note)}" for mark in table.marked]
    notes += map(latex_text, table.notes)
    if notes:
        lines += [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize"]
        lines += [f"{note}\\par" for note in notes]
        lines.append(r"\end{minipage}")
    return "\n".join([*lines, r"\end{table}", ""])


def _markdown_cell(cell: TableCell) -> str:
    return markdown_text(cell.text) + (f" [{', '.join(cell.letters)}]" if cell.letters else "")


def _latex_cell(cell: TableCell) -> str:
    text = latex_text(cell.text)
    # A row that begins with a bracket would be taken for the option of the line break before it.
    text = f"{{}}{text}" if text.startswith("[") else text
    return text + (rf"\textsuperscript{{{','.join(cell.letters)}}}" if cell.letters else "")
