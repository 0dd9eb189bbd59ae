"""DeBERTa-v3 as the paper pre-trains it (arXiv:2111.09543): replaced tokens, with embeddings shared but not their gradients.

    bertvariants train experiments/deberta_v3_base.py --out runs/deberta_v3_base \\
        --task.data 'text:books/*.txt' 'text:wiki/*.txt' --model.tokenizer vocab/

500,000 steps of 8,192 rows of 512 tokens, DeBERTa's Adam at 6e-4 (3e-4 for --size deberta-v3-large) with b2 0.98; a
generator as wide and half as deep, updated first in each step as in the released code (--task.no-decoupled for one
update of both). Detection weighs 50, as in the paper; the code's default is 10 (--task.weight 10). The discriminator's
word table is the generator's, without a gradient, plus its own deltas, and RUN/model holds the sum; --task.sharing
tables or none for the paper's ablations. Cost by count: not run at full length here.

A few minutes on two CPU cores:

    bertvariants train experiments/deberta_v3_base.py --tiny --out runs/deberta_v3_tiny \\
        --task.data 'text:wiki/*.txt.gz' --task.evaluation text:wikitext-2/valid.txt
"""

from bertvariants_jax.recipe import Compute, Detect, Optim, Recipe, Settings, model, replace


def recipe(size: str = "deberta-v3-base", tiny: bool = False, tokenizer: str = "") -> Recipe:
    """size: a published name. tiny: 2 layers of 128, for a few minutes. tokenizer: folder of a vocabulary; "" trains one
    on the text.
    """
    task = Detect(max_length=512, segments="one", masking="windows", generator_width=1.0, generator_depth=0.5,
                  sharing="disentangled", decoupled=True)
    if tiny:
        return Recipe(
            task=replace(task, max_length=64),
            model=model(size, tokenizer, num_hidden_layers=2, hidden_size=128, num_attention_heads=2,
                        intermediate_size=512, vocab_size=4096, position_buckets=32, hidden_dropout_prob=0.0,
                        attention_probs_dropout_prob=0.0),
            optim=Optim("adamw", rate=2e-3, schedule="bert", warmup=0.1, b2=0.98),
            settings=Settings(steps=800, batch_size=64, log_every=50, eval_every=400, save_every=400),
            compute=Compute(unroll=0),
        )
    return Recipe(
        task=task,
        model=model(size, tokenizer),
        optim=Optim("bert_adam", rate=3e-4 if size == "deberta-v3-large" else 6e-4, schedule="bert", warmup=10_000,
                    b2=0.98, weight_decay=0.01, clip=1.0),
        settings=Settings(steps=500_000, batch_size=8192, log_every=100, eval_every=10_000, save_every=1_000, keep_last=3),
        compute=Compute(dtype="bfloat16"),
        workers=8,
    )
