from __future__ import annotations

from pathlib import Path

from hpcseg.paths import ARRAYS_FOLDER, NODES_FILE
from hpcseg.slurm.nodes import REMEMBERED_S, Node, parse_nodes, recent_bad, remember_bad, to_exclude

NODES = [Node("n1", "mixed", 4000), Node("n2", "down*", 4000), Node("n3", "idle", 8000)]


def test_failures_are_remembered_for_a_day(tmp_path: Path) -> None:
    assert recent_bad(tmp_path, 0.0) == ()
    remember_bad(tmp_path, "n1", "it failed", "4_2", 1000.0)
    remember_bad(tmp_path, "n2", "it failed", "4_2", 2000.0)
    with (tmp_path / ARRAYS_FOLDER / NODES_FILE).open("a") as file:
        file.write('{"node": "n3", "ti')  # torn
    assert recent_bad(tmp_path, 3000.0) == ("n1", "n2")
    assert recent_bad(tmp_path, 1500.0 + REMEMBERED_S) == ("n2",)
    remember_bad(tmp_path, "n4", "it failed", "4_2", 3000.0)
    assert recent_bad(tmp_path, 3000.0) == ("n1", "n2", "n4")


def test_what_cannot_be_written_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "slurm").write_text("in the way")
    remember_bad(tmp_path, "n1", "it failed", "4_2", 1000.0)
    assert recent_bad(tmp_path, 1000.0) == ()


def test_bad_nodes_are_left_out_where_enough_others_work() -> None:
    assert to_exclude(["n1", "n9"], NODES) == ("n1",)
    assert to_exclude(["n1", "n3"], NODES) == ()
    assert to_exclude(["n1"], NODES, needed=2) == ()
    assert to_exclude(["n1"], []) == ()


def test_sinfo_is_read_node_by_node() -> None:
    assert parse_nodes("n1|mixed|4000\nn1|mixed|4000\nn2|down*|4000\nn3|idle|8000+\nrubbish\n") == NODES
    assert [node.works for node in NODES] == [True, False, True]
    assert not Node("a", "drained", 1).works and not Node("a", "idle*", 1).works and Node("a", "allocated", 1).works
