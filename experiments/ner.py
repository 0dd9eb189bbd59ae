"""Named entities and chunks as BERT finds them (arXiv:1810.04805, section 5.3): CoNLL-2003, CoNLL-2000, WNUT 2017, MSRA.

    bertvariants train experiments/ner.py --task conll2003 --out runs/ner
    bertvariants train experiments/ner.py --task wnut17 --data ner/wnut17 --start runs/bert/model --out runs/wnut17
    bertvariants evaluate runs/wnut17/model --task wnut17 --data ner/wnut17
    bertvariants evaluate --predictions predictions.conll --task wnut17 --data ner/wnut17

--data is the folder of the task's own files (CoNLL-2003 also comes from TFDS), or an address of your own sentences:

    bertvariants train experiments/ner.py --data conll:mine.conll --task.evaluation conll:dev.conll --out runs/mine
    bertvariants train experiments/ner.py --data tsv:mine.tsv --task.words text --task.tags tags --out runs/mine

The entities' types are those of the tags there, and without --task.evaluation a tenth is kept aside; conll:FILE#COLUMN is
a file whose tags stand in another column than the last.

Measured on WNUT 2017 with all-MiniLM-L6-v2 (6 layers, 384, uncased), 2 busy CPU cores, float32: entity F1 0.422 on the
1,009 sentences of dev (precision 0.526, recall 0.353) after 198 steps in 6 minutes, --epochs 1.5 --optim.rate 4e-4
--task.max-length 40 --variant bert-base-uncased. Each word's most frequent tag in train: 0.148; no entity at all: 0.
On the dev sentences of MSRA, a tenth of them kept aside, from a tiny ERNIE of 600 steps: 0.174, --optim.rate 1e-3
--epochs 15 --data tsv:dev.tsv --task.words text_a --task.tags label, 3 minutes.
"""

from bertvariants_jax.recipe import Compute, Recipe, finetune, replace
from bertvariants_jax.recipe import task as named


def recipe(task: str = "conll2003", data: str = "", start: str = "google-bert/bert-base-cased",
           variant: str = "", tokenizer: str = "") -> Recipe:
    """task: conll2003, conll2000, wnut17, msra. data: folder of its files, or an address. start: folder or hub id of weights, "" for
    fresh ones of `variant`. variant: whose paper's way of fine-tuning; that of `start` if not given. tokenizer: folder,
    where start has none."""
    paper = finetune(variant or start, "ner")
    return Recipe(
        task=named(task, data, **{"max_length": 128, **paper.options}),
        model=paper.model(start, variant, tokenizer),
        optim=paper.optim,
        settings=replace(paper.settings, log_every=50),
        compute=Compute(unroll=0),
    )
