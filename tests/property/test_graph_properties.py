"""Orders, cycles and references, whatever the graph and the payload."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from core.cloud.queue.graph import check_graph, heads, rename_references, resolve
from core.errors import DependencyCycle
from core.json_types import dumps, loads

KEYS = [f"k{number}" for number in range(8)]
scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab${}.k01 ", max_size=12)
payloads = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=3)
)
graphs = st.dictionaries(st.sampled_from(KEYS), st.lists(st.sampled_from([*KEYS, "outside"]), max_size=3))


def reachable(graph, start):
    seen, stack = set(), [start]
    while stack:
        for parent in graph.get(stack.pop(), ()):
            if parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return seen


@given(graphs)
def test_a_graph_is_put_in_order_or_one_of_its_cycles_is_named(graph):
    cyclic = any(key in reachable(graph, key) for key in graph)
    try:
        order = check_graph(graph)
    except DependencyCycle as error:
        assert cyclic
        named = error.message.split(": ")[1].rstrip(".").split(" -> ")
        assert named[0] == named[-1]
        assert all(later in graph and earlier in graph[later] for earlier, later in itertools.pairwise(named))
        return
    assert not cyclic
    assert sorted(order) == sorted(graph)
    place = {key: index for index, key in enumerate(order)}
    assert all(place[parent] < place[key] for key in graph for parent in graph[key] if parent in graph)


@given(payloads)
def test_an_escaped_payload_comes_back_as_it_was(payload):
    escaped = loads(dumps(payload).replace("${", "$${"))
    assert heads(escaped) == set()
    assert resolve(escaped, {"a": "never", "b": "never", "k0": "never"}) == payload


@given(payloads)
def test_renaming_first_or_resolving_at_once_comes_to_the_same(payload):
    results = {"a": {"b": [1, "${a}"]}, "b": "text", "k0": None}
    names = {"a": "0" * 16, "b": "1" * 16, "k0": "2" * 16}
    renamed = rename_references(payload, names)
    by_id = {names[key]: value for key, value in results.items()}

    def outcome(action):
        try:
            return action()
        except Exception as error:
            return type(error)

    assert outcome(lambda: resolve(renamed, by_id)) == outcome(lambda: resolve(payload, results))
