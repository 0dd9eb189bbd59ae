"""Sentence classification on SST-2 (Socher et al. 2013; GLUE), from any BERT folder or hub id.

    bertvariants train experiments/finetune_sst2.py --start google-bert/bert-base-uncased --out runs/sst2
    bertvariants train experiments/finetune_sst2.py --start runs/bert_tiny/model --data glue/SST-2 --out runs/sst2

Data comes from TFDS, or with --data from the original train.tsv and dev.tsv (gz too). --start "" trains the same
network as BERT-tiny from fresh weights, for comparison.
"""

from bertvariants_jax.recipe import Compute, Model, Optim, Recipe, Settings, glue, model


def recipe(start: str = "google-bert/bert-base-uncased", data: str = "", tokenizer: str = "") -> Recipe:
    """start: folder or hub id of weights. data: folder of the TSV files. tokenizer: folder, where start has none."""
    return Recipe(
        task=glue("sst2", data, max_length=64),
        model=Model(start=start, tokenizer=tokenizer) if start else model("bert-tiny", tokenizer),
        optim=Optim("adamw", rate=3e-5, schedule="shifted", warmup=0.1),
        settings=Settings(steps=6315, batch_size=32, log_every=50, eval_every=500, save_every=500),
        compute=Compute(unroll=0),
    )
