"""Sentence classification on SST-2 (Socher et al. 2013; GLUE), from any BERT folder or hub id.

    bertvariants train experiments/finetune_sst2.py --start google-bert/bert-base-uncased --out runs/sst2
    bertvariants train experiments/finetune_sst2.py --start runs/bert_tiny/model --data glue/SST-2 --out runs/sst2

Data comes from TFDS, or with --data from the original train.tsv and dev.tsv (gz too). --start "" trains the same
network as BERT-tiny from fresh weights, for comparison.

Measured on 2 CPU cores, float32, dev accuracy over all 872 sentences (majority 0.509):
  all-MiniLM-L6-v2 (6 layers, 384): 0.883   --task.rows 40000 --task.max-length 48 --steps 1000 --optim.rate 1e-4, 8 minutes
  BERT-tiny of bert_base.py --tiny:    0.782   --task.rows 30000 --task.max-length 48 --steps 1800 --optim.rate 3e-4, 2 minutes
  the same network from fresh weights: 0.789   with the same flags: 16M tokens of pre-training are too few to help here
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
