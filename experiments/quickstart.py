"""Minutes on a laptop: pre-train a small ELECTRA on the documentation of the installed packages, then fine-tune it.

    bertvariants train experiments/quickstart.py --out runs/quickstart/pretrain
    bertvariants train experiments/quickstart.py --stage finetune --start runs/quickstart/pretrain/model \\
        --out runs/quickstart/finetune

The first leaves a discriminator in pretrain/model and a generator, a masked LM, in pretrain/generator. The second task
is made of the same text: which package does this documentation come from?
"""

from bertvariants_jax.recipe import Classify, Compute, Detect, Model, Optim, Recipe, Settings, model

PACKAGES = ("scipy", "sklearn", "jax", "orbax", "numpy", "matplotlib", "flax", "optax")


def recipe(stage: str = "pretrain", start: str = "") -> Recipe:
    """stage: pretrain or finetune. start: the folder that finetune starts from ("" is fresh weights)."""
    small = model("electra-small-discriminator", vocab_size=8192, num_hidden_layers=2, hidden_size=128,
                  num_attention_heads=2, intermediate_size=512, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    if stage == "pretrain":
        return Recipe(
            task=Detect(data=("docs:" + ",".join(PACKAGES),), max_length=64, generator_width=0.5),
            model=small,
            optim=Optim("adamw", rate=2e-3, schedule="shifted", warmup=0.05, b2=0.98),
            settings=Settings(steps=1000, batch_size=64, log_every=50, eval_every=0, save_every=500),
            compute=Compute(unroll=0),
        )
    if stage == "finetune":
        return Recipe(
            task=Classify(data="docs:" + ",".join(PACKAGES), text="text", label="package", classes=PACKAGES,
                          max_length=64),
            model=Model(start=start) if start else small,
            optim=Optim("adamw", rate=5e-4, schedule="shifted", warmup=0.1),
            settings=Settings(steps=600, batch_size=32, log_every=50, eval_every=200, save_every=200),
            compute=Compute(unroll=0),
        )
    raise ValueError(f"stage must be pretrain or finetune, got {stage!r}")
