"""Sentence embeddings (arXiv:1908.10084): a model whose vectors of like texts have a large cosine, scored on STS-B.

    bertvariants evaluate sentence-transformers/all-MiniLM-L6-v2 --task stsb_embeddings
    bertvariants train experiments/sts.py --data glue/STS-B --out runs/sts
    bertvariants train experiments/sts.py --task.loss contrastive --task.least 4 --batch-size 64 --out runs/contrastive
    bertvariants predict runs/sts/model --task embed "a text"

The first evaluates pooled hidden states without any training. Training brings the cosine to the label, or, contrastive,
tells a pair's second text from the others of the batch. Other pairs: --task.data tsv:FILE --task.evaluation tsv:FILE
--task.text, --task.pair, --task.label, --task.most (the largest label). The folder that is left opens in
sentence-transformers too.

Measured on STS-B's dev with all-MiniLM-L6-v2, Spearman: without training 0.8672, as transformers gives; 0.8947 after one
epoch of cosines (--optim.rate 5e-5 --task.max-length 64, 10 minutes on one CPU core); 0.8678 after three of contrast
(--optim.rate 2e-5 --batch-size 64), by which that model had been trained before.
"""

from bertvariants_jax.recipe import Compute, Recipe, finetune
from bertvariants_jax.recipe import task as named


def recipe(data: str = "", start: str = "google-bert/bert-base-uncased", variant: str = "", tokenizer: str = "") -> Recipe:
    """data: folder of STS-B's TSV files; TFDS without. start: folder or hub id of weights, "" for fresh ones of `variant`.
    variant: whose paper's way of fine-tuning; that of `start` if not given. tokenizer: folder, where start has none."""
    paper = finetune(variant or start, "stsb")
    return Recipe(
        task=named("stsb_embeddings", data),
        model=paper.model(start, variant, tokenizer),
        optim=paper.optim,
        settings=paper.settings,
        compute=Compute(unroll=0),
    )
