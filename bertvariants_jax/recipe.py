"""A recipe: model, task, optimizer and settings as one typed record, and the function that runs it.

Everything that files in `experiments/` need is importable from here.
"""

import contextlib
import dataclasses
import functools
import glob
import json
import math
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro

from bertvariants_jax.data.batch import check
from bertvariants_jax.data.fingerprint import noted
from bertvariants_jax.data.pack import Packed
from bertvariants_jax.data.pipeline import Check, Examples, Pipeline, pipeline
from bertvariants_jax.data.source import KINDS, open_source
from bertvariants_jax.files import write_file
from bertvariants_jax.hf.checkpoint import Checkpoint, Pooling, Report, load, read_config, save
from bertvariants_jax.hf.pooling import network_folder
from bertvariants_jax.layers import attention
from bertvariants_jax.layers.dense import Compute
from bertvariants_jax.models import VARIANTS, find_size
from bertvariants_jax.models.config import Config
from bertvariants_jax.models.variant import Network, Variant
from bertvariants_jax.objectives.objective import Objective
from bertvariants_jax.origin import describe_data, describe_parts
from bertvariants_jax.remarks import (
    remarks_on_classes,
    remarks_on_compute,
    remarks_on_length,
    remarks_on_settings,
    remarks_on_start,
    remarks_on_task,
    remarks_on_tokenizers,
    remarks_on_vocabulary,
)
from bertvariants_jax.tasks.choice import Choice
from bertvariants_jax.tasks.classify import Classify
from bertvariants_jax.tasks.detect import Detect
from bertvariants_jax.tasks.distill import Distil, DistilClassify, DistilSquad, distilled
from bertvariants_jax.tasks.glue import GLUE, glue
from bertvariants_jax.tasks.glue import average as glue_average
from bertvariants_jax.tasks.knowledge import Continual, Knowledge
from bertvariants_jax.tasks.named import task, task_on, with_data
from bertvariants_jax.tasks.permute import Permute
from bertvariants_jax.tasks.pretrain import Pretrain
from bertvariants_jax.tasks.similar import Similar
from bertvariants_jax.tasks.spans import Spans
from bertvariants_jax.tasks.squad import Squad
from bertvariants_jax.tasks.superglue import SuperGlue
from bertvariants_jax.tasks.superglue import average as superglue_average
from bertvariants_jax.tasks.tagging import Tagging
from bertvariants_jax.tasks.task import TEST, TRAIN, VALIDATION, Task
from bertvariants_jax.text import Tokenizer, train
from bertvariants_jax.training import evaluate as evaluation
from bertvariants_jax.training import hosts, loop
from bertvariants_jax.training.checkpoints import ADDRESSES, newest_notes, recover, run_config
from bertvariants_jax.training.loop import Outcome, Settings
from bertvariants_jax.training.optimizer import Optim
from bertvariants_jax.training.sharding import Mesh, batch_parts, batch_sharding, local_rows, make_mesh
from bertvariants_jax.training.step import step_flops

__all__ = [
    "Choice", "Classify", "Compute", "Continual", "Detect", "Distil", "DistilClassify", "DistilSquad", "FineTuning",
    "Knowledge", "Mesh", "Model", "Optim", "Permute", "Pretrain", "Recipe", "Settings", "Similar", "Spans", "Squad",
    "SuperGlue", "Tagging", "distilled", "finetune", "glue", "known", "model", "replace", "task", "task_on", "with_data"]


@dataclass(frozen=True)
class Model:
    """The network and where its weights come from.

    start: folder or hub id of weights to start from, at `revision`; "" draws fresh ones of `variant` and `config`.
    tokenizer: its folder; "" takes that of `start`, or of the task's teacher, or trains one of the variant's kind, of
        `vocab_size` pieces, on the task's text.
    tokenizer_ids: "hf" for the ids that transformers gives, "original" for those of the paper's own code and model; ""
        takes the family's default (DeBERTa v2 and v3: "original"; others: "hf").
    changes: numbers in the config of `start` that become others (a dropout rate, ModernBERT's global_rope_theta).
    add_tokens: whole tokens that tokenizer and word table get besides those that they have ("[ENT]").
    """

    start: str = ""
    revision: str = ""
    changes: dict[str, float] = field(default_factory=dict)
    variant: str = "bert"
    config: Config = field(default_factory=Config)
    tokenizer: str = ""
    tokenizer_ids: str = ""
    vocab_size: int = 30522
    lowercase: bool = True
    add_tokens: tuple[str, ...] = ()


def model(name: str, tokenizer: str = "", **overrides: Any) -> Model:
    """Fresh weights of a variant or published size, with fields of its config changed."""
    variant, config = find_size(name)
    config = config.replaced(**overrides)
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
        if not reads_tsv(data["task"]):
            data["task"].pop("quotes", None)                 # says nothing of other files
        return json.loads(json.dumps(data))

    def defaults(self) -> dict[str, Any]:
        """The values of the same fields where nothing is asked for."""
        defaults = {name: defaults_of(getattr(self, name)) for name in ("task", "model", "compute")}
        if "quotes" in defaults["task"]:                     # all tsv files were read raw before there was a choice
            defaults["task"]["quotes"] = "raw" if reads_quoted(self.task) else self.task.quotes
        return defaults


def reads_tsv(task: dict[str, Any]) -> bool:
    """Whether a task's JSON names a tsv file."""
    return any(str(task.get(name)).startswith("tsv:") for name in ("data", "evaluation", "test"))


def reads_quoted(task: Task) -> bool:
    """Whether a file that the task names is read otherwise than as it stands, with quotes."""
    for address in (task.data, task.evaluation, task.test):
        if address.startswith("tsv:"):
            with contextlib.suppress(FileNotFoundError):
                if open_source(address, encoding=getattr(task, "encoding", "utf-8"), quotes=task.quotes).is_quoted:
                    return True
    return False


def defaults_of(record: Any) -> dict[str, Any]:
    """{field: default} of a dataclass, and of those that it holds; fields without a default are left out.

    A field that older versions did not have, and did otherwise than its default, stands in the class's `formerly`.
    """
    defaults, formerly = {}, getattr(record, "formerly", {})
    for f in dataclasses.fields(record):
        if f.name in formerly:
            defaults[f.name] = formerly[f.name]
        elif dataclasses.is_dataclass(value := getattr(record, f.name)):
            defaults[f.name] = defaults_of(value)
        elif f.default is not dataclasses.MISSING:
            defaults[f.name] = f.default
        elif f.default_factory is not dataclasses.MISSING:
            defaults[f.name] = f.default_factory()
    return defaults


def known(name: str) -> tuple[Variant, Config]:
    """The variant and config of a variant's or published size's name, a hub id that ends with it, or a model's folder."""
    if (network_folder(Path(name)) / "config.json").is_file():
        return read_config(network_folder(Path(name)))[:2]
    try:
        return find_size(name.rpartition("/")[2])
    except ValueError as error:
        raise ValueError(f"{error} --variant says whose way of fine-tuning is taken") from None


@dataclass(frozen=True)
class FineTuning:
    """How a paper fine-tunes a model on a task; unpacks as (optim, settings).

    max_length: tokens of a row, None where the paper says nothing else than the task's own number.
    changes: fields of the model's config, by which it differs from the pre-trained one (a dropout).
    """

    optim: Optim
    settings: Settings
    max_length: int | None = None
    changes: dict[str, float] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.optim, self.settings))

    @property
    def options(self) -> dict[str, Any]:
        """The fields of the task that the paper says."""
        return {} if self.max_length is None else {"max_length": self.max_length}

    def model(self, start: str, variant: str = "", tokenizer: str = "") -> Model:
        """The weights of `start`, or where that is "" fresh ones of `variant`, with the changes that its config has."""
        if not start:
            return model(variant, tokenizer, **self.changes)
        try:
            config = known(start)[1]
        except ValueError:                          # a hub id that says nothing: --variant has named its kind
            config = known(variant)[1]
        names = {f.name for f in dataclasses.fields(config)}
        return Model(start, tokenizer=tokenizer, changes={k: v for k, v in self.changes.items() if k in names})


def finetune(name: str, task: str = "") -> FineTuning:
    """How the paper of a variant or published size, or of the model in a folder, fine-tunes it on a task (a name of
    GLUE's or SuperGLUE's, "squad", "squad2", "race", "swag", "ner"; others get the paper's general values).

    Adam corrects its bias here, which BERT's, ALBERT's, ELECTRA's, XLNet's and DeBERTa's own code leaves out: with it
    few runs on small data sets fail (arXiv:2006.04884). `--optim.name bert_adam` is without.
    Raises ValueError for an unknown name.
    """
    variant, config = known(name)
    shape, name = (config.hidden_size, config.num_hidden_layers), name.rpartition("/")[2]
    size = name if name in variant.sizes else next((size for size, other in variant.sizes.items() if (
        other.hidden_size, other.num_hidden_layers) == shape), "")
    said: dict[str, Any] = {"name": "adamw", "schedule": "bert", "warmup": 0.1, "steps": 0, "epochs": 3.0, "rate": 2e-5}
    task = task.removesuffix("_mm")                     # MNLI's other half is a matter of evaluation
    for key in ("", task, size, f"{size}/{task}"):
        said |= variant.finetune.get(key, {})
    if said["steps"]:
        said["epochs"] = 0.0
    fields = [{f.name for f in dataclasses.fields(kind)} for kind in (Optim, Settings, config)]
    optim, settings, changes = ({key: value for key, value in said.items() if key in names} for names in fields)
    length, longest = said.get("max_length"), variant.longest(config)
    if length and longest:
        length = min(length, longest)
    return FineTuning(Optim(**optim), Settings(**settings), length, changes)


class Work(NamedTuple):
    """What a recipe comes to once its tokenizer, network and data are there; the task is as the model wants it.

    plain: the objective of networks that recompute nothing and fuse nothing, whose products are the work to be done.
    parts: what it is made of, see origin.py. pooling: what the start's folder says of its vectors.
    """

    task: Task
    params: dict[str, Any] | None
    network: Network
    tokenizer: Tokenizer
    objective: Objective
    plain: Objective
    train: Pipeline
    parts: dict[str, Any]
    pooling: Pooling | None = None


TASKS = {kind.__name__: kind for kind in (
    Choice, Classify, Continual, Detect, Distil, DistilClassify, DistilSquad, Knowledge, Permute, Pretrain, Similar,
    Spans, Squad, SuperGlue, Tagging)}


def task_of_run(folder: str | Path) -> Task:
    """The task that a training run's config.json describes; relative addresses are of the folder that it was started in."""
    path = Path(folder) / "config.json"
    config = run_config(folder)
    said, started_in = dict(config.get("task") or {}), config.get("started_in", os.getcwd())
    if started_in != os.getcwd():
        said |= {name: anchored(said[name], started_in) for name in (*ADDRESSES, "teacher") if name in said}
    kind = said.pop("kind", None)
    if kind not in TASKS:
        raise ValueError(f"{path} describes no task that is known here ({', '.join(TASKS)}): is it a training run?")
    if reads_tsv(said) and "quotes" in (f.name for f in dataclasses.fields(TASKS[kind])):
        said.setdefault("quotes", "raw")                     # a run from before there was a choice
    return TASKS[kind](**{key: tuple(value) if isinstance(value, list) else value for key, value in said.items()})


def anchored(value: Any, folder: str) -> Any:
    """An address, path or list of them as it was meant in `folder`: absolute, if it is there; else as it stands."""
    if isinstance(value, list):
        return [anchored(one, folder) for one in value]
    kind, colon, target = value.partition(":")
    if not (colon and kind in KINDS):
        kind, colon, target = "", "", value
    path, mark, name = (target, "", "") if kind in ("", "text") else target.partition("#")
    place = os.path.join(folder, os.path.expanduser(path))
    if not path or kind in ("tfds", "docs") or "://" in path or not (os.path.exists(place) or glob.glob(place)):
        return value
    return f"{kind}{colon}{place}{mark}{name}"


def cache_folder() -> Path:
    """Where corpora and compiled programs are kept: $BERTVARIANTS_CACHE or ~/.cache/bertvariants_jax."""
    return Path(os.environ.get("BERTVARIANTS_CACHE") or "~/.cache/bertvariants_jax").expanduser()


def run(recipe: Recipe, out: str | Path, data_changed: bool = False) -> Outcome:
    """Train in the folder `out` (going on where it stopped), evaluate, and write `out`/model as an HF folder.

    data_changed: go on though the data is not what it was. ValueError without it, and where classes, tokenizer or
    networks are others than those of the run that is there.
    """
    out = Path(out)
    with loop.locked(out):
        recover(out)
        return run_here(recipe, out, data_changed)


def run_here(recipe: Recipe, out: Path, data_changed: bool) -> Outcome:
    """`run` in a folder that is held by this process."""
    check_finite(dataclasses.asdict(recipe))
    settings, described = recipe.settings, recipe.as_json()
    if next(out.glob("seed-*/config.json"), None) is not None and not (out / "config.json").is_file():
        raise ValueError(f"{out} holds runs of several seeds, whose scores.json this run's would replace: choose another folder")
    if predates := predates_tokenizer_ids(out):
        if described["model"].pop("tokenizer_ids") == "original":
            raise ValueError(f"{out} was begun with transformers' ids; leave model.tokenizer-ids out, or choose another folder")
        recipe = replace(recipe, model=replace(recipe.model, tokenizer_ids="hf"))
    attention.say.cache_clear()                        # each run says for itself what it cannot do
    with noted(cache_folder() / "fingerprints") as training_sources:
        work = prepare(recipe, out)
    if predates and work.tokenizer.departures:
        raise ValueError(f"{out} was begun by an earlier version, whose tokenizer gave other ids: "
                         f"{'; '.join(work.tokenizer.departures)}. Go on with that version, or choose another folder")
    task, objective, network = work.task, work.objective, work.network
    if task.best and not settings.keep_best:
        settings = replace(settings, keep_best=task.best)
    settings = replace(settings, batch_size=work.train.maker.batch_size * settings.batch_size // settings.data_rows)
    if settings.epochs:
        whole = math.ceil(settings.epochs * len(work.train.maker.examples) / settings.batch_size)
        say(*remarks_on_length(settings, whole))
        settings = replace(settings, steps=min(settings.steps or whole, whole))

    say(*remarks_on_settings(settings, recipe.optim, recipe.compute.param_dtype),
        *remarks_on_compute(recipe.compute, network.config.num_hidden_layers, jax.default_backend()))

    # made before the first step, so that its faults cost none
    mesh = mesh_of(settings) if settings.parallel == "mesh" else None
    with noted(cache_folder() / "fingerprints") as evaluation_sources:
        examples, held = evaluation_data(task, VALIDATION, network, work.tokenizer, recipe.settings.batch_size,
                                         settings.seed, work.train.maker.check, mesh)
    data = describe_data(work.train.maker.examples, training_sources, examples, evaluation_sources)
    asked = {name: getattr(recipe.settings, name) for name in ("steps", "epochs", "batch_size")}
    config = {**described, "origin": {**work.parts, "asked": asked, "data": data}, "started_in": os.getcwd()}
    refuse_renamed(out, task.labels())
    if data_changed and finished(out) >= settings.steps:
        say(f"{out} is at its end, step {finished(out)}: nothing would be learned from data that has changed")
        data_changed = False

    def measure(params, step: int) -> dict[str, float]:
        return assess(task, objective, params, examples, held, mesh)

    def export(params, folder: Path) -> None:
        models = objective.exports(params) if objective.exports else {folder.name: (network, params)}
        for name, (part, values) in models.items():
            save(Checkpoint(part, values, work.tokenizer, Report(), learned_pooling(task, work.pooling)), folder.parent / name)

    sample = {key: jax.ShapeDtypeStruct((settings.batch_size, *value.shape[1:]), value.dtype)
              for key, value in work.train.batch(0).items()}
    outcome = loop.train(objective, work.train, settings, recipe.optim, out, evaluate=measure, export=export,
                         params=work.params, config=config, flops_per_step=step_flops(work.plain, sample),
                         data_changed=data_changed, defaults=recipe.defaults())
    found = {key.removeprefix("best/"): value for key, value in outcome.metrics.items() if key.startswith("best/")}
    if task.best and found and outcome.stopped_by in ("steps", "data"):
        scores = {"step": found.pop("step"), "metrics": found, "baseline": task.baseline(examples),
                  "examples": len(examples)}
        hosts.do_on_first(lambda: keep_scores(out, scores))
    return outcome


def check_finite(value: Any, name: str = "") -> None:
    """Raise ValueError, naming it, for an option that is nan or infinite: nothing can be counted or learned by it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, one in inner:
        check_finite(one, f"{name}.{key}" if name else str(key))


def say(*lines: str) -> None:
    """Lines for the reader, of the first process."""
    if jax.process_index() == 0:
        for line in lines:
            print(line, file=sys.stderr)


def refuse_renamed(out: Path, labels: tuple[str, ...] | None) -> None:
    """Raise ValueError where a run has exported a model and called its classes otherwise.

    This is known of runs of every version, those too that kept no `origin`.
    """
    if labels is None or not (out / "model" / "config.json").is_file():
        return
    try:
        names = read_config(out / "model")[1].id2label
    except (OSError, ValueError):                      # damaged; it is exported anew
        return
    if names != tuple(labels):
        raise ValueError(f"{out} holds another run: the classes of its model are {', '.join(names)}, and here "
                         f"{', '.join(labels)}. Choose another folder, or delete that one")


def finished(out: Path) -> int:
    """The step of a run's newest checkpoint, 0 without one."""
    return max((int(path.name) for path in (out / "checkpoints").glob("*") if path.name.isdigit()), default=0)


def predates_tokenizer_ids(out: Path) -> bool:
    """Whether a run's folder is older than the choice of a tokenizer's ids: it goes on with those of transformers."""
    try:
        model = json.loads((out / "config.json").read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return False                                    # none, or one that the run itself refuses
    return isinstance(model, dict) and "tokenizer_ids" not in model


def keep_scores(out: Path, scores: dict[str, Any]) -> None:
    """Write `out`/scores.json: what came of a run, or of several."""
    write_file(out / "scores.json", json.dumps(scores, indent=1) + "\n")


def read_scores(folder: Path) -> dict[str, Any]:
    """What `keep_scores` wrote. Raises ValueError, naming the file, where it is damaged."""
    path = folder / "scores.json"
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        if missing := {"metrics", "baseline", "examples"} - {*scores}:
            raise ValueError(f"no {min(missing)!r}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): the command that trained the run writes it again") from None
    return scores


def run_seeds(recipe: Recipe, out: str | Path, seeds: int, data_changed: bool = False) -> dict[str, Any]:
    """Train with `seeds` seeds from the recipe's own on, in folders of `out`; what is there already is not done again.

    Gives, and keeps in `out`/scores.json, the median, extremes and standard deviation of each metric over the runs that
    came to an end, and how many failed: those that diverged and those that are no better than the baseline. Papers
    give such medians (arXiv:1907.11692, 2003.10555).
    Raises ValueError where the task has no metric or where every run diverged, InterruptedError where one was stopped.
    """
    if not recipe.task.best:
        raise ValueError("several seeds are compared by a metric, which this task has not")
    out = Path(out)
    with loop.locked(out):
        return seeds_here(recipe, out, seeds, data_changed)


def seeds_here(recipe: Recipe, out: Path, seeds: int, data_changed: bool) -> dict[str, Any]:
    """`run_seeds` in a folder that is held by this process."""
    if (out / "config.json").is_file():
        raise ValueError(f"{out} holds a run of its own, whose scores.json those of several seeds would replace: choose "
                         "another folder")
    best, runs = recipe.task.best, []
    for seed in range(recipe.settings.seed, recipe.settings.seed + seeds):
        folder = out / f"seed-{seed}"
        try:
            outcome = run(replace(recipe, settings=replace(recipe.settings, seed=seed)), folder, data_changed)
            if outcome.stopped_by not in ("steps", "data"):
                raise InterruptedError(f"seed {seed} was stopped by {outcome.stopped_by} at step {outcome.step}; the same "
                                       "command goes on from there")
            scores = read_scores(folder)
            failed = scores["metrics"][best] <= scores["baseline"].get(best, -math.inf)
            runs.append({"seed": seed, "failed": failed, **scores})
        except loop.Diverged as error:
            runs.append({"seed": seed, "failed": True, "error": str(error)})
    whole = [kept for kept in runs if "metrics" in kept]
    if not whole:
        raise ValueError(f"all {seeds} runs diverged: {runs[0]['error']}")
    values = {name: np.array([kept["metrics"][name] for kept in whole]) for name in whole[0]["metrics"]}
    scores = {"metrics": {name: float(np.median(found)) for name, found in values.items()},
              "least": {name: float(found.min()) for name, found in values.items()},
              "most": {name: float(found.max()) for name, found in values.items()},
              "deviation": {name: float(found.std()) for name, found in values.items()},
              "baseline": whole[0]["baseline"], "examples": whole[0]["examples"],
              "failed": sum(kept["failed"] for kept in runs), "runs": runs}
    hosts.do_on_first(lambda: keep_scores(out, scores))
    return scores


def averages(scored: Sequence[tuple[Path, dict[str, Any]]]) -> list[str]:
    """What GLUE's and SuperGLUE's averages come to over runs with their scores; a line for each that there is one of."""
    named: dict[str, dict[str, Any]] = {}
    for out, found in scored:
        folder = out if (out / "config.json").is_file() else out / f"seed-{found['runs'][0]['seed']}"
        said = run_config(folder)["task"]
        official = {row.official: name for name, row in GLUE.items()}
        name = said.get("name") or official.get(said.get("official", ""), "") * (said["kind"] == "Classify")
        if name in named:
            raise ValueError(f"{out} is a second run of {name}: an average takes one a task")
        named |= {name: found["metrics"]} if name else {}
    lines = []
    for title, table in (("GLUE", glue_average), ("SuperGLUE", superglue_average)):
        mean, over = table(named)
        if len(over) > 1:
            lines.append(f"{title} average over {len(over)} tasks ({', '.join(over)}): {100 * mean:.2f}")
    return lines


def prepare(recipe: Recipe, out: Path) -> Work:
    """Tokenizer, network, objective and training data of a recipe.

    Raises ValueError or FileNotFoundError for whatever does not fit, before anything is trained.
    """
    task, settings, start = recipe.task, recipe.settings, recipe.model.start
    checkpoint, ids = None, recipe.model.tokenizer_ids or None
    companions = {name: load(folder, heads=task.heads, fresh=False, tokenizer_ids=ids)
                  for name, folder in task.companions().items()}
    if not start:
        for name, instead in (("revision", ""), ("changes", ": fresh weights take --model.config")):
            if getattr(recipe.model, name):
                raise ValueError(f"model.{name} is about model.start, which is not given{instead}")
    if start:
        checkpoint = load(start, dtype=recipe.compute.dtype, param_dtype=recipe.compute.param_dtype,
                          revision=recipe.model.revision or None, heads=task.heads, fresh=False, tokenizer_ids=ids)
        say(*(f"{start}: {guess}" for guess in checkpoint.report.guesses))
        task = embedding(task, checkpoint.pooling).fitted(checkpoint.config.id2label, checkpoint.pooling and checkpoint.pooling.mode)
    labels = task.labels()
    changed = {} if labels is None else {"id2label": labels, "problem_type": task.problem_type}
    if start:
        chosen = recipe.model.tokenizer
        tokenizer = Tokenizer.load(chosen, tokenizer_ids=ids) if chosen else checkpoint.tokenizer
        if tokenizer is None:
            raise ValueError(f"{checkpoint.no_tokenizer()}, or --model.tokenizer a folder")
        if unknown := set(recipe.model.changes) - {f.name for f in dataclasses.fields(checkpoint.config)}:
            raise ValueError(f"model.changes: {type(checkpoint.config).__name__} has no field {sorted(unknown)[0]!r}")
        loaded, growth = checkpoint, {}
        if recipe.model.add_tokens:
            tokenizer = extended(tokenizer, recipe.model.add_tokens)
            growth = {"vocab_size": max(tokenizer.vocab_size, loaded.config.vocab_size)}
        checkpoint = loaded.with_heads(*task.heads, seed=settings.seed, **{**changed, **growth, **recipe.model.changes})
        network, fresh = replace(checkpoint.network, compute=recipe.compute), checkpoint.report.fresh
        if fresh:
            say(f"{start}: freshly initialised: {', '.join(fresh)}")
        if labels is not None:
            say(*remarks_on_classes(loaded, fresh, task.heads, labels, start))
        say(*remarks_on_start(recipe.model, loaded), *remarks_on_tokenizers(tokenizer, loaded.tokenizer, start))
    else:
        lent = [companion.tokenizer for companion in companions.values() if companion.tokenizer is not None]
        tokenizer = lent[0] if lent and not recipe.model.tokenizer else fresh_tokenizer(recipe, out)
        tokenizer = extended(tokenizer, recipe.model.add_tokens)
        config = replace(recipe.model.config, vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_token_id,
                         **changed)
        network = VARIANTS[recipe.model.variant].network(config, task.heads, recipe.compute)
    say(*(f"tokenizer: {note}" for note in tokenizer.notes))
    longest = network.variant.longest(network.config)
    if longest and task.max_length > longest:
        raise ValueError(f"task.max_length is {task.max_length}, but the model has {longest} positions")
    if tokenizer.vocab_size > network.config.vocab_size:
        beyond = tokenizer.id_to_token(network.config.vocab_size)
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size} ids, the model {network.config.vocab_size} rows: "
                         f"{beyond!r} is the first without one (--model.changes vocab_size {tokenizer.vocab_size} makes room)")
    for name, companion in companions.items():
        if companion.tokenizer is not None and pieces(companion.tokenizer) != pieces(tokenizer):
            raise ValueError(f"the {name} {task.companions()[name]} has another vocabulary than the model")
        say(*remarks_on_tokenizers(tokenizer, companion.tokenizer, f"the {name} {task.companions()[name]}"))
    lender = next((task.companions()[name] for name, companion in companions.items() if companion.tokenizer), "")
    say(*remarks_on_vocabulary(recipe.model, tokenizer, recipe.model.tokenizer or start or lender),
        *remarks_on_task(task, start))
    objective = task.objective(network, **companions)
    plain = task.objective(replace(network, compute=replace(network.compute, remat="none", attention="xla")), **companions)
    examples = task.examples(TRAIN, tokenizer, cache_folder() / "corpora", settings.batch_size)
    rows, dense = settings.data_rows, task.packed(examples) if network.variant.packs(network.config) else None
    if dense is not None and (fitting := packed_rows(dense, settings)):
        say(f"examples are packed: a batch is {fitting} rows of {dense.length} tokens, which hold about "
            f"{round(fitting * len(examples) / len(dense))} examples (batch_size {settings.batch_size})")
        examples, rows = dense, fitting
    elif dense is not None:
        say("examples are not packed: " + ("batches grow (batch_warmup_from)" if settings.batch_warmup_from else
            f"{settings.batch_size} of them are fewer rows than the devices and micro-batches are"))
    data = pipeline(examples, batch_size=rows, seed=settings.seed, shuffle=task.shuffle,
                    corrupt=task.corrupt(examples, tokenizer, settings.seed), together=task.masked_together,
                    workers=recipe.workers, check=fits(network, *(companion.network for companion in companions.values())),
                    rows=local_rows(batch_sharding(mesh_of(settings)), rows))
    data.batch(0)                                      # its faults before any work
    params = task.initial(network, checkpoint and jax.device_get(checkpoint.params), **companions)
    parts = describe_parts(network, tokenizer, labels, task.pooling, companions)
    return Work(task, params, network, tokenizer, objective, plain, data, parts, checkpoint and checkpoint.pooling)


def extended(tokenizer: Tokenizer, tokens: Sequence[str]) -> Tokenizer:
    """A copy of the tokenizer that knows these tokens too."""
    if tokens:
        tokenizer = pickle.loads(pickle.dumps(tokenizer))
        tokenizer.add_tokens(tokens)
    return tokenizer


def embedding(task: Task, pooling: Pooling | None) -> Task:
    """The task, reading texts as the folder of its sentence encoder says. Raises ValueError for what is not done here."""
    if pooling is None or not isinstance(task, Similar):
        return task
    if pooling.unsupported and not task.pooling:
        raise ValueError(f"this sentence encoder has {', '.join(pooling.unsupported)}, which is not supported: give "
                         "--task.pooling for vectors of its hidden states")
    if pooling.prompt() and not pooling.include_prompt:
        raise ValueError(f"this sentence encoder puts {pooling.prompt()!r} before texts and does not pool it, which this task does not do")
    if pooling.similarity not in (None, "cosine") and not pooling.normalize:
        say(f"this sentence encoder compares by {pooling.similarity!r}; the task takes cosines")
    return replace(task, lowercase=task.lowercase or pooling.lowercase, prompt=task.prompt or pooling.prompt(),
                   max_length=min(task.max_length, pooling.max_length or task.max_length))


def learned_pooling(task: Task, pooling: Pooling | None) -> Pooling | None:
    """What the folder of a task's sentence encoder says: its start's, with what the task read and pooled otherwise."""
    if not isinstance(task, Similar):
        return None
    pooling = replace(pooling or Pooling(), mode=task.pooling, unsupported=(), lowercase=task.lowercase)
    if task.prompt == pooling.prompt():
        return pooling
    prompts = {**dict(pooling.prompts), "task": task.prompt}
    return replace(pooling, prompts=tuple(prompts.items()), default_prompt="task", include_prompt=True)


def fits(*networks: Network) -> Check:
    """A check of batches against the tables of all of these networks."""
    def smallest(sizes):
        return min((size for size in sizes if size), default=None)

    rows = {key: smallest(network.tables.get(key) for network in networks)
            for key in ("input_ids", "token_type_ids", "task_type_ids")}
    longest = smallest(network.variant.longest(network.config) for network in networks)
    return functools.partial(check, vocab_size=rows["input_ids"], type_vocab_size=rows["token_type_ids"],
                             task_type_vocab_size=rows["task_type_ids"], max_positions=longest)


def mesh_of(settings: Settings) -> jax.sharding.Mesh:
    """The devices of a run; under pmap each has its own rows."""
    return make_mesh(settings.mesh if settings.parallel == "mesh" else Mesh())


def packed_rows(examples: Packed, settings: Settings) -> int:
    """How many packed rows hold about batch_size examples, 0 where they are fewer than the devices' and micro-batches'."""
    parts = batch_parts(mesh_of(settings)) * settings.accumulate
    wanted = settings.batch_size * len(examples) / len(examples.examples)
    return 0 if settings.batch_warmup_from else round(wanted / parts) * parts


def pieces(tokenizer: Tokenizer) -> list[str | None]:
    """The vocabulary in the order of its ids."""
    return [tokenizer.id_to_token(number) for number in range(tokenizer.vocab_size)]


def fresh_tokenizer(recipe: Recipe, out: Path) -> Tokenizer:
    """The recipe's tokenizer, or one trained on the task's text; kept in `out`/tokenizer so that a resumed run has the same."""
    if recipe.model.tokenizer:
        return Tokenizer.load(recipe.model.tokenizer, tokenizer_ids=recipe.model.tokenizer_ids or None)
    folder, begun = out / "tokenizer", newest_notes(out) is not None

    def train_tokenizer() -> None:
        kind = VARIANTS[recipe.model.variant].tokenizer
        tokenizer = train(recipe.task.texts(), kind, recipe.model.vocab_size, recipe.model.lowercase)
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".tmp-") as work:  # its files come together, or none
            tokenizer.save(Path(work) / "tokenizer")
            try:
                os.replace(Path(work) / "tokenizer", folder)
            except OSError:                                                 # a kill left a part
                shutil.rmtree(folder, ignore_errors=True)
                tokenizer.save(folder)

    if not begun:                                      # on one host: two might not come to the same pieces
        hosts.do_on_first(lambda: (folder / "tokenizer.json").is_file() or train_tokenizer())
    try:
        return Tokenizer.load(folder, tokenizer_ids=recipe.model.tokenizer_ids or None)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} cannot be read ({error}): " + (
            "put its files back, of which the run's checkpoints, of an earlier version, keep no copy, or begin in another "
            "folder" if begun else "delete it; nothing is lost, as the run has no checkpoint")) from error


def assess(task: Task, objective: Objective, params, examples, data: Pipeline, mesh=None) -> dict[str, float]:
    """The task's metrics, or where it has none the losses, over all of an evaluation pipeline."""
    if not task.best:
        return evaluation.evaluate_loss(objective, params, data, mesh)
    return task.score(examples, answers(objective, params, data, mesh))


def evaluation_data(task: Task, split: str, network: Network, tokenizer: Tokenizer, batch_size: int, seed: int,
                    check: Check | None = None, mesh: jax.sharding.Mesh | None = None) -> tuple[Examples, Pipeline]:
    """The examples of a split, and batches of them, each once and in order; packed where the task packs them.

    mesh: whose devices share the rows (None: all in their order). The batch is rounded up to what they divide; each
    host gets the rows that its devices hold.
    """
    mesh = make_mesh() if mesh is None else mesh
    examples = rows = task.examples(split, tokenizer, cache_folder() / "corpora", batch_size)
    if network.variant.packs(network.config) and (dense := task.packed(examples)) is not None:
        rows, batch_size = dense, max(batch_size * len(dense) // len(examples), 1)
    batch_size = -(-batch_size // batch_parts(mesh)) * batch_parts(mesh)
    return examples, pipeline(rows, batch_size=batch_size, shuffle=False, epochs=1,
                              corrupt=task.corrupt(rows, tokenizer, seed), together=task.masked_together,
                              check=check or fits(network), rows=local_rows(batch_sharding(mesh), batch_size))


def answers(objective: Objective, params, data: Pipeline, mesh=None) -> dict[str, np.ndarray]:
    """The objective's predictions for all examples of an evaluation pipeline, in order."""
    found, packed = list(evaluation.predictions(objective, params, data, mesh)), data.maker.examples
    outputs = {key: np.concatenate([out[key] for _, out in found]) for key in found[0][1]}
    if not isinstance(packed, Packed):
        return outputs
    used, place = np.concatenate([batch["sequence_weights"] for batch, _ in found]) > 0, np.argsort(packed.members)
    return {key: value[used][place] for key, value in outputs.items()}


def evaluate(folder: str | Path, task: Task, split: str = VALIDATION, batch_size: int = 32,
             output: str | Path | None = None, labels: tuple[str, ...] = (), max_length: int | None = None
             ) -> dict[str, float]:
    """Metrics of a saved model on a task's split; {} where the split has no labels.

    output: folder for prediction files in the task's official format. labels: the model's classes by id, instead of
    what its folder calls them. max_length: tokens of a row; without it the task's own number, or the model's positions
    where they are fewer, which is said.
    Raises ValueError where the model's classes are not the task's, where its answers are no numbers, and where there would
    be nothing to show.
    """
    if split not in (TRAIN, VALIDATION, *((TEST,) if task.best else ())):
        raise ValueError(f"there is no split {split!r} to evaluate on")
    checkpoint = load(folder, heads=task.heads, fresh=False)
    say(*(f"{folder}: {guess}" for guess in checkpoint.report.guesses))
    if missing := [head for head in task.heads if head not in checkpoint.heads]:
        raise ValueError(f"{folder} has no {missing[0]!r} head; it has: {', '.join(checkpoint.heads) or 'none'}")
    if len(set(labels)) < len(labels):
        raise ValueError(f"--labels names {next(one for one in labels if labels.count(one) > 1)!r} twice")
    if labels and len(labels) != len(checkpoint.config.id2label):
        raise ValueError(f"{len(labels)} labels are given, but {folder} has {len(checkpoint.config.id2label)} classes")
    named = checkpoint.config.id2label
    if labels and labels != named and not all(name.startswith("LABEL_") for name in named):
        say(f"{folder} calls its classes {', '.join(named)}; --labels takes them for {', '.join(labels)}")
    known = labels or named
    task = embedding(task.answered_by(known), checkpoint.pooling).fitted(known, checkpoint.pooling and checkpoint.pooling.mode)
    wanted = task.labels()
    if wanted is not None and known != wanted:
        raise ValueError(f"{folder} knows {len(known)} classes, {', '.join(known)}; the task has {len(wanted)}, "
                         f"{', '.join(wanted)}" + ("; --labels says what they are, by id" if "LABEL_0" in known else ""))
    several = "multi_label_classification"
    if wanted is not None and (checkpoint.config.problem_type == several) != (task.problem_type == several):
        one, other = ("any number of classes", "one") if task.problem_type != several else ("one class", "any number")
        raise ValueError(f"{folder} gives a text {one} (its config.json's problem_type says so), the data gives it {other}")
    tokenizer, vocab_size = checkpoint.tokenizer, checkpoint.config.vocab_size
    if tokenizer is None:
        raise checkpoint.no_tokenizer()
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(f"the tokenizer of {folder} has {tokenizer.vocab_size} ids, its model {vocab_size} rows: it is "
                         "another model's")
    network = checkpoint.network.variant.network(checkpoint.config, task.heads)
    longest = network.variant.longest(network.config)
    if longest and (max_length or task.max_length) > longest:
        if max_length:
            raise ValueError(f"max_length is {max_length}, but {folder} has {longest} positions")
        say(f"{folder} has {longest} positions: rows are cut there, not at the task's {task.max_length} tokens")
    if (length := max_length or min(task.max_length, longest or task.max_length)) != task.max_length:
        task = replace(task, max_length=length)
    companions = {name: load(place, heads=task.heads, fresh=False) for name, place in task.companions().items()}
    examples, data = evaluation_data(task, split, network, tokenizer, batch_size, 0,
                                     fits(network, *(companion.network for companion in companions.values())))
    data.batch(0)                                      # its faults before any work
    params, objective = task.initial(network, checkpoint.params, **companions), task.objective(network, **companions)
    if not task.best:
        return evaluation.evaluate_loss(objective, params, data)
    outputs = answers(objective, params, data)
    if unfit := [key for key, value in outputs.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]:
        raise ValueError(f"{folder} answers with {unfit[0]} that are no finite numbers: its weights are broken")
    metrics = task.score(examples, outputs)
    if output is not None:
        hosts.do_on_first(lambda: task.write(examples, outputs, Path(output)))
    elif not metrics:
        raise ValueError(f"the {split} split has no labels to score against: give --output a folder for the predictions")
    return metrics
