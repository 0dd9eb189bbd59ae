"""BERT-tiny (2 layers, 128 hidden) pre-trained with masked LM and next-sentence prediction on English text.

    bertvariants train experiments/bert_tiny_wikitext.py --out runs/bert_tiny \\
        --task.data 'text:wiki/*.txt.gz' --task.evaluation text:wikitext-2/valid.txt

Without --task.data it reads the documentation of the installed Python.

Measured on 2 CPU cores (25k tokens/s, 11 minutes) on 7M words of Wikipedia's featured articles and seven novels, evaluated on
WikiText-2's validation text: masked accuracy 0.135 at loss 6.26 (its commonest piece makes 0.085; at step 1000 it is 0.119 at
6.44), next-sentence accuracy 0.644 (majority 0.513); on the training text 0.140 and 0.762.
"""

from bertvariants_jax.recipe import Compute, Optim, Pretrain, Recipe, Settings, model


def recipe(tokenizer: str = "") -> Recipe:
    """tokenizer: folder of a vocabulary; "" trains one of 8,192 pieces on the text."""
    return Recipe(
        task=Pretrain(max_length=128, max_predictions=20, dupe_factor=2),
        model=model("bert-tiny", tokenizer, **({} if tokenizer else {"vocab_size": 8192})),
        optim=Optim("adamw", rate=1e-3, schedule="shifted", warmup=0.05),
        settings=Settings(steps=4000, batch_size=32, log_every=50, eval_every=1000, save_every=500),
        compute=Compute(unroll=0),
    )
