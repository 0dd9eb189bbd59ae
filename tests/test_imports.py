"""The import law: who may import whom, and what must never be on the import path."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bertvariants_jax"

# room -> the rooms that it may import from (itself aside); ARCHITECTURE.md draws it
ARROWS = {
    "layers": set(),
    "objectives": set(),
    "names": set(),
    "files": set(),
    "text": {"files"},
    "data": {"text", "files"},
    "training": {"objectives", "files"},
    "models": {"layers", "objectives", "names"},
    "tasks": {"data", "objectives", "names", "files"},
    "hf": {"models", "names", "text", "layers", "files"},
    "pipelines": {"tasks", "hf", "data"},
    "origin": {"hf", "models", "data", "text"},
    "remarks": {"hf", "layers", "models", "text", "training"},
    "recipe": {"origin", "remarks", "hf", "models", "tasks", "training", "data", "text", "objectives", "layers", "files"},
    "cli": {"recipe", "pipelines", "hf", "models", "training", "tasks", "data", "text", "names", "export"},
    "export": {"hf", "names", "flat", "files"},
    "flat": set(),
    "__main__": {"cli"},
    "__init__": {"hf", "models", "pipelines"},
}
HEAVY = ("tensorflow", "torch", "transformers")
WITHOUT_JAX = ("text", "names", *(f"data.{path.stem}" for path in sorted((PACKAGE / "data").glob("[!_]*.py"))),
               "tasks.metrics", "tasks.entities", "tasks.squad_score", "hf.tensors", "hf.torch_file", "hf.tf_bundle", "hf.hub")


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module == PACKAGE.name:
                yield from (f"{PACKAGE.name}.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path):
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imports(path):
        if module.split(".")[0] == PACKAGE.name:
            target = room(module)
            assert target == here or target in ARROWS[here], f"{here} may not import {module}"
        if module.split(".")[0] in HEAVY:
            assert path.name == "peer.py", f"{path.name} imports {module}"


def loaded_after(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; print(' '.join(sys.modules))"],
                          capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_nothing_heavy_is_imported():
    loaded = loaded_after("import bertvariants_jax as bv; bv.load; bv.pipeline; import bertvariants_jax.cli, "
                          "bertvariants_jax.recipe")
    assert not loaded & set(HEAVY)


def test_the_package_itself_is_cheap():
    loaded = loaded_after("import bertvariants_jax")
    assert not loaded & {"jax", "flax", "numpy", "tokenizers", "grain", *HEAVY}


def test_text_data_and_readers_need_no_jax():
    code = "; ".join(f"import bertvariants_jax.{module}" for module in WITHOUT_JAX)
    assert not loaded_after(code) & {"jax", "flax", *HEAVY}
