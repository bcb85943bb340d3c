"""The harness itself: figures are registered and documented, results are merged, the page says what was measured.

What the benchmarks measure is not tested here; `make bench` does that.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks import material, measure, registry, report, timing
from tests.benchmarks.figures import Benchmark, Figure, Measured, at_least, at_most, benchmark
from tests.benchmarks.registry import BENCHMARKS, FIGURES, chosen
from tests.benchmarks.report import Results, page, read_results, verdict, write_results

MACHINE = {"cpu": "Abacus 2", "cores": "2", "memory": "24 GiB", "python": "3.11.7"}
NOTES = report.NOTES.read_text(encoding="utf-8")


@benchmark(
    Figure("speed", "how fast it is", "×", "by looking", at_least(4)),
    Figure("size", "how large it is", "MB", "by weighing", at_most(10)),
)
def fruit() -> Measured:
    return Measured({"speed": 5.0, "size": 11.0})


@benchmark(Figure("taste", "how sweet it is", "spoons", "by tasting"))
def flavour() -> Measured:
    return Measured({"taste": 2.0})


PAIR: tuple[Benchmark, ...] = (fruit, flavour)


def found(date: str = "2026-01-01", cpu: str = "Abacus 2", **figures: float) -> dict[str, object]:
    """What a benchmark's own process hands back."""
    return {"figures": figures, "date": date, "hardware": MACHINE | {"cpu": cpu}, "details": {"peel": "thick"}}


def row(text: str, figure: str) -> list[str]:
    """Cells of a figure's row in the table."""
    line = next(line for line in text.splitlines() if line.startswith(f"| `{figure}`"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_decorated_function_is_a_benchmark_of_its_module() -> None:
    assert (fruit.title, fruit.peers) == ("test_benchmarks.fruit", False)
    assert fruit.measure().figures.keys() == {figure.name for figure in fruit.figures}


def test_every_figure_says_what_it_is_and_how_it_is_measured() -> None:
    assert len(FIGURES) == sum(len(one.figures) for one in BENCHMARKS), "a name is used twice"
    for figure in FIGURES.values():
        assert figure.name.isidentifier()
        assert all((figure.meaning, figure.unit, figure.how))
        assert "\n" not in figure.meaning + figure.how
        assert "|" not in figure.meaning + figure.how


def test_every_registered_figure_stands_on_the_page_in_docs() -> None:
    text = (report.DOCS / "benchmarks.md").read_text(encoding="utf-8")
    for figure in FIGURES.values():
        assert row(text, figure.name)[1] == figure.meaning
        assert f"- `{figure.name}`: {figure.how}." in text


def test_the_page_in_docs_shows_the_figures_in_docs() -> None:
    results = read_results()
    assert results.figures.keys() <= FIGURES.keys()
    assert all(isinstance(value, float | int) for value in results.figures.values())
    assert (report.DOCS / "benchmarks.md").read_text(encoding="utf-8") == page(results, BENCHMARKS, NOTES)


def test_results_in_docs_name_no_path_and_no_host() -> None:
    for path in report.DOCS.glob("benchmarks*"):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("://", "/root", "/home", "/tmp", str(material.ROOT)))


def test_merging_replaces_what_was_measured_and_keeps_the_rest() -> None:
    before = Results().merged(fruit.title, found(speed=3.0, size=9.0)).merged(flavour.title, found(taste=1.0))
    after = before.merged(fruit.title, found("2026-02-02", speed=5.0, size=11.0))
    assert after.figures == {"speed": 5.0, "size": 11.0, "taste": 1.0}
    assert after.sources[fruit.title]["date"] == "2026-02-02"
    assert after.sources[flavour.title]["date"] == "2026-01-01"


def test_the_json_file_is_a_flat_mapping_from_name_to_number(tmp_path: Path) -> None:
    write_results(Results().merged(fruit.title, found(speed=5.0, size=11.0)), PAIR, tmp_path)
    assert json.loads((tmp_path / "benchmarks.json").read_text()) == {"speed": 5.0, "size": 11.0}
    assert read_results(tmp_path).sources[fruit.title]["hardware"] == MACHINE


def test_figures_that_are_measured_no_more_are_dropped(tmp_path: Path) -> None:
    results = Results().merged(flavour.title, found(taste=1.0)).merged("old.one", found(gone=1.0))
    write_results(results, PAIR, tmp_path)
    assert read_results(tmp_path).figures == {"taste": 1.0}
    assert read_results(tmp_path).sources.keys() == {flavour.title}


def test_the_page_gives_value_bound_verdict_and_date() -> None:
    text = page(Results().merged(fruit.title, found(speed=5.0, size=11.0)), PAIR, NOTES)
    assert row(text, "speed") == ["`speed`", "how fast it is", "5 ×", "≥ 4", "yes", "2026-01-01"]
    assert row(text, "size")[2:5] == ["11 MB", "≤ 10", "**no**"]
    assert row(text, "taste")[2:] == ["not measured yet", "", "", ""]
    assert "- `speed`: by looking." in text
    assert "| peel | thick |" in text


def test_a_value_of_zero_keeps_its_date_and_verdict() -> None:
    text = page(Results().merged(fruit.title, found(speed=5.0, size=0.0)), PAIR, NOTES)
    assert row(text, "size")[2:] == ["0 MB", "≤ 10", "yes", "2026-01-01"]


def test_the_page_tells_machines_apart_only_where_there_are_several() -> None:
    one = Results().merged(fruit.title, found(speed=5.0, size=1.0)).merged(flavour.title, found(taste=1.0))
    assert "- Abacus 2, 2 cores usable, 24 GiB memory; python 3.11.7\n" in page(one, PAIR, NOTES)
    two = one.merged(flavour.title, found(cpu="Slide rule", taste=1.0))
    assert "- Slide rule, 2 cores usable, 24 GiB memory; python 3.11.7 (test_benchmarks.flavour)\n" in page(
        two, PAIR, NOTES
    )


def test_the_page_ends_with_what_is_written_by_hand() -> None:
    assert page(Results(), PAIR, "## Tried and lost\n\nA faster fruit.\n").endswith(
        "## Tried and lost\n\nA faster fruit.\n"
    )
    assert "## Tried and lost" in NOTES


@pytest.mark.parametrize(("value", "said"), [(4.0, "yes"), (3.9, "no"), (None, "")])
def test_a_bound_holds_at_its_limit(value: float | None, said: str) -> None:
    assert verdict(fruit.figures[0], value) == said


@pytest.mark.parametrize("name", ["volumes", "packing", "volumes.packing", "pack_peak_ratio"])
def test_benchmarks_are_chosen_by_room_name_or_figure(name: str) -> None:
    assert "volumes.packing" in [one.title for one in chosen([name])]
    assert chosen([]) == list(BENCHMARKS)


def test_an_unknown_name_is_refused_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["pack_peak"])
    assert ended.value.code == 2
    assert "pack_peak_ratio" in capsys.readouterr().err


def test_sides_take_turns() -> None:
    order: list[str] = []
    timed = timing.interleaved(3, lambda: order.append("a"), lambda: order.append("b"))
    assert "".join(order) == "abababab", "one warm round, then three"
    assert len(timed) == 3
    assert timing.median_ratio([(2.0, 1.0), (9.0, 3.0), (8.0, 1.0)], 0, 1) == 3.0
    assert timing.fastest([(2.0, 1.0), (9.0, 0.5)], 1) == 0.5


def test_a_fresh_process_is_another_one() -> None:
    assert timing.in_fresh_process(os.getpid) != os.getpid()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_sees_what_was_freed_again() -> None:
    with timing.PeakMemory() as peak:
        pages = mmap.mmap(-1, 16 << 20)  # not from memory that this process kept for itself
        pages.write(b"x" * (16 << 20))
        pages.close()
    assert 15 << 20 < peak.bytes < 40 << 20


def test_material_is_made_once_and_again_when_what_it_depends_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(material, "KEPT", tmp_path / "kept")
    source = tmp_path / "source.txt"
    source.write_text("1")
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("made")

    first = material.kept("thing.h5", [source, "word"], make)
    assert material.kept("thing.h5", [source, "word"], make) == first
    assert len(made) == 1
    source.write_text("2")
    second = material.kept("thing.h5", [source, "word"], make)
    assert list(second.parent.iterdir()) == [second], "what is out of date is removed"


def test_phantoms_are_made_anew_when_the_code_that_draws_them_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(material, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(material, "write_phantoms", lambda folder, **_: folder.mkdir())
    depends: list[Path] = []

    def kept(name: str, given: list[Path | str], make: Callable[[Path], object]) -> Path:
        depends.extend(one for one in given if isinstance(one, Path))
        return plain(name, given, make)

    plain = material.kept
    monkeypatch.setattr(material, "kept", kept)
    assert material.phantoms(1, 8).is_dir()
    assert {"anatomy.py", "canvas.py", "dataset.py"} <= {path.name for path in depends}


def test_a_process_hands_back_figures_date_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BENCHMARKS", PAIR)
    measure.main(fruit.title, tmp_path / "found.json")
    handed = json.loads((tmp_path / "found.json").read_text())
    assert handed["figures"] == {"speed": 5.0, "size": 11.0}
    assert {"cpu", "cores", "memory", "python", "numpy", "torch", "h5py"} <= handed["hardware"].keys()
    assert Results().merged(fruit.title, handed).figures == handed["figures"]


def test_without_the_real_scans_packing_is_skipped_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(material, "REAL", tmp_path / "nothing")
    measure.main("volumes.packing", tmp_path / "found.json")
    assert "real CTs" in json.loads((tmp_path / "found.json").read_text())["skipped"]


def test_without_their_environment_peers_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "PEERS", tmp_path / "nothing")
    assert command.main(["nnunet"]) == 0
    assert "skipped: no environment" in capsys.readouterr().out


def test_the_harness_is_a_command() -> None:
    words = [sys.executable, "-m", "tests.benchmarks", "--help"]
    said = subprocess.run(words, cwd=material.ROOT, capture_output=True, text=True, check=True).stdout
    assert "--page" in said
