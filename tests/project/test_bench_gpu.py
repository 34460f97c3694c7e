"""The benchmark of a GPU writes down what it has, whatever happens to a part of it: it may run only once."""

import json
import sys

import pytest

from bench.gpu import FITS, PARTS, Clock, Record, run_parts, summary

PART = """
import json, os, sys, time
path, part = sys.argv[1:3]
results = json.load(open(path)) if os.path.exists(path) else {}
results[part] = [{"figure": 1}]
json.dump(results, open(path, "w"))
if part == "dies":
    os.abort()
if part == "hangs":
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_part_that_dies_or_hangs_costs_only_what_it_has_not_written(tmp_path):
    path = tmp_path / "gpu.json"
    run_parts(path, [sys.executable, "-c", PART, str(path)], ["dies", "works"], seconds=60.0)
    run_parts(path, [sys.executable, "-c", PART, str(path)], ["hangs", "late"], seconds=1.0, grace=4.0)
    results = json.loads(path.read_text())
    assert results["dies"] == results["works"] == results["hangs"] == [{"figure": 1}]
    assert [failure["part"] for failure in results["failed"]] == ["dies", "hangs", "late"]
    assert [failure["why"] for failure in results["failed"][1:]] == ["hung", "skipped for lack of time"]


def test_a_figure_that_fails_is_written_down_as_such(tmp_path):
    record = Record(tmp_path / "gpu.json", "steps")
    record.guarded({"size": 1}, lambda: {"seconds": 0.5})
    record.guarded({"size": 2}, lambda: {"seconds": 1 / 0})
    rows = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert rows == [{"size": 1, "seconds": 0.5}, {"size": 2, "failed": "ZeroDivisionError: division by zero"}]


def test_the_summary_has_what_was_measured_and_nothing_else():
    case = next(iter(FITS))
    results = {
        "steps": [
            {"rule": "adam", "size": 1000, "seconds": 1e-5, "of_copy_bandwidth": 0.9},
            {"size": 2, "failed": "x"},
        ],
        "beside_pytorch": [{"size": 2000, "failed": "x"}],
        f"fits, {case}": [{"contender": "ours, cuda", "seconds_an_epoch": 0.25}],
    }
    table = summary(results)
    assert "| 1,000 | adam | 10.0 | 0.900 |" in table
    assert f"| {case} | ours, cuda | 0.2500 |" in table
    assert "2,000" not in table


def test_there_is_time_for_all_parts_or_it_says_what_is_left_out(capsys):
    assert all(f"fits, {case}" in PARTS for case in FITS)
    assert Clock(60.0).allows("anything", 5.0)
    assert not Clock(1.0).allows("something", 5.0)
    assert "skipped for lack of time: something" in capsys.readouterr().out
