"""Every format of a report says the same numbers, and none breaks on what stands in names."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_run, make_sweep

from iwin.tools.report.find import find
from iwin.tools.report.formats import latex, latex_text, markdown_table, markdown_text
from iwin.tools.report.page import page
from iwin.tools.report.sections import Section, sections
from iwin.tools.report.spreadsheet import COLUMNS, spreadsheet
from iwin.tools.report.statistic import Statistic
from iwin.tools.report.table import scaled, table

NASTY = r"a_b & 50% of #1 {x} $y$ \z ~^ <script>alert('1')</script> | `q` *s* [0]"


@pytest.fixture
def section(tmp_path: Path) -> Section:
    """Three rows, one of them of two seeds, one failed for a nasty reason."""
    cells = []
    for kernel, seed, top1 in (("[7,5,3,null]", 0, 0.9612), ("[7,5,3,null]", 1, 0.9734), ("[3,3,3,null]", 0, 0.9511)):
        folder = f"{kernel[1]}-{seed}"
        make_run(tmp_path / folder, seed=seed, top1=top1, images_per_s=1234.5 + seed, dirty=seed == 1)
        cells.append({"overrides": {"model.kernel_sizes": kernel, "seed": str(seed)}, "folder": folder})
    cells.append({"overrides": {"model.kernel_sizes": NASTY}, "state": "failed", "reason": NASTY})
    make_sweep(tmp_path, "table7_kernel", cells)
    (found,) = sections(*find([tmp_path]))
    return found


def numbers(text: str) -> list[float]:
    return [float(one.replace(",", "")) for one in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def test_markdown_latex_and_the_page_have_the_tables_cells(section: Section) -> None:
    found = table(section)
    lines = markdown_table(found).splitlines()[2:]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    in_latex = latex([found]).split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    in_page = page([section], [found], [[]]).split("</details>")[0].split("<tr>")[2:]
    for cells, line, html_row, row in zip(found.rows, in_latex, in_page, rows, strict=False):
        split = re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
        html = re.findall(r"<td[^>]*><span>(.*?)</span></td>", html_row)
        assert len(row) == len(split) == len(html) == len(cells)
        for cell, as_markdown, as_latex, as_html in zip(cells, row, split, html, strict=True):
            if "script" not in cell.text:
                assert numbers(as_markdown) == numbers(cell.text)
                assert numbers(re.sub(r"\\textsuperscript\{.*?\}|\\pm", "", as_latex)) == numbers(cell.text)
                assert numbers(as_html) == numbers(cell.text)


def test_the_csv_has_the_tables_numbers_in_full_and_every_seed(section: Section) -> None:
    lines = list(csv.DictReader(io.StringIO(spreadsheet([section]))))
    assert tuple(lines[0]) == COLUMNS
    rows = [line for line in lines if line["kind"] == "row"]
    found = table(section)
    for line, row, cells in zip(rows, section.rows, found.rows, strict=True):
        shown = dict(zip(found.headings, (cell.text for cell in cells), strict=True))
        if row.top1 is None:
            assert line["top1_percent"] == ""
            continue
        mean = float(line["top1_percent"])
        seeds = [float(one["top1_percent"]) for one in lines if one["kind"] == "seed" and one["name"] == row.name]
        assert mean == pytest.approx(sum(seeds) / len(seeds), abs=1e-12)
        assert shown["top-1, %"].startswith(f"{mean:.2f}")
        assert shown["parameters"] == scaled(Statistic(float(line["parameters"]), None, 1))
        assert shown["FLOPs"] == scaled(Statistic(float(line["flops"]), None, 1))
        assert int(line["seeds"]) == len(seeds)
    (failed,) = [line for line in lines if line["kind"] == "left out"]
    assert NASTY in failed["state"]
    seed = next(line for line in lines if line["kind"] == "seed" and line["seed"] == "1")
    assert (seed["changed_tree"], seed["marks"]) == ("yes", "a")


def test_the_page_needs_nothing_beside_itself(section: Section) -> None:
    text = page([section], [table(section)], [[]])
    assert not re.search(r"""(?:src|href|action|data)\s*=\s*["']?(?!data:|["'])\S*?(?:https?:)?//""", text)
    assert not re.search(r"<(?:link|script|iframe|object|embed|base)\b|@import|url\(", text)
    assert "&lt;script&gt;" in text


def read_latex(text: str) -> str:
    """What LaTeX would set for the text, by the few commands that are used."""
    backs = {
        r"\textbackslash{}": "\\",
        r"\textasciicircum{}": "^",
        r"\textasciitilde{}": "~",
        r"\textless{}": "<",
        r"\textgreater{}": ">",
        r"\textbar{}": "|",
        r"\textquotedbl{}": '"',
        r"\ldots{}": "…",
        r"\textendash{}": "\N{EN DASH}",
        "-{}": "-",
        r"$\pm$": "±",
        "$-$": "\N{MINUS SIGN}",
    }
    pattern = "|".join(map(re.escape, backs)) + r"|\\[{}$&#%_]"
    return re.sub(pattern, lambda found: backs.get(found[0], found[0][1:]), text)


@given(st.text(st.sampled_from('ab- \\{}$&#%_^~<>|"±…\N{MINUS SIGN}\N{EN DASH}'), max_size=30))
def test_latex_sets_any_text_as_it_is(text: str) -> None:
    escaped = latex_text(text)
    assert read_latex(escaped) == " ".join(text.split())
    bare = re.sub(r"\\[{}$&#%_]|\$\\pm\$|\$-\$", "", escaped)
    assert not set(bare) & set("$&#%_^~")
    assert bare.count("{") == bare.count("}")
    assert "--" not in escaped


@given(st.text(st.sampled_from("ab_*`|<\\ \n"), max_size=30))
def test_markdown_text_ends_no_cell_and_begins_nothing(text: str) -> None:
    escaped = markdown_text(text)
    assert re.sub(r"\\([\\|<*`_])", r"\1", escaped) == " ".join(text.split())
    assert not re.search(r"(?<!\\)(?:\\\\)*[|<*`]", escaped)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.000 k"), (12_345_678, "12.35 M"), (999_999_999, "1.000 G"), (4.72e9, "4.720 G")],
)
def test_large_numbers_have_four_digits(value: float, text: str) -> None:
    assert scaled(Statistic(value, None, 1)) == text
