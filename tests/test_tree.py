"""Pytrees become dicts of named leaves and come back."""

import collections
import dataclasses
import functools
import re
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxstore import tree as io
from jaxstore.errors import FormatError, MismatchError
from jaxstore.names import MAX_BYTES, keys_from_json, keys_to_json
from jaxstore.tree import (
    Leaf,
    dict_to_pytree,
    leaf_names,
    nest,
    pytree_dict_keys,
    pytree_to_dict,
    register_dictionize_rule,
)


class Point(NamedTuple):
    x: Any
    y: Any


@functools.partial(jax.tree_util.register_dataclass, data_fields=["z", "a"], meta_fields=["label"])
@dataclasses.dataclass
class Params:
    z: Any
    a: Any
    label: str = "p"

    def __post_init__(self):
        assert self.z is None or np.ndim(self.z) == 0  # naming must not rebuild a node


@jax.tree_util.register_pytree_node_class
class Nameless:
    def __init__(self, *children):
        self.children = children

    def tree_flatten(self):
        return self.children, None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


class Ruled(Nameless):
    """Has a rule that turns the order around."""


class Careless(Nameless):
    """Has a rule that forgets a leaf."""


for kind in (Ruled, Careless):
    jax.tree_util.register_pytree_node_class(kind)


@register_dictionize_rule(Ruled)
def ruled_to_dict(node):
    return ((f"part{i}", node.children[i]) for i in reversed(range(len(node.children))))


@register_dictionize_rule(Careless)
def careless_to_dict(node):
    return {"first": node.children[0]}


def same(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        a is b or a == b for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def assert_named(tree, expected):
    """The tree is this dict, its keys lead to its leaves in JAX's order, and it comes back."""
    as_dict = pytree_to_dict(tree)
    keys = pytree_dict_keys(tree)
    leaves = jax.tree.leaves(tree)
    assert as_dict == expected
    assert [functools.reduce(lambda d, k: d[k], path, as_dict) for path in keys] == leaves
    assert same(dict_to_pytree(as_dict, tree), tree)
    assert same(dict_to_pytree(nest(zip(keys, leaves, strict=True)), tree), tree)
    names = [leaf.name for leaf in leaf_names(tree)]
    assert len({name.lower() for name in names}) == len(leaves)
    assert [leaf.keys for leaf in leaf_names(tree)] == keys


class TestReferenceExamples:
    """The three examples of jax_sgmc's documentation, as they print there."""

    def test_pytree_to_dict(self, capsys):
        some_tree = {"a": 0.0, "b": {"b1": [0.0, 0.1], "b2": 0.0}}
        as_dict = io.pytree_to_dict(some_tree)
        print(as_dict)
        assert capsys.readouterr().out == (
            "{'a': 0.0, 'b': {'b1': {'list_element_0': 0.0, 'list_element_1': 0.1}, 'b2': 0.0}}\n"
        )

    def test_dict_to_pytree(self, capsys):
        some_tree = {"a": 0.0, "b": {"b1": [0.0, 0.1], "b2": 0.0}}
        as_dict = io.pytree_to_dict(some_tree)
        sub_pytree = io.dict_to_pytree(as_dict["b"], some_tree["b"])
        print(sub_pytree)
        assert capsys.readouterr().out == "{'b1': [0.0, 0.1], 'b2': 0.0}\n"

    def test_pytree_dict_keys(self, capsys):
        pytree = {"a": [0.0, 1.0], "b": 2.0}
        pytree_as_dict = io.pytree_to_dict(pytree)
        pytree_leaves = jax.tree.leaves(pytree_as_dict)
        pytree_keys = io.pytree_dict_keys(pytree_as_dict)
        print(pytree_leaves)
        print(pytree_keys)
        assert capsys.readouterr().out == (
            "[0.0, 1.0, 2.0]\n[('a', 'list_element_0'), ('a', 'list_element_1'), ('b',)]\n"
        )


class TestRules:
    @pytest.mark.parametrize(
        ("tree", "expected"),
        [
            (1.0, 1.0),
            ({"b": 1, "a": 2}, {"b": 1, "a": 2}),
            ({3: 1, 1: 2}, {3: 1, 1: 2}),
            (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
            (collections.defaultdict(list, {"b": 1, "a": 2}), {"b": 1, "a": 2}),
            ([1, [2]], {"list_element_0": 1, "list_element_1": {"list_element_0": 2}}),
            ((1, 2), {"list_element_0": 1, "list_element_1": 2}),
            (Point(1, {"a": 2}), {"x": 1, "y": {"a": 2}}),
            (Params(1, [2, 3]), {"z": 1, "a": {"list_element_0": 2, "list_element_1": 3}}),
            (
                Nameless(1, {"w": 2}),
                {"unknown~pytree~leaf~0": 1, "unknown~pytree~leaf~1": {"w": 2}},
            ),
            (
                jax.tree_util.Partial(print, 1, end=2),
                {
                    "unknown~pytree~leaf~0": {"list_element_0": 1},
                    "unknown~pytree~leaf~1": {"end": 2},
                },
            ),
            (Ruled(1, Ruled(1, 2), 1), {"part0": 1, "part1": {"part0": 1, "part1": 2}, "part2": 1}),
            (collections.OrderedDict([("a", {}), (0, None)]), {"a": {}, 0: None}),
            (None, None),
            ((), {}),
            ({"a": None, "b": [], "c": {}, "d": 1}, {"a": None, "b": {}, "c": {}, "d": 1}),
            (
                Point(None, [None, 1]),
                {"x": None, "y": {"list_element_0": None, "list_element_1": 1}},
            ),
        ],
    )
    def test_each_node_becomes_this_dict(self, tree, expected):
        assert_named(tree, expected)

    def test_a_dict_keeps_its_order_and_its_keys_follow_jax(self):
        tree = {"b": 1, "a": 2}
        assert list(pytree_to_dict(tree)) == ["b", "a"]
        assert pytree_dict_keys(tree) == [("a",), ("b",)]

    def test_a_rule_holds_for_subclasses_and_the_nearest_one_wins(self):
        @jax.tree_util.register_pytree_node_class
        class Near(Ruled):
            pass

        assert pytree_to_dict(Near(1)) == {"part0": 1}
        register_dictionize_rule(Near)(lambda node: {"near": node.children[0]})
        assert pytree_to_dict(Near(1)) == {"near": 1}
        assert pytree_to_dict(Ruled(1)) == {"part0": 1}

    def test_a_second_rule_for_a_type_is_refused(self):
        with pytest.raises(ValueError, match="rule for Ruled is already registered"):
            register_dictionize_rule(Ruled)(ruled_to_dict)

    def test_a_rule_that_forgets_a_leaf_is_an_error(self):
        with pytest.raises(FormatError, match=r"rule for Careless gives 1 leaves.*the node has 2"):
            pytree_dict_keys([Careless(1, 2)])

    def test_a_node_that_names_two_children_alike_is_an_error(self):
        class Twins:
            pass

        jax.tree_util.register_pytree_with_keys(
            Twins, lambda _: ((("x", 1), ("x", 2)), None), lambda *_: Twins()
        )
        for verb in (pytree_dict_keys, pytree_to_dict):
            with pytest.raises(FormatError, match=r"same name: \['x'\]"):
                verb(Twins())

    def test_keys_of_a_node_that_invents_its_own_kind_are_their_text(self):
        class Odd:
            pass

        jax.tree_util.register_pytree_with_keys(
            Odd, lambda _: ((("x", 1), (7, 2)), None), lambda *_: Odd()
        )
        assert pytree_to_dict(Odd()) == {"x": 1, "7": 2}


class TestLibraries:
    def test_flax_frozen_dict(self):
        core = pytest.importorskip("flax.core")
        assert_named(core.freeze({"b": {"c": 1}, "a": 2}), {"b": {"c": 1}, "a": 2})

    def test_flax_struct_dataclass(self):
        struct = pytest.importorskip("flax.struct")

        @struct.dataclass
        class State:
            z: Any
            a: Any
            fixed: int = struct.field(pytree_node=False, default=3)

        assert_named(State(1, [2]), {"z": 1, "a": {"list_element_0": 2}})

    def test_flax_nnx_state(self):
        nnx = pytest.importorskip("flax.nnx")

        class Net(nnx.Module):
            def __init__(self):
                self.w = nnx.Param(jnp.ones(2))
                self.layers = nnx.List([nnx.Param(jnp.zeros(1))])

        state = nnx.state(Net())
        assert pytree_dict_keys(state) == [("layers", 0, "value"), ("w", "value")]
        assert [leaf.name for leaf in leaf_names(state)] == ["layers/%i0/value", "w/value"]
        back = dict_to_pytree(pytree_to_dict(state), state)
        assert type(back) is nnx.State
        assert same(jax.tree.map(np.sum, back), jax.tree.map(np.sum, state))

    def test_haiku_flat_mapping(self):
        haiku = pytest.importorskip("haiku")
        tree = {"mlp/b": {"w": 1, "b": 2}, "a": {"w": 3}, "none": None}
        flat = haiku.data_structures.to_immutable_dict(tree)
        assert pytree_to_dict(flat) == tree
        assert pytree_dict_keys(flat) == [("a", "w"), ("mlp/b", "b"), ("mlp/b", "w")]
        assert [leaf.name for leaf in leaf_names(flat)] == ["a/w", "mlp%2Fb/b", "mlp%2Fb/w"]
        back = dict_to_pytree(pytree_to_dict(flat), flat)
        assert type(back) is type(flat)
        assert same(back, flat)

    def test_equinox_module(self):
        equinox = pytest.importorskip("equinox")
        linear = equinox.nn.Linear(2, 3, key=jax.random.key(0))
        assert pytree_dict_keys({"net": linear}) == [("net", "weight"), ("net", "bias")]
        back = dict_to_pytree(pytree_to_dict(linear), linear)
        assert type(back) is type(linear)
        np.testing.assert_array_equal(back(jnp.ones(2)), linear(jnp.ones(2)))

    def test_nothing_heavy_is_imported(self):
        heavy = "{'flax', 'haiku', 'equinox', 'h5py', 'zarr', 'mpi4py'}"
        code = f"import sys, jaxstore.tree; print(sorted({heavy} & sys.modules.keys()))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


class TestLeaves:
    def test_typed_keys_and_shapes_are_leaves(self):
        tree = {"key": jax.random.key(1), "shape": jax.ShapeDtypeStruct((2,), "float32")}
        assert pytree_dict_keys(tree) == [("key",), ("shape",)]
        back = dict_to_pytree(pytree_to_dict(tree), tree)
        assert back["key"] is tree["key"]
        assert back["shape"] is tree["shape"]

    def test_tracers_are_leaves(self):
        @jax.jit
        def through(tree):
            return dict_to_pytree(pytree_to_dict(tree), tree)

        assert through(Point(1, [2])) == Point(1, [2])

    def test_the_targets_leaves_need_not_be_like_those_of_the_dict(self):
        draws = {"theta": np.zeros((4, 100, 3)), "log_prob": np.zeros((4, 100))}
        target = Params(z=None, a=Point(0, 0))
        back = dict_to_pytree({"a": {"x": draws["theta"], "y": draws["log_prob"]}}, target)
        assert back.a.x is draws["theta"]
        assert back.a.y is draws["log_prob"]


class TestMismatch:
    target = {"a": [1, 2], "b": {"c": 3}}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("found", "message"),
        [
            (
                {"a": {"list_element_0": 1}, "b": {"c": 3}},
                "at ('a',): the dict has ['list_element_0'], the target ['list_element_0', "
                "'list_element_1']: missing ['list_element_1'], not in the target [].",
            ),
            (
                {"a": {"list_element_0": 1, "list_element_1": 2}, "b": {"c": 3, "d": 4}},
                "at ('b',): the dict has ['c', 'd'], the target ['c']: missing [], not in the "
                "target ['d'].",
            ),
            (
                {"a": 1, "b": {"c": 3}},
                "at ('a',): the target has a node with ['list_element_0', 'list_element_1'], the "
                "dict has a leaf of type int.",
            ),
            (
                {"a": {"list_element_0": 1, "list_element_1": 2}, "b": {"c": {"x": 3}}},
                "at ('b', 'c'): the target has a leaf, the dict has a dict with ['x'].",
            ),
            (
                {"a": {"list_element_0": 1, "list_element_1": 2}, "b": {"c": None}},
                "at ('b', 'c'): the target has a leaf, the dict has None.",
            ),
            (1.0, "at the root: the target has a node with ['a', 'b'], the dict has a leaf"),
        ],
    )
    def test_it_names_the_place_and_both_sides(self, found, message):
        with pytest.raises(MismatchError, match=re.escape(message)):
            dict_to_pytree(found, self.target)

    def test_a_value_where_the_target_has_none_is_not_dropped(self):
        with pytest.raises(MismatchError, match=r"not in the target \['b'\]"):
            dict_to_pytree({"a": 1, "b": 2}, {"a": 1, "b": None})
        with pytest.raises(MismatchError, match="the dict has a leaf of type int"):
            dict_to_pytree(1, None)


class TestNest:
    def test_a_bare_leaf_is_its_value(self):
        assert nest([((), 5)]) == 5

    def test_nothing_is_an_empty_dict(self):
        assert nest([]) == {}

    def test_values_that_are_dicts_stay_values(self):
        assert nest([(("a",), {"mean": 1})]) == {"a": {"mean": 1}}

    @pytest.mark.parametrize(
        "paths",
        [[(), ("a",)], [("a",), ("a",)], [("a",), ("a", "b")], [("x", "a", "b"), ("x", "a")]],
    )
    def test_a_path_through_a_value_is_refused(self, paths):
        with pytest.raises(FormatError, match="leads to a value, and to others"):
            nest((path, 0) for path in paths)


class TestLeafNames:
    def test_a_bare_leaf_has_the_name_asked_for(self):
        assert leaf_names(1.0) == [Leaf((), "sample")]
        assert leaf_names(1.0, bare="value") == [Leaf((), "value")]

    def test_a_tree_without_leaves_has_no_names(self):
        assert leaf_names({"a": None, "b": ()}) == []

    def test_a_slash_in_a_key_is_not_a_step(self):
        names = leaf_names({"a/b": 1, "a": {"b": 2}})
        assert names == [Leaf(("a", "b"), "a/b"), Leaf(("a/b",), "a%2Fb")]

    def test_reserved_names_are_escaped_at_every_depth(self):
        tree = {"chain": 1, "a": {"chain": 2, "draws": 3}}
        names = [leaf.name for leaf in leaf_names(tree, reserved=frozenset({"chain"}))]
        assert names == ["a/%63hain", "a/draws", "%63hain"]

    def test_siblings_that_differ_by_case_alone_differ_on_every_file_system(self):
        names = [leaf.name for leaf in leaf_names({"T": 1, "t": {"T": 2}, "Sigma": 3})]
        assert names == ["Sigma", "%54", "t/T"]

    def test_numbers_and_their_text_differ(self):
        tree = collections.OrderedDict([(3, 1), ("3", 2), ("%i3", 3), (3.5, 4), ((3,), 5)])
        names = [leaf.name for leaf in leaf_names(tree)]
        assert names == ["%i3", "3", "%25i3", "%r3%2E5", "%l%i3%z"]

    def test_long_keys_keep_their_true_keys(self):
        long = "layer/" * 100
        first, second = leaf_names({long + "1": 1, long + "2": 2})
        assert first.keys == (long + "1",)
        assert first.name != second.name
        assert max(len(first.name), len(second.name)) <= MAX_BYTES

    def test_names_that_still_meet_are_refused(self):
        tree = collections.OrderedDict([(float("nan"), 1), (float("nan"), 2)])
        with pytest.raises(FormatError, match=r"share a name in the store.*Rename"):
            leaf_names(tree)

    def test_a_key_that_names_nothing_is_refused(self):
        with pytest.raises(FormatError, match="type frozenset cannot name an array"):
            leaf_names({frozenset({1}): 1})


unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # shared cores

text = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(
    ["", "..", "/", "a/b", "a", "A", "chain", "CHAIN", "zarr.json", "list_element_0", "x" * 300]
)
trees = st.recursive(
    st.integers() | st.none(),
    lambda inner: (
        st.dictionaries(text, inner, max_size=4)
        | st.dictionaries(st.integers(), inner, max_size=3)
        | st.dictionaries(text | st.integers() | st.binary(), inner, max_size=4).map(
            collections.OrderedDict
        )
        | st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(Point, inner, inner)
        | st.builds(Nameless, inner, inner)
        | st.builds(Ruled, inner, inner)
    ),
    max_leaves=12,
)


@unhurried
@given(trees)
def test_any_tree_comes_back_from_its_dict(tree):
    leaves = jax.tree.leaves(tree)
    keys = pytree_dict_keys(tree)
    assert same(dict_to_pytree(pytree_to_dict(tree), tree), tree)
    assert same(dict_to_pytree(nest(zip(keys, leaves, strict=True)), tree), tree)


@unhurried
@given(trees)
def test_the_leaves_of_any_tree_have_names_of_their_own(tree):
    leaves = leaf_names(tree, reserved=frozenset({"chain"}))
    assert [leaf.keys for leaf in leaves] == pytree_dict_keys(tree)
    assert len({leaf.name.lower() for leaf in leaves}) == len(leaves)
    assert all(keys_from_json(keys_to_json(leaf.keys)) == leaf.keys for leaf in leaves)
    folded = {leaf.name.lower() for leaf in leaves}
    for name in folded:  # no array lies inside another
        steps = name.split("/")
        assert all("/".join(steps[:i]) not in folded for i in range(1, len(steps)))
        assert "chain" not in steps
