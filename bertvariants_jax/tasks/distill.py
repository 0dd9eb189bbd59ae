"""Distillation: pre-training with a teacher (DistilBERT, arXiv:1910.01108), and a fine-tuned teacher's task."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from bertvariants_jax.data.corpus import Blocks, full_sentences
from bertvariants_jax.data.frequency import mask_rare, rarity, sound
from bertvariants_jax.names import flatten, unflatten
from bertvariants_jax.objectives import distill
from bertvariants_jax.objectives.objective import Objective
from bertvariants_jax.tasks.classify import Classify
from bertvariants_jax.tasks.documents import Documents, check_rate, special
from bertvariants_jax.tasks.squad import Squad

STARTED = "the student begins with the weights of model.start, not with layers of its teacher"


@dataclass(frozen=True)
class Distil(Documents):
    """DistilBERT's pre-training. The student starts from its teacher (`from_teacher`), or where --model.start says.

    teacher: folder or hub id of a masked LM with the student's vocabulary. layers: which of its layers the student's
    start from; () spreads them evenly.
    temperature, alpha_ce, alpha_mlm, alpha_cos, restrict_to_mask: of the loss, see objectives/distill.py.
    train_positions: whether the student's table of positions is trained, or stays its teacher's, as DistilBERT's did.
    smoothing: a token is masked with odds of its count in the corpus to the power -smoothing; 0 is all alike.
    together: rows that masks are drawn over, 0 for a whole batch (see data/frequency.py).
    max_predictions: masked tokens of a row at most, 0 for twice the rate.
    Rows are whole sentences of one document; those of less than 12 tokens, or half unknown, are left out. (The original
    has a line of text in a row, and rows of like length in a batch, which shapes that never change do not allow.)
    """

    teacher: str = ""
    layers: tuple[int, ...] = ()
    temperature: float = 2.0
    alpha_ce: float = 5.0
    alpha_mlm: float = 2.0
    alpha_cos: float = 1.0
    restrict_to_mask: bool = False
    train_positions: bool = False
    mask_rate: float = 0.15
    smoothing: float = 0.7
    together: int = 8
    max_predictions: int = 0

    formerly: ClassVar[dict[str, Any]] = {"train_positions": True}  # what runs did before there was the field

    def __post_init__(self):
        super().__post_init__()
        check_rate("mask_rate", self.mask_rate)
        for name in ("smoothing", "together", "max_predictions"):
            if getattr(self, name) < 0:
                raise ValueError(f"task.{name} must not be negative, got {getattr(self, name)}")

    def unused(self, start: bool) -> dict[str, str]:
        return super().unused(start) | ({"layers": STARTED} if start else {})

    @property
    def heads(self) -> tuple[str, ...]:
        return ("mlm",)

    def examples(self, split: str, tokenizer, cache: Path | None, batch_size: int = 1) -> Blocks:
        blocks = full_sentences(self.corpus(split, tokenizer, cache), self.max_length, cross_documents=False,
                                token_type_ids=tokenizer.type_ids, **special(tokenizer))
        return sound(blocks, tokenizer.unk_token_id)

    def corrupt(self, examples: Blocks, tokenizer, seed: int):
        odds = rarity(examples.corpus.counts(tokenizer.vocab_size), tokenizer.special_ids, self.smoothing)
        most = self.max_predictions or math.ceil(2 * self.mask_rate * self.max_length)
        return functools.partial(mask_rare, seed=seed, odds=odds, mask_token_id=tokenizer.mask_token_id,
                                 max_predictions=min(most, self.max_length), rate=self.mask_rate, together=self.together)

    @property
    def masked_together(self) -> int:
        return self.together

    def companions(self) -> dict[str, str]:
        return named_teacher(self.teacher)

    def objective(self, network, *, teacher, **companions) -> Objective:
        return distill.masked_lm(network, part(network, teacher, "mlm"), temperature=self.temperature,
                                 alpha_ce=self.alpha_ce, alpha_mlm=self.alpha_mlm, alpha_cos=self.alpha_cos,
                                 restrict_to_mask=self.restrict_to_mask, train_positions=self.train_positions)

    def initial(self, network, start, *, teacher, **companions) -> dict[str, Any]:
        student = from_teacher(network, teacher.params, self.layers or None) if start is None else start
        return beside(student, part(network, teacher, "mlm"), teacher.params)


@dataclass(frozen=True)
class Taught:
    """What tasks with a fine-tuned teacher have in common.

    teacher: folder or hub id of a model of the same task, with the student's vocabulary. layers: which of its layers the
    student's start from, where --model.start names no weights; () spreads them evenly. Its head too is taken, where both
    are of one variant.
    alpha_ce weighs the teacher's soft targets at `temperature`, alpha_label the data's labels.
    """

    teacher: str = ""
    layers: tuple[int, ...] = ()
    temperature: float = 2.0
    alpha_ce: float = 0.5
    alpha_label: float = 0.5

    def unused(self, start: bool) -> dict[str, str]:
        return super().unused(start) | ({"layers": STARTED} if start else {})

    def companions(self) -> dict[str, str]:
        return named_teacher(self.teacher)

    def weights(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("temperature", "alpha_ce", "alpha_label")}

    def initial(self, network, start, *, teacher, **companions) -> dict[str, Any]:
        if start is None and network.variant is teacher.network.variant:
            start = from_teacher(network, teacher.params, self.layers or None)
        elif start is None:                       # heads of another make are drawn
            bare = network.variant.network(network.config, (), network.compute)
            start = {**network.init(jax.random.key(0)), **from_teacher(bare, teacher.params, self.layers or None)}
        return beside(start, part(network, teacher, *self.heads), teacher.params)


@dataclass(frozen=True)
class DistilClassify(Taught, Classify):
    """Classification learned from a fine-tuned teacher and from the labels."""

    def objective(self, network, *, teacher, **companions) -> Objective:
        if self.is_multi_label:
            raise ValueError("several labels a text cannot be learned from a teacher: its soft targets are of one class")
        known, wanted = teacher.config.id2label, network.config.id2label
        if known != wanted:
            raise ValueError(f"the teacher {self.teacher} knows the classes {', '.join(known)}, the task has "
                             f"{', '.join(wanted)}")
        return distill.classification(network, part(network, teacher, "classify"), **self.weights())


@dataclass(frozen=True)
class DistilSquad(Taught, Squad):
    """Answers learned from a fine-tuned teacher and from the gold ones (`run_squad_w_distillation.py`)."""

    def __post_init__(self):
        super().__post_init__()
        if self.head != "span":
            raise ValueError(f"task.head {self.head} has no soft targets to learn from: give span")

    def objective(self, network, *, teacher, **companions) -> Objective:
        return distill.extraction(network, part(network, teacher, "span"), **self.weights())


def distilled(task: Classify | Squad, teacher: str, **options: Any) -> DistilClassify | DistilSquad:
    """A task (a row of GLUE, or SQuAD) learned from a teacher too; options are the fields of `Taught`."""
    kinds = {Classify: DistilClassify, Squad: DistilSquad}
    if type(task) not in kinds:
        raise ValueError(f"{type(task).__name__} cannot be learned from a teacher, only Classify and Squad")
    return kinds[type(task)](**{field.name: getattr(task, field.name) for field in fields(task)}, teacher=teacher, **options)


def named_teacher(teacher: str) -> dict[str, str]:
    if not teacher:
        raise ValueError("there is no teacher: give --task.teacher a model folder or hub id")
    return {"teacher": teacher}


def part(network, teacher, *heads: str):
    """The teacher with those heads, computed as the student is. Raises ValueError where it has them not."""
    if missing := [head for head in heads if head not in teacher.network.heads]:
        raise ValueError(f"the teacher has no {missing[0]!r} head; it has: {', '.join(teacher.network.heads) or 'none'}")
    return teacher.network.variant.network(teacher.config, heads, network.compute)


def beside(student: Mapping[str, Any], teacher, params: Mapping[str, Any]) -> dict[str, Any]:
    """The student's parameters, and those of the network `teacher` beside them."""
    return {**student, "teacher": {name: params[name] for name in ("encoder", *teacher.heads)}}


def chosen_layers(teacher: int, student: int) -> list[int]:
    """Which of `teacher` layers start the `student` layers: evenly spread, first and last among them.

    12 to 6 is the original's 0, 2, 4, 7, 9, 11. Raises ValueError where the student is deeper.
    """
    if not 1 <= student <= teacher:
        raise ValueError(f"a student of {student} layers cannot start from a teacher of {teacher}")
    return np.rint(np.linspace(0, teacher - 1, student)).astype(int).tolist()


def from_teacher(network, teacher: Mapping[str, Any], layers: Sequence[int] | None = None) -> dict[str, Any]:
    """A student's parameters from its teacher's: embeddings, some layers, and the heads that the student has.

    Args:
      network: the student, of any variant whose layers are named as the teacher's: DistilBERT of a BERT
        (whose segment table is dropped), or a shallower network of the teacher's own variant (DistilRoBERTa).
      teacher: {"encoder": ..., "<head>": ...}, its layers stacked along a leading axis.
      layers: the teacher's layer for each of the student's; `chosen_layers` unless given.
    Returns: the student's {"encoder": ..., "<head>": ...}, sharing the teacher's arrays where it can.
    Raises: ValueError naming every leaf that the teacher has not or has in another shape.
    """
    leaves, expected = flatten(teacher), flatten(network.shapes())
    stacked = "encoder/layers/"
    if depth := next((leaf.shape[0] for path, leaf in leaves.items() if path.startswith(stacked)), 0):
        layers = chosen_layers(depth, network.config.num_hidden_layers) if layers is None else list(layers)
        if any(not 0 <= layer < depth for layer in layers):
            raise ValueError(f"layers {layers} are not all among the teacher's {depth}")
        index = np.asarray(layers)
        leaves = {path: leaf[index] if path.startswith(stacked) else leaf for path, leaf in leaves.items()}
    faults = [f"{path} is {leaves[path].shape if path in leaves else 'missing'}, the student has {leaf.shape}"
              for path, leaf in expected.items() if path not in leaves or leaves[path].shape != leaf.shape]
    if faults:
        raise ValueError("the teacher does not fit the student: " + "; ".join(faults))
    return unflatten({path: leaves[path] for path in expected})
