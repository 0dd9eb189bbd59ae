"""Extractive question answering on SQuAD 1.1 and 2.0 (arXiv:1606.05250, 1806.03822), each variant as its paper does it.

    bertvariants train experiments/squad.py --out runs/squad
    bertvariants train experiments/squad.py --task squad2 --data squad --start google/electra-small-discriminator --out runs/squad2
    bertvariants evaluate runs/squad2/model --task runs/squad2 --output answers
    bertvariants evaluate --predictions answers/predictions.json --task squad2 --data squad
    bertvariants predict runs/squad2/model --input questions.jsonl       {"question": ..., "context": ...} a line

Data comes from TFDS, or with --data from a folder of the original train and dev JSON files (gz too). Other files of that
form: --task.data FILE --task.evaluation FILE. XLNet, ELECTRA and, on 2.0, ALBERT have a head of their own, which
scores ends given their starts, and whether there is an answer at all.

On a CPU `--accumulate 16` is 1.6 times as fast as one batch of 32 windows: a small one stays in its caches.

Measured with all-MiniLM-L6-v2 (6 layers of 384, uncased), 2 CPU cores, float32, on ten articles of SQuAD 1.1's form: exact
match 22.4 and F1 31.8 on articles of dev after 95 steps, --optim.rate 2e-4 --epochs 0.6 --task.max-length 256. On ten
articles of SQuAD 2.0 (--epochs 2 --task.max-length 192, 28 minutes on one core), of whose 4,719 questions 348 have no
answer, while half of dev's have none: exact match 48.9 and F1 59.9 of those with one; of all 51.2 and 52.0 at the best
thresholds, where never answering makes 50.1.
"""

from bertvariants_jax.recipe import Compute, Recipe, finetune, known, replace
from bertvariants_jax.recipe import task as named

# what a paper's code does otherwise than BERT's: windows of 384 tokens, answers of 30, the head "span"
OWN = {
    "xlnet": {"head": "beam", "max_length": 512, "max_answer": 64, "n_best": 5},
    "electra": {"head": "beam", "max_length": 512, "null_threshold": -2.75},
    "albert/squad2": {"head": "beam"},
    "roberta": {"max_length": 512}, "spanbert": {"max_length": 512}, "deberta": {"max_length": 512},
    "deberta-v2": {"max_length": 512}, "deberta-v3": {"max_length": 512}, "modernbert": {"max_length": 512},
}


def recipe(task: str = "squad", data: str = "", start: str = "google-bert/bert-base-uncased", variant: str = "",
           tokenizer: str = "") -> Recipe:
    """task: squad, squad2, cmrc2018. data: folder of its JSON files. start: folder or hub id of weights, "" for fresh
    ones of `variant`. variant: whose paper's way of fine-tuning; that of `start` if not given. tokenizer: folder, where
    start has none."""
    paper = finetune(variant or start, "squad" if task == "cmrc2018" else task)
    name = known(variant or start)[0].name
    return Recipe(
        task=named(task, data, **OWN.get(name, {}), **OWN.get(f"{name}/{task}", {})),
        model=paper.model(start, variant, tokenizer),
        optim=paper.optim,
        settings=replace(paper.settings, log_every=50),
        compute=Compute(unroll=0),
    )
