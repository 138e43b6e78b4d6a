"""The report: every section from made-up results, none from missing ones, and models' texts are never HTML."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lightning.cli import main
from rlhf_lightning.evaluation.report.axes import Scale, ticks
from rlhf_lightning.evaluation.report.charts import Curve, Mark, curves, plane, thinned
from rlhf_lightning.evaluation.report.drawing import Dot, Drawing, Label, Line, pixels, svg
from tests.evaluation import made_up

SECTIONS = ["glance", "preference", "frontier", "tax", "harms", "trust", "samples", "learning", "data-sft", "data-ppo"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation with every section, and its report."""
    directory = made_up.evaluation(tmp_path_factory.mktemp("report"))
    assert main(["report", str(directory)]) == 0
    return directory


def test_every_section_is_there(evaluation: Path) -> None:
    page = (evaluation / "report.html").read_text()
    assert re.findall(r'<section id="([^"]+)"', page) == [*SECTIONS, "reproduce"]
    assert re.findall(r'<a href="#([^"]+)"', page) == [*SECTIONS, "reproduce"]
    for text in (
        "62.8 %",
        "Calibration (expected error 4.1 points)",
        "0123456789ab",
        "evaluate.yaml",
        "sft/config.yaml",
    ):
        assert text in page
    assert "Trained against the judge &#39;reward&#39;, which flatters them: ppo, ppo_ptx." in page
    assert "labeler &#39;alma&#39; made 100 %" in page


def test_the_page_needs_nothing_else(evaluation: Path) -> None:
    page = (evaluation / "report.html").read_text()
    assert not re.findall(r"https?:|//cdn|url\(|@import|<link|<img(?! src=x)", page.replace("&lt;img src=x", ""))
    assert "src=" not in re.sub(r"&lt;.*?&gt;", "", page).replace("\\u003cimg src=x", "")


def test_what_models_wrote_stays_text(evaluation: Path) -> None:
    page = (evaluation / "report.html").read_text()
    assert "<script>document.title" not in page
    assert page.count("<script") == 2
    embedded = re.search(r'<script type="application/json" id="samples-data">(.*?)</script>', page, re.DOTALL)
    assert embedded is not None
    rows = json.loads(embedded[1])["rows"]
    assert rows[0]["responses"]["sft"]["text"] == made_up.EVIL
    assert len(rows) == 120
    assert "<script" not in (evaluation / "report.md").read_text()


def test_markdown_has_the_same(evaluation: Path) -> None:
    text = (evaluation / "report.md").read_text()
    for heading in ("At a glance", "Who is preferred", "What it cost in KL", "The alignment tax", "Make it again"):
        assert f"## {heading}" in text
    for figure in re.findall(r"\]\((report_figures/[^)]+)\)", text):
        assert (evaluation / figure).is_file()


def test_figures_are_named_and_well_formed(evaluation: Path) -> None:
    files = list((evaluation / "report_figures").glob("*.svg"))
    assert len(files) == 16
    for file in files:
        root = ElementTree.fromstring(file.read_text())
        assert root.attrib["aria-label"].strip()
        assert "nan" not in file.read_text()


def test_tensorboard_has_texts_and_figures(evaluation: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(evaluation / "report_tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert "report/win_rates_gold" in tags["images"]
    assert any("Who is preferred" in tag for tag in tags["tensors"])


@pytest.mark.parametrize("missing", ["outputs", "preference", "tasks", "trust", "generations", "evaluation.json"])
def test_a_part_may_be_missing(evaluation: Path, missing: str, tmp_path: Path) -> None:
    copy = shutil.copytree(evaluation, tmp_path / "copy")
    for path in (copy / missing, copy / "results" / f"{missing}.json"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert main(["report", str(copy), "--tensorboard", "false"]) == 0
    there = re.findall(r'<section id="([^"]+)"', (copy / "report.html").read_text())
    gone = {
        "outputs": {"frontier"},
        "preference": {"preference"},
        "tasks": {"harms"},  # lm-eval's are there still
        "trust": {"trust"},
        "generations": {"samples"},
        "evaluation.json": {"learning", "data-sft", "data-ppo", "reproduce"},
    }[missing]
    assert set(there) == {*SECTIONS, "reproduce"} - gone


def test_tasks_stand_where_they_belong(evaluation: Path) -> None:
    text = (evaluation / "report.md").read_text()
    tax, harms = text.split("## The alignment tax")[1].split("## Harms")
    rows = {tuple(c.strip() for c in line.split("|")[1:4]): line for line in tax.splitlines() if line.count("|") > 4}
    assert ("squad", "f1", "100") in rows
    assert ("squad", "f1 answerable", "61") in rows  # of some items only
    assert "0.610 [0.512, 0.708]" in rows["piqa", "acc", ""]
    assert "xstest" in harms
    assert "xstest" not in tax


def test_results_that_another_evaluation_left_are_not_this_ones(evaluation: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(evaluation, tmp_path / "copy")
    about = json.loads((copy / "evaluation.json").read_text())
    about["sections"] = {"outputs": 1.0, "preference": 1.0}
    (copy / "evaluation.json").write_text(json.dumps(about))
    (copy / "tasks" / "sft").mkdir(parents=True)
    (copy / "tasks" / "sft" / "squad.json").write_text(json.dumps(made_up.task("squad", "sft", f1=0.5)))
    assert main(["report", str(copy), "--tensorboard", "false"]) == 0
    there = set(re.findall(r'<section id="([^"]+)"', (copy / "report.html").read_text()))
    assert not there & {"tax", "harms", "trust"}
    assert "preference" in there


def test_models_that_another_evaluation_left_are_not_this_ones(evaluation: Path, tmp_path: Path) -> None:
    """Their prompts may be other ones under the same ids."""
    copy = shutil.copytree(evaluation, tmp_path / "copy")
    row = json.loads((copy / "generations" / "sft.jsonl").read_text().splitlines()[0])
    (copy / "generations" / "older.jsonl").write_text(json.dumps(row | {"response": "of another evaluation"}) + "\n")
    assert main(["report", str(copy), "--tensorboard", "false"]) == 0
    assert "of another evaluation" not in (copy / "report.md").read_text()
    (copy / "evaluation.json").unlink()
    assert main(["report", str(copy), "--tensorboard", "false"]) == 0
    assert "of another evaluation" in (copy / "report.md").read_text()


def test_training_prompts_among_held_out_ones_are_said(evaluation: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(evaluation, tmp_path / "copy")
    path = copy / "results" / "trust.json"
    record = json.loads(path.read_text())
    for found in ({"held_out_prompts_in_training": 7}, {"made_from": {"held_out_prompts_in_training": 7}}):
        path.write_text(json.dumps(record | {"result": record["result"] | found}))
        assert main(["report", str(copy), "--tensorboard", "false"]) == 0
        text = (copy / "report.md").read_text()
        assert "7 prompts of these rankings are training prompts too" in text.split("## Can the reward")[1]


def test_results_of_another_shape_are_left_out(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    for name, value in {
        "outputs": {"models": {"a": None, "b": {"kl": "x"}}},
        "preference": [],
        "trust": {"slices": 3},
    }.items():
        (results / f"{name}.json").write_text(json.dumps({"result": value}))
    assert main(["report", str(tmp_path), "--tensorboard", "false"]) == 0
    assert "<section" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d.rmdir(), "is not a directory"),
        (lambda d: None, "holds nothing to report on"),
        (lambda d: (d / "evaluation.json").write_text("{"), "evaluation.json cannot be read"),
        (
            lambda d: ((d / "generations").mkdir(), (d / "generations" / "a.jsonl").write_text("{\n")),
            "a.jsonl:1: broken JSON",
        ),
    ],
)
def test_what_is_wrong_is_one_line(make: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "evaluation"
    directory.mkdir()
    make(directory)
    assert main(["report", str(directory)]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


PROBE_HEAD = """<script>window.problems = [];
addEventListener("error", (e) => problems.push(e.message));
addEventListener("securitypolicyviolation", (e) => problems.push("policy: " + e.blockedURI));
const warn = console.error; console.error = (...all) => { problems.push(all.join(" ")); warn(...all); };
</script>"""
PROBE_END = """<script>setTimeout(() => {
  const before = document.querySelectorAll(".sample").length;
  document.querySelectorAll("details").forEach((d) => { d.open = true; });
  const wide = [...document.querySelectorAll("body *")].filter((e) => !e.closest(".scroll, pre, svg")
    && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.tagName + "." + e.className);
  const cut = [...document.querySelectorAll("svg")].filter((s) => s.getClientRects().length).filter((s) =>
    [...s.querySelectorAll("text")].some((t) => { const r = t.getBoundingClientRect(), box = s.getBoundingClientRect();
      return r.right > box.right + 4 || r.left < box.left - 4; })).map((s) => s.getAttribute("aria-label").slice(0, 9));
  const search = document.getElementById("search");
  search.value = "TOPIC 17."; search.dispatchEvent(new Event("input"));
  setTimeout(() => { parent.document.documentElement.dataset.probe = JSON.stringify({ problems, wide, cut, before,
    width: innerWidth, scroll: document.documentElement.scrollWidth, title: document.title,
    found: document.querySelectorAll(".sample").length, marked: document.querySelectorAll("mark").length,
    paper: getComputedStyle(document.body).backgroundColor,
    unnamed: [...document.querySelectorAll("button, input, [tabindex='0']")].filter((e) =>
      !(e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && e.labels.length))).length }); }, 400);
}, 400);</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
@pytest.mark.parametrize(("width", "dark"), [(360, False), (1280, True)])
def test_it_renders(evaluation: Path, tmp_path: Path, width: int, dark: bool) -> None:
    assert CHROMIUM is not None
    page = (evaluation / "report.html").read_text()
    inner = page.replace("<head>", f"<head>{PROBE_HEAD}", 1).replace("</body>", PROBE_END)
    # A frame has the width it is given; the window of a headless browser is never narrower than 500.
    frame = (
        f'<body style="margin:0"><iframe style="border:0;width:{width}px;height:900px" srcdoc="{html.escape(inner)}">'
    )
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{frame}</iframe>")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [CHROMIUM, *flags.split(), "--disable-component-update", "--disable-sync", "--virtual-time-budget=4000"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--dump-dom"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run([*command, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, timeout=120)
    probed = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert probed is not None, done.stderr[-2000:]
    found = json.loads(html.unescape(probed[1]))
    assert found["problems"] == []
    assert found["title"] == "base · sft · ppo · ppo_ptx"
    assert found["width"] == width
    assert (found["wide"], found["cut"]) == ([], [])
    assert found["scroll"] <= width
    assert found["before"] == 5
    assert (found["found"], found["marked"]) == (1, 1)
    assert found["unnamed"] == 0
    assert found["paper"] == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_round_few_and_inside(low: float, span: float, about: int) -> None:
    found = ticks(low, low + span, about)
    assert len(found) <= 2.5 * about + 1
    assert all(low - 1e-6 * span <= t <= low + span + 1e-6 * span for t in found)
    assert all(b > a for a, b in pairwise(found))


def test_scales() -> None:
    assert [Scale(0, 10, 100, 200)(v) for v in (0, 5, 10)] == [100, 150, 200]
    root = Scale(0, 16, 0, 4, root=True)
    assert [root(v) for v in (0, 1, 4, 9, 16)] == [0, 1, 2, 3, 4]
    assert root.ticks(4) == [0, 1, 4, 9]


def test_thinning_keeps_the_mean() -> None:
    steps, values = thinned(list(map(float, range(1000))), [float(i % 7) for i in range(1000)], 100)
    assert len(steps) == 100
    assert steps[-1] == 999
    assert sum(values) / 100 == pytest.approx(sum(i % 7 for i in range(1000)) / 1000)


def test_curves_break_where_values_are_no_numbers() -> None:
    drawing = curves([Curve("train", [0, 1, 2, 3, 4], [1, 2, float("nan"), 4, 5])], 300, "x")
    lines = [m for m in drawing.marks if isinstance(m, Line) and m.color == "s0"]
    assert [len(line.points) for line in lines] == [2, 2]


@pytest.mark.parametrize("marks", [[Mark("a", 0.0, 1.0, 1.0, 1.0)], [Mark("a", 0.0, 0.0, 0.0, 0.0)] * 2])
def test_a_single_point_can_be_drawn(marks: list[Mark]) -> None:
    for root in (False, True):
        dots = [m for m in plane(marks, 300, "x", "y", root=root).marks if isinstance(m, Dot)]
        assert all(0 <= dot.at[0] <= 300 and 0 <= dot.at[1] <= 320 for dot in dots)


def test_drawings_escape_text_and_become_pixels() -> None:
    drawing = Drawing(
        60, 40, [Label((5, 20), "<b>&", "ink"), Dot((30, 20), "s1", "square", 6), Line([(0, 1), (60, 1)])]
    )
    assert "<b>" not in svg(drawing, 'a "title" <x>')
    ElementTree.fromstring(svg(drawing, 'a "title" <x>', standalone=True))
    found = pixels(drawing, 1)
    assert found.shape == (40, 60, 3)
    assert tuple(found[20, 30]) == (0xD5, 0x5E, 0x00)
