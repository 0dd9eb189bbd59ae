"""Multiple choice: RACE (arXiv:1704.04683), SWAG, DREAM, Cosmos QA and COPA; a batch counts questions, not rows.

    bertvariants train experiments/race.py --data RACE --out runs/race
    bertvariants train experiments/race.py --task dream --data multichoice --start runs/bert/model --out runs/dream
    bertvariants evaluate runs/dream/model --task dream --data multichoice

--data is the folder of the task's own files; RACE, Cosmos QA and COPA also come from TFDS. --task.groups middle is
RACE-M alone. The rows of a question are as many as its options: with four of 512 tokens, `--batch-size 8
--accumulate 4` fits where 32 questions do not.

Measured with all-MiniLM-L6-v2 (6 layers of 384, uncased), one CPU core, float32: DREAM's dev 0.437 (the commonest place
0.345) after two epochs of 2,400 questions, 21 minutes, --optim.rate 2e-4 --task.max-length 128 --task.question-length 48
--accumulate 8 --task.rows 2400; 0.377 after 50 steps at 1e-4.
"""

from bertvariants_jax.recipe import Compute, Recipe, finetune, replace
from bertvariants_jax.recipe import task as named


def recipe(task: str = "race", data: str = "", start: str = "google-bert/bert-base-uncased",
           variant: str = "", tokenizer: str = "") -> Recipe:
    """task: race, swag, dream, cosmosqa, copa. data: folder of its files. start: folder or hub id of weights, "" for
    fresh ones of `variant`. variant: whose paper's way of fine-tuning; that of `start` if not given. tokenizer: folder,
    where start has none."""
    paper = finetune(variant or start, task)
    return Recipe(
        task=named(task, data, **paper.options),
        model=paper.model(start, variant, tokenizer),
        optim=paper.optim,
        settings=replace(paper.settings, log_every=50),
        compute=Compute(unroll=0),
    )
