"""What a recipe asks for and does not get: each remark is a line that `train` says once, before the first step."""

import dataclasses
from typing import Any

from bertvariants_jax.hf.checkpoint import Checkpoint
from bertvariants_jax.layers.dense import Compute
from bertvariants_jax.models.config import Config
from bertvariants_jax.text import Tokenizer
from bertvariants_jax.training.loop import Settings
from bertvariants_jax.training.optimizer import Optim, steps_of
from bertvariants_jax.training.sharding import Mesh

INITIAL_SPREAD = 0.02  # of the family's weights
SMALLEST_STEP = {"bfloat16": 2.0**-9, "float16": 2.0**-12}  # of a weight, that still moves it
DERIVED = ("vocab_size", "pad_token_id", "id2label", "problem_type")  # by tokenizer and task


def is_default(record: Any, name: str) -> bool:
    """Whether a dataclass's field, if it has one of that name, holds its default."""
    field = next((f for f in dataclasses.fields(record) if f.name == name), None)
    if field is None:
        return True
    default = field.default
    if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return getattr(record, name) == default


def remarks_on_length(settings: Settings, steps_of_epochs: int) -> list[str]:
    """settings: as asked for, with epochs. steps_of_epochs: what the epochs come to."""
    if not settings.steps or settings.steps == steps_of_epochs:
        return []
    if steps_of_epochs < settings.steps:
        return [
            f"the run ends after {steps_of_epochs} steps: --epochs {settings.epochs:g} is fewer than "
            f"--steps {settings.steps} (--epochs 0 counts steps alone)"
        ]
    return [
        f"the run ends after {settings.steps} steps: --steps {settings.steps} is fewer than "
        f"--epochs {settings.epochs:g}, {steps_of_epochs} steps (--steps 0 counts epochs alone)"
    ]


def remarks_on_settings(settings: Settings, optim: Optim, param_dtype: str) -> list[str]:
    """settings: with the steps that the run takes."""
    steps, remarks = settings.steps, []
    span = optim.schedule_steps or steps
    warmup = steps_of(optim.warmup, span)
    if warmup >= steps > 0:
        remarks.append(
            f"the rate never reaches its peak {optim.rate:g}: --optim.warmup {optim.warmup:g} is "
            f"{warmup} steps, and the run has {steps}"
        )
    if optim.schedule != "wsd" and not is_default(optim, "cooldown"):
        remarks.append(f"--optim.cooldown is not used: it belongs to the schedule wsd, not {optim.schedule}")
    elif optim.schedule == "wsd" and steps_of(optim.cooldown, span) > span - warmup:
        remarks.append(
            f"--optim.cooldown {optim.cooldown:g} is cut to the {max(span - warmup, 1)} steps that "
            "the warm-up leaves"
        )
    if optim.schedule in ("noam", "constant") and optim.end:
        remarks.append(f"--optim.end is not used: the schedule {optim.schedule} falls to no end")
    if optim.layer_decay == 1 and not is_default(optim, "layer_decay_top"):
        remarks.append("--optim.layer-decay-top is not used: --optim.layer-decay is 1")
    growing = steps_of(settings.batch_warmup, steps)
    if bool(settings.batch_warmup_from) != bool(settings.batch_warmup):
        missing = "batch-warmup" if settings.batch_warmup_from else "batch-warmup-from"
        remarks.append(f"batches do not grow: --{missing} is 0")
    elif settings.batch_warmup_from and growing > steps:
        remarks.append(
            f"batches never reach {settings.batch_size} rows: --batch-warmup "
            f"{settings.batch_warmup:g} is more than the {steps} steps of the run"
        )
    if settings.batch_warmup_by and not settings.batch_warmup_from:
        remarks.append("--batch-warmup-by is not used: --batch-warmup-from is 0")
    if settings.best_mode == "min" and not settings.keep_best:
        remarks.append("--best-mode is not used: --keep-best names no metric")
    elif settings.best_mode == "min" and "loss" not in settings.keep_best:
        remarks.append(
            f"--best-mode min keeps the checkpoint with the least {settings.keep_best} (max keeps that with the greatest)"
        )
    if settings.best_mode == "max" and "loss" in settings.keep_best:
        remarks.append(
            f"--keep-best {settings.keep_best} keeps the checkpoint with the greatest loss "
            "(--best-mode min keeps that with the least)"
        )
    if settings.parallel == "pmap" and settings.mesh != Mesh():
        remarks.append("--mesh is not used: --parallel pmap has a copy of all on each device")
    return remarks + remarks_on_precision(optim, param_dtype)


def remarks_on_precision(optim: Optim, param_dtype: str) -> list[str]:
    """Adam moves a weight by about the rate, LAMB by that part of it: less than half of its last bit is lost."""
    smallest = SMALLEST_STEP.get(param_dtype)
    if smallest is None:
        return []
    if optim.name == "lamb":
        return [] if optim.rate > smallest else [
            f"--compute.param-dtype {param_dtype} loses most updates: a rate of {optim.rate:g} is less "
            f"than {smallest:.1g}, half of a weight's last bit; float32 loses none"
        ]
    unmoved = optim.rate / smallest
    return [] if unmoved > 5 * INITIAL_SPREAD else [
        f"--compute.param-dtype {param_dtype} loses updates: at a rate of {optim.rate:g} weights beyond "
        f"{unmoved:.2g} do not move, and weights of {INITIAL_SPREAD} are usual; float32 loses none "
        "(--compute.dtype is what makes steps fast)"
    ]


def remarks_on_compute(compute: Compute, num_layers: int, backend: str) -> list[str]:
    """backend: what JAX runs on ("cpu")."""
    remarks, is_unrolled = [], not 0 < compute.unroll < num_layers
    if compute.remat != "none" and backend == "cpu" and is_unrolled:
        remarks.append(
            f"--compute.remat {compute.remat} saves no memory on a CPU where all {num_layers} layers are "
            "unrolled (--compute.unroll 1 keeps them in a loop)"
        )
    if compute.dtype == "float16":
        remarks.append(
            "--compute.dtype float16 has no scaling of the loss here: small gradients become 0; bfloat16 "
            "has float32's range"
        )
    return remarks


def remarks_on_start(asked: Any, start: Checkpoint) -> list[str]:
    """Fields of a recipe's model that its start overrules. asked: the recipe's Model."""
    remarks, name, config = [], asked.start, asked.config
    if not is_default(asked, "variant") and asked.variant != start.variant:
        remarks.append(f"--model.variant {asked.variant} is not used: {name} holds a {start.variant}")
    elif type(config) not in (Config, type(start.config)):
        remarks.append(f"--model.config is not used: it is no {start.variant}'s, and {name} holds one")
    elif type(config) is not Config:
        other = {
            field.name: (getattr(config, field.name), getattr(start.config, field.name))
            for field in dataclasses.fields(config)
            if field.name not in DERIVED and field.name not in asked.changes
        }
        other = {key: pair for key, pair in other.items() if pair[0] != pair[1]}
        if other:
            listed = ", ".join(f"{key} {theirs} (not {ours})" for key, (ours, theirs) in other.items())
            remarks.append(
                f"--model.config is not used: {name} has {listed}; --model.changes changes numbers of it"
            )
    return remarks


def remarks_on_task(task: Any, start: str) -> list[str]:
    """Options of a task that are set and have no effect."""
    return [
        f"--task.{name.replace('_', '-')} is not used: {why}"
        for name, why in task.unused(bool(start)).items()
        if not is_default(task, name)
    ]


def remarks_on_vocabulary(asked: Any, tokenizer: Tokenizer, source: str) -> list[str]:
    """What the recipe's model says of a vocabulary. source: where the tokenizer is from, "" if it was trained."""
    size, remarks = tokenizer.vocab_size, []
    if not source:
        if size < asked.vocab_size:
            remarks.append(f"the text gives {size} pieces, fewer than --model.vocab-size {asked.vocab_size}")
        return remarks
    if asked.vocab_size != size and not (asked.start and is_default(asked, "vocab_size")):
        remarks.append(f"--model.vocab-size {asked.vocab_size} is not used: the tokenizer of {source} has {size} pieces")
    # recipes of cased models say so themselves: only a tokenizer that contradicts them is worth a line
    if not asked.lowercase and [ids.tolist() for ids in tokenizer.ids(["A"])] == [ids.tolist() for ids in tokenizer.ids(["a"])]:
        remarks.append(
            f"--model.no-lowercase is not used: it is of a tokenizer that is trained here, and that of {source} lower-cases"
        )
    return remarks


def remarks_on_tokenizers(tokenizer: Tokenizer, other: Tokenizer | None, whose: str) -> list[str]:
    """How the tokenizer in force differs from the one that a network was trained with."""
    if other is None or other.fingerprint == tokenizer.fingerprint:
        return []
    shared = range(min(tokenizer.vocab_size, other.vocab_size))
    moved = [i for i in shared if tokenizer.id_to_token(i) != other.id_to_token(i)]
    if moved:
        first = moved[0]
        return [
            f"{len(moved)} of {len(shared)} ids are other pieces than in {whose}, whose embeddings they get: id {first} is "
            f"{tokenizer.id_to_token(first)!r}, there {other.id_to_token(first)!r}"
        ]
    if tokenizer.vocab_size != other.vocab_size:
        return []
    return [f"the tokenizer has the pieces of {whose} and makes other ids of a text (case, accents, rules)"]


def remarks_on_classes(
    start: Checkpoint, fresh: tuple[str, ...], heads: tuple[str, ...], labels: tuple[str, ...], name: str
) -> list[str]:
    """What becomes of a head that the start has trained for other classes. fresh: the parts that were drawn."""
    known, remarks = start.config.id2label, []
    if known == labels:
        return []
    for head in heads:
        if head not in start.heads:
            continue
        if any(part.split("/")[0] == head for part in fresh):
            remarks.append(
                f"{name}: its {head} head for {shown(known)} is left out, and drawn anew for {shown(labels)}"
            )
        else:
            remarks.append(f"{name}: its {head} head for {shown(known)} goes on as that for {shown(labels)}, in this order")
    return remarks


def shown(labels: tuple[str, ...], most: int = 10) -> str:
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")
