"""A fine-tuned classifier taught to a smaller network on its own task (DistilBERT's second step, arXiv:1910.01108).

    bertvariants train experiments/distil_sst2.py --teacher runs/sst2/model --start runs/distilbert/model \\
        --out runs/distil_sst2

The loss is half the soft targets of the teacher at temperature 2 and half the labels. Data comes from TFDS, or with
--data from the original train.tsv and dev.tsv (gz too).

    bertvariants train experiments/distil_sst2.py --tiny --teacher runs/sst2/model --data glue/SST-2 --out runs/distil_tiny

Measured, tiny on 2 CPU cores (400 steps of 32 phrases, 2 minutes): two of the six layers of an all-MiniLM-L6-v2 that
glue.py had brought to 0.883 reach 0.820 on the 872 sentences of dev (majority 0.509; 0.753 after 100 steps), with
T^2 KL from 0.76 to 0.18 on the training data.
"""

from bertvariants_jax.recipe import Compute, Model, Optim, Recipe, Settings, distilled, glue, model


def recipe(teacher: str = "", start: str = "distilbert/distilbert-base-uncased", data: str = "",
           tiny: bool = False) -> Recipe:
    """teacher: folder or hub id of the classifier. start: of the student. data: folder of the TSV files. tiny: two
    layers of a teacher of MiniLM's width start the student."""
    half = {"dim": 384, "n_layers": 2, "n_heads": 12, "hidden_dim": 1536}
    return Recipe(
        task=distilled(glue("sst2", data, max_length=32 if tiny else 64), teacher),
        model=model("distilbert-base-uncased", **half) if tiny else Model(start=start),
        optim=Optim("adamw", rate=2e-4 if tiny else 3e-5, schedule="shifted", warmup=0.1),
        settings=Settings(steps=400 if tiny else 6315, batch_size=32, log_every=50, eval_every=100 if tiny else 500,
                          save_every=100 if tiny else 500),
        compute=Compute(unroll=0),
    )
