"""A recipe: model, task, optimizer and settings as one typed record, and the function that runs it.

Everything that files in `experiments/` need is importable from here.
"""

import dataclasses
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro

from bertvariants_jax.data.batch import check
from bertvariants_jax.data.pipeline import Pipeline, pipeline
from bertvariants_jax.hf.checkpoint import Checkpoint, Report, load, save
from bertvariants_jax.layers.dense import Compute
from bertvariants_jax.models import VARIANTS, find_size
from bertvariants_jax.models.config import Config
from bertvariants_jax.models.variant import Network
from bertvariants_jax.objectives.objective import Objective
from bertvariants_jax.tasks.classify import Classify
from bertvariants_jax.tasks.distill import Distil, DistilClassify, distilled
from bertvariants_jax.tasks.glue import glue
from bertvariants_jax.tasks.pretrain import Pretrain
from bertvariants_jax.tasks.spans import Spans
from bertvariants_jax.tasks.task import TRAIN, VALIDATION, Task
from bertvariants_jax.text import Tokenizer, train
from bertvariants_jax.training import evaluate as evaluation
from bertvariants_jax.training import loop
from bertvariants_jax.training.flops import count_flops
from bertvariants_jax.training.loop import Outcome, Settings
from bertvariants_jax.training.optimizer import Optim
from bertvariants_jax.training.sharding import Mesh

__all__ = ["Classify", "Compute", "Distil", "DistilClassify", "Mesh", "Model", "Optim", "Pretrain", "Recipe",
           "Settings", "Spans", "distilled", "glue", "model", "replace"]


@dataclass(frozen=True)
class Model:
    """The network and where its weights come from.

    start: folder or hub id of weights to start from, at `revision`; "" draws fresh ones of `variant` and `config`.
    tokenizer: its folder; "" takes that of `start`, or of the task's teacher, or trains one of the variant's kind, of
        `vocab_size` pieces, on the task's text.
    """

    start: str = ""
    revision: str = ""
    variant: str = "bert"
    config: Config = field(default_factory=Config)
    tokenizer: str = ""
    vocab_size: int = 30522
    lowercase: bool = True


def model(name: str, tokenizer: str = "", **overrides: Any) -> Model:
    """Fresh weights of a variant or published size, with fields of its config changed."""
    variant, config = find_size(name)
    if unknown := set(overrides) - {f.name for f in dataclasses.fields(config)}:
        raise ValueError(f"{type(config).__name__} has no field {sorted(unknown)[0]!r}")
    config = replace(config, **overrides)
    return Model(variant=variant.name, config=config, tokenizer=tokenizer, vocab_size=config.vocab_size)


@dataclass(frozen=True)
class Recipe:
    """All of a run. Each field is a flag of `bertvariants train` (--steps, --optim.rate, --task.data, ...).

    workers: processes that make batches besides the main one.
    """

    task: Task
    model: Model
    optim: Optim = Optim()
    settings: Annotated[Settings, tyro.conf.arg(name="")] = Settings()
    compute: Compute = Compute()
    workers: int = 0

    def as_json(self) -> dict[str, Any]:
        """The recipe as JSON-able data, what `RUN/config.json` keeps (settings and optim stand there beside it)."""
        data = {name: dataclasses.asdict(getattr(self, name)) for name in ("task", "model", "compute")}
        data["task"]["kind"] = type(self.task).__name__
        return json.loads(json.dumps(data))


class Work(NamedTuple):
    """What a recipe comes to once its tokenizer, network and data are there."""

    params: dict[str, Any] | None
    network: Network
    tokenizer: Tokenizer
    objective: Objective
    train: Pipeline


TASKS = {kind.__name__: kind for kind in (Classify, Distil, DistilClassify, Pretrain, Spans)}


def task_of_run(folder: str | Path) -> Task:
    """The task that a training run's config.json describes."""
    path = Path(folder) / "config.json"
    said = dict(json.loads(path.read_text(encoding="utf-8")).get("task") or {})
    kind = said.pop("kind", None)
    if kind not in TASKS:
        raise ValueError(f"{path} describes no task that is known here ({', '.join(TASKS)}): is it a training run?")
    return TASKS[kind](**{key: tuple(value) if isinstance(value, list) else value for key, value in said.items()})


def cache_folder() -> Path:
    """Where corpora and compiled programs are kept: $BERTVARIANTS_CACHE or ~/.cache/bertvariants_jax."""
    return Path(os.environ.get("BERTVARIANTS_CACHE") or "~/.cache/bertvariants_jax").expanduser()


def run(recipe: Recipe, out: str | Path) -> Outcome:
    """Train in the folder `out` (going on where it stopped), evaluate, and write `out`/model as an HF folder."""
    out, task, settings = Path(out), recipe.task, recipe.settings
    if task.best and not settings.keep_best:
        settings = replace(settings, keep_best=task.best)
    work = prepare(recipe, out)
    objective, network = work.objective, work.network

    def batches(split: str) -> tuple[Any, Pipeline]:
        examples = task.examples(split, work.tokenizer, cache_folder() / "corpora", settings.batch_size)
        return examples, pipeline(examples, batch_size=settings.batch_size, shuffle=False, epochs=1,
                                  corrupt=task.corrupt(examples, work.tokenizer, settings.seed),
                                  process_index=jax.process_index(), process_count=jax.process_count())

    held, mesh = [], []

    def measure(params, step: int) -> dict[str, float]:
        if not held:
            held.append(batches(VALIDATION))
            mesh.append(loop.make_mesh(settings.mesh) if settings.parallel == "mesh" else None)
        return assess(task, objective, params, *held[0], mesh[0])

    def export(params, folder: Path) -> None:
        models = objective.exports(params) if objective.exports else {folder.name: (network, params)}
        for name, (part, values) in models.items():
            save(Checkpoint(part, values, work.tokenizer, Report()), folder.parent / name)

    sample = {key: jax.ShapeDtypeStruct(np.shape(value), value.dtype) for key, value in work.train.batch(0).items()}
    params, memory = jax.eval_shape(lambda: (
        objective.init(jax.random.key(0)), objective.memory(sample["input_ids"].shape[0]) if objective.memory else None))
    forward = count_flops(lambda p, b, m: objective.loss(p, b, None, m).sums, params, sample, memory)
    return loop.train(objective, work.train, settings, recipe.optim, out, evaluate=measure, export=export,
                      params=work.params, config=recipe.as_json(), flops_per_step=3.0 * forward * jax.process_count())


def prepare(recipe: Recipe, out: Path) -> Work:
    """Tokenizer, network, objective and training data of a recipe.

    Raises ValueError or FileNotFoundError for whatever does not fit, before anything is trained.
    """
    task, settings, start = recipe.task, recipe.settings, recipe.model.start
    labels = task.labels()
    changed = {} if labels is None else {"id2label": labels}
    companions, checkpoint = {name: load(folder) for name, folder in task.companions().items()}, None
    if start:
        checkpoint = load(start, dtype=recipe.compute.dtype, param_dtype=recipe.compute.param_dtype,
                          revision=recipe.model.revision or None)
        tokenizer = Tokenizer.load(recipe.model.tokenizer) if recipe.model.tokenizer else checkpoint.tokenizer
        if tokenizer is None:
            raise FileNotFoundError(f"{start} has no tokenizer files: give --model.tokenizer a folder")
        checkpoint = checkpoint.with_heads(*task.heads, seed=settings.seed, **changed)
        network = replace(checkpoint.network, compute=recipe.compute)
    else:
        lent = [companion.tokenizer for companion in companions.values() if companion.tokenizer is not None]
        tokenizer = lent[0] if lent and not recipe.model.tokenizer else fresh_tokenizer(recipe, out)
        config = replace(recipe.model.config, vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_token_id,
                         **changed)
        network = VARIANTS[recipe.model.variant].network(config, task.heads, recipe.compute)
    longest = network.variant.longest(network.config)
    if longest and task.max_length > longest:
        raise ValueError(f"task.max_length is {task.max_length}, but the model has {longest} positions")
    if tokenizer.vocab_size > network.config.vocab_size:
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size} ids, the model {network.config.vocab_size} rows")
    for name, companion in companions.items():
        if companion.tokenizer is not None and pieces(companion.tokenizer) != pieces(tokenizer):
            raise ValueError(f"the {name} {task.companions()[name]} has another vocabulary than the model")
    objective = task.objective(network, **companions)
    examples = task.examples(TRAIN, tokenizer, cache_folder() / "corpora", settings.batch_size)
    data = pipeline(examples, batch_size=settings.batch_size, seed=settings.seed, shuffle=task.shuffle,
                    corrupt=task.corrupt(examples, tokenizer, settings.seed), workers=recipe.workers,
                    process_index=jax.process_index(), process_count=jax.process_count())
    check(data.batch(0), network.config.vocab_size, getattr(network.config, "type_vocab_size", None) or None, longest)
    params = task.initial(network, checkpoint and jax.device_get(checkpoint.params), **companions)
    return Work(params, network, tokenizer, objective, data)


def pieces(tokenizer: Tokenizer) -> list[str | None]:
    """The vocabulary in the order of its ids."""
    return [tokenizer.id_to_token(number) for number in range(tokenizer.vocab_size)]


def fresh_tokenizer(recipe: Recipe, out: Path) -> Tokenizer:
    """The recipe's tokenizer, or one trained on the task's text; kept in `out`/tokenizer so that a resumed run has the same."""
    if recipe.model.tokenizer:
        return Tokenizer.load(recipe.model.tokenizer)
    folder = out / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        kind = VARIANTS[recipe.model.variant].tokenizer
        train(recipe.task.texts(), kind, recipe.model.vocab_size, recipe.model.lowercase).save(folder)
    return Tokenizer.load(folder)


def assess(task: Task, objective: Objective, params, examples, data: Pipeline, mesh=None) -> dict[str, float]:
    """The task's metrics, or where it has none the losses, over all of an evaluation pipeline."""
    found = evaluation.predictions(objective, params, data, mesh) if task.best else ()
    outputs = [out for _, out in found]
    if not outputs:
        return evaluation.evaluate_loss(objective, params, data, mesh)
    return task.score(examples, {key: np.concatenate([out[key] for out in outputs]) for key in outputs[0]})


def evaluate(folder: str | Path, task: Task, split: str = VALIDATION, batch_size: int = 32) -> dict[str, float]:
    """Metrics of a saved model on a task's split.

    Raises ValueError where the model's classes are not the task's.
    """
    checkpoint = load(folder)
    labels = task.labels()
    if missing := [head for head in task.heads if head not in checkpoint.heads]:
        raise ValueError(f"{folder} has no {missing[0]!r} head; it has: {', '.join(checkpoint.heads) or 'none'}")
    if labels is not None and checkpoint.config.id2label != labels:
        raise ValueError(f"{folder} knows the classes {', '.join(checkpoint.config.id2label)}, the task has "
                         f"{', '.join(labels)}")
    if checkpoint.tokenizer is None:
        raise FileNotFoundError(f"{folder} has no tokenizer files")
    network = checkpoint.network.variant.network(checkpoint.config, task.heads)
    companions = {name: load(place) for name, place in task.companions().items()}
    examples = task.examples(split, checkpoint.tokenizer, cache_folder() / "corpora", batch_size)
    data = pipeline(examples, batch_size=batch_size, shuffle=False, epochs=1,
                    corrupt=task.corrupt(examples, checkpoint.tokenizer, 0))
    params = task.initial(network, checkpoint.params, **companions)
    return assess(task, task.objective(network, **companions), params, examples, data)
