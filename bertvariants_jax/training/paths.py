"""Names and layer axes of a parameter tree's leaves, which the optimizer and the sharding rules go by."""

import jax


def path_name(path) -> str:
    """`("encoder", "layers", ..., "kernel")` of a key path as "encoder/layers/.../kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def without(tree: dict, places: tuple[str, ...], prefix: str = "") -> dict:
    """A nested dict without what stands at these places ("teacher", "encoder/embeddings/position_embeddings")."""
    return {key: without(value, places, f"{prefix}{key}/") if isinstance(value, dict) else value
            for key, value in tree.items() if f"{prefix}{key}" not in places}


def merged(tree: dict, values: dict) -> dict:
    """A nested dict with the leaves of `values`, which has some of its places, instead of its own."""
    return {**tree, **{key: merged(tree[key], value) if isinstance(value, dict) else value
                       for key, value in values.items()}}


def layer_axes(tree) -> dict[str, int]:
    """How many leading axes of each leaf count layers, by leaf name.

    A component named `layers` adds one where its leaves are stacked: all of them have one more axis,
    of one common size. Layers that share their parameters are named the same way but are not stacked:
    their LayerNorm scale has a single axis. Works on anything that repeats the parameters' paths, such
    as optimizer state.
    """
    leaves = {path_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    axes = dict.fromkeys(leaves, 0)
    stacks: dict[str, list[str]] = {}
    for name in leaves:
        parts = name.split("/")
        for end, part in enumerate(parts[:-1], start=1):
            if part == "layers":
                stacks.setdefault("/".join(parts[:end]), []).append(name)
    for prefix in sorted(stacks, key=lambda prefix: prefix.count("/")):  # outer stacks first
        members = stacks[prefix]
        deep = all(len(leaves[name]) >= axes[name] + 2 for name in members)
        if deep and len({leaves[name][axes[name]] for name in members}) == 1:
            for name in members:
                axes[name] += 1
    return axes

