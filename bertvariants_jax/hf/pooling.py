"""What a sentence-transformers folder says of its encoder beside the weights: read, and written again.

`modules.json` lists the steps from text to vector; each has a folder. `sentence_bert_config.json` lies beside
the network's own files, `config_sentence_transformers.json` in the folder itself.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertvariants_jax.files import write_file

MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max"}
SUPPORTED = ("Transformer", "Pooling", "Normalize", "Dropout")
PACKAGE = "sentence_transformers."
MODULES, PROMPTS, READING = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"


@dataclass(frozen=True)
class Pooling:
    """How a sentence encoder makes a vector of a text: "cls", "mean" or "max" of the hidden states, to length 1 or not.

    max_length: tokens that it reads of a text, None if its folder does not say. lowercase: whether it reads
    texts in lower case, whatever its tokenizer does. prompts: (name, text) of what it puts before texts;
    default_prompt: the name of the one that it puts there unless told otherwise. include_prompt: whether the
    prompt's tokens are pooled too. similarity: of two vectors, as the folder calls it ("cosine", "dot").
    unsupported: what else it does to texts or vectors, which is not done here.
    settings: the folder's own files by name, whose further entries are written again; of an encoder that does
    what is not supported, all files of its steps.
    """

    mode: str = "mean"
    normalize: bool = False
    max_length: int | None = None
    unsupported: tuple[str, ...] = ()
    lowercase: bool = False
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str | None = None
    include_prompt: bool = True
    similarity: str | None = None
    settings: Mapping[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    def prompt(self, name: str | None = None) -> str:
        """The prompt of this name, or the default one, "" without. Raises ValueError for an unknown name."""
        name = self.default_prompt if name is None else name
        known = dict(self.prompts)
        if name is not None and name not in known:
            raise ValueError(f"there is no prompt {name!r}; there are: {', '.join(known) or 'none'}")
        return known.get(name, "")


def network_folder(folder: Path) -> Path:
    """Where the network's files lie: in the folder, or in that of its Transformer (`0_Transformer`)."""
    for module in read_modules(folder) or ():
        inner = folder / Path(str(module.get("path") or "")).name
        if kind_of(module).endswith("Transformer") and (inner / "config.json").is_file():
            return inner
    return folder


def read_modules(folder: Path) -> list[dict[str, Any]] | None:
    """The steps of a sentence encoder, None in other folders. Raises ValueError for a file that is no such list."""
    path = folder / MODULES
    if not path.is_file():
        return None
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ValueError(f"{path} should hold a list of objects")
    return modules


def kind_of(module: Mapping[str, Any]) -> str:
    """The class of a step, of sentence-transformers' own without its package: another's Transformer is not theirs."""
    name = str(module.get("type", ""))
    return name.rsplit(".", 1)[-1] if name.startswith(PACKAGE) else name


def read_pooling(folder: str | Path) -> Pooling | None:
    """What a sentence-transformers folder says of its vectors, None in other folders.

    Raises ValueError for files that are no JSON objects.
    """
    folder = Path(folder)
    modules = read_modules(folder)
    if modules is None:
        return None
    kinds = [kind_of(module) for module in modules]
    unsupported = [kind for kind in kinds if kind not in SUPPORTED]
    pooled = next((module for module in modules if kind_of(module) == "Pooling"), {})
    path = folder / Path(str(pooled.get("path") or "")).name / "config.json"
    inner = network_folder(folder)
    reading = next((path for path in (inner / READING, *sorted(inner.glob("sentence_*_config.json"))) if path.is_file()), None)
    how = read_object(path) if pooled and path.is_file() else {}
    texts, words = read_object(reading), read_object(folder / PROMPTS)
    if not pooled:
        unsupported += [] if unsupported else ["no Pooling"]
    elif not path.is_file():
        unsupported.append(f"a Pooling without {path.parent.name}/config.json")
    if not unsupported and (kinds[:2] != ["Transformer", "Pooling"] or {"Transformer", "Pooling"} & set(kinds[2:])):
        unsupported.append(f"the steps {', '.join(kinds)} in this order")
    modes = modes_of(how)
    unsupported += [f"pooling by {mode}" for mode in modes if mode not in MODES.values()]
    unsupported += ["several poolings"] if len(modes) > 1 else [] if modes else ["no kind of pooling"]
    prompts = words.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ValueError(f"{folder / PROMPTS}: prompts should be an object of texts, not {prompts!r:.80}")
    default = words.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ValueError(f"{folder / PROMPTS}: default_prompt_name is {default!r}, which is not among prompts")
    lowercase = texts.get("do_lower_case") or False
    if not isinstance(lowercase, bool):
        raise ValueError(f"{reading}: do_lower_case should be true or false, not {lowercase!r:.80}")
    settings = {PROMPTS: folder / PROMPTS, READING: reading}
    if unsupported:
        steps = {Path(str(module.get("path") or "")).name for module in modules} - {"", inner.name}
        files = [file for step in steps for file in (folder / step).glob("**/*") if file.is_file()]
        settings |= {MODULES: folder / MODULES, **{str(file.relative_to(folder)): file for file in files}}
    return Pooling(
        mode=modes[0] if modes and modes[0] in MODES.values() else "mean",
        normalize="Normalize" in kinds,
        max_length=length_of(texts.get("max_seq_length"), reading),
        unsupported=tuple(unsupported),
        lowercase=lowercase,
        prompts=tuple(prompts.items()),
        default_prompt=default,
        include_prompt=how.get("include_prompt", True) is not False,
        similarity=words.get("similarity_fn_name"),
        settings={name: file.read_bytes() for name, file in settings.items() if file is not None and file.is_file()},
    )


def length_of(value: Any, path: Path | None) -> int | None:
    """Tokens that a file says are read of a text. Raises ValueError for what is no whole number above 0."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value % 1):
        raise ValueError(f"{path}: max_seq_length should be a whole number of at least 1, not {value!r:.80}")
    return None if value is None else int(value)


def modes_of(how: Mapping[str, Any]) -> list[str]:
    """The poolings that a module's config.json names: by flags (mean if it has none), or today by name."""
    if named := how.get("pooling_mode"):
        return list(named) if isinstance(named, list) else [str(named).lower()]
    flags = {"pooling_mode_mean_tokens": True, **how}
    return [MODES.get(key, key) for key, value in flags.items() if key.startswith("pooling_mode_") and value is True]


def write_pooling(folder: Path, pooling: Pooling, width: int) -> None:
    """The files from which sentence-transformers, and `read_pooling`, make the same of the folder's network."""
    if pooling.unsupported:
        for name, data in pooling.settings.items():
            write_file(folder / name, at_root(data) if name == MODULES else data)
        return
    kinds = ["Transformer", "Pooling", *(["Normalize"] if pooling.normalize else [])]
    modules = [{"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
               for i, kind in enumerate(kinds)]
    how = {"word_embedding_dimension": width, **{key: mode == pooling.mode for key, mode in MODES.items()}}
    how |= {} if pooling.include_prompt else {"include_prompt": False}
    texts = json.loads(pooling.settings.get(READING, b"{}"))
    texts |= {"do_lower_case": pooling.lowercase} | ({"max_seq_length": pooling.max_length} if pooling.max_length else {})
    words = json.loads(pooling.settings.get(PROMPTS, b"{}"))
    if pooling.prompts or pooling.default_prompt or pooling.similarity:
        words |= {"prompts": dict(pooling.prompts), "default_prompt_name": pooling.default_prompt}
        words |= {"similarity_fn_name": pooling.similarity} if pooling.similarity else {}
    write_json(folder / "1_Pooling" / "config.json", how)
    if pooling.max_length or pooling.lowercase or READING in pooling.settings:
        write_json(folder / READING, texts)
    if words:
        write_json(folder / PROMPTS, words)
    write_json(folder / MODULES, modules)


def at_root(modules: bytes) -> bytes:
    """modules.json of a folder whose network lies in the folder itself."""
    steps = [{**step, "path": ""} if kind_of(step).endswith("Transformer") else step for step in json.loads(modules)]
    return (json.dumps(steps, indent=2) + "\n").encode("utf-8")


def write_json(path: Path, value: Any) -> None:
    write_file(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises ValueError for a file that is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def read_object(path: Path | None) -> dict[str, Any]:
    """A file's JSON object, {} without the file. Raises ValueError for another value."""
    if path is None or not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object, not a {type(value).__name__}")
    return value
