"""Results of many dependencies, read when somebody asks for them."""

import copy
import json
import pickle

import pytest

from core.cloud.running.stored_results import FEW, REMEMBERED, StoredResults, results_of


class Tasks:
    def __init__(self, count):
        self.stored = {f"t{number}": json.dumps({"n": number}) for number in range(count)}
        self.reads = []

    def results(self, task_ids):
        self.reads.append(list(task_ids))
        return {each: self.stored[each] for each in task_ids if each in self.stored}


def test_those_of_a_few_are_a_plain_dict_read_at_once():
    tasks = Tasks(FEW)
    results = results_of(tasks, list(tasks.stored))
    assert type(results) is dict
    assert results["t3"] == {"n": 3}
    assert len(tasks.reads) == 1
    assert results_of(tasks, ()) == {}


def test_those_of_many_are_read_one_by_one_and_only_when_looked_at():
    tasks = Tasks(300)
    results = results_of(tasks, list(tasks.stored))
    assert (len(results), "t7" in results, "x" in results, list(results)[:2]) == (300, True, False, ["t0", "t1"])
    assert tasks.reads == []
    assert results["t7"] == {"n": 7}
    assert results["t7"] is results["t7"]
    assert tasks.reads == [["t7"]]
    assert results == {f"t{number}": {"n": number} for number in range(300)}
    assert dict(results) == results
    assert len(results._recent) == REMEMBERED
    assert "t299" in repr(results)


def test_what_is_no_dependency_is_no_key():
    results = StoredResults(["t0"], {"t0": 1}.__getitem__)
    with pytest.raises(KeyError):
        results["t9"]
    assert results.get("t9") is None


def test_a_copy_for_another_process_is_a_plain_dict_with_all_of_them():
    results = results_of(Tasks(FEW + 1), [f"t{number}" for number in range(FEW + 1)])
    for copied in (pickle.loads(pickle.dumps(results)), copy.copy(results)):
        assert type(copied) is dict
        assert copied == results
