"""GLUE (arXiv:1804.07461): nine tasks of classification and regression, each variant fine-tuned as its paper does.

    bertvariants train experiments/glue.py --task sst2 --out runs/sst2
    bertvariants train experiments/glue.py --task rte --data glue --start runs/electra/model --seeds 5 --out runs/rte
    bertvariants report runs/cola runs/sst2 runs/rte          the table of scores and GLUE's average over these tasks
    bertvariants evaluate runs/mnli/model --task mnli_mm --data glue
    bertvariants evaluate runs/rte/model --task rte --data glue --split test --output submission
    bertvariants evaluate --predictions submission/RTE.tsv --task rte --data glue

Data comes from TFDS, or with --data from the original TSV files (gz too). Adam corrects its bias, which BERT's own code
does not: fewer runs fail so (arXiv:2006.04884). RoBERTa's, DeBERTa's and ModernBERT's numbers for RTE, MRPC and STS-B
are of runs that start from their model of MNLI.
"""

from bertvariants_jax.recipe import Compute, Model, Recipe, finetune, glue, model


def recipe(task: str = "sst2", data: str = "", start: str = "google-bert/bert-base-uncased", variant: str = "",
           tokenizer: str = "") -> Recipe:
    """task: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli. data: folder of the TSV files. start: folder or hub id of
    weights, "" for fresh ones of `variant`. variant: whose paper's way of fine-tuning; that of `start` if not given.
    tokenizer: folder, where start has none."""
    optim, settings = finetune(variant or start, task)
    return Recipe(
        task=glue(task, data),
        model=Model(start=start, tokenizer=tokenizer) if start else model(variant, tokenizer),
        optim=optim,
        settings=settings,
        compute=Compute(unroll=0),
    )
