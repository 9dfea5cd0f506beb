"""A report in its three forms: columns of text, a page that data cannot break, plain values."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from theory.reports.html import Markup, element, join
from theory.reports.report import (
    Column,
    Fragment,
    Plot,
    Report,
    Table,
    Text,
    display_width,
    save_figure,
    show,
)

EVIL = """</td></style><script>alert(1)</script><img src=x onerror="alert(1)">&amp;' "><!-- ]]>"""
ANY = st.text(
    st.sampled_from("ab é漢π\u0302<&\"'\n\t\r\x00\x1b[31m\x7f\x85\u202e\u2066"), max_size=20
)


def plot(name="line", caption=""):
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [0, 1])
    return Plot(name, figure, "a line", caption)


def report(text):
    """Every part of a report, with `text` wherever there can be one."""
    columns = [Column(text), Column("n", ".2f", "right"), Column(text, detail=True)]
    table = Table(text, columns, [(text, 0.5, text), ("b", math.nan, text)], text, ("bad", ""))
    return Report(
        text,
        [text],
        {text: text, "n": 1.5},
        [table, Table(text, columns, [], text), Text(text), Fragment(text)],
    )


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, source):
        super().__init__()
        self.open, self.elements, self.text = [], [], {}
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)


def test_nothing_in_the_data_becomes_markup():
    evil, plain = Page(report(EVIL).html()), Page(report("a").html())
    labelled = lambda page, text: [  # noqa: E731
        (tag, {**a, "data-label": "text"} if a.get("data-label") == text else a)
        for tag, a in page.elements
    ]
    assert labelled(evil, EVIL) == labelled(plain, "a")
    for place in ("title", "h1", "h2", "p", "dt", "dd", "th", "td", "main"):
        assert any(EVIL in text for text in evil.text[place])


def test_the_page_loads_nothing_and_runs_nothing():
    source = Report("t", sections=[plot(caption=EVIL), *report(EVIL).sections]).html()
    page = Page(source)
    policy = [a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    links = [(tag, a[k]) for tag, a in page.elements for k in ("src", "href", "srcset") if k in a]
    assert [tag for tag, _ in links] == ["img"]
    assert links[0][1].startswith("data:image/png;base64,")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    style = page.text["style"][0]
    assert not [word for word in ("url(", "@import", "://") if word in style]
    assert "prefers-color-scheme:dark" in style
    assert "width=device-width" in source


@given(text=ANY)
def test_control_characters_are_pictured(text):
    made = report(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", made.html())
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", made.text())


@given(cells=st.lists(st.tuples(ANY, ANY, st.floats()), min_size=1, max_size=5))
def test_columns_are_aligned_whatever_stands_in_them(cells):
    columns = [Column("x"), Column("y", align="right"), Column("z", ".3g", "right")]
    lines = Table("", columns, [(a, b + "|", c) for a, b, c in cells]).text(1000).split("\n")
    assert len(lines) == 2 + len(cells)
    ends = {display_width(line.rsplit("|", 1)[0]) for line in lines[2:]}
    assert len(ends) == 1
    assert len({display_width(line) for line in lines}) == 1


def test_values_in_cells():
    column = Column("x", ".2f")
    missing = [None, math.nan, np.float32("nan"), np.nan]
    assert [column.show(x) for x in missing] == ["–"] * 4
    assert [column.show(x) for x in (0.5, np.float32(0.5), 2, "as it is")] == [
        "0.50",
        "0.50",
        "2.00",
        "as it is",
    ]
    assert Column("x", lambda x: f"<{x}>").show(1) == "<1>"
    assert [show(x) for x in (np.float64(1e-9), math.inf, True, (1, 2), [0.1])] == [
        "1e-09",
        "inf",
        "True",
        "(1, 2)",
        "[0.1]",
    ]


def test_text_of_a_report():
    table = Table(
        "Losses",
        [Column("policy"), Column("loss", align="right"), Column("source", detail=True)],
        [("π̂", 0.25, "docs"), ("漢字", -1.0, "docs")],
        "Averages over prompts, in units of the reward, which are as long as a line can be.",
    )
    made = Report(
        "A model",
        ["2 hold."],
        {"alpha": 0.1 + 0.2, "ids": np.arange(2), "probability": 0.99999978},
        [table, plot(), Fragment("no text"), Text("word " * 10)],
    )
    assert made.text(40).split("\n") == [
        "A model",
        "2 hold.",
        "  alpha: 0.3",
        "  ids: [0 1]",
        "  probability: 0.9999998",
        "",
        "Losses",
        "  Averages over prompts, in units of the",
        "  reward, which are as long as a line",
        "  can be.",
        "  policy  loss",
        "  ------------",
        "  π̂       0.25",
        "  漢字      -1",
        "",
        "word word word word word word word word",
        "word word",
    ]
    bare = Table("", [Column(), Column()], [("a", 1), ("bc", 2)])
    assert bare.text(40) == "a   1\nbc  2"
    assert "docs" in made.html()


WORDS = st.text(st.sampled_from("ab π̂漢  "), max_size=60)


@given(
    rows=st.lists(st.tuples(WORDS, WORDS, st.floats(), WORDS), min_size=1, max_size=4),
    width=st.integers(60, 100),
)
def test_no_table_is_wider_than_the_terminal(rows, width):
    """But for a word that is longer; and no word is lost where a table is folded."""
    columns = [Column("x"), Column("y"), Column("z", ".3g", "right"), Column("w", align="right")]
    text = Table("", columns, rows).text(width)
    longest = max(map(display_width, text.split()))
    for line in text.split("\n"):
        assert display_width(line) <= max(width, longest + 8)
    for row in rows:
        for cell in (row[0], row[1], row[3]):
            assert sorted(set(cell.split()) - set(text.split())) == []


def test_detail_is_printed_where_it_is_asked_for():
    table = Table("All", [Column("n")], [("a",)], detail=True)
    made = Report("t", ["Verdict."], sections=[table, Text("more", detail=True), Text("short")])
    assert made.text(verbose=False) == "t\nVerdict.\n\nshort"
    assert made.text().endswith("All\n  n\n  -\n  a\n\nmore\n\nshort")
    assert "<details><summary><h2>All</h2></summary>" in made.html()


@pytest.mark.parametrize(
    ("passed", "tone", "code"), [(None, "", 0), (True, " good", 0), (False, " bad", 1)]
)
def test_the_verdict_on_top_has_the_tone_of_the_exit_code(passed, tone, code):
    made = Report("t", ["<Verdict>.", "More."], {"seed": 0}, [Text("after")], passed)
    body = made.html().partition("<body>")[2]
    assert body.index(f'<p class="verdict{tone}">&lt;Verdict&gt;.</p>') < body.index("More.")
    assert made.exit_code == made.head("t/1")["exit_code"] == code
    assert made.head("t/1")["verdict"] == "<Verdict>."
    assert "<dt>torch</dt>" in body.partition("<footer>")[2]


def test_tables_on_a_page():
    columns = [Column("name"), Column("n", align="right")]
    rows = [("a", 1.0), ("b", None)]
    html = Table("T", columns, rows, tones=("bad", "")).html()
    assert (
        '<tr class="bad"><th scope="row">a</th><td class="number" data-label="n">1</td></tr>'
        in html
    )
    assert '<tr><th scope="row">b</th><td class="number" data-label="n">–</td></tr>' in html


def test_files_appear_whole_or_not_at_all(tmp_path):
    made = Report("\udcff", sections=[plot(), Text("after")])
    paths = made.save(tmp_path)
    assert [path.name for path in paths] == ["line.png", "line.svg", "report.html"]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == set(paths)
    assert b"\\udcff" in before[paths[-1]]
    assert paths[0].read_bytes() == made.sections[0].png

    class Broken(Text):
        def html(self):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        Report("other", sections=[plot("line"), plot("new"), Broken("x")]).save(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_same_figure_is_the_same_file(tmp_path):
    first, second = (save_figure(plot().figure, tmp_path, name) for name in ("one", "two"))
    assert first[0].read_bytes() == second[0].read_bytes()
    again = first[1].read_bytes()
    save_figure(plot().figure, tmp_path, "one")
    assert first[1].read_bytes() == again


def test_in_a_notebook_the_page_has_a_frame_of_its_own():
    html = report(EVIL)._repr_html_()
    page = Page(html)
    ((tag, attributes),) = page.elements
    assert tag == "iframe"
    assert "sandbox" in attributes
    assert attributes["srcdoc"] == report(EVIL).html()


def test_elements_escape_what_is_not_markup():
    assert element("b", "<", Markup("<i></i>"), title='"', hidden=False) == (
        '<b title="&quot;">&lt;<i></i></b>'
    )
    assert join(["<", Markup("<")]) == "&lt;<"
    assert Fragment("<b>").html() == "&lt;b&gt;"
    assert Fragment(element("b")).html() == "<b></b>"


def test_the_style_of_fragments_is_written_once():
    parts = [Fragment(element("i"), "i{color:red}"), Fragment(element("i"), "i{color:red}")]
    assert Report("t", sections=parts).html().count("i{color:red}") == 1
