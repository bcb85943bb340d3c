"""The page about a sweep: what stands in it, that it needs nothing else, and how a real browser shows it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from hpcseg.errors import BadInput
from hpcseg.results.collect import collect
from hpcseg.results.export import make_tables
from hpcseg.results.page import report as report_module
from hpcseg.results.page.report import render_report, write_report
from hpcseg.results.page.sheets import direction_of
from hpcseg.results.tables.published import read_publication
from tests.results.browser import Browser, browsing, missing_programs
from tests.results.conftest import SweepFiles

TEMPLATES = Path(report_module.__file__).parent / "templates"
TITLE = "Livers & <b>few</b> labels"


class Page(HTMLParser):
    """Tags with their attributes, and the text of every table's cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.cells: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag in {"td", "th"}:
            self.cells.append("")
            self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = "" if tag == self._open else self._open

    def handle_data(self, data: str) -> None:
        if self._open:
            self.cells[-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def row(self, first: str) -> list[str]:
        """The cells after the one with this text, to the end of a run's row."""
        return [cell.strip() for cell in self.cells[self.cells.index(first) :]][:20]


def attempt(number: int, cause: str, hours: float, *, lost_s: float = 0.0, detail: str = "") -> str:
    began = 1.7e9 + 1e5 * number
    value = {
        "event": "end",
        "number": number,
        "job": f"77_{number}",
        "node": f"gpu0{number}",
        "began": began,
        "gpus": 2,
    }
    return json.dumps(value | {"ended": began + 3600 * hours, "cause": cause, "lost_s": lost_s, "detail": detail})


def write_run(root: Path, run: str, config: dict[str, Any], cases: int) -> Path:
    """run.json as the planner writes it."""
    names = [f"liver_{number}" for number in range(6)]
    source = {"store": "pack/Livers/store.h5", "cases": names[:cases]}
    scans = [{"name": name, "image": f"/scans/{name}.nii.gz"} for name in names[3:]]
    value: dict[str, Any] = {"stage": "train", "id": run, "config": config, "labelled": source, "validation": source}
    value |= {"spacing_zyx": [2.5, 2.5, 2.5], "classes": [[1, 2]], "padding": -1000, "pyramid_clip": None}
    folder = root / "train" / run
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(value | {"validation_scans": scans, "test_scans": scans[:1]}))
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, as_scores: Callable[..., Any]) -> Path:
    """Two strategies, n of 2 and 8, two folds: one run failed, one was preempted on the way, one was never begun."""
    files = SweepFiles(tmp_path_factory.mktemp("study") / "runs")
    files.record["title"], files.record["overrides"] = TITLE, ["training.epochs=<5>"]
    files.record["file"] = "/home/me/study.toml"
    tables = [{"name": "table7", "title": "DSC of <livers>", "published": "table7"}]
    figures = [{"name": "boxes", "title": "DSC on the test set", "kind": "box", "set": "test"}]
    files.record |= {"tables": tables, "figures": [*figures, {"name": "curves", "kind": "learning"}]}
    for strategy, gain in (("baseline", 0.0), ("transfer", 0.1)):
        for n in (2, 8):
            for fold in (0, 1):
                mean = 0.6 + gain + 0.01 * n
                missing = strategy == "transfer" and n == 8
                scores = as_scores(validation=[mean, mean + 0.02], test=[mean - 0.1, mean])
                run = files.run(None if missing else scores, strategy=strategy, labelled=n, fold=fold)
                config = files.record["runs"][-1]["config"]
                if not (missing and fold):
                    write_run(files.root, run, config, n)
    (files.root / "train/baseline-2-0/attempts.jsonl").write_text(
        attempt(1, "preempted", 1.0, lost_s=900, detail="a job of <higher> priority") + "\n" + attempt(2, "done", 2.5)
    )
    failed = {"time": time.time(), "cause": "python", "message": "ValueError: loss is not finite", "traceback": ""}
    (files.root / "train/transfer-8-0/error.json").write_text(json.dumps(failed))
    root: Path = files.save()
    (root / "sweeps/study/study.toml").write_text("[sweep]\n# <script>alert(1)</script>\n")
    return root


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    return render_report(collect(study))


def test_the_page_shows_the_tables_numbers(page: str) -> None:
    cells = [re.sub(r"\s+", " ", cell).strip() for cell in Page(page).cells]
    assert any(cell.startswith("0.630 ± 0.012") for cell in cells)  # baseline, n = 2, validation: 0.62, 0.64 twice
    assert any(cell.startswith("0.730 ± 0.012 +0.100") for cell in cells)
    assert sum(cell.startswith("– (0/2)") for cell in cells) == 2
    assert "6 of 8" in page


def test_the_published_numbers_stand_beside(study: Path, page: str) -> None:
    tables = make_tables(collect(study), beside=read_publication("paper"))
    assert "0.815 ± 0.028" in render_report(collect(study), tables=tables)
    assert "0.815 ± 0.028" not in page


def test_a_difference_has_a_colour_only_where_its_interval_leaves_zero_out(sweep_files: Any, as_scores: Any) -> None:
    files = sweep_files()
    for strategy, scores in (
        ("baseline", [0.50, 0.60, 0.70]),
        ("transfer", [0.52, 0.63, 0.71]),
        ("multitask", [0.55, 0.57, 0.72]),
        ("masked", [0.48, 0.57, 0.69]),
        ("teacher", [0.5002, 0.6003, 0.7001]),  # for certain, by nothing that is printed
    ):
        files.run(as_scores(test=scores), strategy=strategy, labelled=2, fold=0)
    files.record["tables"] = [{"name": "t", "sets": ["test"], "baseline": "baseline"}]
    (table,) = make_tables(collect(files.save()))
    found = [direction_of(table, ("test", 2, column)) for column in ("transfer", "multitask", "masked", "teacher")]
    assert found == ["better", "", "worse", ""]


def test_it_loads_nothing(page: str) -> None:
    found = Page(page)
    links = [value for _, tag in found.tags for key, value in tag.items() if key in {"src", "href", "action", "srcset"}]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert not {"iframe", "object", "embed", "base", "form"} & {tag for tag, _ in found.tags}
    styles = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in styles and "@import" not in styles
    policy = found.all("meta")[1]["content"]
    script = page[page.index("<script>") + len("<script>") : page.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}';" in policy


def test_what_people_wrote_is_text_and_no_html(page: str) -> None:
    found = Page(page)
    assert len(found.all("script")) == 1
    assert "Livers &amp; &lt;b&gt;few&lt;/b&gt; labels" in page and "a job of &lt;higher&gt; priority" in page
    assert "training.epochs=&lt;5&gt;" in page and "&lt;script&gt;alert(1)" in page and "DSC of &lt;livers&gt;" in page


def test_it_says_what_is_missing_and_why(page: str) -> None:
    found = Page(page)
    assert "ValueError: loss is not finite" in found.row("transfer-8-0")[1]
    assert "hpcseg sweep /home/me/study.toml" in found.row("transfer-8-0")[2]
    assert found.row("transfer-8-1")[1] == "not planned yet"


def test_it_counts_what_interruptions_cost(page: str) -> None:
    cost = Page(page).row("Training: Baseline")
    assert cost[1:7] == ["4", "4", "2", "3.5 h", "8.5", "0.5"]  # 2 GPUs for 3.5 h, and 0.5 GPU hours of three results
    assert "1 preempted, 0.50 GPU hours lost" in page


def test_it_tells_data_and_configuration(page: str) -> None:
    found = Page(page)
    assert found.row("strategy")[1] == '"baseline" (4), "transfer" (4)'
    assert found.row("labelled")[1:3] == ["2 (4), 8 (4)", '"all"']
    assert "liver_0, liver_1" in page and "Fold 1, validation:" in page


def test_it_can_be_read_by_everyone(page: str) -> None:
    found = Page(page)
    assert found.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in found.all("img"))
    assert all(header["scope"] in {"col", "row", "colgroup"} for header in found.all("th"))
    names = [tag["id"] for _, tag in found.tags if "id" in tag]
    assert len(names) == len(set(names))
    targets = {link["href"][1:] for link in found.all("a") if link["href"].startswith("#")}
    assert targets <= set(names)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(scheme: str) -> None:
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", blocks[0 if scheme == "light" else 1]))

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ink in ("ink", "soft", "link", "good", "bad", "warn"):
        for ground in ("page", "raised", "mark"):
            low, high = sorted((luminance(colours[ink]), luminance(colours[ground])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)  # WCAG 2, level AA


def test_only_a_report_of_the_same_sweep_is_replaced(study: Path, tmp_path: Path) -> None:
    collection, path = collect(study), tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(BadInput, match="is no report of hpcseg"):
        write_report(collection, path)
    assert path.read_text() == "mine"
    assert write_report(collection, path, force=True) == path
    before = path.stat().st_ino
    assert write_report(collection, tmp_path) == path  # a folder gets report.html
    assert path.stat().st_ino != before  # replaced as a whole
    path.write_text(path.read_text().replace('content="study"', 'content="other"'))
    with pytest.raises(BadInput, match="report of another sweep"):
        write_report(collection, path)


def test_figures_that_cannot_be_drawn_are_named(study: Path) -> None:
    notes: list[str] = []
    page = render_report(collect(study), note=notes.append)
    assert len(Page(page).all("img")) == 1
    assert notes == ["figure curves is not drawn: no run has a history yet"]
    assert "Learning curves: not drawn, no run has a history yet." in page


def test_a_thousand_runs_are_folded_into_groups_beside_a_file_of_all(
    sweep_files: Any, as_scores: Callable[..., Any], tmp_path: Path
) -> None:
    files = sweep_files()
    files.record["figures"] = [{"name": "boxes", "kind": "box"}]
    for number in range(1000):
        scores = None if number % 10 == 0 else as_scores(test=[0.7 + number % 7 / 50])
        run = files.run(scores, strategy=("baseline", "transfer")[number % 2], labelled=2, fold=number // 2)
        write_run(files.root, run, files.record["runs"][-1]["config"], 2)
    collection, rows = collect(files.save()), tmp_path / "all & none-runs.csv"
    rows.write_text("of somebody")
    with pytest.raises(BadInput, match="in the way"):
        write_report(collection, tmp_path / "all & none.html")
    page = write_report(collection, tmp_path / "all & none.html", force=True).read_text()
    assert len(page) < 300_000
    assert "All 1,000 runs, in 2 groups" in page and "100 runs that did not simply come to their result" in page
    assert '<a href="all%20%26%20none-runs.csv" download>all &amp; none-runs.csv</a>' in page
    listed = {tag.get("id", "").removeprefix("run-") for tag in Page(page).all("tr")}
    assert {run.id for run in collection.runs if run.result is None} == listed - {""}
    row = Page(page).row("train")
    mean = fmean(0.7 + number % 7 / 50 for number in range(0, 1000, 2) if number % 10)
    assert row[:4] == ["train", "Baseline", "2", "500"] and row[5] == f"{mean:.3f}"
    lines = list(csv.DictReader(rows.open()))
    assert [line["run"] for line in lines] == [run.id for run in collection.runs]
    assert (lines[1]["strategy"], lines[1]["state"], lines[1]["dsc_test"]) == ("S-TL", "done", "0.72")


def test_the_command_writes_it_among_the_results(study: Path) -> None:
    from typer.testing import CliRunner

    from hpcseg.cli import app

    done = CliRunner().invoke(app, ["report", "study", "--runs", str(study), "--metric", "hd95", "--metric", "dsc"])
    path = study / "results/study/report.html"
    assert done.exit_code == 0 and done.stdout.splitlines()[-1] == str(path)
    assert {"table-table7", "table-table7-hd95"} <= {tag.get("id") for _, tag in Page(path.read_text()).tags}


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if missing_programs():
        pytest.skip(f"no browser here: {', '.join(missing_programs())} missing (Debian: chromium, chromium-driver)")
    with browsing(tmp_path_factory.mktemp("browser")) as found:
        yield found


def pixels(png: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def open_page(browser: Browser, page: str, tmp_path: Path) -> str:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    browser.look(1200, 900)
    browser.logs("browser"), browser.requests()
    browser.open(path.as_uri())
    return path.as_uri()


def test_a_browser_shows_it_and_has_no_complaint(browser: Browser, page: str, tmp_path: Path) -> None:
    address = open_page(browser, page, tmp_path)
    assert browser.run("return document.title") == f"{TITLE} · study"
    light = pixels(browser.picture())
    browser.look(1200, 900, dark=True)
    dark = pixels(browser.picture())
    assert len(np.unique(light.reshape(-1, 3), axis=0)) > 50
    assert light.mean() > 200 and dark.mean() < 80
    assert browser.run("return Array.from(document.images, image => image.naturalWidth > 100)") == [True]
    assert browser.logs("browser") == []
    assert [url for url in browser.requests() if not url.startswith("data:")] == [address]


def test_tables_are_sorted_and_filtered(browser: Browser, page: str, tmp_path: Path) -> None:
    open_page(browser, page, tmp_path)
    column = """const rows = document.querySelectorAll("#all-runs tbody tr:not([hidden])");
      return Array.from(rows, row => row.cells[%d].textContent.trim());"""
    click = """const head = document.querySelectorAll("#all-runs thead th")[%d];
      head.querySelector("button").click(); return head.getAttribute("aria-sort");"""
    test_dsc = 7
    assert browser.run(click % test_dsc) == "ascending"
    assert browser.run(column % test_dsc) == ["0.570", "0.570", "0.630", "0.630", "0.670", "0.670", "", ""]
    assert browser.run(click % test_dsc) == "descending"
    assert browser.run(column % test_dsc) == ["0.670", "0.670", "0.630", "0.630", "0.570", "0.570", "", ""]
    browser.run("""const field = document.querySelector("[data-filter] input");
      field.value = "transfer failed"; field.dispatchEvent(new Event("input"));""")
    assert browser.run(column % 0) == ["transfer-8-0"]


def test_figures_are_enlarged(browser: Browser, page: str, tmp_path: Path) -> None:
    open_page(browser, page, tmp_path)
    browser.run("""document.querySelector("figure button").click()""")
    assert browser.run("""return document.querySelector("dialog").open""") is True
    assert browser.run(
        """const large = document.querySelector("dialog img"); return large.width === large.naturalWidth"""
    )


def test_a_telephone_scrolls_tables_in_their_boxes(browser: Browser, page: str, tmp_path: Path) -> None:
    open_page(browser, page, tmp_path)
    browser.look(390, 844)
    assert browser.run("return document.documentElement.scrollWidth") == 390
    assert (
        browser.run("""const box = document.querySelector("#all-runs").parentNode;
      return box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX""")
        == "auto"
    )
    shown = """const box = document.querySelector("#all-runs").parentNode;
      return [box.hasAttribute("data-more"), getComputedStyle(box.previousElementSibling).visibility]"""
    assert browser.run(shown) == [True, "visible"]  # that there is more to the right
    browser.run("""const box = document.querySelector("#all-runs").parentNode; box.scrollLeft = box.scrollWidth;
      box.dispatchEvent(new Event("scroll"));""")
    assert browser.run(shown) == [False, "hidden"]


def test_it_is_as_wide_as_the_window(browser: Browser, page: str, tmp_path: Path) -> None:
    open_page(browser, page, tmp_path)
    browser.look(1600, 900)
    assert browser.run("return document.querySelector('main').clientWidth") > 1500


def test_it_can_be_read_without_scripts_and_printed(browser: Browser, page: str, tmp_path: Path) -> None:
    open_page(browser, page, tmp_path)
    assert browser.pdf().startswith(b"%PDF")
    browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        open_page(browser, page, tmp_path)
        tree = browser.devtools("DOM.getDocument", depth=-1)
        text = json.dumps(tree)
        assert "0.630 \\u00b1 0.012" in text and "BUTTON" not in text
        assert len(np.unique(pixels(browser.picture()).reshape(-1, 3), axis=0)) > 50
    finally:
        browser.devtools("Emulation.setScriptExecutionDisabled", value=False)
