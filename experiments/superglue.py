"""SuperGLUE (arXiv:1905.00537): BoolQ, CB, COPA, MultiRC, ReCoRD, RTE, WiC and WSC.

    bertvariants train experiments/superglue.py --task boolq --out runs/boolq
    bertvariants train experiments/superglue.py --task copa --data multichoice --start runs/bert/model --out runs/copa
    bertvariants evaluate runs/boolq/model --task boolq --data superglue --split test --output submission

Data comes from TFDS, or with --data from the original JSONL files (gz too; COPA's XML too). How each task becomes a
text or a pair is told in tasks/superglue.py.
"""

from bertvariants_jax.recipe import Compute, Recipe, finetune
from bertvariants_jax.recipe import task as named


def recipe(task: str = "boolq", data: str = "", start: str = "google-bert/bert-base-uncased", variant: str = "",
           tokenizer: str = "") -> Recipe:
    """task: boolq, cb, copa, multirc, record, superglue_rte, wic, wsc. data: folder of the files. start: folder or hub id
    of weights, "" for fresh ones of `variant`. variant: whose paper's way of fine-tuning; that of `start` if not given.
    tokenizer: folder, where start has none."""
    paper = finetune(variant or start, task.removeprefix("superglue_"))
    return Recipe(
        task=named(task, data, **paper.options),
        model=paper.model(start, variant, tokenizer),
        optim=paper.optim,
        settings=paper.settings,
        compute=Compute(unroll=0),
    )
