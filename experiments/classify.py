"""Classification of your own texts: any TSV, CSV, JSONL or Parquet with named columns, or lines of a label and a text.

    bertvariants train experiments/classify.py --data tsv:mine.tsv --text review --label stars --out runs/mine
    bertvariants train experiments/classify.py --data csv:train.csv --evaluation csv:dev.csv --text premise \\
        --pair hypothesis --label relation --out runs/nli
    bertvariants train experiments/classify.py --data labeled:TREC.train --label coarse --task.encoding latin-1 --out runs/trec
    bertvariants evaluate runs/mine/model --task runs/mine
    bertvariants predict runs/mine/model "a text"

Without --evaluation a tenth of the rows is kept aside. Files without a header: --task.no-header --task.columns label
text. Numbers instead of classes: --task.regression --task.metrics pearson spearman. The classes are the labels of
the training rows, sorted; --task.classes gives them another order, --task.names other names. Texts with several labels
each: lists in JSONL or Parquet, or --task.separator "," in a table; scored by micro F1. A spreadsheet's TSV is read with
its quotes; --task.quotes raw takes them as they stand.

Measured with all-MiniLM-L6-v2 (6 layers of 384, uncased), 2 CPU cores, float32, --optim.rate 1e-4: TREC's six classes
0.955 of a tenth kept aside (the largest class 0.23) after 5 epochs in 8 minutes; SST-5 0.477 of dev (0.263) after 3
epochs in 9 minutes; 3,532 pairs of QNLI 0.841 of a fifth kept aside (0.513) after 4 epochs in 10 minutes.
"""

from bertvariants_jax.recipe import Classify, Compute, Recipe, finetune


def recipe(data: str = "", evaluation: str = "", text: str = "text", pair: str = "", label: str = "label",
           start: str = "google-bert/bert-base-uncased", variant: str = "", tokenizer: str = "") -> Recipe:
    """data, evaluation: addresses such as tsv:FILE. text, pair, label: names of columns ("" for no pair). start: folder or
    hub id of weights, "" for fresh ones of `variant`. variant: whose paper's way of fine-tuning; that of `start` if not
    given. tokenizer: folder, where start has none."""
    paper = finetune(variant or start)
    return Recipe(
        task=Classify(data, evaluation, text=text, pair=pair, label=label, metrics=("accuracy", "macro_f1")),
        model=paper.model(start, variant, tokenizer),
        optim=paper.optim,
        settings=paper.settings,
        compute=Compute(unroll=0),
    )
