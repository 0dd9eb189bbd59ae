"""GLUE (arXiv:1804.07461): nine tasks of classification and regression, each variant fine-tuned as its paper does.

    bertvariants train experiments/glue.py --task sst2 --out runs/sst2
    bertvariants train experiments/glue.py --task rte --data glue --start runs/electra/model --seeds 5 --out runs/rte
    bertvariants report runs/cola runs/sst2 runs/rte          the table of scores and GLUE's average over these tasks
    bertvariants evaluate runs/mnli/model --task mnli_mm --data glue
    bertvariants evaluate runs/rte/model --task rte --data glue --split test --output submission
    bertvariants evaluate --predictions submission/RTE.tsv --task rte --data glue

Data comes from TFDS, or with --data from the original TSV files (gz too). Adam corrects its bias, which BERT's own code
does not: fewer runs fail so (arXiv:2006.04884). Texts are cut where the paper's code cuts them: at 512 tokens for RoBERTa
and ALBERT, 64 to 512 by task for DeBERTa, 256 for ModernBERT, else at 128 (--task.max-length); what is dropped before the
classifier is the paper's too (--model.changes). RoBERTa's, DeBERTa's and ModernBERT's numbers for RTE, MRPC and STS-B
are of runs that start from their model of MNLI.

Measured on dev with all-MiniLM-L6-v2 (6 layers of 384, uncased), 2 CPU cores, float32, one seed, --optim.rate 1e-4; in
parentheses a constant answer:

    CoLA   --epochs 5 --task.max-length 64     Matthews 0.297 (0)
    SST-2  --epochs 0.6 --task.max-length 64   accuracy 0.891 (0.509)                13 minutes an epoch
    MRPC   --epochs 4                          accuracy 0.792 (0.684), F1 0.850 (0.812)
    STS-B  --epochs 3                          Pearson 0.860 (0), Spearman 0.861 (0)
    RTE    --epochs 5 --task.max-length 192    accuracy 0.578 (0.527)

From the tiny pre-trained forms of the other recipes (--optim.rate 5e-4 --epochs 0.3 --task.max-length 48, half a minute),
SST-2: XLNet 0.756, ELECTRA 0.748, where transformers trained from the same weights comes to 0.758 and 0.759. Weights that
have hardly left their start, such as XLNet's and ELECTRA's after 250 steps, stay at the constant answer.

SST-2's texts packed into rows of 128 tokens take 0.33 of the time of one text a row.
"""

from bertvariants_jax.recipe import Compute, Recipe, finetune, glue


def recipe(task: str = "sst2", data: str = "", start: str = "google-bert/bert-base-uncased", variant: str = "",
           tokenizer: str = "") -> Recipe:
    """task: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli. data: folder of the TSV files. start: folder or hub id of
    weights, "" for fresh ones of `variant`. variant: whose paper's way of fine-tuning; that of `start` if not given.
    tokenizer: folder, where start has none."""
    paper = finetune(variant or start, task)
    return Recipe(
        task=glue(task, data, **paper.options),
        model=paper.model(start, variant, tokenizer),
        optim=paper.optim,
        settings=paper.settings,
        compute=Compute(unroll=0),
    )
