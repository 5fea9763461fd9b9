"""Pytrees as nested dicts of named leaves, and back.

Owned here: which keys lead to which leaf, the rules that name the children of a node, and the
name of each leaf in a store. How one key is spelled as part of a path is `names`'.

    dict, nnx.State, FrozenDict, FlatMapping      their keys
    namedtuple, dataclass, Equinox, Flax          their fields
    list, tuple                                   list_element_{i}
    a registered node that names no children      unknown~pytree~leaf~{i}
    a type with a rule of its own                 what the rule says
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey
from jaxtyping import PyTree

from jaxstore.errors import FormatError, MismatchError
from jaxstore.names import Key, encode_key

Keys = tuple[Any, ...]  # from the root to a leaf; each is a `names.Key` if the leaf is stored
Children = list[tuple[Any, PyTree]]
Rule = Callable[[Any], Mapping[Any, PyTree] | Iterable[tuple[Any, PyTree]]]

_rules: dict[type, Rule] = {}


@dataclass(frozen=True, slots=True)
class Leaf:
    """One array of a pytree: where it is in the tree, and where in a store."""

    keys: tuple[Key, ...]  # true keys, () for a tree that is a bare leaf
    name: str  # the keys as path parts, "mlp/w"


def register_dictionize_rule[R: Rule](type: type) -> Callable[[R], R]:
    """Decorator: how nodes of a type, and of its subclasses, become a dict of their children.

    The type must be a pytree node; the rule takes a node and returns its children by name, as
    a dict or as pairs. It must work with leaves of any kind, and give every leaf once.

    Raises:
        ValueError: The type has a rule already.

    >>> @jax.tree_util.register_pytree_node_class
    ... class Walker:
    ...     def __init__(self, position): self.position = position
    ...     def tree_flatten(self): return (self.position,), None
    ...     @classmethod
    ...     def tree_unflatten(cls, _, children): return cls(*children)
    >>> pytree_to_dict(Walker(1.0))
    {'unknown~pytree~leaf~0': 1.0}
    >>> @register_dictionize_rule(Walker)
    ... def walker_to_dict(walker): return {"position": walker.position}
    >>> pytree_to_dict(Walker(1.0))
    {'position': 1.0}
    """

    def register(rule: R) -> R:
        if type in _rules:
            raise ValueError(f"a dictionize rule for {type.__name__} is already registered.")
        _rules[type] = rule
        return rule

    return register


def pytree_to_dict(tree: PyTree) -> Any:
    """The tree with each node as a dict of its children; a bare leaf, and None, is itself.

    Raises:
        FormatError: A node gives several children the same name.

    >>> pytree_to_dict({"a": 0.0, "b": {"b1": [0.0, 0.1], "b2": 0.0}})
    {'a': 0.0, 'b': {'b1': {'list_element_0': 0.0, 'list_element_1': 0.1}, 'b2': 0.0}}
    """
    if tree is None or _is_leaf(tree):
        return tree
    return {key: pytree_to_dict(child) for key, child in _named_children(tree)}


def dict_to_pytree(pytree_as_dict: Any, target: PyTree) -> PyTree:
    """The leaves of the dict in the structure of the target, whose own leaves do not matter.

    Nodes without leaves (None, empty containers) come from the target: the dict need not have
    them.

    Raises:
        MismatchError: The dict lacks a leaf of the target, or has others; the message says where.

    >>> tree = {"a": 0.0, "b": {"b1": [0.0, 0.1], "b2": 0.0}}
    >>> dict_to_pytree(pytree_to_dict(tree)["b"], tree["b"])
    {'b1': [0.0, 0.1], 'b2': 0.0}
    """
    keys = pytree_dict_keys(target)
    found = dict(_pick(pytree_as_dict, nest(zip(keys, range(len(keys)), strict=True)), ()))
    return jax.tree.unflatten(jax.tree.structure(target), [found[i] for i in range(len(keys))])


def pytree_dict_keys(tree: PyTree) -> list[Keys]:
    """For each leaf, in the order of `jax.tree.leaves`, the keys that lead to it in the dict.

    Raises:
        FormatError: A node gives several children the same name, or a rule not every leaf once.

    >>> pytree_dict_keys({"a": [0.0, 1.0], "b": 2.0})
    [('a', 'list_element_0'), ('a', 'list_element_1'), ('b',)]
    """
    return [keys for keys, _ in _keyed_leaves(tree)]


def nest(items: Iterable[tuple[Keys, Any]]) -> Any:
    """The nested dict of values by keys, as `pytree_to_dict` gives it; keys () are the value.

    >>> nest([(("a", "b"), 1), (("a", "c"), 2)])
    {'a': {'b': 1, 'c': 2}}
    >>> nest([((), 1)])
    1
    """
    return _nest((), list(items))


def leaf_names(
    tree: PyTree, *, reserved: frozenset[str] = frozenset(), bare: str = "sample"
) -> list[Leaf]:
    """The leaves of a tree, in the order of `jax.tree.leaves`, each under a name of its own.

    Names differ by more than case, since some file systems do not tell case apart.

    Args:
        tree: A pytree whose keys are those `encode_key` knows.
        reserved: Names that no part of a name may be, such as those of dimensions.
        bare: Name of a tree that is a single leaf.

    >>> [leaf.name for leaf in leaf_names({"a/b": 1, "a": {"b": [2, 3]}})]
    ['a/b/list_element_0', 'a/b/list_element_1', 'a%2Fb']
    >>> leaf_names(0.0)
    [Leaf(keys=(), name='sample')]
    """
    paths = pytree_dict_keys(tree)
    # The dict is an ordered set: a key comes once per leaf below it.
    siblings: defaultdict[tuple[Keys, str], dict[Any, None]] = defaultdict(dict)
    for keys in paths:
        for depth, key in enumerate(keys):
            siblings[keys[:depth], encode_key(key).lower()][key] = None

    def part(keys: Keys, depth: int) -> str:
        alike = siblings[keys[:depth], encode_key(keys[depth]).lower()]
        return encode_key(keys[depth], reserved=reserved, fold_case=len(alike) > 1)

    leaves = [
        Leaf(keys, "/".join(part(keys, depth) for depth in range(len(keys))) or bare)
        for keys in paths
    ]
    counts = Counter(leaf.name.lower() for leaf in leaves)
    if clash := [leaf.keys for leaf in leaves if counts[leaf.name.lower()] > 1]:
        raise FormatError(f"leaves would share a name in the store: {clash}. Rename their keys.")
    return leaves


def _is_leaf(node: PyTree) -> bool:
    return jax.tree_util.all_leaves((node,))


def _named_children(node: PyTree) -> Children:
    """The children of a node by name."""
    if rule := _rule_of(node):
        return list(dict(rule(node)).items())
    children = [(_key_of(entry), child) for entry, child in _entries(node)]
    _check_names(children)
    if type(node) is dict:  # JAX sorts it, and a reader expects it as it was
        named = dict(children)
        return [(key, named[key]) for key in node]
    return children


def _keyed_leaves(node: PyTree) -> list[tuple[Keys, Any]]:
    """The leaves of a node, in the order of `jax.tree.leaves`, each with its keys."""
    if _is_leaf(node):
        return [((), node)]
    rule = _rule_of(node)
    if rule is None:
        return _below([(_key_of(entry), child) for entry, child in _entries(node)])
    # A rule may order the children as it likes, and two leaves may be one object; so unlike
    # objects take their places, and show which leaf went where.
    leaves, treedef = jax.tree.flatten(node)
    marks = [object() for _ in leaves]
    marked = dict(rule(jax.tree.unflatten(treedef, marks)))
    given = [(id(mark), keys) for keys, mark in _below(list(marked.items()))]
    if sorted(mark for mark, _ in given) != sorted(map(id, marks)):
        raise FormatError(
            f"the dictionize rule for {type(node).__name__} gives {len(given)} leaves under "
            f"{[keys for _, keys in given]}, the node has {len(leaves)}. "
            f"A rule must give every leaf of its node once, and nothing else."
        )
    keys_of = dict(given)
    return [(keys_of[id(mark)], leaf) for mark, leaf in zip(marks, leaves, strict=True)]


def _below(children: Children) -> list[tuple[Keys, Any]]:
    _check_names(children)
    return [((key, *keys), leaf) for key, child in children for keys, leaf in _keyed_leaves(child)]


def _check_names(children: Children) -> None:
    if repeated := [k for k, n in Counter(key for key, _ in children).items() if n > 1]:
        raise FormatError(
            f"a pytree node gives several children the same name: {repeated}. Give its type a "
            "rule that tells them apart, with `register_dictionize_rule`."
        )


def _entries(node: PyTree) -> list[tuple[Hashable, PyTree]]:
    """The children of a node as JAX orders them, None and empty ones too."""
    flat, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    return [(path[0], child) for path, child in flat]


def _key_of(entry: Hashable) -> Any:
    match entry:
        case DictKey():
            return entry.key
        case GetAttrKey():
            return entry.name
        case SequenceKey():
            return f"list_element_{entry.idx}"
        case FlattenedIndexKey():
            return f"unknown~pytree~leaf~{entry.key}"
    return jax.tree_util.keystr((entry,), simple=True)


def _rule_of(node: PyTree) -> Rule | None:
    """The rule of the nearest class, if any."""
    mro = type(node).__mro__
    if fitting := [kind for kind in _rules if isinstance(node, kind)]:
        return _rules[min(fitting, key=lambda k: mro.index(k) if k in mro else len(mro))]
    # Haiku's FlatMapping is flat for JAX and names nothing, but it is a mapping.
    if isinstance(node, Mapping) and any(
        isinstance(e, FlattenedIndexKey) for e, _ in _entries(node)
    ):
        return dict
    return None


def _pick(found: Any, wanted: Any, path: Keys) -> Iterable[tuple[int, Any]]:
    """The values of a dict, each with the number that `wanted`, of the same shape, has there."""
    place = f"at {path or 'the root'}"
    if not isinstance(wanted, dict):
        if found is None or isinstance(found, Mapping):
            raise MismatchError(f"{place}: the target has a leaf, the dict has {_told(found)}.")
        yield wanted, found
        return
    if not wanted and not _has_leaves(found):
        return
    if not isinstance(found, Mapping):
        raise MismatchError(
            f"{place}: the target has a node with {list(wanted)}, the dict has {_told(found)}."
        )
    absent = [key for key in wanted if key not in found]
    extra = [key for key in found if key not in wanted and _has_leaves(found[key])]
    if absent or extra:
        raise MismatchError(
            f"{place}: the dict has {list(found)}, the target {list(wanted)}: "
            f"missing {absent}, not in the target {extra}."
        )
    for key, below in wanted.items():
        yield from _pick(found[key], below, (*path, key))


def _has_leaves(found: Any) -> bool:
    # JAX cannot flatten a dict that mixes types of keys; an OrderedDict becomes such a one here.
    if isinstance(found, Mapping):
        return any(map(_has_leaves, found.values()))
    return bool(jax.tree.leaves(found))


def _told(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a dict with {list(found)}"
    return "None" if found is None else f"a leaf of type {type(found).__name__}"


def _nest(path: Keys, items: Sequence[tuple[Keys, Any]]) -> Any:
    if any(not keys for keys, _ in items):
        if len(items) > 1:
            raise FormatError(
                f"{path} leads to a value, and to others: {[(*path, *keys) for keys, _ in items]}."
            )
        return items[0][1]
    groups: dict[Any, list[tuple[Keys, Any]]] = {}
    for keys, value in items:
        groups.setdefault(keys[0], []).append((keys[1:], value))
    return {key: _nest((*path, key), group) for key, group in groups.items()}
