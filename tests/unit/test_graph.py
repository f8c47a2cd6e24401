"""Order, cycles and references."""

import pytest

from core.cloud.queue.graph import check_graph, check_references, heads, rename_references, resolve
from core.errors import DependencyCycle, InvalidArgument, Permanent

ID = "0123456789abcdef"


def test_an_order_that_already_holds_is_kept():
    assert check_graph({"c": [], "a": ["c"], "b": []}) == ["c", "a", "b"]


def test_each_task_comes_after_those_it_depends_on():
    order = check_graph({"report": ["parse", "fetch"], "parse": ["fetch"], "fetch": []})
    assert order == ["fetch", "parse", "report"]


def test_names_from_outside_the_graph_are_no_part_of_it():
    assert check_graph({"a": [ID]}) == ["a"]


@pytest.mark.parametrize(
    ("graph", "named"),
    [
        ({"a": ["a"]}, "a -> a"),
        ({"a": ["b"], "b": ["a"], "c": []}, "a"),
        ({"x": [], "a": ["c", "x"], "b": ["a"], "c": ["b"]}, "b"),
    ],
)
def test_a_cycle_is_refused_and_named(graph, named):
    with pytest.raises(DependencyCycle, match="wait for each other") as refused:
        check_graph(graph)
    assert named in refused.value.message
    assert "x" not in refused.value.message.split(":")[1]


def test_a_cycle_of_ten_thousand_is_found_and_named_in_few_words():
    graph = {str(n): [str((n + 1) % 10_000)] for n in range(10_000)}
    with pytest.raises(DependencyCycle) as refused:
        check_graph(graph)
    assert len(refused.value.message) < 300


def test_a_chain_of_ten_thousand_given_backwards_is_put_in_order():
    graph = {str(n): [str(n + 1)] if n < 9_999 else [] for n in range(10_000)}
    assert check_graph(graph) == [str(n) for n in reversed(range(10_000))]


RESULTS = {"a": {"rows": [1, {"x": "y"}], "text": "hi", "none": None, "1": "one"}, "b": "plain", ID: [True]}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("${a.rows}", [1, {"x": "y"}]),
        ("${a.rows.1.x}", "y"),
        ("${a.rows.0}", 1),
        ("${a.none}", None),
        ("${a.1}", "one"),
        ("${b}", "plain"),
        (f"${{{ID}.0}}", True),
        ("n=${a.rows.0}!", "n=1!"),
        ("${a.text} ${b}", "hi plain"),
        ("is ${a.none} and ${a.rows}", 'is null and [1,{"x":"y"}]'),
        ("${HOME} ${other.path}", "${HOME} ${other.path}"),
        ("$${a.text}", "${a.text}"),
        ("$${HOME} $$${a}", "${HOME} $${a}"),
        ("${a.text", "${a.text"),
        ("${}", "${}"),
        ("${a b}", "${a b}"),
        ("$a {a}", "$a {a}"),
        ({"deep": [{"er": "${b}"}], "n": 5, "${b}": 1}, {"deep": [{"er": "plain"}], "n": 5, "${b}": 1}),
    ],
)
def test_references_become_values_and_everything_else_stays(payload, expected):
    assert resolve(payload, RESULTS) == expected


def test_what_a_result_brings_in_is_not_read_again():
    assert resolve("${a} $${b}", {"a": "${b} $${c}", "b": "never"}) == "${b} $${c} ${b}"
    assert resolve("${a}", {"a": {"x": "${b}"}, "b": 1}) == {"x": "${b}"}


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ("${a.missing}", "has no 'missing'"),
        ("text ${a.rows.7}", "a list of 2"),
        ("${a.rows.-1}", "a list of 2"),
        ("${a.text.0}", "a str"),
        ("${a.none.x}", "null"),
    ],
)
def test_a_path_that_the_result_does_not_have_is_permanent_and_says_what_is_there(payload, message):
    with pytest.raises(Permanent, match="the result of a has no") as failed:
        resolve(payload, RESULTS)
    assert message in failed.value.message


def test_heads_are_what_looks_like_a_reference_in_values_but_not_in_names_or_escapes():
    assert heads({"${name}": ["${a.x} $${b}", {"c": "${c-1}"}, "${d e}", 3]}) == {"a", "c-1"}


NEAR = [
    ("${fetc}", "did you mean ${fetch}?"),
    ("${fetc.text}", "did you mean ${fetch}?"),
    ("Sum up: ${Fetch.text} and more", "did you mean ${fetch}?"),
    ("${analyse}", "did you mean ${analyze}?"),
    ("${HOME}", "there are: analyze, fetch; write $${HOME} for the plain text"),
    ("${item.field}", "write $${item} for the plain text"),
    ({"x": [{"y": "${fetsh}"}]}, "did you mean ${fetch}?"),
    ("${ fetch }", "write ${fetch}, or $${ fetch } for"),
    ("${ fetch.text }", "write ${fetch.text}"),
    ("${fetch[0].url}", "write ${fetch.0.url}"),
    ("${fetch['url']}", "write ${fetch.url}"),
    ("${fetch.}", "write ${fetch}"),
    ("${fetch..text}", "write ${fetch.text}"),
    ("${nobody.text}", "there are: analyze, fetch"),
]


@pytest.mark.parametrize(("payload", "fix"), NEAR)
def test_what_looks_like_a_reference_and_is_none_is_refused_with_the_nearest_key(payload, fix):
    with pytest.raises(InvalidArgument) as refused:
        check_references(payload, depends_on=["fetch", "analyze"], local_keys=["fetch", "analyze"])
    assert fix in refused.value.fix


@pytest.mark.parametrize(
    "payload",
    [
        "$${HOME}",
        "$${fetch.}",
        "$ {fetch}",
        "${}",
        "${a b}",
        "${x:-y}",
        "$fetch",
        "{fetch}",
        "${{ fetch }}",
        "${fetch} $${b}",
    ],
)
def test_what_is_no_reference_stays_what_it_is(payload):
    check_references(payload, depends_on=["fetch"], local_keys=["fetch"])


def test_a_reference_to_a_sibling_or_to_a_task_that_is_no_dependency_is_refused():
    with pytest.raises(InvalidArgument, match=r"\$\{b\}, which is not among"):
        check_references("${b.x}", depends_on=["a"], local_keys=["a", "b"])
    for dependencies in (["a"], []):
        with pytest.raises(InvalidArgument, match=ID):
            check_references({"x": [f"${{{ID}}}"]}, depends_on=dependencies)


def test_a_task_that_stands_alone_has_nothing_to_refer_to():
    check_references("echo ${HOME} ${item.field} ${ x }", depends_on=[])


def test_local_keys_are_renamed_and_escapes_are_not():
    payload = {"x": "${a.rows.0} ${other} $${a}", "y": ["${a}"]}
    assert rename_references(payload, {"a": ID}) == {"x": f"${{{ID}.rows.0}} ${{other}} $${{a}}", "y": [f"${{{ID}}}"]}
